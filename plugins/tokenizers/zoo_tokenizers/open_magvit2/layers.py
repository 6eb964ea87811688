"""Convolutions, norms and changes of size of the Open-MAGVIT2 video tokenizer.

Source: https://arxiv.org/abs/2409.04410

Shapes: B batch, D channels, t h w the grid at hand; L channels of the latent, u y x its own,
coarser grid (u in time).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.precision import at_least_fp32
from zoo.streaming import is_first_piece, lead_in

_EPS = 1e-6

Norm = Callable[[int], nn.Module]
"""Builds the norm of so many channels."""


class CausalConv(nn.Module):
    """Convolves over a pixel's neighbourhood in its own frame and the frames just before; zeros around.

    Args:
        in_dim: Channels in.
        out_dim: Channels out.
        kernel_size: Frames and pixels along a side of the kernel, odd.
        stride: Steps in time, height and width.
        bias: Whether a bias is added.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        kernel_size: int = 3,
        stride: tuple[int, int, int] = (1, 1, 1),
        bias: bool = True,
    ) -> None:
        super().__init__()
        side = kernel_size // 2
        self.conv_1 = nn.Conv3d(
            in_dim, out_dim, kernel_size, stride=stride, padding=(0, side, side), bias=bias
        )

    def forward(self, x_BDthw: Tensor) -> Tensor:
        """Convolve; t -> 1 + (t - 1) / stride."""
        before = self.conv_1.kernel_size[0] - 1
        if before:
            x_BDthw = lead_in(self, x_BDthw, before, stride=self.conv_1.stride[0])
        y: Tensor = self.conv_1(x_BDthw)
        return y


class ClipGroupNorm(nn.GroupNorm):
    """Normalises groups of channels over all frames and pixels of a clip, later frames included."""

    def __init__(self, num_groups: int, dim: int, *, affine: bool = True) -> None:
        super().__init__(num_groups, dim, eps=_EPS, affine=affine)


class FrameGroupNorm(ClipGroupNorm):
    """Normalises groups of channels over the pixels of each frame on its own."""

    def forward(self, x_BDthw: Tensor) -> Tensor:
        """Normalise; the shape stays."""
        frames = rearrange(x_BDthw, "b d t h w -> (b t) d h w")
        return rearrange(super().forward(frames), "(b t) d h w -> b d t h w", b=x_BDthw.shape[0])


class ClipAdaptiveNorm(nn.Module):
    """Normalises a clip, then scales and shifts it by what the latent's channels deviate and are on average.

    A latent of one position deviates by 0; the published code makes all of the video NaN there.

    Args:
        latent_dim: Channels L of the latent.
        num_groups: Groups of channels that are normalised together.
        dim: Channels of what is normalised.
    """

    norm: ClassVar[type[ClipGroupNorm]] = ClipGroupNorm
    pooled: ClassVar[tuple[int, ...]] = (2, 3, 4)

    def __init__(self, latent_dim: int, num_groups: int, dim: int) -> None:
        super().__init__()
        self.gn = self.norm(num_groups, dim, affine=False)
        self.gamma = nn.Linear(latent_dim, dim)
        self.beta = nn.Linear(latent_dim, dim)

    def forward(self, x_BDthw: Tensor, z_BLuyx: Tensor, *, growth: int) -> Tensor:
        """Normalise; the shape stays.

        Args:
            x_BDthw: Of u * growth frames; of growth - 1 less in the first piece of a clip.
            z_BLuyx: The latent that the statistics are of.
            growth: How many frames here follow from one of the latent.
        """
        z = at_least_fp32(z_BLuyx)
        num = math.prod([z.shape[dim] for dim in self.pooled])
        variance = z.var(dim=self.pooled, correction=min(1, num - 1), keepdim=True)
        scale = self._per_frame(self.gamma, (variance + _EPS).sqrt().to(z_BLuyx.dtype), growth)
        shift = self._per_frame(self.beta, z.mean(dim=self.pooled, keepdim=True).to(z_BLuyx.dtype), growth)
        y: Tensor = scale * self.gn(x_BDthw) + shift
        return y

    def _per_frame(self, project: nn.Linear, statistic_BLu11: Tensor, growth: int) -> Tensor:
        """Project a statistic to (B, D, 1 or t, 1, 1)."""
        y_BDu11: Tensor = project(statistic_BLu11.movedim(1, -1)).movedim(-1, 1)
        return y_BDu11


class FrameAdaptiveNorm(ClipAdaptiveNorm):
    """Normalises every frame on its own, by the statistics of the latent frame that it follows from."""

    norm = FrameGroupNorm
    pooled = (3, 4)

    def _per_frame(self, project: nn.Linear, statistic_BLu11: Tensor, growth: int) -> Tensor:
        y_BDt11 = super()._per_frame(project, statistic_BLu11, growth).repeat_interleave(growth, dim=2)
        return y_BDt11[:, :, growth - 1 :] if is_first_piece() else y_BDt11


class ResidualBlock(nn.Module):
    """Adds two causal convolutions, each after norm and swish; 1x1x1 on the way past where widths differ."""

    def __init__(self, in_dim: int, out_dim: int, *, norm: Norm) -> None:
        super().__init__()
        self.norm1 = norm(in_dim)
        self.conv1 = CausalConv(in_dim, out_dim, bias=False)
        self.norm2 = norm(out_dim)
        self.conv2 = CausalConv(out_dim, out_dim, bias=False)
        self.nin_shortcut = (
            nn.Identity() if in_dim == out_dim else CausalConv(in_dim, out_dim, kernel_size=1, bias=False)
        )

    def forward(self, x_BDthw: Tensor) -> Tensor:
        """Refine; only the number of channels changes."""
        h = self.conv1(F.silu(self.norm1(x_BDthw)))
        h = self.conv2(F.silu(self.norm2(h)))
        y: Tensor = self.nin_shortcut(x_BDthw) + h
        return y


class Upsample(nn.Module):
    """Doubles the sides, and the frames where asked for: a convolution to more channels, then depth to space.

    Args:
        dim: Channels, as many in as out.
        stride: Growth of time, height and width, 1 or 2 each; time grows from 1 + k to 1 + 2k frames.
    """

    def __init__(self, dim: int, *, stride: tuple[int, int, int]) -> None:
        super().__init__()
        s_t, s_h, s_w = stride
        self.stride = stride
        self.conv1 = CausalConv(dim, dim * s_t * s_h * s_w)

    def forward(self, x_BDthw: Tensor) -> Tensor:
        """Grow; of the two frames that the first one gives, the first stays."""
        s_t, s_h, s_w = self.stride
        y = rearrange(self.conv1(x_BDthw), "b (p q r d) t h w -> b d (t p) (h q) (w r)", p=s_t, q=s_h, r=s_w)
        if s_t == 2 and is_first_piece():
            return torch.cat([y[:, :, :1], y[:, :, 2:]], dim=2)
        return y


class Level(nn.Module):
    """The residual blocks of one size, and what changes the size after them, if anything does."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_blocks: int,
        *,
        norm: Norm,
        downsample: CausalConv | None = None,
        upsample: Upsample | None = None,
    ) -> None:
        super().__init__()
        self.block = residual_blocks(in_dim, out_dim, num_blocks, norm=norm)
        self.downsample = downsample
        self.upsample = upsample

    def forward(self, x_BDthw: Tensor) -> Tensor:
        """Refine, then resample."""
        h = x_BDthw
        for block in self.block:
            h = block(h)
        resample = self.downsample or self.upsample
        return h if resample is None else resample(h)


def residual_blocks(in_dim: int, out_dim: int, num_blocks: int, *, norm: Norm) -> nn.ModuleList:
    """Build blocks that follow one another; the first changes the width."""
    return nn.ModuleList(
        ResidualBlock(in_dim if i == 0 else out_dim, out_dim, norm=norm) for i in range(num_blocks)
    )
