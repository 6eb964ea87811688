"""Short runs, cut like those of docs/reliability.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.resumed import FAMILIES, compare


@pytest.mark.parametrize(("name", "workers"), [("vqgan", 0), ("gan", 2)])
def test_a_run_cut_again_and_again_is_the_same_run(tmp_path: Path, name: str, workers: int) -> None:
    assert compare(tmp_path, name, steps=24, workers=workers).differing == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_long_run_cut_again_and_again_is_the_same_run(tmp_path: Path, name: str, workers: int) -> None:
    assert compare(tmp_path, name, steps=100, workers=workers).differing == []
