"""Convolutions and residual blocks that the TATS encoder and decoder share.

Every convolution repeats the edges of what it sees in place of zeros, in time as in space: a border tells
nothing about where in a clip it is, which is what makes the network time-agnostic.

Source: https://arxiv.org/abs/2204.03638

Shapes: B batch, C channels, T H W frames and pixels at any level.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import is_power_of_two
from zoo.errors import RecipeError

Norm = Literal["batch", "group"]
Size3 = tuple[int, int, int]

_NUM_GROUPS = 32


def check_options(part: str, *, base_channels: int, stride: Sequence[int], norm: Norm) -> Size3:
    """Refuse sizes the blocks cannot be built with, and return the stride as a tuple.

    Raises:
        RecipeError: The stride is not three powers of two, none of them shrinks anything, or a width does not
            suit the normalisation.
    """
    fits = len(stride) == 3 and all(is_power_of_two(s) for s in stride)
    if not fits or max(stride) < 2:
        raise RecipeError(
            f"{part}: stride is {list(stride)}; it must be three powers of two (time, height, width), "
            "one of them at least 2, such as [4, 8, 8]"
        )
    if norm not in ("batch", "group"):
        raise RecipeError(f"{part}: norm is {norm!r}; it must be 'batch' or 'group'")
    if base_channels < 1 or (norm == "group" and 2 * base_channels % _NUM_GROUPS):
        raise RecipeError(
            f"{part}: base_channels is {base_channels}; it must be at least 1, and a multiple of "
            f"{_NUM_GROUPS // 2} with norm='group', such as base_channels=32"
        )
    s_t, s_h, s_w = stride
    return s_t, s_h, s_w


def steps(stride: Size3) -> list[Size3]:
    """Split a stride into steps of 2, all axes starting at once: (4, 2, 1) -> (2, 2, 1), (2, 1, 1)."""
    halvings = max(stride).bit_length() - 1
    s_t, s_h, s_w = ([2 if s >> n > 1 else 1 for n in range(halvings)] for s in stride)
    return list(zip(s_t, s_h, s_w, strict=True))


def normalization(norm: Norm, dim: int) -> nn.Module:
    """Build the normalisation that stands before every activation."""
    return nn.BatchNorm3d(dim) if norm == "batch" else nn.GroupNorm(_NUM_GROUPS, dim, eps=1e-6)


def _padding(kernel_size: int, stride: Size3) -> list[int]:
    """Width of the repeated edge at each face, in the order of `F.pad`; the larger half comes in front."""
    return [side for s in reversed(stride) for side in ((kernel_size - s + 1) // 2, (kernel_size - s) // 2)]


class EdgePadConv3d(nn.Module):
    """Convolves so that an axis of length k*stride comes out with length k."""

    def __init__(self, in_dim: int, out_dim: int, *, kernel_size: int, stride: Size3 = (1, 1, 1)) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_dim, out_dim, kernel_size, stride=stride)
        self._pad = _padding(kernel_size, stride)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Convolve; x_BCTHW -> (B, out_dim, T / s_t, H / s_h, W / s_w)."""
        y: Tensor = self.conv(F.pad(x_BCTHW, self._pad, mode="replicate"))
        return y


class EdgePadConvTranspose3d(nn.Module):
    """Convolves (kernel 4) so that an axis of length k comes out with length k*stride."""

    def __init__(self, in_dim: int, out_dim: int, *, stride: Size3) -> None:
        super().__init__()
        self.convt = nn.ConvTranspose3d(in_dim, out_dim, 4, stride=stride, padding=3)
        self._pad = _padding(4, stride)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Convolve; x_BCTHW -> (B, out_dim, T * s_t, H * s_h, W * s_w)."""
        y: Tensor = self.convt(F.pad(x_BCTHW, self._pad, mode="replicate"))
        return y


class ResidualBlock(nn.Module):
    """Adds two 3x3x3 convolutions, each after normalisation and SiLU."""

    def __init__(self, dim: int, *, norm: Norm) -> None:
        super().__init__()
        self.norm1 = normalization(norm, dim)
        self.conv1 = EdgePadConv3d(dim, dim, kernel_size=3)
        self.norm2 = normalization(norm, dim)
        self.conv2 = EdgePadConv3d(dim, dim, kernel_size=3)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Refine; the shape stays."""
        h = self.conv1(F.silu(self.norm1(x_BCTHW)))
        y: Tensor = x_BCTHW + self.conv2(F.silu(self.norm2(h)))
        return y


class DownBlock(nn.Module):
    """Shrinks by a strided convolution, then refines."""

    def __init__(self, in_dim: int, out_dim: int, *, stride: Size3, norm: Norm) -> None:
        super().__init__()
        self.down = EdgePadConv3d(in_dim, out_dim, kernel_size=4, stride=stride)
        self.res = ResidualBlock(out_dim, norm=norm)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Convolve; x_BCTHW -> (B, out_dim, T / s_t, H / s_h, W / s_w)."""
        y: Tensor = self.res(self.down(x_BCTHW))
        return y


class UpBlock(nn.Module):
    """Grows by a transposed convolution, then refines twice."""

    def __init__(self, in_dim: int, out_dim: int, *, stride: Size3, norm: Norm) -> None:
        super().__init__()
        self.up = EdgePadConvTranspose3d(in_dim, out_dim, stride=stride)
        self.res1 = ResidualBlock(out_dim, norm=norm)
        self.res2 = ResidualBlock(out_dim, norm=norm)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Convolve; x_BCTHW -> (B, out_dim, T * s_t, H * s_h, W * s_w)."""
        y: Tensor = self.res2(self.res1(self.up(x_BCTHW)))
        return y
