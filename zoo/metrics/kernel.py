"""Kernel distance between two sets of features: KVD on those of I3D, in float64.

Polynomial kernel (x.y / D + 1)^3, as KID has it, https://arxiv.org/abs/1801.01401; on clips as in
https://arxiv.org/abs/1812.01717. Unbiased, so that equal distributions give 0 on average and single
values may lie below it.

Shape legend: N, M clips of two sets, D features, R replicates of a bootstrap.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.errors import ZooError

BLOCK = 1000
"""Most clips of each side that are compared at once; the figure is the mean over blocks."""


def kernel_distance(
    x_ND: Tensor,
    y_MD: Tensor,
    *,
    seed: int = 0,
    weights_RN: Tensor | None = None,
    weights_RM: Tensor | None = None,
) -> Tensor:
    """Return the squared maximum mean discrepancy, a float64 scalar, or (R,) where weights are given.

    Both sets are shuffled by `seed` and cut into blocks of equal size, at most `BLOCK` clips each; the
    unbiased estimates of all blocks are averaged. Memory does not grow with the number of clips.

    Args:
        x_ND: Features of one side, at least 2.
        y_MD: Features of the other, at least 2.
        seed: Which clips share a block; no choice where one block holds all.
        weights_RN: How often each clip counts in each replicate of a bootstrap; a pair of a clip with its
            own copy counts nowhere, or copies would look like closeness.
        weights_RM: The same for the other side.
    """
    num, other = len(x_ND), len(y_MD)
    if min(num, other) < 2:
        raise ZooError(f"a kernel distance needs at least 2 clips of each side; got {num} and {other}")
    random = torch.Generator().manual_seed(seed)
    order_N, order_M = torch.randperm(num, generator=random), torch.randperm(other, generator=random)
    blocks = min(math.ceil(max(num, other) / BLOCK), min(num, other) // 2)
    single = weights_RN is None or weights_RM is None
    weights_RN = torch.ones(1, num, dtype=torch.float64) if weights_RN is None else weights_RN.double()
    weights_RM = torch.ones(1, other, dtype=torch.float64) if weights_RM is None else weights_RM.double()
    total_R = torch.zeros(len(weights_RN), dtype=torch.float64)
    for rows, columns in zip(order_N.tensor_split(blocks), order_M.tensor_split(blocks), strict=True):
        total_R += _block(
            x_ND[rows].double(), y_MD[columns].double(), weights_RN[:, rows], weights_RM[:, columns]
        )
    mean_R = total_R / blocks
    return mean_R[0] if single else mean_R


def _block(x_ND: Tensor, y_MD: Tensor, u_RN: Tensor, v_RM: Tensor) -> Tensor:
    cross_R = ((u_RN @ _kernel(x_ND, y_MD)) * v_RM).sum(1) / (u_RN.sum(1) * v_RM.sum(1))
    return _within(x_ND, u_RN) + _within(y_MD, v_RM) - 2 * cross_R


def _within(x_ND: Tensor, u_RN: Tensor) -> Tensor:
    k_NN = _kernel(x_ND, x_ND).fill_diagonal_(0)
    pairs_R = u_RN.sum(1).square() - u_RN.square().sum(1)
    return ((u_RN @ k_NN) * u_RN).sum(1) / pairs_R


def _kernel(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    return (x_ND @ y_MD.T / x_ND.shape[1] + 1).pow(3)
