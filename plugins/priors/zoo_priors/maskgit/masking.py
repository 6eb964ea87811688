"""Which places show the mask token in a training step.

Shape legend: B batch, N places.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.ranks import shared_draw


def draw_mask(
    can_mask_BN: Tensor, schedule: Callable[[float], float], generator: torch.Generator | None
) -> Tensor:
    """Draw places to mask of each clip: a share of those that can be, by the schedule, and at least one.

    Args:
        can_mask_BN: Places that can be masked, on the CPU.
        schedule: Turns a uniform number into a share.
        generator: On the CPU; None is torch's own.

    Returns:
        bool (B, N) on the CPU.
    """
    num_clips, num_places = can_mask_BN.shape
    share_B = shared_draw(lambda n: draw_uniform(generator, n), num_clips)
    shares = [schedule(number) for number in share_B.tolist()]
    num_B = (can_mask_BN.sum(1) * torch.tensor(shares, device="cpu")).floor().clamp(min=1)
    score_BN = shared_draw(lambda n: draw_uniform(generator, n, num_places), num_clips).masked_fill(
        ~can_mask_BN, 2.0
    )
    return score_BN.argsort(1).argsort(1) < num_B[:, None]


def draw_uniform(generator: torch.Generator | None, *shape: int) -> Tensor:
    """Draw numbers in [0, 1) on the CPU, on whatever device modules are being built."""
    return torch.rand(shape, generator=generator, device="cpu")
