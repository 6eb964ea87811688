"""Batches of token windows, in the order in which `zoo.data.make_loader` gives clips.

Shape legend: B batch, t h w the latent grid, q codebooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from zoo.data.loader import WHOLE, Order
from zoo.errors import DataError
from zoo.tokens.dataset import TokenClips


class TokenBatch(TypedDict):
    """Windows that go through a prior together."""

    indices_Bqthw: Tensor
    """int64 code numbers."""
    label_B: Tensor | None
    """int64, -1 where a clip has no label; None where the data have none."""
    index_B: Tensor
    """int64, which clip each window is of."""
    start_B: Tensor
    """int64, latent frame of its clip that each window begins with."""


def iter_batches(
    dataset: TokenClips,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    start_step: int = 0,
    part: slice = WHOLE,
) -> Iterator[TokenBatch]:
    """Make batches of windows: batch s depends on the seeds and s alone.

    Args:
        dataset: The windows.
        batch_size: Windows in a batch.
        seed: Decides the order of every epoch.
        shuffle: Endless full batches in a seeded order for training, or one pass for evaluation.
        drop_last: Leave the last batch of a pass out when it is not full.
        start_step: Number of the first batch; it begins there without replaying.
        part: Which windows of each batch to make; the others are left to other ranks.

    Raises:
        DataError: A number is out of range.
    """
    if batch_size < 1 or start_step < 0 or seed < 0:
        raise DataError(
            f"batch_size {batch_size} must be at least 1, seed {seed} and start_step {start_step} at least 0"
        )
    order = Order(
        len(dataset),
        epoch=None if shuffle else dataset.epoch,
        batch_size=batch_size,
        seed=seed,
        drop_last=drop_last,
        start_step=start_step,
        part=part,
    )
    return (_batch(dataset, keys) for keys in order)


def _batch(dataset: TokenClips, keys: list[tuple[int, int]]) -> TokenBatch:
    windows = [dataset.window(epoch, index) for epoch, index in keys]
    q = dataset.metadata.tokenizer.num_codebooks
    indices_Bqthw = np.empty((len(keys), q, *dataset.grid), np.int64)
    for made_qthw, (indices_thwq, _) in zip(indices_Bqthw, windows, strict=True):
        made_qthw[:] = indices_thwq.transpose(3, 0, 1, 2)
    labels = [dataset.label(index) for _, index in keys] if dataset.labels else None
    return TokenBatch(
        indices_Bqthw=torch.from_numpy(indices_Bqthw),
        label_B=None if labels is None else torch.tensor(labels),
        index_B=torch.tensor([index for _, index in keys]),
        start_B=torch.tensor([start for _, start in windows]),
    )
