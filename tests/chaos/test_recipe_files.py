"""Hostile recipe files in small numbers; `python -m chaos --only 16` takes all kinds and 2,000 paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.recipe_files import judge_all, walk_all


def test_hostile_recipes_are_refused_with_their_line(tmp_path: Path) -> None:
    _, *wrong = judge_all(tmp_path, every=9)
    assert not wrong


def test_names_of_functions_in_any_field_do_nothing(tmp_path: Path) -> None:
    wrong, _ = walk_all(tmp_path, 30)
    assert not wrong


@pytest.mark.slow
def test_all_kinds_of_hostile_recipes_are_refused(tmp_path: Path) -> None:
    _, *wrong = judge_all(tmp_path)
    assert not wrong
