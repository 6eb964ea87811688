"""Changes made to real and made clips alike before they are judged, so that few clips last longer.

All are differentiable, twice, and change every frame of a clip in the same way, but for its time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.errors import TrainingError
from zoo.training.augment.ada import AdaptiveAugment
from zoo.training.augment.base import Augment
from zoo.training.augment.diffaugment import DiffAugment

if TYPE_CHECKING:
    from zoo import recipes
    from zoo.assemblies import Assembly

__all__ = ["AdaptiveAugment", "Augment", "DiffAugment", "check_speed", "make_augment"]


def check_speed(config: recipes.DiffAugment | recipes.AdaptiveAugment, model: Assembly) -> None:
    """Refuse to change the speed of clips of which no discriminator sees more than a few frames.

    Raises:
        TrainingError: It is asked for.
    """
    if config.use != "diffaugment" or "speed" not in config.policy:
        return
    if all(hasattr(judge, "draw_frames") or judge.consumes == "image" for judge in model.discriminator):
        raise TrainingError(
            f"{model.name!r} changes the speed of clips (augment), and its discriminators see few frames of "
            "each, between which nothing can be interpolated; leave speed out of "
            "train.objective.adversarial.augment.policy"
        )


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
