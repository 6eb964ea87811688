"""PSNR and SSIM against their definitions, worked out by loops in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import ZooError
from zoo.metrics import psnr, psnr_per_clip, ssim, ssim_per_clip


def clips(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def ssim_by_loops(x: np.ndarray, y: np.ndarray) -> float:
    """SSIM of one channel of one frame, window by window."""
    offset = np.arange(11) - 5
    line = np.exp(-(offset**2) / (2 * 1.5**2))
    window = np.outer(line, line) / line.sum() ** 2
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    found = []
    for top in range(x.shape[0] - 10):
        for left in range(x.shape[1] - 10):
            a, b = x[top : top + 11, left : left + 11], y[top : top + 11, left : left + 11]
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            found.append(
                (2 * mean_a * mean_b + c1)
                * (2 * covariance + c2)
                / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
            )
    return float(np.mean(found))


def test_ssim_is_its_definition_on_every_frame_and_channel() -> None:
    x, y = clips(0, 2, 3, 2, 13, 17), clips(1, 2, 3, 2, 13, 17)
    y = 0.6 * x + 0.4 * y
    for clip in range(2):
        by_loops = [
            ssim_by_loops(x[clip, channel, frame].double().numpy(), y[clip, channel, frame].double().numpy())
            for channel in range(3)
            for frame in range(2)
        ]
        assert float(ssim_per_clip(x, y)[clip]) == pytest.approx(np.mean(by_loops), abs=1e-12)
    assert float(ssim(x, y)) == pytest.approx(float(ssim_per_clip(x, y).mean()), abs=1e-15)


def test_psnr_golden_values() -> None:
    x = torch.zeros(3, 3, 4, 8, 8)
    y = x.clone()
    y[0] += 0.2  # error 0.2 of a range of 2: 20 dB
    y[1] += 2  # the whole range: 0 dB
    y[2, :, :2] += 0.2  # half of the frames: 3.01 dB more
    assert psnr_per_clip(x, y).tolist() == pytest.approx([20.0, 0.0, 20 + 10 * math.log10(2)], abs=1e-5)
    assert float(psnr(x, y)) == pytest.approx((40 + 10 * math.log10(2)) / 3, abs=1e-5)
    assert psnr(x, x).item() == math.inf
    assert psnr(x, y).dtype == torch.float64


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    num_frames=st.integers(1, 3),
    height=st.integers(11, 15),
    width=st.integers(11, 15),
    noise=st.floats(0.01, 1),
)
def test_laws_of_both(seed: int, num_frames: int, height: int, width: int, noise: float) -> None:
    x, e = clips(seed, 2, 1, num_frames, height, width), clips(seed + 1, 2, 1, num_frames, height, width)
    near, far = x + 0.5 * noise * e, x + noise * e
    for per_clip, best in ((psnr_per_clip, math.inf), (ssim_per_clip, 1.0)):
        assert per_clip(x, x).tolist() == pytest.approx([best, best])
        assert torch.allclose(per_clip(x, far), per_clip(far, x), rtol=1e-12)
        assert bool((per_clip(x, far) < best).all())
        mirrored = per_clip(x.flip(-1), far.flip(-1))
        assert torch.allclose(mirrored, per_clip(x, far), rtol=1e-9)
        alone = torch.cat([per_clip(x[i : i + 1], far[i : i + 1]) for i in range(2)])
        assert torch.allclose(alone, per_clip(x, far), rtol=1e-12)
    assert bool((ssim_per_clip(x, far) >= -1).all())
    # Halving the error is 6.02 dB, whatever the clip.
    gain = psnr_per_clip(x, near) - psnr_per_clip(x, far)
    assert gain.tolist() == pytest.approx([20 * math.log10(2)] * 2, abs=1e-4)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ZooError, match="one shape"):
        psnr(clips(0, 1, 3, 2, 8, 8), clips(0, 1, 3, 2, 8, 9))
    with pytest.raises(ZooError, match="at least 11x11"):
        ssim(clips(0, 1, 3, 2, 10, 64), clips(0, 1, 3, 2, 10, 64))
