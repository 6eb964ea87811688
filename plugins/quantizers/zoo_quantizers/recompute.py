"""Softmaxes over all codes without keeping them: a piece at a time, made anew for the backward pass.

Shapes: N vectors, D channels, R rows of a piece.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_MAX_SCORES = 2**20
"""Scores of a piece: 4 MiB in float32, of which the backward pass holds a handful."""


def in_pieces(
    function: Callable[..., tuple[Tensor, ...]], z_ND: Tensor, *others: Tensor, codebook_size: int
) -> list[tuple[Tensor, ...]]:
    """Apply a function to rows z_RD (and the other tensors) and return what each piece gave, in order.

    A piece is computed again in the backward pass, with the same random numbers.
    """
    pieces = torch.split(z_ND, max(1, _MAX_SCORES // codebook_size))
    if not torch.is_grad_enabled() or z_ND.is_meta:
        return [function(z_RD, *others) for z_RD in pieces]
    return [checkpoint(function, z_RD, *others, use_reentrant=False) for z_RD in pieces]
