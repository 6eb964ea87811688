"""Confidence intervals by drawing clips anew, https://doi.org/10.1214/aos/1176344552.

Shape legend: R replicates, N clips, M clips of the other side.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LEVEL = 0.95
"""Share of intervals that hold the true figure, if clips were all that chance decides."""

REPLICATES = 100


def draws(num: int, replicates: int, *, seed: int) -> Tensor:
    """Return which clips each replicate takes: int64 (R, num), drawn with replacement."""
    random = torch.Generator().manual_seed(seed)
    return torch.randint(num, (replicates, num), generator=random)


def times_drawn(draws_RN: Tensor) -> Tensor:
    """Return how often each replicate takes each clip, float64 (R, N)."""
    counts_RN = torch.zeros(draws_RN.shape, dtype=torch.float64)
    return counts_RN.scatter_add_(1, draws_RN, torch.ones_like(counts_RN))


def interval(estimate: float, replicates_R: Tensor, *, seed: int, over: str) -> dict[str, Any] | None:
    """Return the interval of an estimate, as plain data; None where most replicates have no figure.

    The quantiles of the replicates, moved so that their mean is the estimate: a set drawn with replacement
    has fewer different clips, and so a Fréchet distance that is systematically larger.

    Args:
        estimate: The figure itself.
        replicates_R: The figure of every replicate; not finite where one that drew a single clip again and
            again has none.
        seed: Seed of the draws, to be told.
        over: What was drawn, to be told.
    """
    tails = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    finite = replicates_R[replicates_R.isfinite()].double()
    if not len(finite) or len(finite) < len(replicates_R) / 2:
        return None
    low, high = (estimate + finite.quantile(tails) - finite.mean()).tolist()
    return {
        "low": low,
        "high": high,
        "level": LEVEL,
        "replicates": len(finite),
        "seed": seed,
        "over": over,
        "method": "bootstrap, quantiles centred on the figure",
    }
