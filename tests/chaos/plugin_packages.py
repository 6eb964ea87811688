"""Broken and hostile plugins: `zoo list --json` stays JSON, and soon there, and the bad one is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from chaos.experiment import Experiment, Outcome

SECONDS = 1.5

_HEAD = "from zoo.hookspecs import hookimpl\nfrom zoo.parts import PartSpec\n"
_GOOD = _HEAD + "@hookimpl\ndef zoo_parts(): return [PartSpec('quantizer', 'NAME', 'MODULE:Q', 'A.')]\n"


def _offers(value: str, *, more: str = "") -> str:
    return f"{_HEAD}{more}\n@hookimpl\ndef zoo_parts(api_version): return {value}\n"


def _recipes(value: str) -> str:
    return f"{_HEAD}@hookimpl\ndef zoo_recipes(): return {value}\n"


KINDS: dict[str, str] = {
    # Importing goes wrong.
    "missing module": "import no_such_module_anywhere",
    "syntax error": "def broken(:",
    "not UTF-8": "# \udcff\udcfe\nx = 1",
    "SystemExit": "raise SystemExit(0)",
    "sys.exit with text": "import sys; sys.exit('bye')",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "GeneratorExit": "raise GeneratorExit",
    "BaseException": "class E(BaseException): pass\nraise E('x')",
    "error without words": "class E(Exception):\n  def __str__(self): raise ValueError\nraise E",
    "error of a megabyte": "raise ValueError('x' * 1_000_000)",
    "error with an escape": "raise ValueError('\\x1b[2J')",
    "endless recursion": "def f(): f()\nf()",
    "out of memory": "bytearray(1 << 46)",
    "circular import": "import MODULE_b",
    "hangs asleep": "import time; time.sleep(600)",
    "hangs busy": "while True: pass",
    "hangs in a lock": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "hangs in a read": "import os; os.read(os.pipe()[0], 1)",
    "hangs and prints": "import time, os\nfor _ in range(600):\n  print('noise'); time.sleep(0.01)",
    # Printing.
    "prints": "print('hello')\n" + _GOOD,
    "prints past Python": "import os; os.write(1, b'hello')\n" + _GOOD,
    "prints by a process": "import subprocess; subprocess.run(['echo', 'hello'])\n" + _GOOD,
    "prints in a hook": _offers("print('hello') or []"),
    "prints past Python in a hook": _offers("__import__('os').write(1, b'hi') and []"),
    "closes stdout": "import sys; sys.stdout.close()",
    "closes descriptor 1": "import os; os.close(1)\n" + _GOOD,
    "puts stdout away": "import sys; sys.stdout = None; sys.__stdout__ = None",
    "swaps stdout": "import io, sys; sys.stdout = io.StringIO()",
    # Changing what all share.
    "changes json": "import json; json.dumps = lambda *a, **k: 'owned'",
    "changes print": "import builtins; builtins.print = lambda *a: None",
    "changes open": "import builtins; builtins.open = None",
    "changes directory": "import os; os.chdir('/')",
    "changes the environment": "import os; os.environ.clear()",
    "changes the path": "import sys; sys.path[:] = []",
    "changes the importers": "import sys; sys.meta_path.clear()",
    "changes recursion": "import sys; sys.setrecursionlimit(60)",
    "changes chance": "import random; random.seed(0)",
    "changes warnings": "import warnings; warnings.simplefilter('error')",
    "changes logging": "import logging; logging.basicConfig(level=0)",
    "changes the umask": "import os; os.umask(0)",
    "changes the hook of errors": "import sys; sys.excepthook = None",
    "changes loaded modules": "import sys; sys.modules['json'] = sys.modules['yaml'] = None",
    "removes a loaded module": "import sys; del sys.modules['click']",
    # Hooks.
    "no hooks": "x = 1",
    "misspelt hook": _HEAD + "@hookimpl\ndef zoo_part(): return []",
    "wrong signature": _HEAD + "@hookimpl\ndef zoo_parts(api_version, more): return []",
    "no function": _HEAD + "zoo_parts = hookimpl(type('C', (), {'__call__': 1})())",
    "hook that raises": _offers("1 / 0"),
    "hook that exits": _offers("__import__('sys').exit(3)"),
    "hook that hangs": _offers("__import__('time').sleep(600)"),
    "hook without end": _offers("iter(int, 1)"),
    "hook of a million": _offers("[PartSpec('quantizer', 'x', 'a:B', 'A.')] * 1_000_000"),
    "hook that returns text": _offers("'abc'"),
    "hook that returns a part": _offers("PartSpec('quantizer', 'x', 'a:B', 'A.')"),
    "hook that returns numbers": _offers("[42]"),
    "hook for a newer API": _offers("[PartSpec('quantizer', 'x', 'a:B', 'A.', streams=True)]"),
    "hook that asks for a newer API": _offers("[][api_version - 99]"),
    "part of a newer kind": _offers("[PartSpec('tokenizer', 'x', 'a:B', 'A.')]"),
    "part with an escape": _offers("[PartSpec('quantizer', 'x', 'a:B', '\\x1b[2J')]"),
    "part with a target that is code": _offers("[PartSpec('quantizer', 'x', 'os.system(1)', 'A.')]"),
    "part of odd texts": _offers("[PartSpec('quantizer', 'x', 'a:B', 'A.', license=object())]"),
    "parts that differ": _offers("[PartSpec('quantizer', 'x', t, 'A.') for t in ('a:B', 'a:C')]"),
    "recipes that are not there": _recipes("['/no/such/file.yaml']"),
    "recipes that are a device": _recipes("['/dev/zero']"),
    "recipes that are numbers": _recipes("[42]"),
    "recipes of ours": _recipes("[__file__[:-3] + '.yaml']"),
}  # fmt: skip
"""Manifests by what is wrong with them."""

WELL = {"prints", "prints past Python", "prints by a process", "prints in a hook", "closes descriptor 1",
        "prints past Python in a hook"}  # fmt: skip
"""Rude ones that do no harm here, and need not be named."""


def install(folder: Path, name: str, code: str, *, module: str = "", distribution: str = "") -> None:
    """Make an importable plugin, with the metadata of a distribution of its own."""
    module = module or f"{name.replace('-', '_')}_manifest"
    distribution = distribution or f"dist-{name}"
    text = code.replace("MODULE", module).replace("NAME", name)
    (folder / f"{module}.py").write_bytes(text.encode("utf-8", "surrogateescape"))
    info = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[zoo]\n{name} = {module}\n")


def listed(folder: Path | None, **environment: str) -> tuple[dict[str, Any] | str, float, str]:
    """Run `zoo list --json` with the plugins of a folder; return its document, its time, its messages."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), str(folder or "")]))
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "zoo", "list", "--json"],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        timeout=120,
        cwd=Path(__file__).resolve().parents[2],
    )
    seconds = time.perf_counter() - start
    errors = done.stderr.decode(errors="replace")
    try:
        document = json.loads(done.stdout.decode())
    except ValueError:
        return f"not JSON (exit {done.returncode}): {done.stdout[:200]!r} {errors[-300:]}", seconds, errors
    return document, seconds, errors


def special(folder: Path) -> dict[str, Path]:
    """Plugins that are wrong by their names or their metadata, each in a folder of its own."""
    made: dict[str, Path] = {}

    def one(name: str) -> Path:
        made[name] = folder / name.replace(" ", "-")
        made[name].mkdir()
        return made[name]

    for module in ("json", "torch", "yaml", "numpy.linalg", "zoo.cli", "antigravity"):
        where = one(f"manifest in {module}")
        install(where, "shadow", _GOOD, module="shadow_manifest")
        next(where.glob("*.dist-info")).joinpath("entry_points.txt").write_text(f"[zoo]\nshadow = {module}\n")
    where = one("name of ours")
    install(where, "vqvae", _GOOD)
    where = one("distribution of ours")
    install(where, "shadow", "raise ValueError('not ours')", distribution="zoo-video-more")
    where = one("one name twice")
    install(where, "same", _GOOD, distribution="dist-first", module="first_manifest")
    install(where, "same", _GOOD, distribution="dist-second", module="second_manifest")
    where = one("one module twice")
    install(where, "first", _GOOD, module="same_manifest")
    install(where, "second", _GOOD, module="same_manifest")
    for name, file, text in (
        ("metadata that is empty", "METADATA", ""),
        ("metadata that is missing", "METADATA", None),
        ("metadata that is no text", "METADATA", b"\xff\xfe\x00"),
        ("entry point of nothing", "entry_points.txt", "[zoo]\nx =\n"),
        ("entry point of code", "entry_points.txt", "[zoo]\nx = os.system('ls')\n"),
        ("entry point that climbs", "entry_points.txt", "[zoo]\nx = ..evil\n"),
        ("entry points that are no text", "entry_points.txt", b"\xff\xfe\x00[zoo"),
        ("entry points without a section", "entry_points.txt", "x = y\n"),
    ):
        where = one(name)
        install(where, "odd", "raise ValueError('odd')")
        path = next(where.glob("*.dist-info")) / file
        if text is None:
            path.unlink()
        else:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return made


UNNAMED = {"metadata that is empty", "metadata that is missing", "metadata that is no text",
           "entry points without a section", "entry points that are no text",
           "entry point of nothing"}  # fmt: skip
"""Where Python itself finds no entry point, or no name to tell."""


def judge_all(
    folder: Path, *, every: int = 1, only: set[str] | None = None
) -> tuple[list[str], dict[str, float]]:
    """Install every kind alone, then all together, and list.

    Returns:
        What is wrong, and the seconds that each took: the least of three tries where it took too long, as
        others may use the machine.
    """
    kinds = [name for name in [*KINDS][::every] if only is None or name in only]
    (folder / "special").mkdir()
    places: dict[str, tuple[Path, str]] = {}
    for number, name in enumerate(kinds):
        places[name] = (folder / f"kind{number}", f"bad{number}")
        places[name][0].mkdir()
        install(*places[name], KINDS[name])
    if only is None:
        for name, path in [*special(folder / "special").items()][::every]:
            places[name] = (path, "vqvae" if name == "name of ours" else "")
    wrong: list[str] = []
    basis, _, _ = listed(None)
    assert isinstance(basis, dict), basis
    times: dict[str, float] = {}

    def look(name: str, path: Path, plugin: str) -> dict[str, Any] | str:
        tries = [listed(path)]
        while len(tries) < 3 and tries[-1][1] > SECONDS:
            tries.append(listed(path))
        times[name] = min(seconds for _, seconds, _ in tries)
        for document, _, errors in tries:
            wrong.extend(_faults(name, plugin, document, errors, basis))
        return tries[-1][0]

    for name, (path, plugin) in places.items():
        look(name, path, plugin)
    together = folder / "together"
    together.mkdir()
    for number, name in enumerate(kinds):
        if not name.startswith("hangs"):
            install(together, f"bad{number}", KINDS[name])
    document = look("all together", together, "")
    names = (
        set() if isinstance(document, str) else {problem.split("'")[1] for problem in document["problems"]}
    )
    missing = {f"bad{i}" for i, n in enumerate(kinds) if n not in WELL and not n.startswith("hangs")} - names
    wrong += [f"all together: {one} ({kinds[int(one[3:])]}) is not named" for one in sorted(missing)]
    return wrong, times


def _faults(name: str, plugin: str, document: Any, errors: str, basis: dict[str, Any]) -> list[str]:
    if isinstance(document, str):
        return [f"{name}: {document}"]
    wrong = []
    if "Traceback" in errors:
        wrong.append(f"{name}: a traceback: {errors[-300:]}")
    home = basis["parts"][0]["distribution"]
    ours = [part for part in document["parts"] if part["distribution"] == home]
    if ours != basis["parts"] or document["models"][: len(basis["models"])] != basis["models"]:
        wrong.append(f"{name}: something of ours is gone")
    if name not in WELL | UNNAMED and not any(plugin in problem for problem in document["problems"]):
        wrong.append(f"{name}: it is not named: {document['problems']}")
    if any(not text.isprintable() and "\x1b" in text for text in document["problems"]):
        wrong.append(f"{name}: an escape")
    return wrong


def _plugins(folder: Path, quick: bool) -> Outcome:
    wrong, times = judge_all(folder, every=6 if quick else 1)
    bad = len({fault.partition(":")[0] for fault in wrong})
    slow = [f"{name}: {seconds:.2f} s" for name, seconds in times.items() if seconds > SECONDS]
    told = (
        f"{len(times) - 1} kinds: valid JSON, all of ours there, the bad one named with all but {bad}; "
        f"{min(times.values()):.2f} s to {max(times.values()):.2f} s, of which all together "
        f"{times['all together']:.2f} s"
    )
    return Outcome(told, not wrong + slow, "; ".join(fault[:200] for fault in (wrong + slow)[:4]))


EXPERIMENTS = [
    Experiment(
        17,
        "Broken and hostile plugins, alone and all together, under `zoo list --json`",
        f"Valid JSON with all that is ours within {SECONDS:g} s, the bad one named, no traceback",
        _plugins,
    )
]
