"""A moving average of the weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from zoo.recipes import Ema


class MovingAverage:
    """Keeps a copy of a model whose weights are the exponential moving average of the model's.

    ``average <- decay * average + (1 - decay) * weights`` after every update. Buffers (codebooks learnt by
    their own average, running statistics) are copied as they are. The discriminators are not averaged:
    the copy holds the model's own.

    Attributes:
        model: The averaged copy, in eval mode, without gradients.
        updates: Number of updates so far.
    """

    def __init__(self, model: nn.Module, config: Ema) -> None:
        self.config = config
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
        """Weight of the past at the next update: with warm-up at most (1 + n) / (10 + n)."""
        if not self.config.warmup:
            return self.config.decay
        return min(self.config.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`, the model this was made from."""
        decay = self.decay
        mine, theirs = self.tensors(), own_tensors(model)
        is_weight = {name for name, _ in model.named_parameters()}
        averaged = [name for name in mine if name in is_weight and mine[name].is_floating_point()]
        if averaged:
            torch._foreach_lerp_(
                [mine[name] for name in averaged], [theirs[name] for name in averaged], 1 - decay
            )
        for name in mine.keys() - set(averaged):
            mine[name].copy_(theirs[name])
        self.updates += 1

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averaged weights and the copied buffers, by name, without the discriminators'."""
        return own_tensors(self.model)


def own_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights and buffers of a model without its discriminators', by name."""
    return {
        name: tensor.detach()
        for name, tensor in model.state_dict(keep_vars=True).items()
        if not name.startswith("discriminator.")
    }
