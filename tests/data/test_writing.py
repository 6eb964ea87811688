"""Writing: what is written comes back, nothing is overwritten, no half files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.data import VideoWriter, read_video, side_by_side, to_float, to_uint8, write_video
from zoo.errors import DataError, OutputExistsError


def smooth_video(num_frames: int = 12, height: int = 48, width: int = 64) -> Tensor:
    """Colour waves that move, x_CTHW."""
    t, y, x = torch.meshgrid(
        torch.arange(num_frames) / 12, torch.arange(height) / 48, torch.arange(width) / 64, indexing="ij"
    )
    return torch.stack([torch.sin(6 * (x + t)), torch.cos(5 * (y - t)), torch.sin(4 * (x * y + t))])


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    x = smooth_video()
    path = write_video(tmp_path / f"a video{suffix}", x, 30000 / 1001)
    video = read_video(path)
    assert video.fps == pytest.approx(29.97, abs=0.01)
    assert np.diff(video.times_s) == pytest.approx(1001 / 30000, abs=0.0011)
    mse = (video.x_CTHW - x).square().mean()
    assert 10 * torch.log10(4 / mse) > 36
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, context.colorspace, context.color_range) == (
            "h264",
            "yuv420p",
            1,
            1,
        )
    if suffix == ".mp4":
        data = path.read_bytes()
        assert data.index(b"moov") < data.index(b"mdat")


def test_floats_and_bytes_are_each_others_inverse() -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16, 1).expand(2, -1, -1, 3)
    x = to_float(frames)
    assert (x.min(), x.max()) == (-1, 1)
    assert torch.equal(to_uint8(x), frames)
    with pytest.raises(DataError, match="not finite"):
        to_uint8(torch.full((3, 1, 2, 2), torch.nan))


def test_odd_sides_get_a_copy_of_the_last_row_and_column(tmp_path: Path) -> None:
    x = smooth_video(3, 33, 47)
    video = read_video(write_video(tmp_path / "odd.mp4", x, 10, crf=1))
    assert tuple(video.frames_THWC.shape) == (3, 34, 48, 3)
    expected = torch.nn.functional.pad(x, (0, 1, 0, 1), mode="replicate")
    assert (video.x_CTHW - expected).abs().mean() < 0.02


def test_png_is_exact_and_holds_one_frame(tmp_path: Path) -> None:
    x = smooth_video(1)
    video = read_video(write_video(tmp_path / "one.png", x, 1))
    assert torch.equal(video.frames_THWC, to_uint8(x))
    with pytest.raises(DataError, match="one frame, got 2"):
        write_video(tmp_path / "two.png", smooth_video(2), 1)


def test_outputs_are_not_overwritten_and_no_half_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    write_video(path, smooth_video(2), 10)
    before = path.read_bytes()
    with pytest.raises(OutputExistsError, match="force"):
        write_video(path, smooth_video(4), 10)
    with pytest.raises(RuntimeError), VideoWriter(path, fps=10, force=True) as writer:  # noqa: PT012
        writer.write(smooth_video(120, 16, 16))
        assert len(list(tmp_path.iterdir())) == 2
        raise RuntimeError
    with pytest.raises(DataError, match="no frames"), VideoWriter(path, fps=10, force=True):
        pass
    with VideoWriter(tmp_path / "w.mp4", fps=10) as writer:
        writer.write(smooth_video(2))
        with pytest.raises(DataError, match="the first was 64x48"):
            writer.write(smooth_video(2, 16, 16))
    (tmp_path / "w.mp4").unlink()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]
    write_video(path, smooth_video(4), 10, force=True)
    assert len(read_video(path).frames_THWC) == 4


@pytest.mark.parametrize("fps", [0.0, 1e-4, 4e-4, 1000.5, 1e9, float("nan"), float("inf"), -5.0])
def test_rates_that_no_file_can_hold_are_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(DataError, match=r"fps goes from 0\.001 to 1000"):
        write_video(tmp_path / "v.mp4", smooth_video(2), fps)


@pytest.mark.parametrize("fps", [0.001, 0.3, 1000.0])
def test_rates_at_the_limits_come_back(tmp_path: Path, fps: float) -> None:
    video = read_video(write_video(tmp_path / "v.mp4", smooth_video(3), fps))
    assert np.diff(video.times_s) == pytest.approx(1 / fps, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "video", "match"),
    [
        ("v.avi", smooth_video(1), "written as .mp4"),
        ("none/v.mp4", smooth_video(1), "no folder"),
        ("v.mp4", smooth_video(1)[None], "4 axes"),
        ("v.mp4", smooth_video(1)[:2], "C 1 or 3"),
        ("v.mp4", torch.zeros(1, 4, 4, 3, dtype=torch.int64), "float in"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, video: Tensor, match: str) -> None:
    with pytest.raises(DataError, match=match):
        write_video(tmp_path / name, video, 10)


def test_side_by_side() -> None:
    left, right = smooth_video(4, 16, 20), smooth_video(2, 12, 10)[:1]
    both = side_by_side([left, right], gap=2)
    assert tuple(both.shape) == (3, 4, 16, 32)
    assert torch.equal(both[..., :20], left)
    assert (both[..., 20:22] == 1).all()
    assert torch.equal(both[:, 3, :12, 22:], right[:, 1].expand(3, -1, -1))
    assert (both[:, :, 12:, 22:] == -1).all()
