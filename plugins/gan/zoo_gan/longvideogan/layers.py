"""Blocks of LongVideoGAN's generator: 3D convolutions whose styles change over time.

A block is given the samples that it needs and no more: kernels are not padded in time, so that any
stretch of a clip comes out as in the whole. In space they are padded with zeros, as published.

Source: LongVideoGAN, https://arxiv.org/abs/2206.03429

Shape legend: B clips, D latent channels, I O channels in and out, T frames at the rate of the block,
H W pixels, t y x sides of a kernel.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.precision import at_least_fp32, full_precision
from zoo.ranks import mean_everywhere
from zoo_gan.stylegan2.layers import FullyConnectedLayer, bias_act

CLAMP = 256.0
_MAGNITUDE_DECAY = 0.999
_EPSILON = 1e-8


def before_doubling(start: int, end: int) -> tuple[int, int]:
    """Which samples linear interpolation needs to give samples [start, end) of twice their rate."""
    return (start - 1) // 2, end // 2 + 1


def double_time(x_BCTHW: Tensor) -> Tensor:
    """Double the frame rate by linear interpolation between neighbours: 2 * (T - 1) frames.

    Of input samples [a, b) it gives the samples [2 * a + 1, 2 * b - 1).
    """
    num_rows = x_BCTHW.shape[3]
    planes = rearrange(x_BCTHW, "B C T H W -> B C T (H W)")
    planes = F.interpolate(planes, scale_factor=(2, 1), mode="bilinear")[:, :, 1:-1]
    return rearrange(planes, "B C T (H W) -> B C T H W", H=num_rows)


def double_space(x_BCTHW: Tensor) -> Tensor:
    """Double height and width by bilinear interpolation, with zeros around the frame."""
    num_frames = x_BCTHW.shape[2]
    planes = F.pad(rearrange(x_BCTHW, "B C T H W -> B (C T) H W"), (1, 1, 1, 1))
    planes = F.interpolate(planes, scale_factor=2, mode="bilinear")[..., 2:-2, 2:-2]
    return rearrange(planes, "B (C T) H W -> B C T H W", T=num_frames)


def crop_space(x_BCTHW: Tensor, size_HW: tuple[int, int]) -> Tensor:
    """Keep the middle of each frame."""
    (height, width), (rows, columns) = size_HW, x_BCTHW.shape[3:]
    top, left = (rows - height) // 2, (columns - width) // 2
    return x_BCTHW[..., top : top + height, left : left + width]


def trim_time(x: Tensor, *, dim: int, frames: int) -> Tensor:
    """Drop frames at both ends."""
    return x.narrow(dim, frames, x.shape[dim] - 2 * frames)


class MagnitudeEMA(nn.Module):
    """Gives the factor that brings activations to a mean square of 1, from its moving average.

    Every forward pass in train mode moves the average, by the mean square over all ranks. Published training
    moves it once a step, where it makes clips for the discriminator.
    """

    magnitude_ema: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("magnitude_ema", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return the factor, a scalar in the type of `x`."""
        if self.training:
            with torch.no_grad():
                square = x.detach().to(self.magnitude_ema.dtype).square().mean()
                self.magnitude_ema.lerp_(mean_everywhere(square), 1 - _MAGNITUDE_DECAY)
        return self.magnitude_ema.rsqrt().to(x.dtype)


class Affine(FullyConnectedLayer):
    """Turns latents into a factor for each channel of each frame, 1 at first.

    Args:
        latent_dim: D.
        channels: I.
    """

    def __init__(self, latent_dim: int, channels: int) -> None:
        super().__init__(latent_dim, channels, bias_init=1)

    def forward(self, w_BTD: Tensor) -> Tensor:
        """Return styles_BIT."""
        rows = super().forward(rearrange(w_BTD, "B T D -> (B T) D"))
        return rearrange(rows, "(B T) I -> B I T", T=w_BTD.shape[1])


def modulated_conv3d(x_BITHW: Tensor, weight_OItyx: Tensor, styles_BIT: Tensor) -> Tensor:
    """Convolve with the kernel scaled anew by each frame's style, to rows of length 1.

    Args:
        x_BITHW: Activations.
        weight_OItyx: The kernel; its sides are odd.
        styles_BIT: Factors, float32.

    Returns:
        x_BOTHW, shorter by t - 1 frames. The length is that for the frame in the middle of the kernel.
    """
    side = weight_OItyx.shape[3] // 2
    margin = weight_OItyx.shape[2] // 2
    with full_precision(x_BITHW):
        # The public code first scales the styles of a clip by their largest. That cancels, and would make
        # a frame depend, by rounding, on all the others.
        weight = at_least_fp32(weight_OItyx) / math.sqrt(weight_OItyx[0].numel())
        energy_OI = weight.square().sum(dim=(2, 3, 4))
        centred = trim_time(styles_BIT, dim=2, frames=margin)
        lengths_BOT = (torch.einsum("OI,BIT->BOT", energy_OI, centred.square()) + _EPSILON).rsqrt()
    x = x_BITHW * _per_frame(styles_BIT, x_BITHW)
    x = F.conv3d(x, weight.to(x.dtype), padding=(0, side, side))
    return x * _per_frame(lengths_BOT, x)


def _per_frame(factors_BCT: Tensor, like: Tensor) -> Tensor:
    return rearrange(factors_BCT, "B C T -> B C T 1 1").to(like.dtype)


class Synthesis3dBlock(nn.Module):
    """A residual block of two convolutions with styles, then doubling in time and in space.

    Args:
        latent_dim: D.
        in_channels: I.
        out_channels: O.
        out_HW: Size of the frames that come out.
        temporal_kernel: Frames in a kernel, 3 or 1.
        temporal_up: 2 to double the frame rate, or 1.
        spatial_up: 2 to double height and width, or 1.

    Attributes:
        margin: Frames that are lost at each end, at the rate that comes in.
    """

    def __init__(
        self,
        latent_dim: int,
        in_channels: int,
        out_channels: int,
        *,
        out_HW: tuple[int, int],
        temporal_kernel: int,
        temporal_up: int,
        spatial_up: int,
    ) -> None:
        super().__init__()
        self.out_HW = out_HW
        self.temporal_up = temporal_up
        self.spatial_up = spatial_up
        self.margin = 2 * (temporal_kernel // 2)
        kernel = (temporal_kernel, 3, 3)
        self.affine_0 = Affine(latent_dim, in_channels)
        self.affine_1 = Affine(latent_dim, in_channels)
        self.weight_0 = nn.Parameter(torch.randn(in_channels, in_channels, *kernel))
        self.weight_1 = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))
        self.weight_skip = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1, 1))
        self.bias_0 = nn.Parameter(torch.zeros(in_channels))
        self.bias_1 = nn.Parameter(torch.zeros(out_channels))
        self.input_magnitude_ema_0 = MagnitudeEMA()
        self.input_magnitude_ema_1 = MagnitudeEMA()

    def needs(self, start: int, end: int) -> tuple[int, int]:
        """Which samples have to come in for samples [start, end) to come out, each at its rate."""
        if self.temporal_up == 2:
            start, end = before_doubling(start, end)
        return start - self.margin, end + self.margin

    def forward(self, x_BITHW: Tensor, w_BTD: Tensor, *, start: int, out: tuple[int, int]) -> Tensor:
        """Return x_BOTHW, samples [out[0], out[1]).

        Args:
            x_BITHW: Samples from `start`, as `needs` says.
            w_BTD: Latents of the same samples.
            start: Which sample comes first.
            out: Which samples are wanted.
        """
        x = x_BITHW * self.input_magnitude_ema_0(x_BITHW)
        hidden = modulated_conv3d(x, self.weight_0, self.affine_0(w_BTD))
        hidden = bias_act(hidden, self.bias_0, activation="lrelu", clamp=CLAMP)
        hidden = hidden * self.input_magnitude_ema_1(hidden)
        styles = self.affine_1(trim_time(w_BTD, dim=1, frames=self.margin // 2))
        hidden = modulated_conv3d(hidden, self.weight_1, styles)
        skip_gain = 1 / math.sqrt(self.weight_skip.shape[1])
        skip = F.conv3d(trim_time(x, dim=2, frames=self.margin), (self.weight_skip * skip_gain).to(x.dtype))
        x = (skip + hidden) * math.sqrt(0.5)
        first = start + self.margin
        if self.temporal_up == 2:
            x, first = double_time(x), 2 * first + 1
        x = x[:, :, out[0] - first : out[1] - first]
        if self.spatial_up == 2:
            x = crop_space(double_space(x), self.out_HW)
        return bias_act(x, self.bias_1, activation="lrelu", clamp=CLAMP)


class ToRGB(nn.Module):
    """A pointwise convolution with styles, to colours.

    Args:
        latent_dim: D.
        in_channels: I.
        out_channels: Colours.
    """

    def __init__(self, latent_dim: int, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.affine = Affine(latent_dim, in_channels)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.input_magnitude_ema = MagnitudeEMA()

    def forward(self, x_BITHW: Tensor, w_BTD: Tensor) -> Tensor:
        """Return x_BCTHW, unbounded."""
        x = x_BITHW * self.input_magnitude_ema(x_BITHW)
        x = x * _per_frame(self.affine(w_BTD), x)
        weight = self.weight / math.sqrt(self.weight.shape[1])
        return bias_act(F.conv3d(x, weight.to(x.dtype)), self.bias, clamp=CLAMP)
