"""Convolutions, attention and resampling of VidTok, with channels last.

Everything here keeps the channels of a position together: the layer norm then runs over memory as it lies,
2D and 3D convolutions take the fast channels-last path, and a convolution between frames is a matrix
product. Weights are stored as the published kernels, under the published names.

Shapes: B batch, t h w the grid, D channels, x_BthwD the layout of every module.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.convolution import add, fold_kernel, silu
from zoo.streaming import lead_in

EdgeMode = Literal["zeros", "repeat", "both"]
"""What a window in time finds where there is no frame: before the first frame zeros or that frame again, and
nothing after the last (causal); or zeros on both sides (not causal)."""


def pad_time(layer: nn.Module, x_BthwD: Tensor, edge: EdgeMode, *, stride: int = 1) -> Tensor:
    """Put before (and behind) the frames what windows of three frames need; t / stride windows fit.

    Args:
        layer: The layer whose windows these are.
        x_BthwD: Frames; `stride` divides their number.
        edge: What is put there.
        stride: Frames from one window to the next, 1 or 2.
    """
    if edge == "both":
        return F.pad(x_BthwD, (0, 0, 0, 0, 0, 0, 2 - stride, 1))
    return lead_in(layer, x_BthwD, 3 - stride, dim=1, pad=edge, kernel=3, stride=stride)


class FrameConv(nn.Conv2d):
    """Convolves every frame on its own.

    With stride 2 the zeros that the kernel needs are put below and to the right only, as published.

    Args:
        in_dim: Channels in.
        out_dim: Channels out.
        kernel_size: 1 or 3.
        stride: 1 or 2.
    """

    def __init__(self, in_dim: int, out_dim: int, *, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__(in_dim, out_dim, kernel_size, stride, padding=kernel_size // 2 if stride == 1 else 0)

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Convolve; the sides are divided by the stride."""
        if self.kernel_size == (1, 1):
            return F.linear(x_BthwD, self.weight.flatten(1), self.bias)
        if self.stride == (2, 2):
            x_BthwD = F.pad(x_BthwD, (0, 0, 0, 1, 0, 1))
        y = super().forward(x_BthwD.flatten(0, 1).permute(0, 3, 1, 2))
        return torch.unflatten(y.permute(0, 2, 3, 1), 0, x_BthwD.shape[:2])


class Kernel3D(nn.Conv3d):
    """Convolves with channels last; unlike in its parent, a kernel of size 1 is a matrix product."""

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Convolve; zeros are put around by `padding`."""
        if self.kernel_size == (1, 1, 1):
            return F.linear(x_BthwD, self.weight.flatten(1), self.bias)
        return super().forward(x_BthwD.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


class Kernel1D(nn.Conv1d):
    """Convolves every pixel over three frames, as three matrix products.

    Args:
        dim: Channels.
        is_centred: Whether zeros are put on both sides; otherwise there is no padding.
    """

    def __init__(self, dim: int, *, is_centred: bool) -> None:
        super().__init__(dim, dim, 3)
        self.is_centred = is_centred

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Convolve; t -> t when centred, t - 2 otherwise."""
        if self.is_centred:
            x_BthwD = pad_time(self, x_BthwD, "both")
        b, num_in, h, w, _ = x_BthwD.shape
        x_BtpD = x_BthwD.flatten(2, 3)
        assert self.bias is not None
        y = self.bias
        for k in range(3):
            tap_BsD = x_BtpD[:, k : k + num_in - 2].flatten(1, 2)
            y = torch.baddbmm(y, tap_BsD, self.weight[:, :, k].mT.expand(b, -1, -1))
        return y.view(b, num_in - 2, h, w, -1)


class Causal(nn.Module):
    """Puts frames before the first and convolves; the kernel is named `conv`, as in published causal layers.

    Args:
        conv: The kernel.
        edge: What is put before; nothing when None.
    """

    def __init__(self, conv: nn.Module, edge: EdgeMode | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.edge: EdgeMode | None = edge

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Convolve; the shape stays, but for frames when nothing is put before."""
        y: Tensor = self.conv(x_BthwD if self.edge is None else pad_time(self, x_BthwD, self.edge))
        return y


def window_conv(in_dim: int, out_dim: int, edge: EdgeMode) -> nn.Module:
    """Build a 3x3x3 convolution."""
    if edge == "both":
        return Kernel3D(in_dim, out_dim, 3, padding=1)
    return Causal(Kernel3D(in_dim, out_dim, 3, padding=(0, 1, 1)), edge)


def temporal_conv(dim: int, edge: EdgeMode) -> nn.Module:
    """Build a convolution of every pixel over three frames."""
    return Kernel1D(dim, is_centred=True) if edge == "both" else Causal(Kernel1D(dim, is_centred=False), edge)


def pointwise(dim: int, edge: EdgeMode) -> nn.Module:
    """Build a 1x1x1 convolution, named as those beside it."""
    conv = Kernel3D(dim, dim, 1)
    return conv if edge == "both" else Causal(conv)


class ChannelNorm(nn.Module):
    """Normalises every position over its channels, so that none sees another."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Normalise; the shape stays."""
        y: Tensor = self.norm(x_BthwD)
        return y


class _Residual(nn.Module):
    """Adds to its input, projected where the width changes, two convolutions after norm and SiLU each."""

    def __init__(self, in_dim: int, out_dim: int, conv1: nn.Module, conv2: nn.Module) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(in_dim)
        self.conv1 = conv1
        self.norm2 = ChannelNorm(out_dim)
        self.conv2 = conv2
        self.nin_shortcut = nn.Identity() if in_dim == out_dim else FrameConv(in_dim, out_dim, kernel_size=1)

    def forward(self, x_BthwD: Tensor) -> Tensor:
        h = self.conv1(silu(self.norm1(x_BthwD)))
        h = self.conv2(silu(self.norm2(h)))
        return add(h, self.nin_shortcut(x_BthwD))


def frame_block(in_dim: int, out_dim: int) -> nn.Module:
    """Build a residual block inside frames."""
    return _Residual(in_dim, out_dim, FrameConv(in_dim, out_dim), FrameConv(out_dim, out_dim))


def temporal_block(dim: int, edge: EdgeMode) -> nn.Module:
    """Build a residual block between frames; it starts as the identity, as published."""
    block = _Residual(dim, dim, temporal_conv(dim, edge), temporal_conv(dim, edge))
    for parameter in block.conv2.parameters():
        nn.init.zeros_(parameter)
    return block


class FrameAttention(nn.Module):
    """Adds what single-headed attention finds: every pixel of a frame sees all pixels of that frame.

    Costs 4 * t * (h * w)^2 * D floating-point operations: sixteen times as many for frames of twice the side.
    """

    def __init__(self, dim: int, edge: EdgeMode) -> None:
        super().__init__()
        self.norm = ChannelNorm(dim)
        self.q = pointwise(dim, edge)
        self.k = pointwise(dim, edge)
        self.v = pointwise(dim, edge)
        self.proj_out = pointwise(dim, edge)

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Attend; the shape stays."""
        _, t, h, w, _ = x_BthwD.shape
        normed = self.norm(x_BthwD)
        q, k, v = (rearrange(conv(normed), "b t h w d -> b t (h w) d") for conv in (self.q, self.k, self.v))
        attended = F.scaled_dot_product_attention(q, k, v)
        y = self.proj_out(rearrange(attended, "b t (h w) d -> b t h w d", t=t, h=h, w=w))
        return add(y, x_BthwD)


class Middle(nn.Module):
    """Two residual blocks of 3x3x3 convolutions with attention inside frames between them."""

    def __init__(self, dim: int, edge: EdgeMode) -> None:
        super().__init__()
        self.block_1 = _Residual(dim, dim, window_conv(dim, dim, edge), window_conv(dim, dim, edge))
        self.attn_1 = FrameAttention(dim, edge)
        self.block_2 = _Residual(dim, dim, window_conv(dim, dim, edge), window_conv(dim, dim, edge))

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Refine; the shape stays."""
        y: Tensor = self.block_2(self.attn_1(self.block_1(x_BthwD)))
        return y


class FrameUpsample(nn.Module):
    """Doubles the sides of frames: repetition, then a convolution.

    Both at once: where pixels are repeated, a kernel of three is one of two (`fold_kernel`), so four kernels
    of 2x2 give the four pixels of each with 16 products in the place of 36.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = FrameConv(dim, dim)

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Grow; h and w double."""
        frames = x_BthwD.flatten(0, 1)
        _, h, w, _ = frames.shape
        padded = F.pad(frames, (0, 0, 1, 1, 1, 1))
        rows = []
        for i in (0, 1):
            pixels = []
            for j in (0, 1):
                kernel = fold_kernel(fold_kernel(self.conv.weight, i, dim=2), j, dim=3)
                seen = padded[:, i : i + h + 1, j : j + w + 1].permute(0, 3, 1, 2)
                pixels.append(F.conv2d(seen, kernel, self.conv.bias).permute(0, 2, 3, 1))
            rows.append(torch.stack(pixels, dim=3).flatten(2, 3))
        y = torch.stack(rows, dim=2).flatten(1, 2)
        return torch.unflatten(y, 0, x_BthwD.shape[:2])


class FrameDownsample(nn.Module):
    """Halves the sides of frames by a convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = FrameConv(dim, dim, stride=2)

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Shrink; h and w are halved."""
        y: Tensor = self.conv(x_BthwD)
        return y
