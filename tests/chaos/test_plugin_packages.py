"""Broken and hostile plugins, some of them; `python -m chaos --only 17` installs all kinds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.plugin_packages import install, judge_all, listed

SOME = {"hangs asleep", "prints past Python", "changes json", "hook that hangs", "puts stdout away"}


def test_bad_plugins_leave_the_list_whole_and_are_named(tmp_path: Path) -> None:
    wrong, _ = judge_all(tmp_path, only=SOME)
    assert not wrong


def test_a_slow_plugin_is_waited_for_when_it_is_asked_for(tmp_path: Path) -> None:
    slow = (
        "import time; time.sleep(1.5)\nfrom zoo.hookspecs import hookimpl\nfrom zoo.parts import PartSpec\n"
        "@hookimpl\ndef zoo_parts(): return [PartSpec('quantizer', 'late', 'a:B', 'A part.')]"
    )
    install(tmp_path, "slow", slow)
    document, _, _ = listed(tmp_path)
    assert isinstance(document, dict)
    assert "did not import within" in document["problems"][0]
    code = (
        "import zoo.discovery as d; c = d.catalogue(); print(c.find('quantizer', 'late').plugin, c.problems)"
    )
    assert run(code, tmp_path) == "slow []"


def run(code: str, folder: Path) -> str:
    path = os.pathsep.join([os.environ.get("PYTHONPATH", ""), str(folder)])
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_all_kinds_of_bad_plugins_leave_the_list_whole(tmp_path: Path) -> None:
    wrong, _ = judge_all(tmp_path)
    assert not wrong
