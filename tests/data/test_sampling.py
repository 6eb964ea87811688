"""The laws of clip sampling, for any video."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.data.sampling import Draw, choose, draw, finish, scaled_size
from zoo.recipes import Clip

RATES = st.sampled_from([1.0, 7.5, 10.0, 12.0, 15.0, 23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 60.0, 120.0])


def clip_of(num_frames: int, fps: float | None) -> Clip:
    return Clip(num_frames=num_frames, fps=fps)


@given(
    file_fps=RATES, fps=RATES, num_frames=st.integers(1, 32), total=st.integers(1, 400), time=st.floats(0, 1)
)
def test_at_a_constant_rate_frames_are_where_arithmetic_puts_them(
    file_fps: float, fps: float, num_frames: int, total: int, time: float
) -> None:
    pictures = [(number / file_fps, number) for number in range(total)]
    chosen = choose(
        lambda _: pictures,
        clip=clip_of(num_frames, fps),
        length_s=total / file_fps,
        file_fps=file_fps,
        time=time,
    )
    numbers = [number for _, number in chosen]
    assert len(numbers) == num_frames
    step = file_fps / fps
    for k, number in enumerate(numbers):
        # Half a period of the faster rate is forgiven; after the end the last frame stays.
        wanted = min(numbers[0] + k * step, total - 1)
        assert number <= wanted + 0.5 * min(1.0, step) + 1e-3
        assert number == total - 1 or number + 1 > wanted + 0.5 * min(1.0, step) - 1e-3
    if fps == file_fps:
        assert numbers == [min(numbers[0] + k, total - 1) for k in range(num_frames)]
    fits = (num_frames - 1) / fps <= (total - 1) / file_fps
    if fits:
        latest = (total - 1) / file_fps - (num_frames - 1) / fps
        assert numbers[0] / file_fps <= latest + 1e-6 + 0.5 / max(fps, file_fps)
        assert time * latest - numbers[0] / file_fps <= 1 / file_fps + 1e-6


@given(
    gaps=st.lists(st.integers(5, 900), min_size=1, max_size=60),
    fps=RATES,
    num_frames=st.integers(1, 20),
    time=st.floats(0, 1),
)
def test_at_an_uneven_rate_the_frame_on_screen_is_chosen(
    gaps: list[int], fps: float, num_frames: int, time: float
) -> None:
    times = [t / 1000 for t in itertools.accumulate([0, *gaps])]
    file_fps = len(times) / times[-1]
    chosen = choose(
        lambda _: zip(times, range(len(times)), strict=True),
        clip=clip_of(num_frames, fps),
        length_s=times[-1] + 1 / file_fps,
        file_fps=file_fps,
        time=time,
    )
    tolerance = 0.5 / max(fps, file_fps)
    for k, (_, number) in enumerate(chosen):
        wanted = chosen[0][0] + k / fps
        assert times[number] <= wanted + tolerance + 2e-6
        # The first wanted time is moved to its picture's own; by then a later one may lie within tolerance.
        assert k == 0 or number == len(times) - 1 or times[number + 1] > wanted + tolerance - 2e-6


@given(
    claimed=st.floats(0.01, 500),
    total=st.integers(1, 100),
    time=st.floats(0, 1),
    num_frames=st.integers(1, 16),
)
def test_a_header_that_lies_costs_no_clip(claimed: float, total: int, time: float, num_frames: int) -> None:
    pictures = [(number / 25, number) for number in range(total)]
    chosen = choose(
        lambda start_s: [p for p in pictures if p[0] > start_s - 0.2] or pictures[-1:],
        clip=clip_of(num_frames, None),
        length_s=claimed,
        file_fps=25.0,
        time=time,
    )
    numbers = [number for _, number in chosen]
    assert numbers == [min(numbers[0] + k, total - 1) for k in range(num_frames)]
    if claimed > total / 25 + 0.2 and num_frames <= total:
        assert numbers[-1] == numbers[0] + num_frames - 1


@given(
    height=st.integers(1, 600),
    width=st.integers(1, 600),
    want_h=st.integers(8, 300),
    want_w=st.integers(8, 300),
)
def test_scaling_covers_the_clip_and_keeps_the_shape(
    height: int, width: int, want_h: int, want_w: int
) -> None:
    h, w = scaled_size(height, width, clip=Clip(height=want_h, width=want_w))
    assert h >= want_h
    assert w >= want_w
    assert h == want_h or w == want_w
    scale = max(want_h / height, want_w / width)
    assert abs(h - height * scale) <= 1
    assert abs(w - width * scale) <= 1


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 1000), index=st.integers(0, 10**6))
def test_chance_depends_on_seed_epoch_and_index_alone(seed: int, epoch: int, index: int) -> None:
    one = draw(seed, epoch, index)
    assert one == draw(seed, epoch, index)
    assert all(0 <= part < 1 for part in one)
    assert (
        len({one, draw(seed + 1, epoch, index), draw(seed, epoch + 1, index), draw(seed, epoch, index + 1)})
        == 4
    )


@given(top=st.floats(0, 1), left=st.floats(0, 1), flip=st.floats(0, 1))
def test_crop_and_flip_stay_inside(top: float, left: float, flip: float) -> None:
    frames = np.arange(2 * 20 * 30 * 3, dtype=np.int64).reshape(2, 20, 30, 3).astype(np.uint8)
    clip = Clip(num_frames=2, height=16, width=16)
    x = finish(list(frames), clip=clip, chance=Draw(0.5, top, left, flip), augment=("flip",))
    assert tuple(x.shape) == (3, 2, 16, 16)
    plain = finish(list(frames), clip=clip, chance=Draw(0.5, top, left, flip), augment=())
    assert torch.equal(x, plain.flip(3) if flip < 0.5 else plain)
    windows = [frames[:, t : t + 16, s : s + 16] for t in range(5) for s in range(15)]
    seen = ((plain.permute(1, 2, 3, 0) + 1) * 127.5).round().to(torch.uint8).numpy()
    assert any(np.array_equal(seen, window) for window in windows)
