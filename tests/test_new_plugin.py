"""`zoo.new_plugin`: what it writes is installed for real and checked; what it must not write, it does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.errors import OutputExistsError, ZooError
from zoo.new_plugin import new_plugin


def run(*command: str | Path, path: Path | None = None, cwd: Path | None = None) -> str:
    paths = [str(path)] if path else []
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths + [p for p in sys.path if p])}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_new_package_installs_and_passes_its_own_tests_and_the_checks(tmp_path: Path) -> None:
    folder = new_plugin("my-vq", tmp_path / "my-vq")
    site = tmp_path / "site"
    run("pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", site, folder)
    tests = run("pytest", "-q", "-p", "no:cacheprovider", folder, path=site, cwd=folder)
    ran = re.search(r"quantizer my-vq:my-vq: (\d+) checks ran", tests)
    assert ran is not None, tests
    assert int(ran[1]) >= 20
    assert "my-vq" in run("zoo", "check", "my-vq", path=site, cwd=tmp_path)
    assert "my-vq" in run("zoo", "list", "my-vq", path=site, cwd=tmp_path)


def test_the_new_package_is_complete_and_formatted(tmp_path: Path) -> None:
    folder = new_plugin("another-long-name", tmp_path / "plugin")
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    package = "zoo_another_long_name"
    assert names == {
        "README.md",
        "pyproject.toml",
        f"{package}/__init__.py",
        f"{package}/manifest.py",
        f"{package}/quantizer.py",
        "tests/test_part.py",
    }
    assert not any("$" in (folder / name).read_text() for name in names)
    config = Path(__file__).parents[1] / "pyproject.toml"
    run("ruff", "check", "-q", "--no-cache", "--config", config, folder)
    run("ruff", "format", "-q", "--check", "--no-cache", "--config", config, folder)


@pytest.mark.slow
def test_the_new_package_is_typed(tmp_path: Path) -> None:
    package = new_plugin("my-vq", tmp_path / "my-vq") / "zoo_my_vq"
    run(
        "mypy", "--strict", "--follow-imports=silent", "--cache-dir", tmp_path / "mypy", package, cwd=tmp_path
    )


@pytest.mark.parametrize(
    "name", ["", "My VQ", "-vq", "vq-", "1vq", "a/b", "../vq", "vq_x", "é", "a" * 51, "a\n"]
)
def test_a_name_that_cannot_be_used_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="such as 'my-vq'"):
        new_plugin(name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["vqvae", "fsq", "zoo"])
def test_a_name_that_is_taken_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=f"choose another, such as 'my-{name}'"):
        new_plugin(name, tmp_path / "out")


def test_the_refusal_of_a_name_offers_one_that_works(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="try 'my-vq-2'"):
        new_plugin("My_VQ 2", tmp_path / "out")


def test_a_folder_is_replaced_only_by_force_and_only_when_it_holds_a_plugin(tmp_path: Path) -> None:
    folder = new_plugin("my-vq", tmp_path / "deep" / "my-vq")
    mine = folder / "mine.txt"
    mine.write_text("work of hours")
    with pytest.raises(OutputExistsError, match="--force"):
        new_plugin("my-vq", folder)
    assert mine.exists()
    new_plugin("my-vq", folder, force=True)
    assert not mine.exists()
    assert (folder / "pyproject.toml").exists()

    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "pyproject.toml").write_text("[project]\nname = 'other'\n")
    link = tmp_path / "link"
    link.symlink_to(folder)
    for other in (precious, link, tmp_path):
        with pytest.raises(OutputExistsError, match="not replaced"):
            new_plugin("my-vq", other, force=True)
    assert (precious / "pyproject.toml").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "link", "precious"]
    assert [path.name for path in folder.parent.iterdir()] == ["my-vq"]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_plugin("my-vq", tmp_path / "my-vq")
    before = (folder / "README.md").read_text()
    real = Path.write_text

    def full_disk(self: Path, *args: object, **kwargs: object) -> int:
        if self.name == "test_part.py":
            raise OSError(28, "No space left on device")
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(ZooError, match="No space left"):
        new_plugin("my-vq", folder, force=True)
    with pytest.raises(ZooError, match="No space left"):
        new_plugin("my-vq", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["my-vq"]
    assert (folder / "README.md").read_text() == before


def test_the_folder_respects_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        folder = new_plugin("my-vq", tmp_path / "my-vq")
    finally:
        os.umask(old)
    assert folder.stat().st_mode & 0o777 == 0o750
