"""Changes made to real and made clips alike before they are judged, so that few clips last longer.

All are differentiable, twice, and change every frame of a clip in the same way, but for its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.training.augment.ada import AdaptiveAugment
from zoo.training.augment.base import Augment
from zoo.training.augment.diffaugment import DiffAugment

if TYPE_CHECKING:
    from zoo import recipes

__all__ = ["AdaptiveAugment", "Augment", "DiffAugment", "make_augment"]


def make_augment(config: recipes.DiffAugment | recipes.AdaptiveAugment) -> Augment:
    """Make what `train.objective.adversarial.augment` asks for."""
    if config.use == "diffaugment":
        return DiffAugment(config.policy)
    return AdaptiveAugment(
        target=config.target,
        interval=config.interval,
        adjust_clips=config.adjust_clips,
        geometric=config.geometric,
        color=config.color,
    )
