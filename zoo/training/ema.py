"""A moving average of the weights."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import nn

from zoo.assemblies import Assembly
from zoo.ranks import own_share
from zoo.recipes import Ema

_DISCRIMINATOR = "discriminator."
_WARMUP_SHARE = 0.05
_T = TypeVar("_T", bound=torch.Tensor)


class MovingAverage:
    """Keeps a copy of a model whose weights are the exponential moving average of the model's.

    ``average <- decay * average + (1 - decay) * weights`` after every update. Buffers (codebooks learnt by
    their own average, running statistics) are copied as they are. The discriminators are not averaged:
    the copy holds the model's own.

    Attributes:
        model: The averaged copy, in eval mode, without gradients.
        updates: Number of updates so far.
    """

    def __init__(self, model: Assembly, config: Ema) -> None:
        self.config = config
        self.batch_size = model.recipe.train.batch_size
        self.updates = 0
        shared = model.discriminator
        self.model = copy.deepcopy(model, {id(shared): shared})
        self.model.eval()
        shared.train(model.training)
        theirs = {id(parameter) for parameter in shared.parameters()}
        for parameter in self.model.parameters():
            if id(parameter) not in theirs:
                parameter.requires_grad_(False)

    @property
    def decay(self) -> float:
        """Weight of the past at the next update.

        With warm-up it is at most (1 + n) / (10 + n) after n updates; where the recipe gives a half-life in
        clips, that is at most 5 % of the clips seen (StyleGAN2-ADA, https://arxiv.org/abs/2006.06676).
        """
        if (half_life := self.config.half_life_clips) is not None:
            seen = (1 + self.updates) * self.batch_size
            clips = min(half_life, _WARMUP_SHARE * seen) if self.config.warmup else half_life
            return float(0.5 ** (self.batch_size / clips))
        if not self.config.warmup:
            return self.config.decay
        return min(self.config.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def update(self, model: Assembly) -> None:
        """Move the average towards the weights of `model`, the model this was made from."""
        weight = 1 - self.decay
        pairs = zip(_own(self.model.named_parameters()), _own(model.named_parameters()), strict=True)
        averages, weights = map(list, zip(*((own_share(a), own_share(w)) for a, w in pairs), strict=True))
        torch._foreach_lerp_(averages, weights, weight)
        for mine, theirs in zip(_own(self.model.named_buffers()), _own(model.named_buffers()), strict=True):
            mine.copy_(theirs)
        self.updates += 1

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averaged weights and the copied buffers, by name, without the discriminators'."""
        return own_tensors(self.model)


def own_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers of a model without its discriminators', by name."""
    return {k: v for k, v in model.state_dict().items() if not k.startswith(_DISCRIMINATOR)}


def _own(named: Iterator[tuple[str, _T]]) -> Iterator[_T]:
    return (tensor for name, tensor in named if not name.startswith(_DISCRIMINATOR))
