"""Videos of any length through a model: the same frames, the same length, at their times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from counting import number_on, write_counting
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY

import zoo
from zoo.cli.group import cli
from zoo.data import iter_frames, probe_video, read_video, to_grey
from zoo.errors import ZooError
from zoo.windows import reconstruct_video


@pytest.mark.parametrize("channels", [1, 3])
def test_windows_are_what_the_model_says_of_each(channels: int) -> None:
    option = {"clip": "channels", "encoder": "in_channels", "decoder": "out_channels"}
    recipe = TINY | {section: {**TINY[section], name: channels} for section, name in option.items()}
    model: Any = zoo.build(recipe, seed=0).eval()
    num = model.recipe.clip.num_frames
    frames = list((torch.rand(2 * num + 1, 3, 16, 20) * 2 - 1).unbind())
    frames[1] = torch.ones(3, 30, 30)
    windows = list(reconstruct_video(model, iter(frames), overlap=0))
    x_CTHW = torch.cat([window.x_CTHW for window in windows], dim=1)
    assert tuple(x_CTHW.shape) == (channels, 2 * num + 1, 16, 20)
    first_CTHW = frames[0][:, None]
    assert torch.equal(x_CTHW[:, :1], to_grey(first_CTHW) if channels == 1 else first_CTHW)
    assert x_CTHW[:, 1].min() > 0.999
    with torch.no_grad():
        for window, part_CTHW in zip(windows, x_CTHW.split(num, dim=1), strict=True):
            assert torch.allclose(window.y_CTHW, model.reconstruct(part_CTHW[None])[0], atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(length=st.integers(1, 19), overlap=st.integers(0, 2))
def test_windows_that_overlap_fade_into_each_other(length: int, overlap: int) -> None:
    model: Any = zoo.build(TINY, seed=0).eval()
    num = model.recipe.clip.num_frames
    generator = torch.Generator().manual_seed(length)
    x_CTHW = torch.rand(3, length, 16, 20, generator=generator) * 2 - 1
    windows = list(reconstruct_video(model, x_CTHW.unbind(1), overlap=overlap))
    y_CTHW = torch.cat([window.y_CTHW for window in windows], 1)
    assert torch.equal(torch.cat([window.x_CTHW for window in windows], 1), x_CTHW)
    # Said again in other words: every frame is the weighted mean of all windows that see it.
    total, weights = torch.zeros_like(y_CTHW), torch.zeros(length)
    start = 0
    while True:
        end = min(start + num, length)
        with torch.no_grad():
            seen = model.reconstruct(x_CTHW[None, :, start:end])[0]
        weight = torch.ones(end - start)
        for n in range(overlap):
            if start:
                weight[n] *= (n + 1) / (overlap + 1)
            if end < length:
                weight[-1 - n] *= (n + 1) / (overlap + 1)
        total[:, start:end] += seen * weight[:, None, None]
        weights[start:end] += weight
        if end == length:
            break
        start += num - overlap
    torch.testing.assert_close(weights, torch.ones(length))
    torch.testing.assert_close(y_CTHW, total, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["cosmos-video-dv4x8x8-tiny", "vqvae-video-tiny"])
def test_tiles_keep_the_size_and_say_how_far_they_disagree(name: str) -> None:
    model: Any = zoo.build(name, seed=0).eval()
    frames = (torch.rand(7, 3, 40, 52) * 2 - 1).unbind()
    whole, tiled = (list(reconstruct_video(model, frames, tile=tile)) for tile in (None, 32))
    for windows in (whole, tiled):
        assert tuple(torch.cat([window.y_CTHW for window in windows], 1).shape) == (3, 7, 40, 52)
    assert all(window.seam[1] > 0 for window in tiled)
    assert len(tiled[0].tokens) >= 4 * len(whole[0].tokens)
    one_tile = reconstruct_video(model, frames, tile=64)
    for a, b in zip(one_tile, whole, strict=True):
        assert torch.equal(a.y_CTHW, b.y_CTHW)
    with pytest.raises(ZooError, match="tiles of 2 pixels"):
        list(reconstruct_video(model, frames, tile=2))


def test_a_model_whose_streams_end_takes_windows() -> None:
    model: Any = zoo.build("bsqvit-video-tiny", seed=0).eval()
    num = model.recipe.clip.num_frames + 5
    windows = list(reconstruct_video(model, (torch.rand(num, 3, 64, 64) * 2 - 1).unbind()))
    assert sum(window.y_CTHW.shape[1] for window in windows) == num
    assert windows[-1].seam[1] > 0


@pytest.mark.parametrize("name", ["cosmos-video-dv4x8x8-tiny", "vqvae-video-tiny"])
def test_frames_smaller_than_the_stride_come_back(name: str) -> None:
    model: Any = zoo.build(name, seed=0).eval()
    (window,) = reconstruct_video(model, (torch.rand(3, 3, 3, 2) * 2 - 1).unbind())
    assert tuple(window.y_CTHW.shape) == (3, 3, 3, 2)


def test_a_causal_model_leaves_no_seam_in_time() -> None:
    model: Any = zoo.build("cosmos-video-dv4x8x8-tiny", seed=0).eval()
    x_CTHW = torch.rand(3, 43, 32, 40) * 2 - 1
    windows = list(reconstruct_video(model, x_CTHW.unbind(1)))
    assert len(windows) > 2
    y_CTHW = torch.cat([window.y_CTHW for window in windows], 1)
    with torch.no_grad():
        torch.testing.assert_close(y_CTHW, model.reconstruct(x_CTHW[None])[0], atol=1e-4, rtol=1e-4)


def test_reconstruct_shows_every_frame_at_its_time(tmp_path: Path) -> None:
    # 40 ms a frame, then slower and slower: 3.2 s, where 50 frames at the median rate would be 2 s.
    times = [0]
    for number in range(1, 50):
        times.append(times[-1] + 40 + (0 if number < 20 else 2 * (number - 20)) // 10 * 10)
    source = write_counting(tmp_path / "vary.mkv", times)
    zoo.save(zoo.build(TINY, seed=0), tmp_path / "model")
    words = ["reconstruct", str(tmp_path / "model"), str(source), str(tmp_path / "out.mp4"), "--side-by-side"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    video = read_video(tmp_path / "out.mp4")
    period = 1 / probe_video(source).fps
    assert len(video.times_s) / video.fps == pytest.approx(times[-1] / 1000 + period, abs=1.01 * period)
    # The original is on the left; each of its frames is there when its time has come.
    for time_s, pixels_HWC in zip(video.times_s, video.frames_THWC, strict=True):
        assert abs(times[number_on(pixels_HWC[:, :80])] / 1000 - time_s) <= 0.06 + period


def test_a_recording_of_varying_rate_keeps_its_length(shared_data: Path) -> None:
    source = shared_data / "odd" / "variable_rate_hevc.mov"
    info = probe_video(source)
    stored = [frame.time_s for frame in iter_frames(source)]
    shown = [frame.time_s for frame in iter_frames(source, fps=info.fps)]
    assert max(abs(time_s - at / info.fps) for at, time_s in enumerate(stored)) > 1.5 / info.fps
    assert max(abs(time_s - at / info.fps) for at, time_s in enumerate(shown)) <= 0.05
    assert len(shown) / info.fps == pytest.approx(stored[-1] + 1 / info.fps, abs=1.01 / info.fps)
