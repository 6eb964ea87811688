"""One side of the game, the model or its discriminators, and how its weights are updated."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.ranks import average_gradients
from zoo.training.finite import agreed, step_not_finite
from zoo.training.optimizers import Scheduler, make_optimizer, make_schedule

if TYPE_CHECKING:
    from zoo.recipes import Optimizer, Train

Numbers = dict[str, Tensor]
"""Detached scalars of a step, by name."""


class Weights:
    """The weights of one player, whole on every rank.

    Args:
        parameters: All of them.

    Attributes:
        updated: What the optimiser changes.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.updated = list(parameters)

    def settle(self) -> None:
        """Have every updated weight hold the mean over the ranks of its gradient."""
        average_gradients(self.updated)

    def clip(self, max_norm: float) -> Tensor:
        """Scale the gradients down to a norm, over all of them, and return the one that they had."""
        return nn.utils.clip_grad_norm_(self.updated, max_norm)

    def forget(self) -> None:
        """Let go of gradients."""
        for parameter in self.updated:
            parameter.grad = None

    def whole_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Turn an optimiser's state into that of a run of one process."""
        return state

    def own_state(self, state: dict[str, Any]) -> dict[str, Any]:
        """Turn the state of a run of one process into that of this rank's optimiser."""
        return state


class Player:
    """One side of the game: its weights, their optimiser and its schedule.

    Attributes:
        skipped: Updates of it left out one after the other, up to the last.
    """

    def __init__(self, name: str, weights: Weights, config: Optimizer, train: Train) -> None:
        self.name = name
        self.weights = weights
        self.optimizer = make_optimizer(config, weights.updated)
        self.schedule: Scheduler = make_schedule(
            train.schedule, self.optimizer, peak_lr=config.lr, steps=train.steps
        )
        self.skipped = 0
        self.max_norm = train.clip_grad_norm or float("inf")

    def forget(self) -> None:
        """Let go of gradients."""
        self.weights.forget()

    def update(self, loss: Tensor, *, step: int, numbers: Numbers) -> Tensor:
        """Take one optimiser step down the gradients that were collected, and return their norm.

        Args:
            loss: The loss that they are of, without a graph.
            step: Number of the step.
            numbers: The step's numbers, for the error.

        Raises:
            NotFiniteError: Loss or gradient is not finite; this side's weights are as they were.
        """
        self.schedule.step_update(step)
        self.weights.settle()
        norm = self.weights.clip(self.max_norm)
        if not agreed(bool(torch.isfinite(loss) & torch.isfinite(norm))):
            self.forget()
            what = f"the {self.name}'s loss is {float(loss)}"
            if bool(torch.isfinite(loss)):
                what = f"the norm of the {self.name}'s gradient is {float(norm)}"
            raise step_not_finite(what, step, numbers)
        self.optimizer.step()
        return norm.detach()

    def set_betas(self, betas: Sequence[float]) -> None:
        """Change the optimiser's decays; of one that has none but momentum, that is the first."""
        for group in self.optimizer.param_groups:
            if "betas" in group:
                group["betas"] = (*betas, *group["betas"][2:])
            elif "momentum" in group:
                group["momentum"] = betas[0]

    @property
    def lr(self) -> float:
        """Rate of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def whole_state(self) -> dict[str, Any]:
        """The optimiser's state as that of a run of one process; every rank asks."""
        return self.weights.whole_state(self.optimizer.state_dict())

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `whole_state` gave.

        Raises:
            ValueError: It is of weights of another shape.
        """
        self.optimizer.load_state_dict(self.weights.own_state(state))
        for weight, kept in self.optimizer.state.items():
            for name, value in kept.items():
                if isinstance(value, Tensor) and value.ndim == weight.ndim and value.shape != weight.shape:
                    raise ValueError(
                        f"{name} of a weight of {tuple(weight.shape)} is of {tuple(value.shape)}"
                    )
