"""Two of the fill levels of docs/reliability.md, on a small disk where one can be mounted and on a quota."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.full_disk import fill, small_disk


def test_a_quota_stops_a_run_with_a_message_and_the_checkpoint_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    found = fill(tmp_path, tmp_path / "disk", 1, mounted=False)
    assert (found.stopped, found.unclear, found.lost, found.stuck) == (1, 0, 0, 0)


@pytest.mark.slow
def test_a_full_disk_stops_a_run_with_a_message_and_the_checkpoint_stays(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as mounted:
        if not mounted:
            pytest.skip("no file system can be mounted here: this needs root")
        found = fill(tmp_path, tmp_path / "disk", 8, mounted=True)
    assert (found.unclear, found.lost, found.stuck) == (0, 0, 0)
    assert found.stopped > 4
