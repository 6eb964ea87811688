"""The conformance checks as pytest items: a thin skin over `zoo.testing`.

A test that asks for both fixtures becomes one item per part and check::

    def test_part(zoo_part, zoo_check):
        zoo_check(zoo_part)

The parts are those of ``--zoo-plugin NAME`` (repeatable), or of ``zoo_plugins`` in the ini file.
Failures that are known belong to the caller's conftest, and one that passes fails::

    def pytest_zoo_expected_failures():
        return {"my-vq:batch_independent": "normalises over the batch by design"}

Nothing heavy is imported unless a test asks for these fixtures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from zoo.parts import Part
    from zoo.testing import Check

_KEY = "zoo_check"


class Hooks:
    """Hooks that a conftest may implement."""

    @pytest.hookspec
    def pytest_zoo_expected_failures(self) -> Mapping[str, str]:  # type: ignore[empty-body]
        """Name checks that are known to fail.

        Returns:
            Reasons by ``check`` or ``part:check``. A named check that passes is a failure.
        """


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("zoo", "conformance of zoo parts")
    group.addoption(
        "--zoo-plugin",
        action="append",
        default=[],
        metavar="NAME",
        help="check the parts of this plugin, of this name, or plugin:part (repeatable)",
    )
    group.addoption("--zoo-slow", action="store_true", help="run the slow checks too (torch.compile, export)")
    parser.addini("zoo_plugins", "plugins or parts to check when --zoo-plugin is not given", type="linelist")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = [name for name in ("zoo_part", "zoo_check") if name in metafunc.fixturenames]
    if not wanted:
        return
    parts = _parts(metafunc.config)
    if wanted == ["zoo_part"]:
        metafunc.parametrize("zoo_part", parts, ids=[f"{p.kind}-{p.full_name}" for p in parts])
        return
    if wanted == ["zoo_check"]:
        raise pytest.UsageError(f"{metafunc.function.__name__} asks for zoo_check without zoo_part")
    metafunc.parametrize(("zoo_part", "zoo_check"), _items(metafunc.config, parts))


def _parts(config: pytest.Config) -> list[Part]:
    from zoo.errors import ZooError
    from zoo.testing import find_parts

    names = config.getoption("--zoo-plugin") or config.getini("zoo_plugins")
    if not names:
        raise pytest.UsageError("say which parts to check: --zoo-plugin NAME, or zoo_plugins in the ini file")
    try:
        found = [part for name in names for part in find_parts(name)]
    except ZooError as error:
        raise pytest.UsageError(str(error)) from None
    return list({(part.kind, part.full_name): part for part in found}.values())


def _items(config: pytest.Config, parts: list[Part]) -> list[Any]:
    from zoo.testing import CheckFailure, checks_for, family_of

    expected: dict[str, str] = {}
    for mapping in config.hook.pytest_zoo_expected_failures():
        expected |= mapping
    unused = set(expected)
    items = []
    for part in parts:
        for check in checks_for(family_of(part)):
            keys = (check.name, f"{part.name}:{check.name}", f"{part.full_name}:{check.name}")
            marks = [
                pytest.mark.xfail(reason=expected[key], strict=True, raises=CheckFailure)
                for key in keys
                if key in expected
            ]
            unused -= set(keys)
            if check.slow and not config.getoption("--zoo-slow"):
                marks = [pytest.mark.skip(reason="slow; --zoo-slow runs it")]
            identity = f"{part.kind}-{part.full_name}-{check.name}"
            items.append(pytest.param(part, _runner(check), marks=marks, id=identity))
    if unused:
        raise pytest.UsageError(f"expected failures name no check that exists here: {sorted(unused)}")
    return items


def _runner(check: Check) -> Callable[[Part], None]:
    from zoo.testing import CheckFailure, run_check

    def run(part: Part) -> None:
        __tracebackhide__ = True
        result = run_check(check, part)
        if result.status == "skipped":
            pytest.skip(result.reason)
        if result.status == "failed":
            raise CheckFailure.from_text(result.reason)

    return run


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    report = yield
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if "zoo_part" in parameters and "zoo_check" in parameters and _counts(report):
        part = parameters["zoo_part"]
        report.user_properties.append((_KEY, f"{part.kind} {part.full_name}"))
    return report


def _counts(report: pytest.TestReport) -> bool:
    return report.when == "call" or (report.when == "setup" and report.outcome != "passed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, Counter[str]] = {}
    for outcome, reports in terminalreporter.stats.items():
        for report in reports:
            for key, part in getattr(report, "user_properties", ()):
                if key == _KEY and _counts(report):
                    counts.setdefault(part, Counter())[outcome] += 1
    if counts:
        terminalreporter.section("zoo conformance")
    for part, outcomes in sorted(counts.items()):
        ran = sum(outcomes.values()) - outcomes["skipped"]
        told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(outcomes.items()))
        terminalreporter.line(f"{part}: {ran} checks ran ({told})")
