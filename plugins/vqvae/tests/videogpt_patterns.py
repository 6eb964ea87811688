"""Weights and clips that are the same on every machine, and numbers that stand for a tensor.

`golden_videogpt.json` was made with these from the public code, by the names of its state dict.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor


def noise(name: str, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Numbers in [-1, 1) that depend on name and position only, float64; no random generator."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    hashed = (i * 12.9898 + zlib.crc32(name.encode()) % 10_007 * 0.613).sin() * 43758.5453
    return ((hashed - hashed.floor()) * 2 - 1).reshape(shape)


def fill(shapes: Mapping[str, torch.Size], codebook: list[list[float]] | None = None) -> dict[str, Tensor]:
    """Values for every name of the public state dict, float64, with the given codes if any."""
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        value = noise(name, shape)
        if name.endswith("num_batches_tracked"):
            value = torch.zeros(shape, dtype=torch.long)
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            value = 1 + 0.3 * value
        elif name.endswith(("bias", "running_mean")):
            value = 0.1 * value
        elif name.endswith("weight"):
            value = value * (3 / math.prod(shape[1:])) ** 0.5
        state[name] = value
    if codebook is not None:
        state["codebook.embeddings"] = torch.tensor(codebook, dtype=torch.float64)
    # Counts that stay above 1 for a few steps: no code is restarted, so no random number is drawn.
    state["codebook.N"] = 3 + noise("N", shapes["codebook.N"])
    state["codebook.z_avg"] = state["codebook.embeddings"] * state["codebook.N"][:, None]
    return state


def fingerprint(tensor: Tensor) -> list[float]:
    """Root mean square, and three weighed sums scaled alike."""
    flat = tensor.detach().double().flatten()
    sums = [float((flat * noise(f"sum {i}", flat.shape)).sum()) / len(flat) ** 0.5 for i in range(3)]
    return [float(flat.square().mean().sqrt()), *sums]
