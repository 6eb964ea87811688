"""A short soak: files are closed. Memory and times mean something over 20,000 steps only."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.soak import measure


@pytest.mark.slow
def test_a_long_run_holds_no_more_memory_and_no_more_files(tmp_path: Path) -> None:
    found = measure(tmp_path, 5_000)
    assert found.files[0] == found.files[1]
    assert found.growth < 0.02
