"""What the training loop knows of an augmentation.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.errors import TrainingError


class Augment(nn.Module):
    """A random, differentiable change of clips, the same for all frames of a clip."""

    @abstractmethod
    def forward(self, x_BCTHW: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return changed clips, fp32.

        Args:
            x_BCTHW: Clips, real or made, in [-1, 1]; changed ones may leave that range.
            generator: Draws what is done to each clip, on the CPU.
        """

    def update(self, real_logits: Sequence[Tensor], num_clips: int) -> None:
        """Take note of the discriminators' scores of changed real clips, after an update of them.

        Args:
            real_logits: Raw scores, one tensor per head of every discriminator.
            num_clips: Real clips they are of.
        """

    def numbers(self) -> dict[str, float]:
        """Return what is worth logging, by name."""
        return {}


def split_colors(x_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the channels that are colours, and the rest: the fourth of four is opacity.

    Raises:
        TrainingError: The clips have neither 1, 3 nor 4 channels.
    """
    channels = x_BCTHW.shape[1]
    if channels not in (1, 3, 4):
        raise TrainingError(
            f"colours can be changed in clips of 1, 3 or 4 channels; these have {channels}. Leave color out "
            "of train.objective.adversarial.augment"
        )
    return x_BCTHW[:, :3], x_BCTHW[:, 3:]
