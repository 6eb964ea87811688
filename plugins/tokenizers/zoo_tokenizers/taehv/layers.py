"""Blocks of TAEHV: 2D convolutions over a frame and the one before it, and changes of the number of frames.

Blocks here keep frames before channels (x_BtDhw). `run_layers` applies them, and plain 2D layers among
them to every frame.

Shapes: B batch, t h w the grid, D channels, s frames put together.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.streaming import lead_in

_GROUP = 64  # channels that a 3x3 convolution of a wide block mixes


class Clamp(nn.Module):
    """Bends values smoothly into (-3, 3)."""

    def forward(self, x: Tensor) -> Tensor:
        """Bend; the shape stays."""
        return torch.tanh(x / 3) * 3


class _Memory(nn.Module):
    """A 2D network over the channels of a frame and of the frame before it, zeros before the first."""

    conv: nn.Sequential
    ends_in_relu = True

    def forward(self, x_BtDhw: Tensor) -> Tensor:
        """Refine; the shape stays."""
        past = lead_in(self, x_BtDhw, 1, dim=1)[:, : x_BtDhw.shape[1]]
        y = self.conv(torch.cat([x_BtDhw, past], dim=2).flatten(0, 1))
        y = torch.unflatten(y, 0, x_BtDhw.shape[:2]) + x_BtDhw
        return F.relu(y) if self.ends_in_relu else y


class MemoryBlock(_Memory):
    """Three 3x3 convolutions."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            conv3x3(2 * dim, dim), nn.ReLU(), conv3x3(dim, dim), nn.ReLU(), conv3x3(dim, dim)
        )


class WideMemoryBlock(_Memory):
    """Two 3x3 convolutions in groups of 64 channels, with 1x1 ones between."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        groups = max(1, dim // _GROUP)
        self.conv = nn.Sequential(
            nn.Conv2d(2 * dim, dim, 1),
            nn.ReLU(),
            conv3x3(dim, dim, groups=groups),
            nn.ReLU(),
            nn.Conv2d(dim, dim, 1),
            nn.ReLU(),
            conv3x3(dim, dim, groups=groups),
        )


class SuperMemoryBlock(_Memory):
    """A 7x7 convolution of every channel on its own, then 1x1 ones over twice as many channels."""

    ends_in_relu = False

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(2 * dim, 2 * dim, 7, padding=3, groups=2 * dim, bias=False),
            nn.Conv2d(2 * dim, 4 * dim, 1),
            nn.ReLU(),
            nn.Conv2d(4 * dim, dim, 1, bias=False),
        )


class TimePool(nn.Module):
    """Makes one frame of s, by a 1x1 convolution over the channels of all."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(dim * stride, dim, 1, bias=False)

    def forward(self, x_BtDhw: Tensor) -> Tensor:
        """Shrink; t -> t / s."""
        y: Tensor = self.conv(rearrange(x_BtDhw, "b (t s) d h w -> (b t) (s d) h w", s=self.stride))
        return torch.unflatten(y, 0, (len(x_BtDhw), -1))


class TimeGrow(nn.Module):
    """Makes s frames of one, by a 1x1 convolution."""

    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(dim, dim * stride, 1, bias=False)

    def forward(self, x_BtDhw: Tensor) -> Tensor:
        """Grow; t -> t * s."""
        y = self.conv(x_BtDhw.flatten(0, 1))
        return rearrange(y, "(b t) (s d) h w -> b (t s) d h w", b=len(x_BtDhw), s=self.stride)


def conv3x3(in_dim: int, out_dim: int, *, stride: int = 1, groups: int = 1, bias: bool = True) -> nn.Conv2d:
    """Build a 3x3 convolution that keeps the sides, or halves them with stride 2."""
    return nn.Conv2d(in_dim, out_dim, 3, stride, 1, groups=groups, bias=bias)


def run_layers(layers: Iterable[nn.Module], x_BtDhw: Tensor) -> Tensor:
    """Apply layers in turn, 2D ones to every frame."""
    for layer in layers:
        if isinstance(layer, _Memory | TimePool | TimeGrow):
            x_BtDhw = layer(x_BtDhw)
        else:
            x_BtDhw = torch.unflatten(layer(x_BtDhw.flatten(0, 1)), 0, x_BtDhw.shape[:2])
    return x_BtDhw


def init_layers(layers: nn.Sequential, *, num_last: int = 0) -> None:
    """Give the layers outside memory blocks weights that keep signals as large as they are.

    PyTorch's own start shrinks them from layer to layer, until a model this deep learns no more than the mean
    of its videos for hundreds of steps. Memory blocks add to their input, and keep it.

    Args:
        layers: All layers of a part.
        num_last: How many at the end keep PyTorch's start.
    """
    for layer in list(layers)[: len(layers) - num_last]:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, TimePool | TimeGrow):
            nn.init.kaiming_normal_(layer.conv.weight, nonlinearity="linear")
