"""The GAN: a generator of clips, with discriminators while training.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo.assemblies.sampler import Sampler, clip_source
from zoo.errors import ZooError
from zoo.outputs import Selection
from zoo.parts import Kind
from zoo.recipes import Recipe

Noise = dict[str, Tensor]


class Gan(Sampler):
    """A generator of video: `sample` makes clips from a seed."""

    needs: ClassVar[tuple[Kind, ...]] = ("generator",)

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

    def forward(
        self, noise: Noise, times_BT: Tensor | None = None, size_HW: tuple[int, int] | None = None
    ) -> Tensor:
        """Make clips x_BCTHW in [-1, 1] from noise.

        Args:
            noise: What `draw_noise` gave.
            times_BT: Moments to make, in frames, as the generator's `time` allows; all frames when left out.
            size_HW: Size of a frame, where the generator makes any; the recipe's when left out.

        Raises:
            ZooError: The generator makes one size only, and another one was asked for.
        """
        asked: dict[str, Any] = {} if times_BT is None else {"times_BT": times_BT}
        if self.generator.size_HW is None:
            asked["size_HW"] = size_HW or self.frame_HW
        elif size_HW not in (None, self.generator.size_HW):
            height, width = self.generator.size_HW
            raise ZooError(f"{self.name or 'this model'} makes frames of {height}x{width} only")
        return self.generator(noise, **asked)

    def make(self, noise: Noise, selection: Selection) -> Tensor:
        """Make the frames that are selected, and where the generator allows it no others."""
        if selection.frames_BT is not None and self.time == "continuous":
            return self.forward(noise, selection.frames_BT.float())
        return selection.of(self.forward(noise))

    @property
    def time(self) -> str:
        """Which moments can be made without the rest of the clip: "clip", "frames" or "continuous"."""
        return getattr(self.generator, "time", "clip")

    def rehearse(self, shape_BCTHW: tuple[int, ...]) -> Tensor:
        return self.forward(self.draw_noise(shape_BCTHW[0], num_frames=shape_BCTHW[2]))

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
            fps: Frames a second; the recipe's when left out. Another rate shows the same motion finer or
                coarser: any from generators of continuous time, whole parts of the recipe's from the others.
            label: Label of all clips, for generators that take labels; drawn by chance when left out.
            size_HW: Size of a frame, for generators that make any; the recipe's when left out.
            seed: Seed of the first clip's noise.
            batch_size: Clips made at a time.

        Raises:
            ZooError: A number is not in its range, or the generator cannot do what is asked.
        """
        pieces = self.sample_pieces(
            num,
            num_frames=num_frames,
            fps=fps,
            label=label,
            size_HW=size_HW,
            seed=seed,
            batch_size=batch_size,
            piece=None,
        )
        return torch.cat(list(pieces), dim=2)

    @torch.no_grad()
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
        piece: int | None = 64,
    ) -> Iterator[Tensor]:
        """Make the clips of `sample` piece by piece in time, so that long ones need no more memory.

        Generators that make whole clips only (`time` is "clip") give one piece.

        Args:
            num: As for `sample`, like all that are not named here.
            piece: Frames at a time; all of them when None.

        Yields:
            x_BCTHW of all clips, one run of frames after the other.
        """
        num_frames = self.recipe.clip.num_frames if num_frames is None else num_frames
        self.check_counts(num=num, num_frames=num_frames, batch_size=batch_size, piece=piece or 1)
        step = self._frames_a_step(fps)
        self.check_label(label)
        drawn = math.ceil((num_frames - 1) * step) + 1
        noises = [self.draw_noise(1, num_frames=drawn, generator=clip_source(seed, i)) for i in range(num)]
        if label is not None:
            for noise in noises:
                noise["label"] = torch.full_like(noise["label"], label)
        batches = [
            {
                key: torch.cat([noise[key] for noise in noises[start : start + batch_size]])
                for key in noises[0]
            }
            for start in range(0, num, batch_size)
        ]
        if piece is None or self.time == "clip":
            piece = num_frames
        if hasattr(self.generator, "walked"):
            batches = [self.generator.walked(noise) for noise in batches]
        for start in range(0, num_frames, piece):
            end = min(start + piece, num_frames)
            yield torch.cat([self._run(noise, start, end, step, size_HW) for noise in batches])

    def _run(
        self, noise: Noise, start: int, end: int, step: float, size_HW: tuple[int, int] | None
    ) -> Tensor:
        """Make frames [start, end) of clips; `step` frames of the model lie between two."""
        if self.time == "clip":
            return self(noise, size_HW=size_HW)[:, :, :: int(step)]
        some = next(iter(noise.values()))
        if self.time == "continuous":
            times_T, stride = torch.arange(start, end, dtype=torch.float64) * step, 1
        else:
            stride = int(step)
            times_T = torch.arange(start * stride, (end - 1) * stride + 1)
        times_BT = times_T.float().to(some.device).expand(len(some), -1)
        return self(noise, times_BT, size_HW)[:, :, ::stride]

    def _frames_a_step(self, fps: float | None) -> float:
        """Return how many frames of the model lie between two that are asked for."""
        own = self.recipe.clip.playback_fps
        if fps is None or fps == own:
            return 1.0
        if not (math.isfinite(fps) and fps > 0):
            raise ZooError(f"fps is {fps}; it must be a positive number")
        step = own / fps
        if self.time != "continuous":
            if abs(step - round(step)) > 1e-6 or round(step) < 1:
                rates = ", ".join(f"{own / n:g}" for n in range(1, 5))
                raise ZooError(
                    f"{self.name or 'this model'} makes {own:g} frames a second and none between them: fps "
                    f"can be {rates}, ..., not {fps:g}"
                )
            return float(round(step))
        return step
