"""The first stage of a prior: its tokenizer, trained in the run's own folder where none is given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import plain_json
from zoo.errors import TrainingError
from zoo.files import read_regular
from zoo.report.run_folder import MAX_FACTS_BYTES
from zoo.training.records import FACTS

if TYPE_CHECKING:
    from zoo.recipes import Recipe
    from zoo.training.trainer import TrainResult

FOLDER = "tokenizer"
"""Where the tokenizer is trained, inside of the run's folder."""


def train_first_stage(
    train: Callable[..., TrainResult], name: str, recipe: Recipe, folder: Path, *, resume: bool, **given: Any
) -> TrainResult | None:
    """Train the tokenizer of a recipe, or go on with it; None where an earlier part of the run has.

    Args:
        train: Trains among the ranks that there are, as `zoo.train` does.
        name: Name of the prior's recipe.
        recipe: The prior's recipe.
        folder: Folder of the run.
        resume: Whether the run goes on.
        **given: What else `zoo.train` takes for both stages.

    Raises:
        TrainingError: The recipe does not say how its tokenizer is trained.
        ZooError: As `zoo.train`.
    """
    stage = recipe.tokenizer
    if stage is None:
        raise TrainingError(
            f"{name!r} stands on a trained tokenizer and was given none: train a model of the same encoder, "
            "quantizer and decoder, then add --init tokenizer=FOLDER; or name an autoencoder recipe that is "
            "to be trained first (--set tokenizer=NAME)"
        )
    own = folder / FOLDER
    state = _status(own) if resume else ""
    if state == "finished":
        return None
    if given.get("progress"):
        print(
            f"{name} stands on a tokenizer and none is given (--init tokenizer=FOLDER): {stage.use} is "
            f"trained first, {stage.train.steps} steps, into {own}",
            file=sys.stderr,
        )
    fields = recipe.model_dump(exclude_unset=True)
    tokenizer = {
        "summary": f"Tokenizer of {name}: {stage.use}.",
        "assembly": "autoencoder",
        **{field: fields[field] for field in _SHARED if field in fields},
        **{field: value for field, value in fields["tokenizer"].items() if field in _OF_TOKENIZER},
    }
    return train(tokenizer, out=own, resume=bool(state), **given)


_OF_TOKENIZER = ("train", "discriminator")
_SHARED = ("clip", "encoder", "quantizer", "decoder", "pre_quant", "post_quant")


def _status(folder: Path) -> str:
    """Return how a run in a folder stands; empty where there is none."""
    try:
        return str(plain_json.forgiving(read_regular(folder / FACTS, most=MAX_FACTS_BYTES))["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
