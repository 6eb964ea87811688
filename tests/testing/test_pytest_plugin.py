"""The pytest plugin, run as a user runs it: another process, an installed third-party plugin."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from zoo.testing import EXPECTED

PARTS = Path(__file__).parent
REGISTERED = bool(entry_points(group="pytest11", name="zoo"))
TOTAL, UNSKIPPABLE = EXPECTED["quantizer"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with an installed plugin `small` of one good and one broken quantizer."""
    info = tmp_path / "site" / "zoo_small-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-small\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[zoo]\nsmall = light_manifest\n")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def run(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    plugin = [] if REGISTERED else ["-p", "zoo.testing.pytest_plugin"]
    paths = [str(project.parent / "site"), str(PARTS), *filter(None, sys.path)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, *arguments],
        cwd=project,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_suite_runs_counts_and_prints(project: Path) -> None:
    done = run(project, "--pyargs", "zoo.testing.suite", "--zoo-plugin", "small:quantizer")
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"quantizer small:quantizer: (\d+) checks ran", done.stdout)
    assert found is not None, done.stdout
    assert UNSKIPPABLE < int(found[1]) <= TOTAL
    assert f"{TOTAL - int(found[1])} skipped" in done.stdout


def test_expected_failures_are_the_callers_and_strict(project: Path) -> None:
    (project / "test_mine.py").write_text("def test_part(zoo_part, zoo_check):\n    zoo_check(zoo_part)\n")
    (project / "pytest.ini").write_text("[pytest]\nzoo_plugins = learnsineval\n")
    conftest = project / "conftest.py"

    done = run(project)
    assert done.returncode == 1
    failed = set(re.findall(r"FAILED .*small:learnsineval-(\w+)", done.stdout))
    assert "codebook_still_in_eval" in failed
    assert "promised: the codebook moves only while training" in done.stdout
    assert "to do: update it only `if self.training`" in done.stdout

    named = ", ".join(f'"{check}": "moves by design"' for check in failed)
    conftest.write_text(f'def pytest_zoo_expected_failures():\n    return {{{named}, "finite": "?"}}\n')
    done = run(project)
    assert done.returncode == 1
    assert f"{len(failed)} xfailed" in done.stdout
    assert re.findall(r"FAILED .*small:learnsineval-(\w+)", done.stdout) == ["finite"]

    conftest.write_text('def pytest_zoo_expected_failures():\n    return {"codebok_still": "typo"}\n')
    done = run(project)
    assert done.returncode != 0
    assert "name no check that exists here: ['codebok_still']" in done.stdout + done.stderr


def test_wrong_usage_is_one_sentence(project: Path) -> None:
    done = run(project, "--pyargs", "zoo.testing.suite")
    assert done.returncode != 0
    assert "say which parts to check: --zoo-plugin NAME" in done.stdout + done.stderr
    done = run(project, "--pyargs", "zoo.testing.suite", "--zoo-plugin", "smal")
    assert done.returncode != 0
    assert "Did you mean 'small'" in done.stdout + done.stderr


def test_unused_plugin_imports_nothing_heavy(project: Path) -> None:
    (project / "test_other.py").write_text(
        "import sys\n\ndef test_light():\n"
        "    heavy = {'torch', 'timm', 'datasets', 'numpy', 'pydantic'} & sys.modules.keys()\n"
        "    assert not heavy, heavy\n"
        "    assert 'zoo.testing.pytest_plugin' in sys.modules\n"
        "    assert 'zoo.testing.subject' not in sys.modules\n"
    )
    # Other plugins of this environment (hypothesis among them) are not what is tested.
    done = run(project, "-p", "no:hypothesispytest", "-p", "no:xdist")
    assert done.returncode == 0, done.stdout
