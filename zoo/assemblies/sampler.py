"""What models that make clips from a seed share.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from zoo.assemblies.base import Assembly
from zoo.errors import ZooError


class Sampler(Assembly):
    """A model that makes clips from a seed: `sample` as a whole, `sample_pieces` piece by piece in time."""

    generator: Any

    def sample(
        self,
        num: int,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        label: int | None = None,
        size_HW: tuple[int, int] | None = None,
        seed: int = 0,
        batch_size: int = 16,
    ) -> Tensor:
        """Make clips x_BCTHW in [-1, 1]; clip i depends on the seed and i only.

        Args:
            num: Number of clips.
            num_frames: Frames in a clip; the recipe's when left out.
            fps: Frames a second; the recipe's when left out.
            label: Label of all clips, for models that take labels; drawn by chance when left out.
            size_HW: Size of a frame; the recipe's when left out.
            seed: Seed of the first clip.
            batch_size: Clips made at a time.

        Raises:
            ZooError: A number is not in its range, or the model cannot do what is asked.
        """
        raise NotImplementedError

    def sample_pieces(
        self,
        num: int,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        label: int | None = None,
        size_HW: tuple[int, int] | None = None,
        seed: int = 0,
        batch_size: int = 16,
    ) -> Iterator[Tensor]:
        """Make the clips of `sample`, one run of frames after the other, in less memory."""
        raise NotImplementedError

    @property
    def samples_alone(self) -> bool:
        """Whether it makes clips of a seed and nothing else."""
        return True

    @property
    def frame_HW(self) -> tuple[int, int]:
        """Height and width of the frames that are made unless others are asked for."""
        return self.recipe.clip.height, self.recipe.clip.width

    @property
    def num_classes(self) -> int:
        """How many labels clips can be made of; 0 where they have none."""
        return getattr(self.generator, "num_classes", 0)

    def check_counts(self, **counts: int) -> None:
        """Refuse numbers below 1, by name.

        Raises:
            ZooError: One is.
        """
        for name, value in counts.items():
            if value < 1:
                raise ZooError(f"{name} is {value}; it must be at least 1")

    def check_label(self, label: int | None) -> None:
        """Refuse a label that the model has not.

        Raises:
            ZooError: It says which labels there are.
        """
        if label is not None and not 0 <= label < self.num_classes:
            has = f"labels 0 to {self.num_classes - 1}" if self.num_classes else "no labels"
            raise ZooError(f"label is {label}; {self.name or 'this model'} has {has}")


def clip_source(seed: int, index: int) -> torch.Generator:
    """Return the source of clip `index` of a seed."""
    return torch.Generator().manual_seed(nth_seed(seed, index))


def nth_seed(seed: int, index: int) -> int:
    """Return seed number `index` of a seed: of seed 0 the number itself; neighbouring seeds share none."""
    return (seed * 0x9E3779B97F4A7C15 + index) % 2**63  # spread by an odd constant
