"""Plugins are isolated one by one: what breaks is named, the rest goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo.converters import Converter
from zoo.discovery import Catalogue, Plugin, _add_part, catalogue
from zoo.errors import PluginError, UnknownNameError
from zoo.parts import PartSpec

GOOD = """
from zoo.hookspecs import hookimpl
from zoo.parts import PartSpec
@hookimpl
def zoo_parts(api_version):
    return [PartSpec("quantizer", "{part}", "{module}:Q", "A part.")]
"""
BROKEN = {
    "import_error": ("import no_such_module_anywhere", "import", "no_such_module_anywhere"),
    "system_exit": ("raise SystemExit(3)", "import", "SystemExit"),
    "syntax": ("def broken(:", "import", "SyntaxError"),
    "hangs": ("import time; time.sleep(30)", "import", "did not import within"),
    "wrong_return": (
        "from zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_parts(api_version): return 'abc'",
        "zoo_parts",
        "must return a list of PartSpec",
    ),
    "wrong_item": (
        "from zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_parts(api_version): return [42]",
        "zoo_parts",
        "must return PartSpec",
    ),
    "wrong_signature": (
        "from zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_parts(api_version, more): return []",
        "register",
        "more",
    ),
    "raises": (
        "from zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_parts(): raise RuntimeError('no luck')",
        "zoo_parts",
        "no luck",
    ),
    "bad_kind": (
        "from zoo.hookspecs import hookimpl\nfrom zoo.parts import PartSpec\n@hookimpl\n"
        "def zoo_parts(): return [PartSpec('quantiser', 'x', 'a:B', 'A part.')]",
        "zoo_parts",
        "must be one of",
    ),
    "misspelt": (
        "from zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_part(): return []",
        "register",
        "zoo_part",
    ),
    "bad_recipes": (
        "from pathlib import Path\nfrom zoo.hookspecs import hookimpl\n@hookimpl\n"
        "def zoo_recipes(): return [Path('/no/such/file.yaml')]",
        "zoo_recipes",
        "cannot be read",
    ),
}


def install(folder: Path, plugin: str, code: str, *, distribution: str | None = None) -> None:
    """Make an importable plugin with its own distribution metadata."""
    module = f"{(distribution or plugin).replace('-', '_')}_manifest"
    distribution = distribution or f"dist-{plugin}"
    (folder / f"{module}.py").write_text(code.replace("{module}", module).replace("{part}", plugin))
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[zoo]\n{plugin} = {module}\n")


def path_with(folder: Path) -> str:
    """Return where a new interpreter looks for modules: in a folder, and then where this one was told to."""
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def discover(folder: Path, **environment: str) -> dict[str, Any]:
    """Run discovery in a new interpreter that sees the plugins of a folder."""
    code = (
        "import json, sys, zoo.discovery as d; c = d.catalogue();"
        "print(json.dumps({'plugins': [p.name for p in c.plugins], 'torch': 'torch' in sys.modules,"
        "'parts': [[p.kind, p.full_name, p.distribution] for p in c.parts],"
        "'problems': [[p.plugin, p.distribution, p.stage, p.error] for p in c.problems]}))"
    )
    return json.loads(run(code, folder, **environment))  # type: ignore[no-any-return]


def run(code: str, folder: Path, **environment: str) -> str:
    """Run code in a new interpreter that sees the plugins of a folder."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path_with(folder), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_broken_plugins_are_named_and_stop_nothing(tmp_path: Path) -> None:
    for name, (code, _, _) in BROKEN.items():
        install(tmp_path, name, code)
    install(tmp_path, "loud", "print('hello from an import')\n" + GOOD)
    start = time.perf_counter()
    found = discover(tmp_path, ZOO_IMPORT_TIMEOUT_S="2")
    assert time.perf_counter() - start < 25, "a hanging import must be given up on"
    assert {"vqvae", "gan", "timm", "loud"} <= set(found["plugins"])
    assert ["quantizer", "loud:loud", "dist-loud"] in found["parts"]
    assert not found["torch"]
    problems = {p[0]: p for p in found["problems"]}
    assert set(problems) == set(BROKEN)
    for name, (_, stage, text) in BROKEN.items():
        assert problems[name][2] == stage, problems[name]
        assert text in problems[name][3], problems[name]


def test_strict_raises(tmp_path: Path) -> None:
    install(tmp_path, "raises", BROKEN["raises"][0])
    with pytest.raises(AssertionError, match="no luck"):
        discover(tmp_path, ZOO_STRICT="1")


def test_switches(tmp_path: Path) -> None:
    install(tmp_path, "one", GOOD)
    install(tmp_path, "two", GOOD)
    assert "one" not in discover(tmp_path, ZOO_DISABLE="one")["plugins"]
    assert discover(tmp_path, ZOO_PLUGINS="two,vqvae")["plugins"] == ["vqvae", "two"]


def test_two_distributions_one_plugin_name(tmp_path: Path) -> None:
    install(tmp_path, "same", GOOD, distribution="first-dist")
    install(tmp_path, "same", GOOD, distribution="second-dist")
    found = discover(tmp_path)
    assert found["plugins"].count("same") == 1
    (problem,) = found["problems"]
    assert problem[1] == "second-dist"
    assert "first-dist" in problem[3]


def test_our_names_are_not_shadowed_and_shared_names_ask(tmp_path: Path) -> None:
    for plugin in ("aaa", "bbb"):
        install(tmp_path, plugin, GOOD.replace("{part}", "shared"))
    install(tmp_path, "ccc", GOOD.replace("{part}", "fsq"))
    code = (
        "from zoo.discovery import catalogue\nfrom zoo.errors import UnknownNameError\nc = catalogue()\n"
        "assert c.find('quantizer', 'fsq').plugin == 'vqvae'\n"
        "assert c.find('quantizer', 'ccc:fsq').plugin == 'ccc'\n"
        "try: c.find('quantizer', 'shared')\n"
        "except UnknownNameError as e: print(e)"
    )
    printed = run(code, tmp_path)
    assert "'aaa:shared'" in printed
    assert "'bbb:shared'" in printed


def test_unknown_names_suggest() -> None:
    with pytest.raises(UnknownNameError, match=r"did you mean 'fsq'.*Installed: .*vq-ema"):
        catalogue().find("quantizer", "fsqq")
    with pytest.raises(UnknownNameError, match=r"of kind encoder|of kind decoder"):
        catalogue().find("quantizer", "videogpt")
    with pytest.raises(UnknownNameError, match="kinds are: encoder, quantizer"):
        zoo.list_parts("quantiser")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="did you mean 'vqvae-video-base'"):
        zoo.build("vqvae-video-bas")


def test_listing_matches_patterns() -> None:
    assert {"vqvae-video-base", "vqgan-video-tiny"} <= set(zoo.list_models("vq*-video-*"))
    assert "gan-video-base" not in zoo.list_models("vq*-video-*")
    assert {"vq-ema", "fsq", "kl"} <= set(zoo.list_parts("quantizer"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "thing"}, "must be one of"),
        ({"name": "Upper Case"}, "lower-case"),
        ({"target": "os.system"}, "package.module:Class"),
        ({"summary": " "}, "no summary"),
        ({"name": type("Odd", (str,), {})("x")}, "lower-case"),
        ({"requires": ("a\x1b[2J",)}, "names of distributions"),
        ({"example": [1]}, "mapping"),
    ],
)
def test_specs_are_checked(change: dict[str, Any], words: str) -> None:
    fields = {"kind": "quantizer", "name": "x", "target": "a:B", "summary": "One.", **change}
    with pytest.raises(PluginError, match=words):
        PartSpec(**fields)


def test_texts_of_converters_are_checked() -> None:
    fields = {"name": "x", "target": "a:b", "recipes": ("r",), "summary": "One.", "source": "There."}
    for name in ("summary", "source"):
        with pytest.raises(PluginError, match=f"{name} of converter 'x'"):
            Converter(**{**fields, name: "\x1b[2J"})
    with pytest.raises(PluginError, match="recipes must be"):
        Converter(**{**fields, "recipes": ("\x1b[2J",)})


OFFERS = """
from zoo.hookspecs import hookimpl
from zoo.parts import PartSpec
@hookimpl
def zoo_parts(api_version):
    return []
"""
HOSTILE = {
    "prints-last": "import atexit; atexit.register(print, 'owned')",
    "encodes": "import sys; sys.__stdout__.reconfigure(encoding='utf-16')",
    "silences": "import click; click.echo = click.utils.echo = lambda *a, **k: None",
    "goes-on": "import threading as t, time; t.Thread(target=time.sleep, args=(600,), daemon=False).start()",
}


def test_a_list_in_json_is_whole_and_ends_whatever_a_manifest_did(tmp_path: Path) -> None:
    for name, code in HOSTILE.items():
        install(tmp_path, name, code + OFFERS)
    lazy = """
class Lazy(PartSpec):
    told = 0
    def __getattribute__(self, name):
        if name == "summary":
            Lazy.told += 1
            if Lazy.told > 4:
                raise RuntimeError("boo")
        return super().__getattribute__(name)
@hookimpl
def zoo_parts():
    return [Lazy("quantizer", "lazy", "a:B", "A part.")]
"""
    install(tmp_path, "lazy", OFFERS.partition("@")[0] + lazy)
    listed = subprocess.run(
        [sys.executable, "-m", "zoo", "list", "--json"],
        env={
            **os.environ,
            "PYTHONPATH": path_with(tmp_path),
            "ZOO_IMPORT_TIMEOUT_S": "20",
        },
        capture_output=True,
        timeout=300,
    )
    assert listed.returncode == 0, listed.stderr
    found = json.loads(listed.stdout.decode("utf-8"))
    assert "lazy" in [part["name"] for part in found["parts"]]
    assert any("silences" in problem and "click.echo" in problem for problem in found["problems"])


def test_names_that_are_no_names_are_refused_and_written_out(tmp_path: Path) -> None:
    install(tmp_path, "good", GOOD)
    info = next(tmp_path.glob("*.dist-info"))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dist-\x1b[2J\nVersion: 1.0\x1b[2J\n")
    with (info / "entry_points.txt").open("a") as file:
        file.write("Evil\x1b[2J = no_such_module\n")
    found = discover(tmp_path)
    assert "\x1b" not in str(found)
    assert ["quantizer", "good:good", "dist-\\x1b[2J"] in found["parts"]
    assert any("lower-case letters" in error for _, _, _, error in found["problems"])
    code = "from click.testing import CliRunner; from zoo.cli.group import cli; {}"
    told = run(code.format("print(CliRunner().invoke(cli, ['doctor']).output)"), tmp_path)
    assert "\x1b" not in told
    assert "PROBLEM Evil\\x1b[2J" in told


def test_a_plugin_of_thousands_of_parts_is_listed_at_once() -> None:
    found, plugin = Catalogue(), Plugin("many", "dist", "1", "m", ours=False)
    specs = [PartSpec("quantizer", f"x{i}", "a:B", "A part.") for i in range(5_000)]
    begun = time.process_time()
    for spec in [*specs, *specs]:
        _add_part(found, plugin, spec)
    assert len(found.parts) == 5_000
    assert time.process_time() - begun < 5


def test_a_limit_on_time_that_is_no_number_is_told(tmp_path: Path) -> None:
    code = "import zoo.discovery as d\ntry: d.catalogue()\nexcept d.PluginError as e: print(e)"
    for value in ("abc", "nan", "-1"):
        told = run(code, tmp_path, ZOO_IMPORT_TIMEOUT_S=value)
        assert f"ZOO_IMPORT_TIMEOUT_S is {value!r}; it must be a number of seconds" in told


def test_discovery_grows_little_with_each_plugin(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Well under 1 ms of processor time on an idle machine; a busy one is given room."""
    code = (
        "import time; t = time.process_time(); import zoo.discovery as d; d.catalogue();"
        "print(time.process_time() - t)"
    )

    def seconds() -> float:
        return min(float(run(code, tmp_path)) for _ in range(3))

    before = seconds()
    for i in range(200):
        install(tmp_path, f"plugin{i}", GOOD)
    seconds()  # writes the byte code
    per_plugin = (seconds() - before) / 200
    record_property("told", f"discovery takes {per_plugin * 1e3:.2f} ms a plugin")
    assert per_plugin < 3e-3


def test_a_broken_weights_scheme_does_not_stop_the_others(tmp_path: Path) -> None:
    scheme = "from zoo.hookspecs import hookimpl\n@hookimpl\ndef zoo_resolve_weights(reference): {}\n"
    install(tmp_path, "broken", scheme.format("raise SystemExit(2)"))
    install(tmp_path, "working", scheme.format("return '/found' if reference == 'mine://x' else None"))
    code = (
        "from zoo.discovery import catalogue; c = catalogue();"
        "print(c.resolve_weights('mine://x'), c.resolve_weights('other://x'), c.problems[0].plugin)"
    )
    assert run(code, tmp_path).split() == ["/found", "None", "broken"]
