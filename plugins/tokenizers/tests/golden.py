"""Numbers of public code, kept in golden_<family>.json, and what they are compared by.

Weights and inputs are made from names, without a random generator, so that the public code gets the same.

Shapes: B batch, C colours, T H W frames and pixels.
"""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor


def load(family: str) -> dict[str, Any]:
    """Read golden_<family>.json."""
    numbers: dict[str, Any] = json.loads((Path(__file__).parent / f"golden_{family}.json").read_text())
    return numbers


def noise(name: str, shape: Iterable[int]) -> Tensor:
    """Numbers in [-1, 1) that depend on name and position only, float64; no random generator."""
    shape = tuple(shape)
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    hashed = (i * 12.9898 + zlib.crc32(name.encode()) % 10_007 * 0.613).sin() * 43758.5453
    return ((hashed - hashed.floor()) * 2 - 1).reshape(shape)


def fill(
    shapes: Mapping[str, Iterable[int]], *, scales: str = r"(?!)", plain: str = r"(?!)", gain: float = 3.0
) -> dict[str, Tensor]:
    """Values for names of the public state dict, float64; nothing is 0 or does nothing.

    Args:
        shapes: Shapes by name.
        scales: Pattern at the end of the names of vectors that multiply: they are near 1.
        plain: Pattern in the names of tensors that are filled with noise as it is.
        gain: Three times the variance that a layer makes of variance 1.
    """
    state: dict[str, Tensor] = {}
    for name, size in shapes.items():
        shape = tuple(size)
        value = noise(name, shape)
        if re.search(plain, name):
            pass
        elif len(shape) > 1:
            # Flax kernels end in the output channels.
            fan_in = math.prod(shape[:-1] if name.endswith("kernel") else shape[1:])
            value = value * (gain / fan_in) ** 0.5
        elif re.search(rf"(?:{scales})$", name):
            value = 1 + 0.3 * value
        else:
            value = 0.1 * value
        state[name] = value
    return state


def fingerprint(tensor: Tensor) -> list[float]:
    """Root mean square, and three weighed sums scaled alike."""
    flat = tensor.detach().double().flatten()
    sums = [float((flat * noise(f"sum {i}", flat.shape)).sum()) / len(flat) ** 0.5 for i in range(3)]
    return [float(flat.square().mean().sqrt()), *sums]


def assert_like(tensor: Tensor | None, expected: list[float], tolerance: float) -> None:
    """Fail unless the tensor has this fingerprint, up to `tolerance` of its root mean square."""
    assert tensor is not None
    assert fingerprint(tensor) == pytest.approx(expected, rel=0, abs=tolerance * expected[0])
