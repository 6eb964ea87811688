"""Precision and recall by k-nearest-neighbour manifolds, https://arxiv.org/abs/1904.06991.

Shape legend: N real clips, M fake clips, D features.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zoo.errors import ZooError

NEIGHBOURS = 3
"""Neighbours that span a manifold, as published."""

_ROWS = 1024


class Inside(NamedTuple):
    """Which clips lie in the other side's manifold: means are precision and recall."""

    fake_M: Tensor
    real_N: Tensor


def inside_manifolds(real_ND: Tensor, fake_MD: Tensor, *, neighbours: int = NEIGHBOURS) -> Inside:
    """Say of each clip whether it lies within the k-th neighbour's distance of any clip of the other side.

    Args:
        real_ND: Features of real clips, more than `neighbours`.
        fake_MD: Features of generated clips, more than `neighbours`.
        neighbours: The k of the published method.

    Returns:
        bool of each fake clip (its mean is precision: how many samples look real) and of each real one
        (recall: how much of the real variety the samples reach).
    """
    if min(len(real_ND), len(fake_MD)) <= neighbours:
        raise ZooError(
            f"precision and recall with {neighbours} neighbours need more than {neighbours} clips of each "
            f"side; got {len(real_ND)} and {len(fake_MD)}"
        )
    real_ND, fake_MD = real_ND.double(), fake_MD.double()
    return Inside(
        _covered(fake_MD, real_ND, _radii(real_ND, neighbours)),
        _covered(real_ND, fake_MD, _radii(fake_MD, neighbours)),
    )


def _distances(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    # Not by the matrix product, which loses the digits of small distances.
    return torch.cdist(x_ND, y_MD, compute_mode="donot_use_mm_for_euclid_dist")


def _radii(x_ND: Tensor, neighbours: int) -> Tensor:
    # The clip itself is its nearest, so that the k-th neighbour is the (k + 1)-th smallest distance.
    rows = [
        _distances(part, x_ND).kthvalue(neighbours + 1, dim=1).values for part in torch.split(x_ND, _ROWS)
    ]
    return torch.cat(rows)


def _covered(x_ND: Tensor, y_MD: Tensor, radii_M: Tensor) -> Tensor:
    return torch.cat([(_distances(part, y_MD) <= radii_M).any(1) for part in torch.split(x_ND, _ROWS)])
