"""Clips made of nothing but a moving square, and recipes small enough to train on them in a second."""

from __future__ import annotations

from typing import Any

import numpy as np
from tiny import TINY

from zoo.data import ClipDataset
from zoo.data.clips import Taken
from zoo.data.sampling import Draw
from zoo.recipes import Clip

CLIP = Clip.model_validate(TINY["clip"])


class Squares(ClipDataset):
    """Clip i of an epoch: a square of its own colour that moves to the right."""

    def __init__(self, num_clips: int, *, random: bool = True, first: int = 0) -> None:
        super().__init__(clip=CLIP, labels=[], description=f"{num_clips} squares", random=random)
        self.num_clips = num_clips
        self.first = first

    def __len__(self) -> int:
        return self.num_clips

    def _name(self, index: int) -> str:
        return f"square {index}"

    def _take(self, index: int, chance: Draw) -> tuple[Taken, str, int]:
        frames = []
        for at in range(CLIP.num_frames):
            frame = np.full((CLIP.height, CLIP.width, 3), 30, np.uint8)
            left = (int(8 * chance.time) + 2 * at) % 12
            frame[4:10, left : left + 4] = np.random.default_rng(self.first + index).integers(100, 256, 3)
            frames.append(frame)
        return Taken(frames, 0.0), self._name(index), -1


def squares() -> dict[str, Any]:
    """Training and held-out clips."""
    return {"train": Squares(12), "test": Squares(5, random=False)}


def train_section(objective: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A short training section."""
    return {"steps": 6, "batch_size": 4, "log_every": 1, "save_every": 100, "objective": objective, **more}


VQVAE: dict[str, Any] = {
    **TINY,
    "train": train_section(
        {"reconstruction": {"loss": "mse"}, "quantizer": {}},
        optimizer={"use": "adamw", "lr": 3e-3, "weight_decay": 0.01},
        schedule={"use": "cosine", "warmup_steps": 2},
    ),
}
VQGAN: dict[str, Any] = {
    **TINY,
    "discriminator": [
        {"use": "patch3d", "base_channels": 4, "num_layers": 2},
        {"use": "mocogan-patch-image", "base_channels": 4, "weight": 0.5},
    ],
    "train": train_section(
        {
            "reconstruction": {"loss": "l1"},
            "quantizer": {},
            "adversarial": {
                "loss": "hinge",
                "weight": 0.5,
                "adaptive": True,
                "start_step": 2,
                "discriminator_steps": 2,
            },
        },
        optimizer={"use": "adam", "lr": 1e-3, "betas": [0.5, 0.9]},
        discriminator_optimizer={"use": "sgd", "lr": 1e-2},
        ema={"decay": 0.9},
        clip_grad_norm=1.0,
    ),
}
GAN: dict[str, Any] = {
    "summary": "For tests.",
    "assembly": "gan",
    "clip": TINY["clip"],
    "generator": {
        "use": "mocogan",
        "image_size": 16,
        "base_channels": 4,
        "content_dim": 6,
        "motion_dim": 4,
        "num_categories": 3,
    },
    "discriminator": [
        {"use": "patch3d", "base_channels": 4, "num_layers": 2},
        {"use": "mocogan-image", "image_size": 16, "base_channels": 4},
    ],
    "train": train_section({"adversarial": {"loss": "non-saturating"}}, ema={"decay": 0.9}),
}
