"""The wheel works from an empty directory, with every bundled plugin and recipe, and takes others in."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ["gan", "priors", "quantizers", "timm", "tokenizers", "vqvae"]


def build_wheel(project: Path, out: Path) -> Path:
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(project)]
    subprocess.run(command, check=True, capture_output=True)
    return max(out.glob("*.whl"), key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that has the built wheel, and the dependencies but nothing else of this one."""
    folder = tmp_path_factory.mktemp("wheel")
    wheel = build_wheel(ROOT, folder / "dist")
    venv.create(folder / "env", symlinks=True)
    site = next((folder / "env").glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    # A path in a .pth file is searched for packages; .pth files inside it (editable installs) are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "empty").mkdir()
    return folder


def imported(folder: Path) -> dict[str, str]:
    """Return what the modules of a folder import from elsewhere, and one that does, by top-level name."""
    found = dict[str, str]()
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = list[str | None]()
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
                names = [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)]  # type: ignore[misc]
            found |= {name.partition(".")[0]: str(path) for name in names if name}
    return {name: where for name, where in found.items() if name not in sys.stdlib_module_names}


def test_all_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["torchcodec"]]
    declared = {re.split("[<>=]", line)[0].lower() for line in lines}
    others = {"yaml": "pyyaml", "torchvision": "timm"}  # by another name, or brought along
    plugins = [folder for folder in (ROOT / "plugins").glob("*/zoo_*") if folder.name != "zoo_example"]
    for folder in (ROOT / "zoo", *plugins):
        for name, where in imported(folder).items():
            if name.startswith("zoo") or name == "pytest":  # pytest loads the module that imports it
                continue
            assert others.get(name, name) in declared, f"{where} imports {name}"


def run(environment: Path, *arguments: str, code: int = 0) -> str:
    result = subprocess.run(
        [str(environment / "env" / "bin" / "python"), *arguments],
        cwd=environment / "empty",
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout


def zoo_json(environment: Path, *arguments: str, code: int = 0) -> Any:
    return json.loads(run(environment, "-m", "zoo", *arguments, "--json", code=code))


def test_the_wheel_has_every_plugin_and_recipe(environment: Path) -> None:
    script = (
        "import json, zoo, zoo_vqvae; from zoo.discovery import catalogue, registry_path; c = catalogue();"
        "from zoo.data import demo_clips;"
        "print(json.dumps({'zoo': zoo.__file__, 'plugin': zoo_vqvae.__file__,"
        "'registry': str(registry_path()),"
        "'plugins': [p.name for p in c.plugins], 'recipes': sorted(c.recipes), 'clips': str(demo_clips()),"
        "'problems': [str(p) for p in c.problems]}))"
    )
    found = json.loads(run(environment, "-c", script))
    assert found["plugins"] == sorted(BUNDLED)
    assert "vqvae-video-base" in found["recipes"]
    assert found["problems"] == []
    for key in ("zoo", "plugin", "registry", "clips"):
        assert Path(found[key]).is_relative_to(environment / "env"), found[key]


def test_the_wheel_builds_saves_and_loads(environment: Path) -> None:
    script = (
        "import torch, zoo; m = zoo.build('vqvae-video-tiny', seed=0); zoo.save(m, 'm'); n = zoo.load('m');"
        "x = torch.zeros(1, 3, 4, 16, 16); assert torch.equal(m.reconstruct(x), n.reconstruct(x))"
    )
    run(environment, "-c", script)


def test_a_third_party_plugin_joins_and_passes_its_checks(environment: Path) -> None:
    site = next((environment / "env").glob("lib/python*/site-packages"))
    with zipfile.ZipFile(build_wheel(ROOT / "plugins" / "example", environment / "example")) as archive:
        assert not any("tests/" in name for name in archive.namelist())
        archive.extractall(site)
    listed = zoo_json(environment, "list")
    parts = {part["name"]: part for part in listed["parts"]}
    assert parts["product-vq"]["distribution"] == "zoo-example"
    checks = zoo_json(environment, "check", "example")
    statuses = [result["status"] for result in checks["results"]]
    assert len(statuses) >= 20
    assert "failed" not in statuses


@pytest.mark.parametrize("plugin", BUNDLED)
def test_every_bundled_plugin_is_a_package_of_its_own(plugin: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(build_wheel(ROOT / "plugins" / plugin, tmp_path)) as archive:
        names = archive.namelist()
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        assert f"zoo_{plugin}.manifest" in archive.read(entry_points).decode()
    assert f"zoo_{plugin}/manifest.py" in names
