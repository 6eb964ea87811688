"""Blocks that the encoder and the decoder of the MAGVIT 3D-VQ share.

Source: https://arxiv.org/abs/2212.05199

Shapes: B batch, D channels, T H W the grid at hand.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.precision import at_least_fp32
from zoo_tokenizers.magvit.plan import Size3


def group_norm(dim: int, *, num_groups: int) -> nn.GroupNorm:
    """Build the normalisation that stands before every activation, over all frames of a clip."""
    return nn.GroupNorm(num_groups, dim, eps=1e-6)


class ResidualBlock(nn.Module):
    """Adds two 3D convolutions, each after norm and swish; 1x1x1 on the way past where widths differ."""

    def __init__(self, in_dim: int, out_dim: int, *, num_groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_dim, num_groups=num_groups)
        self.conv1 = nn.Conv3d(in_dim, out_dim, 3, padding=1, bias=False)
        self.norm2 = group_norm(out_dim, num_groups=num_groups)
        self.conv2 = nn.Conv3d(out_dim, out_dim, 3, padding=1, bias=False)
        self.shortcut = nn.Identity() if in_dim == out_dim else nn.Conv3d(in_dim, out_dim, 1, bias=False)

    def forward(self, x_BDTHW: Tensor) -> Tensor:
        """Refine; only the number of channels changes."""
        h = self.conv1(F.silu(self.norm1(x_BDTHW)))
        h = self.conv2(F.silu(self.norm2(h)))
        y: Tensor = self.shortcut(x_BDTHW) + h
        return y


def residual_blocks(in_dim: int, out_dim: int, num_blocks: int, *, num_groups: int) -> nn.Sequential:
    """Build blocks that follow one another; the first changes the width."""
    return nn.Sequential(
        *(
            ResidualBlock(in_dim if i == 0 else out_dim, out_dim, num_groups=num_groups)
            for i in range(num_blocks)
        )
    )


class BlockMean(nn.AvgPool3d):
    """Takes the mean of every block of frames and pixels, in float32 at least: CPUs lack it in bfloat16."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Shrink by the size of a block."""
        return super().forward(at_least_fp32(x_BCTHW)).to(x_BCTHW.dtype)


class Upsample(nn.Module):
    """Repeats pixels, and frames where asked for, then convolves.

    Args:
        dim: Channels, as many in as out.
        stride: How often what is repeated, in time, height and width.
    """

    def __init__(self, dim: int, *, stride: Size3) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv3d(dim, dim, 3, padding=1)

    def forward(self, x_BDTHW: Tensor) -> Tensor:
        """Grow by the stride."""
        scale = tuple(float(s) for s in self.stride)
        y: Tensor = self.conv(F.interpolate(x_BDTHW, scale_factor=scale, mode="nearest"))
        return y


class Level(nn.Module):
    """The residual blocks of one size, and what changes the size after them, if anything does."""

    def __init__(
        self, in_dim: int, out_dim: int, num_blocks: int, *, num_groups: int, resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.block = residual_blocks(in_dim, out_dim, num_blocks, num_groups=num_groups)
        self.resample = nn.Identity() if resample is None else resample

    def forward(self, x_BDTHW: Tensor) -> Tensor:
        """Refine, then resample."""
        y: Tensor = self.resample(self.block(x_BDTHW))
        return y
