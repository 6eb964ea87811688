"""Numbers of a recipe's training that change in the course of the run: `train.anneal`.

What a number is at a step follows from the step alone, so nothing of it has to be kept.
"""

from __future__ import annotations

import math
import re
from typing import Any

from pydantic import BaseModel, ValidationError

from zoo.errors import TrainingError
from zoo.recipes import Anneal, Train

_CAN_CHANGE = re.compile(
    r"objective(\.\w+)+\.(weight|match)|(discriminator_)?optimizer\.betas\.[01]|ema\.(decay|half_life_clips)"
)
_SOME = "objective.adversarial.r1.weight, optimizer.betas.1, ema.half_life_clips"


def annealed(train: Train, step: int) -> Train:
    """Return the settings as they are at a step, counted from 0."""
    for entry in train.anneal:
        train = _with(train, entry.number.split("."), _value(train, entry, step))
    return train


def check_anneal(name: str, train: Train) -> None:
    """Refuse numbers that are not there, that no step reads anew, or that would leave their range.

    Raises:
        TrainingError: Says which, and what can be annealed.
    """
    for entry in train.anneal:
        where = f"{name!r}: train.anneal of {entry.number!r}"
        if not _CAN_CHANGE.fullmatch(entry.number):
            raise TrainingError(
                f"{where}: what can change in the course of a run are weights of the objective's terms, the "
                f"betas of an optimizer and the moving average's memory, as train has them: {_SOME}"
            )
        if sum(other.number == entry.number for other in train.anneal) > 1:
            raise TrainingError(f"{where}: there is another entry for it; leave one of them")
        if entry.number == "ema.decay" and train.ema is not None and train.ema.half_life_clips is not None:
            raise TrainingError(f"{where}: ema.half_life_clips is set and takes its place; anneal that one")
        start = _at(train, entry.number)
        if not _exists(train, entry.number):
            raise TrainingError(f"{where}: train has no {entry.number}; it can be for example {_SOME}")
        if not isinstance(start, int | float):
            raise TrainingError(
                f"{where}: train.{entry.number} is not set, so there is nothing to start from; set it, or "
                "leave this entry out"
            )
        end = int(entry.to) if isinstance(start, int) and entry.to.is_integer() else entry.to
        try:
            Train.model_validate(_with(train, entry.number.split("."), end).model_dump())
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"]
            raise TrainingError(f"{where}: it cannot be {entry.to:g}: {message}") from None


def _value(train: Train, entry: Anneal, step: int) -> float:
    share = min(step / (entry.steps or train.steps), 1.0)
    if entry.use == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    start: float = _at(train, entry.number)
    return start + share * (entry.to - start)


def _exists(settings: Any, path: str) -> bool:
    """Whether there is such a field, or could be where something on the way is not set."""
    first, _, rest = path.partition(".")
    if isinstance(settings, BaseModel):
        return first in type(settings).model_fields and _exists(getattr(settings, first), rest)
    return True


def _at(settings: Any, path: str) -> Any:
    """Return what is at a path; None where it does not lead anywhere."""
    for part in path.split("."):
        settings = settings[int(part)] if isinstance(settings, list) else getattr(settings, part, None)
    return settings


def _with(settings: Any, path: list[str], value: float) -> Any:
    """Return settings in which one number is another."""
    first, *rest = path
    if isinstance(settings, list):
        place = int(first)
        return [*settings[:place], value, *settings[place + 1 :]]
    inner = _with(getattr(settings, first), rest, value) if rest else value
    return settings.model_copy(update={first: inner})
