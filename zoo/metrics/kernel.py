"""Kernel distance between two sets of features: KVD on those of I3D, in float64.

Polynomial kernel (x.y / D + 1)^3, as KID has it, https://arxiv.org/abs/1801.01401; on clips as in
https://arxiv.org/abs/1812.01717. Unbiased, so that equal distributions give 0 on average and single
values may lie below it.

Shape legend: N, M clips of two sets, D features, R replicates of a bootstrap.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import ZooError

ROWS_AT_ONCE = 1000
"""Most clips of a side that are compared with all of the other at once."""


def kernel_distance(
    x_ND: Tensor,
    y_MD: Tensor,
    *,
    weights_RN: Tensor | None = None,
    weights_RM: Tensor | None = None,
) -> Tensor:
    """Return the squared maximum mean discrepancy, a float64 scalar, or (R,) where weights are given.

    It is the unbiased estimate over all pairs of clips. Kernels are summed up `ROWS_AT_ONCE` rows at a time,
    so that memory grows with the number of clips and not with its square.

    Args:
        x_ND: Features of one side, at least 2.
        y_MD: Features of the other, at least 2.
        weights_RN: How often each clip counts in each replicate of a bootstrap; a pair of a clip with its
            own copy counts nowhere, or copies would look like closeness. A replicate that holds one clip and
            no other has no estimate: NaN.
        weights_RM: The same for the other side.
    """
    num, other = len(x_ND), len(y_MD)
    if min(num, other) < 2:
        raise ZooError(f"a kernel distance needs at least 2 clips of each side; got {num} and {other}")
    single = weights_RN is None and weights_RM is None
    u_RN = torch.ones(1, num, dtype=torch.float64) if weights_RN is None else weights_RN.double()
    v_RM = torch.ones(1, other, dtype=torch.float64) if weights_RM is None else weights_RM.double()
    x_ND, y_MD = x_ND.double(), y_MD.double()
    cross_R = _sum(x_ND, y_MD, u_RN, v_RM) / (u_RN.sum(1) * v_RM.sum(1))
    distance_R = _within(x_ND, u_RN) + _within(y_MD, v_RM) - 2 * cross_R
    return distance_R[0] if single else distance_R


def _within(x_ND: Tensor, u_RN: Tensor) -> Tensor:
    """Return the mean kernel of two different clips of a side, (R,)."""
    pairs_R = u_RN.sum(1).square() - u_RN.square().sum(1)
    return _sum(x_ND, x_ND, u_RN, u_RN, skip_own=True) / pairs_R


def _sum(x_ND: Tensor, y_MD: Tensor, u_RN: Tensor, v_RM: Tensor, *, skip_own: bool = False) -> Tensor:
    """Return the weighted sum of the kernels of all pairs, (R,); without those of a clip with itself."""
    total_R = torch.zeros((), dtype=torch.float64)
    for start in range(0, len(x_ND), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        k_NM = (x_ND[rows] @ y_MD.T / x_ND.shape[1] + 1).pow(3)
        if skip_own:
            k_NM.diagonal(start).zero_()
        total_R = total_R + ((u_RN[:, rows] @ k_NM) * v_RM).sum(1)
    return total_R
