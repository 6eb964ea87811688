"""Noise that varies slowly, at many speeds at once, and the low-pass filters of LongVideoGAN.

Shape legend: B clips, N noise channels, W blur widths, D = N * W embedding channels, L frames of noise,
T frames, K taps.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from zoo.precision import at_least_fp32, full_precision

_FFT_MULTIPLE = 512


def kaiser_lowpass(num_taps: int, *, cutoff: float, width: float, rate: float) -> npt.NDArray[np.float64]:
    """Design a low-pass filter by the window method: a sinc under a Kaiser window, summing to 1.

    Args:
        num_taps: Length.
        cutoff: Frequency that passes by half.
        width: Of the transition, in the unit of `cutoff`.
        rate: Samples in the time in which `cutoff` counts cycles.
    """
    nyquist = rate / 2
    attenuation = 2.285 * (num_taps - 1) * math.pi * width / nyquist + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    distance = np.arange(num_taps) - (num_taps - 1) / 2
    taps: npt.NDArray[np.float64] = np.sinc(cutoff / nyquist * distance) * np.kaiser(num_taps, beta)
    return taps / taps.sum()


class BlurredNoise(nn.Module):
    """Blurs each channel of white noise by filters of many widths, so that some numbers change slowly.

    Widths are spaced evenly on a log scale. A filter of width w frames has ``ceil(w / 2)`` taps, all of
    them at or before the frame that it is for, and is scaled to leave the variance as it is. Filters are
    applied by the Fourier transform, which at thousands of taps is much less work than a convolution.

    Source: https://arxiv.org/abs/2206.03429, section 3.1

    Args:
        num_widths: Filters.
        shortest: Least width, in frames.
        longest: Largest width, in frames.

    Attributes:
        num_taps: Taps of the longest filter: a frame's embedding is made of as many frames of noise.
    """

    filters: Tensor

    def __init__(self, *, num_widths: int, shortest: float, longest: float) -> None:
        super().__init__()
        widths = 2 ** np.linspace(math.log2(shortest), math.log2(longest), num_widths)
        widths = widths.clip(shortest, longest)
        self.num_taps = math.ceil(longest / 2)
        filters = np.zeros((num_widths, self.num_taps), dtype=np.float32)
        for row, width in zip(filters, widths, strict=True):
            taps = kaiser_lowpass(math.ceil(width / 2), cutoff=2.0, width=12.0, rate=width)
            row[-len(taps) :] = taps
        filters /= np.sqrt(np.square(filters).sum(axis=1, keepdims=True))
        self.register_buffer("filters", torch.as_tensor(filters), persistent=False)

    def forward(self, noise_BNL: Tensor) -> Tensor:
        """Return the embedding, channel (n, w) at ``n * W + w``.

        Args:
            noise_BNL: White noise, `num_taps` - 1 frames longer than what is wanted.

        Returns:
            embedding_BDT, T = L - num_taps + 1, float32 or wider.
        """
        num_frames = noise_BNL.shape[2] - self.num_taps + 1
        length = -(-noise_BNL.shape[2] // _FFT_MULTIPLE) * _FFT_MULTIPLE
        with full_precision(noise_BNL):
            filters_WF = torch.fft.rfft(at_least_fp32(self.filters), n=length).conj()
            # A channel at a time, because the padding of all at once is many times the result.
            blurred = [
                torch.fft.irfft(torch.fft.rfft(noise_BL, n=length)[:, None] * filters_WF, n=length)
                for noise_BL in at_least_fp32(noise_BNL).unbind(dim=1)
            ]
            return torch.cat([channel[..., :num_frames] for channel in blurred], dim=1)


class HalveInTime(nn.Module):
    """Halves the frame rate behind a low-pass filter of 12 taps; 5 samples are lost at each end."""

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        taps = kaiser_lowpass(12, cutoff=1.0, width=6.0, rate=8.0).astype(np.float32)
        self.register_buffer("taps", torch.as_tensor(taps), persistent=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return (B, t, D), t = T / 2 - 5; see `before_halving` for which frames those are."""
        with full_precision(x_BTD):
            return x_BTD.unfold(1, 12, 2) @ self.taps


def before_halving(start: int, end: int) -> tuple[int, int]:
    """Which samples `HalveInTime` needs to give samples [start, end) of half their rate."""
    return 2 * start - 5, 2 * end + 5
