"""The GAN: a generator of clips, with discriminators while training.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo.assemblies.base import Assembly
from zoo.errors import ZooError
from zoo.recipes import Recipe

Noise = dict[str, Tensor]


class Gan(Assembly):
    """A generator of video: `sample` makes clips from a seed."""

    needs = ("generator",)
    generator: Any

    def __init__(self, recipe: Recipe, *, generator: nn.Module) -> None:
        super().__init__(recipe)
        self.generator = generator

    @property
    def last_layer(self) -> nn.Parameter:
        return self.generator.last_layer

    def draw_noise(
        self, num: int, *, num_frames: int | None = None, generator: torch.Generator | None = None
    ) -> Noise:
        """Draw the noise of `num` clips, on the model's device.

        Args:
            num: Number of clips.
            num_frames: Frames in a clip; the recipe's when left out.
            generator: Source of randomness; torch's global one when left out.
        """
        frames = self.recipe.clip.num_frames if num_frames is None else num_frames
        device = next(self.generator.parameters()).device
        return self.generator.draw_noise(num, frames, generator=generator, device=device)

    def forward(self, noise: Noise) -> Tensor:
        """Make clips x_BCTHW in [-1, 1] from noise."""
        return self.generator(noise)

    def rehearse(self, shape_BCTHW: tuple[int, ...]) -> Tensor:
        return self.forward(self.draw_noise(shape_BCTHW[0], num_frames=shape_BCTHW[2]))

    @torch.no_grad()
    def sample(
        self, num: int, *, num_frames: int | None = None, seed: int = 0, batch_size: int = 16
    ) -> Tensor:
        """Make clips x_BCTHW in [-1, 1]; clip i depends on the seed and i only.

        Args:
            num: Number of clips.
            num_frames: Frames in a clip; the recipe's when left out.
            seed: Seed of the first clip's noise.
            batch_size: Clips made at a time.

        Raises:
            ZooError: A number is not positive.
        """
        for name, value in (("num", num), ("num_frames", num_frames or 1), ("batch_size", batch_size)):
            if value < 1:
                raise ZooError(f"{name} is {value}; it must be at least 1")
        noises = [
            self.draw_noise(1, num_frames=num_frames, generator=_generator(seed, i)) for i in range(num)
        ]
        clips = []
        for start in range(0, num, batch_size):
            batch = noises[start : start + batch_size]
            clips.append(self({key: torch.cat([noise[key] for noise in batch]) for key in batch[0]}))
        return torch.cat(clips)


def _generator(seed: int, index: int) -> torch.Generator:
    # Spread by an odd constant, so that neighbouring seeds share no clips.
    return torch.Generator().manual_seed((seed * 0x9E3779B97F4A7C15 + index) % 2**63)
