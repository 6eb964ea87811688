"""Faster ways to the same values, for parts made of convolutions; each falls back to the plain way by itself.

Values agree with the plain way up to rounding, weights keep their layout, and everything here may be called
in training, under autocast, on any device and under torch.compile: where a faster way does not pay or a
gradient would be wrong, the plain one is taken. That choice is made here and nowhere else (`saves_memory`).

In a plugin, a block of a network of frames is::

    h = self.conv1(silu(self.norm1(x_BCHW)))
    h = self.conv2(silu(self.norm2(h)))
    return add(h, x_BCHW)

and its decoder ends as ``in_groups(self.finest_level, h_BCHW, bytes_each=...)``.

Shape legend: B batch (of frames), C O channels, T H W frames and pixels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.streaming import Memory, in_stream, streaming

GROUP_BYTES = 16 * 2**20
"""How large a tensor inside of a group may be. Larger ones (from 32 MiB in glibc) come fresh from the system
each time, which on many machines takes longer than to fill them; smaller ones are used again."""


def saves_memory(x: Tensor) -> bool:
    """Return whether values may be written over and work be cut into groups: on a CPU, without gradients."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def silu(x: Tensor) -> Tensor:
    """Apply SiLU to a value that is needed no more: it is written over where no gradient needs it."""
    return F.silu(x, inplace=saves_memory(x))


def relu(x: Tensor) -> Tensor:
    """Apply ReLU to a value that is needed no more: it is written over where no gradient needs it."""
    return F.relu(x, inplace=saves_memory(x))


def add(x: Tensor, y: Tensor) -> Tensor:
    """Add y to a value x that is needed no more: it is written over where no gradient needs it."""
    return x.add_(y) if saves_memory(x) and x.dtype == y.dtype else x + y


def channels_last(x_BCTHW: Tensor) -> Tensor:
    """Put the channels of a pixel side by side for what runs faster on that, such as transposed convolutions.

    Sums over channels round worse then (about 2e-6 in place of 3e-7 for 1,000 products), so a part asks for
    it where that was measured to pay.
    """
    if not saves_memory(x_BCTHW):
        return x_BCTHW
    return x_BCTHW.contiguous(memory_format=torch.channels_last_3d)


def in_groups(run: Callable[[Tensor], Tensor], x_BCHW: Tensor, *, bytes_each: int) -> Tensor:
    """Run layers on groups of frames, as large as fits `GROUP_BYTES`, and put the results together.

    Calls may be nested: coarse levels take many frames at a time and fine ones few.

    Args:
        run: The layers; they must treat every frame on its own.
        x_BCHW: Frames.
        bytes_each: Size of the largest tensor between the layers, for one frame.
    """
    num = len(x_BCHW)
    num_groups = -(-num // max(1, GROUP_BYTES // bytes_each))
    if num_groups < 2 or not saves_memory(x_BCHW):
        return run(x_BCHW)
    return torch.cat([run(group) for group in x_BCHW.tensor_split(num_groups)])


def memories(part: nn.Module, x: Tensor, num: int) -> list[Memory] | None:
    """Return empty memories for `in_pieces`, or None where a causal part should run in one go.

    Args:
        part: The part; one that is not causal runs in one go.
        x: What it got.
        num: How many memories: one for each nested call.
    """
    if not getattr(part, "causal", False) or in_stream() or not saves_memory(x):
        return None
    return [{} for _ in range(num)]


def in_pieces(
    part: nn.Module,
    run: Callable[[Tensor], Tensor],
    x_BT: Tensor,
    *,
    memory: Memory | None,
    bytes_each: int,
    stride: int = 1,
) -> Tensor:
    """Run causal layers on few frames after few, as in a stream, and put the results together.

    Calls may be nested, as those of `in_groups`; each level has a memory of its own.

    Args:
        part: What the layers belong to.
        run: The layers.
        x_BT: Frames along the second axis.
        memory: What the layers carry from piece to piece; None runs them in one go.
        bytes_each: Size of the largest tensor between the layers, for one frame.
        stride: A piece is that many frames or a multiple.
    """
    if memory is None:
        return run(x_BT)
    length = stride * max(1, GROUP_BYTES // (bytes_each * stride))
    results = []
    for piece in torch.split(x_BT, length, dim=1):
        with streaming(part, memory):
            results.append(run(piece))
    return torch.cat(results, dim=1)


def doubled_conv2d(x_BCHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Repeat every pixel in a 2x2 square, then convolve (3x3, zeros around); x_BCHW -> (B, O, 2H, 2W).

    Both at once: under a kernel of three that runs over pairs of equal pixels two of its weights always meet
    the same pixel. So four kernels of 2x2, one for each pixel of a square, do with 16 products instead of 36.

    Args:
        x_BCHW: Frames.
        weight: (O, C, 3, 3).
        bias: (O,).
    """
    b, _, h, w = x_BCHW.shape
    if not saves_memory(x_BCHW):
        return F.conv2d(F.interpolate(x_BCHW, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    y = x_BCHW.new_empty(b, len(weight), 2 * h, 2 * w)
    for i in (0, 1):
        rows = fold_kernel(weight, i, dim=2)
        for j in (0, 1):
            phase = F.conv2d(x_BCHW, fold_kernel(rows, j, dim=3), bias, padding=1)
            y[:, :, i::2, j::2] = phase[:, :, i : i + h, j : j + w]
    return y


def fold_kernel(weight: Tensor, phase: int, *, dim: int) -> Tensor:
    """Return what a kernel of three does along an axis on which every value stands twice: a kernel of two.

    Args:
        weight: The kernel.
        phase: 0 for windows whose first value stands alone (a, bb), 1 for those whose last does (aa, b).
        dim: The axis.
    """
    first, second, third = weight.unbind(dim)
    return torch.stack([first + second, third] if phase else [first, second + third], dim)
