"""Optimisers and learning-rate schedules, made by timm's factories."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from zoo.errors import TrainingError
from zoo.torchvision_repair import import_timm

if TYPE_CHECKING:
    from zoo.recipes import Optimizer, Schedule


class Scheduler(Protocol):
    """What a timm schedule offers: a rate that depends on the number of the update alone."""

    def step_update(self, num_updates: int) -> None:
        """Set the rate of update `num_updates`, counted from 0."""


def make_optimizer(config: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Make the optimiser that a recipe names. Weight decay is on every parameter, as in torch.

    Args:
        config: Name and settings; settings an optimiser does not have (betas of sgd, say) are not given to
            it, but for momentum, which is the first of `betas`.
        parameters: What it updates; those that need no gradient are left out.

    Raises:
        TrainingError: timm has no optimiser of that name, or cannot make it here.
    """
    optim = _timm("optim")
    names = optim.list_optimizers()
    if config.use not in names:
        close = difflib.get_close_matches(config.use, names, n=4) or ["adam", "adamw", "lion", "sgd"]
        raise TrainingError(
            f"timm has no optimizer {config.use!r}; nearest: {', '.join(close)}. "
            "All of them: python -c 'import timm; print(timm.optim.list_optimizers())'"
        )
    if optim.get_optimizer_info(config.use).second_order:
        raise TrainingError(f"optimizer {config.use!r} needs second derivatives, which no step here computes")
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained:
        raise TrainingError("there is nothing to train: no parameter needs a gradient")
    try:
        optimizer: torch.optim.Optimizer = optim.create_optimizer_v2(
            [{"params": trained}],
            opt=config.use,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.betas[0],
            betas=tuple(config.betas),
            eps=config.eps,
        )
    except (ImportError, TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise TrainingError(
            f"optimizer {config.use!r} cannot be made with lr {config.lr}, betas {config.betas}, "
            f"eps {config.eps}: {type(error).__name__}: {error}"
        ) from error
    return optimizer


def make_schedule(
    config: Schedule, optimizer: torch.optim.Optimizer, *, peak_lr: float, steps: int
) -> Scheduler:
    """Make the schedule that a recipe names; it keeps no state, so a resumed run needs only its step.

    The warm-up is a straight line from 0 whose first update is one stride above it; the decay takes the
    steps that are left.

    Args:
        config: Shape, warm-up and lowest rate.
        optimizer: Whose rate is set.
        peak_lr: Rate after the warm-up.
        steps: Updates in the run.
    """
    scheduler = _timm("scheduler")
    warmup = min(config.warmup_steps, steps - 1)
    # A decay of one update is at its first, the peak, as is one of two; timm warns of the former.
    decay_steps = max(2, steps - warmup)
    # A step schedule with rate 1 is constant in every version of timm; "constant" is younger.
    shape = {"constant": "step", "cosine": "cosine", "linear": "poly"}[config.use]
    made: tuple[Scheduler, int] = scheduler.create_scheduler_v2(
        optimizer,
        sched=shape,
        num_epochs=decay_steps,
        decay_epochs=decay_steps,
        decay_rate=1.0,
        cycle_decay=1.0,
        min_lr=min(config.min_lr, peak_lr),
        warmup_epochs=warmup,
        warmup_lr=peak_lr / (warmup + 1),
        warmup_prefix=True,
        step_on_epochs=False,
        updates_per_epoch=1,
    )
    return made[0]


def _timm(module: str) -> Any:
    import_timm()
    return importlib.import_module(f"timm.{module}")
