"""Activation checkpointing: blocks of networks keep their input only, and run again in the backward pass.

The algorithm is that of https://arxiv.org/abs/1604.06174, by `torch.utils.checkpoint`. It works on any part:
blocks are found by their layers, and their `forward` is replaced for the length of a step, so that names of
weights, evaluation and streams are not touched.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def find_blocks(part: nn.Module) -> list[nn.Module]:
    """Return the modules of a part, none within another, that are worth running twice.

    A block has a forward of its own and at least two layers (modules that hold a weight of two axes or
    more). Where there are two or more blocks inside of a module, those are taken and not the module.
    """
    inside = [block for child in part.children() for block in find_blocks(child)]
    return [part] if len(inside) < 2 and _runs(part) and _num_layers(part) > 1 else inside


def _runs(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def _num_layers(module: nn.Module) -> int:
    return sum(any(p.ndim > 1 for p in layer.parameters(recurse=False)) for layer in module.modules())


def checkpointed(block: nn.Module, *, compiled: bool = False) -> Callable[..., Any]:
    """Return a forward for a block that gives the same outputs and gradients and keeps only its inputs.

    Random numbers from torch's global generators are the same at the second run, and buffers (running
    statistics, the vectors of spectral norms) move at the first run only. A block that is handed a generator
    runs once, as ever.

    Args:
        block: The block.
        compiled: Compile it, a program of its own in whatever is compiled around it.
    """
    run = torch.compile(block.forward, dynamic=False) if compiled else block.forward

    def forward(*args: Any, **kwargs: Any) -> Any:
        handed = any(isinstance(value, torch.Generator) for value in (*args, *kwargs.values()))
        if handed or not torch.is_grad_enabled():
            return run(*args, **kwargs)
        contexts = contextlib.nullcontext(), _Buffers(block)
        return checkpoint(run, *args, use_reentrant=False, context_fn=lambda: contexts, **kwargs)

    return torch.compiler.disable(forward) if compiled else forward  # type: ignore[no-untyped-call]


class _Buffers:
    """Within it, as often as it is entered, a module's buffers are what they were when this was made.

    Args:
        module: Whose buffers.
    """

    def __init__(self, module: nn.Module) -> None:
        self._before = [
            (owner, name, buffer.clone())
            for owner in module.modules()
            for name, buffer in owner.named_buffers(recurse=False)
        ]
        self._now: list[Tensor] = []

    def __enter__(self) -> None:
        self._now = [getattr(owner, name) for owner, name, _ in self._before]
        for owner, name, copy in self._before:
            setattr(owner, name, copy.clone())

    def __exit__(self, *exception: object) -> None:
        for (owner, name, _), now in zip(self._before, self._now, strict=True):
            setattr(owner, name, now)
        self._now = []
