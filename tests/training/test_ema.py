"""The moving average whose memory is given in clips."""

from __future__ import annotations

import pytest
import torch
from training.squares import GAN

import zoo
from zoo.recipes import Ema
from zoo.training.ema import MovingAverage


@pytest.mark.parametrize("warmup", [False, True])
def test_a_weight_counts_half_after_its_half_life_in_clips(warmup: bool) -> None:
    model = zoo.build(GAN, seed=0)
    batch = model.recipe.train.batch_size
    average = MovingAverage(model, Ema(half_life_clips=3 * batch, warmup=warmup))
    mine, theirs = (next(m.generator.parameters()) for m in (average.model, model))  # type: ignore[union-attr, operator]
    average.updates = 10**6  # long after the warm-up
    with torch.no_grad():
        theirs.add_(1.0)
    before = mine.clone()
    for _ in range(3):
        average.update(model)
    torch.testing.assert_close(mine, before + 0.5)


def test_a_half_life_warms_up_as_a_twentieth_of_the_clips_seen() -> None:
    model = zoo.build(GAN, seed=0)
    average = MovingAverage(model, Ema(half_life_clips=10**9, warmup=True))
    for updates in (0, 1, 19, 99):
        average.updates = updates
        assert average.decay == pytest.approx(0.5 ** (20 / (updates + 1)))
