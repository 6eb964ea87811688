"""Convolutions and residual blocks that the VideoGPT encoder and decoder share.

Shapes: B batch, C or D channels, T H W frames and pixels, t h w the latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import is_power_of_two
from zoo.convolution import add, channels_last, relu
from zoo.errors import RecipeError
from zoo_vqvae.attention import AxialBlock

Size3 = tuple[int, int, int]

_FEW = 16
"""Channels below which a strided 3D convolution is faster with channels last."""


def check_stride(part: str, stride: Sequence[int]) -> Size3:
    """Return the stride as a tuple.

    Raises:
        RecipeError: It is not three powers of two, or none of them shrinks anything.
    """
    fits = len(stride) == 3 and all(isinstance(s, int) and is_power_of_two(s) for s in stride)
    if not fits or max(stride) < 2:
        raise RecipeError(
            f"{part}: stride is {list(stride)}; it must be three powers of two (time, height, width), "
            "one of them at least 2, such as [4, 4, 4] or [1, 8, 8]"
        )
    s_t, s_h, s_w = stride
    return s_t, s_h, s_w


def check_widths(part: str, hidden_dim: int, num_residual_blocks: int, num_heads: int) -> None:
    """Refuse sizes the blocks cannot be built with.

    Raises:
        RecipeError: A number is too small, or the heads do not divide the width.
    """
    if num_heads < 1 or hidden_dim < 2 or hidden_dim % num_heads:
        raise RecipeError(
            f"{part}: hidden_dim is {hidden_dim} and num_heads {num_heads}; hidden_dim must be a "
            "multiple of num_heads and at least 2, such as hidden_dim=240, num_heads=2"
        )
    if num_residual_blocks < 0:
        raise RecipeError(f"{part}: num_residual_blocks is {num_residual_blocks}; it must be 0 or more")


def halvings(stride: Size3) -> list[Size3]:
    """Split a stride into steps of 2, all axes starting at once: (4, 2, 1) -> (2, 2, 1), (2, 1, 1)."""
    times = [s.bit_length() - 1 for s in stride]
    s_t, s_h, s_w = ([2 if i < n else 1 for i in range(max(times))] for n in times)
    return list(zip(s_t, s_h, s_w, strict=True))


class SamePadConv3d(nn.Module):
    """Convolves so that an axis of length k*stride comes out with length k.

    The zero padding that an axis needs is split in two, the larger half in front.
    """

    def __init__(
        self, in_dim: int, out_dim: int, *, kernel_size: int, stride: Size3 = (1, 1, 1), bias: bool = True
    ) -> None:
        super().__init__()
        pad_t, pad_h, pad_w = (kernel_size - s for s in stride)
        self.conv = nn.Conv3d(
            in_dim,
            out_dim,
            kernel_size,
            stride=stride,
            padding=(pad_t // 2, pad_h // 2, pad_w // 2),
            bias=bias,
        )
        self._extra = (pad_w % 2, 0, pad_h % 2, 0, pad_t % 2, 0)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Convolve; x_BCTHW -> (B, out_dim, T / s_t, H / s_h, W / s_w)."""
        if self.conv.in_channels < _FEW:
            x_BCTHW = channels_last(x_BCTHW)
        y: Tensor = self.conv(F.pad(x_BCTHW, self._extra) if any(self._extra) else x_BCTHW)
        return y.contiguous() if self.conv.in_channels < _FEW else y


class SamePadConvTranspose3d(nn.Module):
    """Convolves (kernel 4) so that an axis of length k comes out with length k*stride."""

    def __init__(self, in_dim: int, out_dim: int, *, stride: Size3) -> None:
        super().__init__()
        self.stride = stride
        self.convt = nn.ConvTranspose3d(in_dim, out_dim, 4, stride=stride, padding=1)

    def forward(self, x_BCthw: Tensor) -> Tensor:
        """Convolve; x_BCthw -> (B, out_dim, t * s_t, h * s_h, w * s_w)."""
        t, h, w = (n * s for n, s in zip(x_BCthw.shape[2:], self.stride, strict=True))
        y: Tensor = self.convt(channels_last(x_BCthw))
        return y[:, :, :t, :h, :w]  # an axis of stride 1 has one too many, at its end


class Relu(nn.ReLU):
    """ReLU of a value that is needed no more."""

    def forward(self, x: Tensor) -> Tensor:
        """Replace what is below 0; the shape stays."""
        return relu(x)


class AttentionResidualBlock(nn.Module):
    """Adds a bottleneck of two convolutions and axial attention to its input."""

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.BatchNorm3d(dim),
            Relu(),
            SamePadConv3d(dim, dim // 2, kernel_size=3, bias=False),
            nn.BatchNorm3d(dim // 2),
            Relu(),
            SamePadConv3d(dim // 2, dim, kernel_size=1, bias=False),
            nn.BatchNorm3d(dim),
            Relu(),
            AxialBlock(dim, num_heads=num_heads),
        )

    def forward(self, x_BDthw: Tensor) -> Tensor:
        """Refine; the shape stays."""
        return add(self.block(x_BDthw), x_BDthw)


def residual_stack(dim: int, *, num_blocks: int, num_heads: int) -> nn.Sequential:
    """Build the residual blocks and the normalisation after them."""
    blocks = [AttentionResidualBlock(dim, num_heads=num_heads) for _ in range(num_blocks)]
    return nn.Sequential(*blocks, nn.BatchNorm3d(dim), Relu())
