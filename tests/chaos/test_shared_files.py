"""Files that others use at the same time, by 3 processes; `python -m chaos --only 20` takes 8."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.shared_files import judge_all


def test_files_are_shared_without_harm(tmp_path: Path) -> None:
    _, wrong = judge_all(tmp_path, num=3)
    assert not wrong


@pytest.mark.slow
def test_files_are_shared_by_eight_without_harm(tmp_path: Path) -> None:
    _, wrong = judge_all(tmp_path)
    assert not wrong
