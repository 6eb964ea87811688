"""Random numbers of a run: drawn from the step's number where possible, saved whole where not."""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def step_generator(seed: int, stream: str, step: int, *, turn: int = 0) -> torch.Generator:
    """Make a CPU generator that depends on its arguments alone, so that no position needs saving.

    Args:
        seed: Seed of the run.
        stream: What the numbers are for.
        step: Number of the step.
        turn: Number of the discriminator's update within the step.
    """
    key = f"{seed}/{stream}/{step}/{turn}".encode()
    value = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1
    return torch.Generator().manual_seed(value)


def rng_state() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The state of every global generator: torch's as tensors, Python's and numpy's as plain data."""
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"cuda.{index}"] = state
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    plain = {
        "python": [version, list(words), gauss],
        "numpy": [str(kind), np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
    }
    return tensors, plain


def restore_rng_state(tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> None:
    """Put back what `rng_state` gave. States of GPUs that this machine lacks are left out."""
    torch.set_rng_state(tensors["torch"])
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{index}"], index)
    version, words, gauss = plain["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, position, has_gauss, cached = plain["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))


@contextlib.contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Leave the global generators as they were on entry; within, seed them when a seed is given."""
    before = rng_state()
    try:
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
        yield
    finally:
        restore_rng_state(*before)
