"""Streaming: a causal part takes a clip piece by piece and gives what it gives for the whole.

A causal layer that looks back asks here for what came before. Outside of a stream it gets the layer's own
padding; inside one (`streaming`) it gets what this very layer saw in the pieces before, and what later
pieces need is kept. All that is kept lies in a dict of tensors outside of the module: any number of streams
share one model, and a stream is saved as safetensors.

In a plugin, a causal convolution is::

    def forward(self, x_BCTHW):
        x_BCTHW = lead_in(self, x_BCTHW, self.kernel_t - 1, stride=self.stride_t)
        return F.conv3d(x_BCTHW, self.weight, self.bias, stride=(self.stride_t, 1, 1))

Pieces come in whole latent frames: the first has 1 + k*s_t frames (k*s_t where the part has no lead frame,
see `zoo.ports`), every later one k*s_t.

Shape legend: B batch, C channels, T H W frames and pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Memory = dict[str, Tensor]
"""What one stream through one part carries from a piece to the next, by layer and purpose."""


_PIECES = ":pieces"


class _Stream(NamedTuple):
    layers: dict[nn.Module, str]
    memory: Memory


_active: ContextVar[_Stream | None] = ContextVar("zoo_stream", default=None)


@contextmanager
def streaming(part: nn.Module, memory: Memory) -> Iterator[None]:
    """Run a part on the next piece of a stream.

    Args:
        part: The encoder or decoder that is called inside.
        memory: What the stream carries; empty at its start. It is brought up to date when the piece went
            through, and left as it was when that failed.
    """
    after = dict(memory)
    after[_PIECES] = after.get(_PIECES, torch.tensor(-1)) + 1
    token = _active.set(_Stream({layer: name for name, layer in part.named_modules()}, after))
    try:
        # A compiled part has left out what it does in a stream: its layers run as they are.
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        _active.reset(token)
    memory.update(after)


def _slot(layer: nn.Module, purpose: str) -> tuple[Memory, str] | None:
    """Return where the active stream keeps something for a layer, or None outside of a stream."""
    if torch.compiler.is_compiling():
        return None
    stream = _active.get()
    if stream is None or layer not in stream.layers:
        return None
    return stream.memory, f"{stream.layers[layer]}:{purpose}"


def in_stream() -> bool:
    """Return whether a part runs on a piece of a clip, not on a whole one."""
    return not torch.compiler.is_compiling() and _active.get() is not None


def is_first_piece() -> bool:
    """Return whether a part runs on the start of a clip: outside of a stream always."""
    if torch.compiler.is_compiling():
        return True
    stream = _active.get()
    return stream is None or int(stream.memory[_PIECES]) == 0


def lead_in(
    layer: nn.Module,
    x: Tensor,
    num: int,
    *,
    dim: int = 2,
    pad: Literal["repeat", "zeros"] = "zeros",
    kernel: int | None = None,
    stride: int = 1,
    purpose: str = "past",
) -> Tensor:
    """Put before the frames what a causal window needs to start.

    Args:
        layer: The layer that asks; its name is the key of what is kept.
        x: Frames along `dim`.
        num: Frames put before the first piece.
        dim: The axis of time.
        pad: What these are: the first frame repeated, or zeros.
        kernel: Frames in a window; `num` + 1 when left out.
        stride: Frames from the start of a window to the start of the next.
        purpose: Tells several uses by one layer apart.

    Returns:
        What the windows of this piece run over: (x.shape[dim] + num - kernel) // stride + 1 windows when it
        is the first or only one.
    """
    slot = _slot(layer, purpose)
    if slot is None or slot[1] not in slot[0]:
        first = x.narrow(dim, 0, 1)
        sizes = [-1] * x.ndim
        sizes[dim] = num
        lead = first.expand(sizes) if pad == "repeat" else torch.zeros_like(first).expand(sizes)
        x = torch.cat([lead, x], dim) if num else x
    else:
        x = torch.cat([slot[0][slot[1]].to(x.dtype), x], dim)
    if slot is not None:
        windows = (x.shape[dim] - (num + 1 if kernel is None else kernel)) // stride + 1
        seen = max(windows, 0) * stride
        # A copy, so that the stream does not hold the whole piece.
        slot[0][slot[1]] = x.narrow(dim, seen, x.shape[dim] - seen).clone()
    return x


def all_so_far(layer: nn.Module, x: Tensor, *, dim: int, purpose: str) -> Tensor:
    """Return x with all that the layer saw in the pieces before put in front, for attention to the past.

    What is kept grows with the stream.

    Args:
        layer: The layer that asks.
        x: Keys or values, say, with time along `dim`.
        dim: The axis of time.
        purpose: Tells several uses by one layer apart.
    """
    slot = _slot(layer, purpose)
    if slot is None:
        return x
    memory, key = slot
    x = torch.cat([memory[key].to(x.dtype), x], dim) if key in memory else x
    memory[key] = x.clone()
    return x


def num_before(layer: nn.Module, num: int, *, purpose: str = "count") -> int:
    """Return how many frames the layer saw in the pieces before; 0 outside of a stream and at its start.

    Args:
        layer: The layer that asks.
        num: Frames of this piece, which are counted.
        purpose: Tells several uses by one layer apart.
    """
    slot = _slot(layer, purpose)
    if slot is None:
        return 0
    memory, key = slot
    before = int(memory[key]) if key in memory else 0
    memory[key] = torch.tensor(before + num)
    return before
