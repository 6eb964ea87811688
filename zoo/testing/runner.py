"""Running the checks: which there are for a kind, and what they say about parts and plugins."""

from __future__ import annotations

import difflib
import importlib
import time
import traceback
from collections.abc import Callable
from typing import Literal

from zoo.errors import PluginError, UnknownNameError
from zoo.parts import KINDS, Kind, Part
from zoo.testing.results import Check, CheckFailure, CheckResult, CheckSkipped, Status

Family = Kind | Literal["prior"]
"""Whose checks they are: those of a kind; a generator that emits indices has checks of its own."""
FAMILIES: tuple[Family, ...] = (*KINDS, "prior")
EXPECTED: dict[Family, tuple[int, int]] = {
    "encoder": (39, 32),
    "quantizer": (44, 35),
    "decoder": (41, 34),
    "generator": (47, 37),
    "discriminator": (41, 36),
    "prior": (41, 34),
}
"""For each family: how many checks there are, and how many of them no part can skip."""


def family_of(part: Part) -> Family:
    """Return whose checks a part has to face; a prior is told by the attribute `emits` of its class."""
    if part.kind != "generator":
        return part.kind
    try:
        emits = getattr(part.load(), "emits", None)
    except PluginError:
        # Each check tells what is wrong with the import.
        emits = None
    return "prior" if emits == "indices" else part.kind


def checks_for(kind: Family) -> list[Check]:
    """List every check of a family of parts, slow ones last.

    Raises:
        AssertionError: There are not as many as `EXPECTED` says, so that none gets lost unseen.
    """
    if kind not in FAMILIES:
        raise UnknownNameError(f"there is no kind of part {kind!r}; there are {', '.join(FAMILIES)}")
    modules = ("description", "behaviour", "state", kind, "compiled")
    found: list[Check] = []
    for name in modules:
        found += importlib.import_module(f"zoo.testing.{name}").CHECKS
    names = [check.name for check in found]
    assert len(set(names)) == len(names), f"two checks of a {kind} have one name: {sorted(names)}"
    unskippable = sum(not (check.slow or check.may_skip) for check in found)
    assert (len(found), unskippable) == EXPECTED[kind], (
        f"{len(found)} checks for a {kind}, {unskippable} of them unskippable, expected {EXPECTED[kind]}"
    )
    return found


def run_check(check: Check, part: Part, *, manifest: str | None = None) -> CheckResult:
    """Run one check on one part; whatever goes wrong inside becomes the reason of a failure."""
    from zoo.testing.subject import Subject

    started = time.perf_counter()
    status: Status = "passed"
    reason = ""
    try:
        check.run(Subject(part, manifest=manifest or manifest_of(part)))
    except CheckSkipped as skipped:
        status, reason = "skipped", str(skipped)
        if not check.may_skip:
            status, reason = "failed", f"this check applies to every {part.kind} and was skipped: {skipped}"
    except CheckFailure as failure:
        status, reason = "failed", str(failure)
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
        broken = CheckFailure(
            promised=check.promise,
            found=f"{type(error).__name__}: {error}{where}",
            todo="make the part work in this case; `zoo.testing.run_check` repeats this one check",
        )
        status, reason = "failed", str(broken)
    return CheckResult(part.kind, part.full_name, check.name, status, reason, time.perf_counter() - started)


def check_part(
    part: Part,
    *,
    slow: bool = False,
    manifest: str | None = None,
    progress: Callable[[CheckResult], None] | None = None,
) -> list[CheckResult]:
    """Run every check of its kind on a part.

    Args:
        part: The part; its example options are built.
        slow: Run the slow checks too. They are listed as skipped otherwise.
        manifest: Module that offers the part; found by the plugin's entry point when left out.
        progress: Called with each result as it comes.

    Returns:
        One result for each check of the kind, never fewer.

    Raises:
        AssertionError: Fewer checks ran than every part of the kind has to face.
    """
    results: list[CheckResult] = []
    family = family_of(part)
    for check in checks_for(family):
        if check.slow and not slow:
            result = CheckResult(part.kind, part.full_name, check.name, "skipped", "slow; not asked for", 0.0)
        else:
            result = run_check(check, part, manifest=manifest)
        results.append(result)
        if progress is not None:
            progress(result)
    total, unskippable = EXPECTED[family]
    ran = sum(result.status != "skipped" for result in results)
    told = f"{part.kind} {part.full_name!r}: {ran} of {len(results)} checks ran"
    assert len(results) == total, f"{told}, there are {total}"
    assert ran >= unskippable, f"{told}, at least {unskippable} have to"
    return results


def check_plugin(
    name: str, *, slow: bool = False, progress: Callable[[CheckResult], None] | None = None
) -> list[CheckResult]:
    """Run every check on the parts of a plugin, or on the parts of one name.

    Args:
        name: A plugin (``vqvae``), a part (``fsq``), or one plugin's part (``vqvae:fsq``).
        slow: Run the slow checks too.
        progress: Called with each result as it comes.

    Raises:
        UnknownNameError: Nothing installed has that name.
    """
    results: list[CheckResult] = []
    for part in find_parts(name):
        results += check_part(part, slow=slow, progress=progress)
    return results


def find_parts(name: str) -> list[Part]:
    """Find the parts that a plugin name, a part name or ``plugin:part`` stands for.

    Raises:
        UnknownNameError: Nothing installed has that name; names what comes close.
    """
    from zoo.discovery import catalogue

    known = catalogue()
    parts = known.parts
    for matches in (
        [part for part in parts if part.plugin == name],
        [part for part in parts if name in (part.name, part.full_name)],
    ):
        if matches:
            return matches
    names = {n for part in parts for n in (part.plugin, part.name, part.full_name)}
    close = difflib.get_close_matches(name, sorted(names), n=3)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    plugins = ", ".join(sorted({part.plugin for part in parts})) or "none"
    broken = "".join(f"\n  note: {problem}" for problem in known.problems)
    raise UnknownNameError(
        f"no installed plugin or part is called {name!r}.{hint} Installed plugins with parts: {plugins}; "
        f"`zoo list` shows their parts.{broken}"
    )


def manifest_of(part: Part) -> str | None:
    """Name the manifest (an entry point's value) of the installed plugin that offers a part."""
    from zoo.discovery import catalogue

    for plugin in catalogue().plugins:
        if (plugin.name, plugin.distribution) == (part.plugin, part.distribution):
            return plugin.manifest
    return None
