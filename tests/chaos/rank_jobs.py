"""What the ranks of an experiment do: each function runs in every process, and writes down what it found."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from training.squares import GAN, VQGAN, VQVAE, Squares

import zoo
from zoo.data.clips import Taken
from zoo.data.sampling import Draw

RECIPES = {"gan": GAN, "vqgan": VQGAN, "vqvae": VQVAE}


class Rough(Squares):
    """Squares on rough ground: no two latents are alike, so no code is chosen by a rounding error."""

    def _take(self, index: int, chance: Draw) -> tuple[Taken, str, int]:
        taken, name, label = super()._take(index, chance)
        rough = np.random.default_rng(index).integers(0, 100, (len(taken.frames), *taken.frames[0].shape))
        frames = [np.clip(frame + more, 0, 255).astype(np.uint8) for frame, more in zip(taken.frames, rough)]
        return Taken(frames, taken.start_s), name, label


def write(folder: Path, found: dict[str, Any]) -> None:
    """Write down what this rank found."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank-{found['rank']}.json").write_text(json.dumps(found), encoding="utf-8")


def digest(module: nn.Module) -> str:
    """Return a hash of every weight and buffer."""
    total = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        total.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return total.hexdigest()


def train(folder: Path, *, recipes: dict[str, dict[str, Any]], steps: int) -> None:
    """Train recipes one after the other, and keep their losses and a hash of the weights."""
    found: dict[str, Any] = {"rank": int(os.environ.get("RANK", "0"))}
    for name, changes in recipes.items():
        recipe = merged(RECIPES[changes.pop("base", name)], changes)
        options: dict[str, Any] = {"steps": steps, "num_workers": 0, "device": "cpu", "progress": False}
        result = zoo.train(recipe, data={"train": Rough(12), "test": Rough(5, random=False)}, out=folder / name, **options)
        lines = [line for line in result.history if line["kind"] == "train"]
        found[name] = {"lines": lines, "sha256": digest(result.model)}
    write(folder, found)


def merged(recipe: Any, changes: Any) -> Any:
    """Return a recipe with some fields changed."""
    if not isinstance(recipe, dict) or not isinstance(changes, dict):
        return changes
    return {**recipe, **{key: merged(recipe.get(key), value) for key, value in changes.items()}}


def main() -> None:
    """Run the job that the command line names."""
    job, folder, options = sys.argv[1:]
    torch.set_num_threads(1)
    globals()[job](Path(folder), **json.loads(options))


if __name__ == "__main__":
    main()
