"""Hostile weights in small numbers; `python -m chaos --only 15` takes all kinds and 10,000 bent files."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.weight_files import fuzz_many, judge_all


def test_hostile_weights_are_refused_in_little_time_and_memory(tmp_path: Path) -> None:
    _, *wrong = judge_all(tmp_path, every=9)
    assert not wrong


def test_bent_files_are_never_taken_where_the_reference_refuses(tmp_path: Path) -> None:
    wrong, counts = fuzz_many(tmp_path, 400, each=400)
    assert not wrong
    assert counts["both take"] > 10
    assert counts["both refuse"] > 100


@pytest.mark.slow
def test_all_kinds_of_hostile_weights_are_refused(tmp_path: Path) -> None:
    _, *wrong = judge_all(tmp_path)
    assert not wrong
