"""Hostile videos in small numbers; `python -m chaos --only 18` takes all kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.video_files import gif_bomb, judge_all

from zoo.data import Limits, check_data, container, iter_frames, read_video
from zoo.errors import DataError


def test_hostile_videos_are_refused_or_capped(tmp_path: Path) -> None:
    _, *wrong = judge_all(tmp_path, every=12)
    assert not wrong


def test_a_file_that_unfolds_beyond_measure_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bomb.gif"
    path.write_bytes(gif_bomb(3000, 3000, 30))
    monkeypatch.setattr(container, "FREE_PIXELS", 50_000_000)
    assert "ZOO_MAX_UNFOLDING" in (check_data(tmp_path)[0].reason or "")
    assert next(iter_frames(path)).pixels_HWC.shape == (3000, 3000, 3)
    monkeypatch.setenv("ZOO_MAX_PIXELS", "1000000")
    with pytest.raises(DataError, match="ZOO_MAX_PIXELS"):
        read_video(path)
    with pytest.raises(DataError, match="more than 3 frames"):
        read_video(path, limits=Limits(max_frames=3, max_pixels=20_000_000))
    monkeypatch.setenv("ZOO_MAX_PIXELS", "many")
    with pytest.raises(DataError, match="whole number"):
        read_video(path)


@pytest.mark.slow
def test_all_kinds_of_hostile_videos_are_refused_or_capped(tmp_path: Path) -> None:
    _, *wrong = judge_all(tmp_path)
    assert not wrong
