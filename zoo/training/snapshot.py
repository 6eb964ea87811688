"""From a run to a checkpoint's content and back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pydantic import ValidationError

from zoo.errors import TrainingError
from zoo.ranks import cut_alike, own_share, world_size
from zoo.recipes import Recipe
from zoo.training.checkpoint import Snapshot, pack, unpack
from zoo.training.ema import own_tensors
from zoo.training.finite import NotFiniteError, agreed
from zoo.training.records import flat
from zoo.training.rng import restore_rng_state, rng_state
from zoo.training.run import Run

MAY_DIFFER = (
    "summary",
    "extends",
    "paper",
    "parameters",
    "results",
    "published",
    "train.steps",
    "train.log_every",
    "train.eval_every",
    "train.save_every",
    "train.not_finite",
    "train.activation_checkpointing",
)
"""Fields of a recipe that a resumed run may change: they change no step already taken."""


def take_snapshot(run: Run, **more: Any) -> Snapshot:
    """Copy everything a run is made of; every rank asks, and the first one's is that of the whole run.

    Schedules are functions of the step and keep no state of their own.

    Args:
        run: The run, between two steps.
        **more: Plain data to keep beside it.

    Raises:
        NotFiniteError: A weight or buffer is not finite.
    """
    tensors = run.whole_tensors()
    if run.keepers.state_dict():
        tensors["keepers"] = dict(run.keepers.state_dict())
    bad = next((name for name, tensor in _named(tensors) if not bool(torch.isfinite(tensor).all())), None)
    if not agreed(bad is None):
        raise NotFiniteError(
            f"step {run.step}: {bad or 'a weight on another rank'} is not finite",
            "no checkpoint was made of it; the last one is whole. Go on from it with a lower rate "
            "(train.optimizer.lr)",
        )
    optimizers = {"model": run.player.whole_state()}
    if run.opponent is not None:
        optimizers["discriminator"] = run.opponent.whole_state()
    optimizer_state, optimizer_tensors = pack(optimizers)
    rng_tensors, rng_plain = rng_state()
    tensors |= {"optimizers": optimizer_tensors, "rng": rng_tensors}
    state = {
        "name": run.model.name,
        "recipe": run.model.recipe.model_dump(mode="json"),
        "step": run.step,
        "batches": run.batches,
        "ranks": world_size(),
        "accumulate": run.accumulate,
        "optimizers": optimizer_state,
        "rng": rng_plain,
        **more,
    }
    if run.average is not None:
        state["ema_updates"] = run.average.updates
    return Snapshot(tensors, state)


def restore(run: Run, snapshot: Snapshot) -> None:
    """Put a run, and the global random generators, back to where a snapshot was taken.

    The recipes have to be the same: `refuse_other_recipe` says so first.

    Raises:
        AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError: It is not what
            `take_snapshot` makes.
    """
    state, tensors = snapshot.state, snapshot.tensors
    run.let_go()
    mine = run.model.state_dict()
    run.model.load_state_dict(
        {name: cut_alike(tensor, mine.get(name, tensor)) for name, tensor in tensors["model"].items()}
    )
    optimizers = unpack(state["optimizers"], tensors["optimizers"])
    run.player.load_state(optimizers["model"])
    if run.opponent is not None:
        run.opponent.load_state(optimizers["discriminator"])
    run.keepers.load_state_dict(tensors.get("keepers", {}))
    if run.average is not None:
        mine = own_tensors(run.average.model)
        for name, tensor in mine.items():
            kept = tensors["ema"][name]
            if kept.shape != tensor.shape:
                raise ValueError(f"{name} is of {tuple(tensor.shape)}, its average of {tuple(kept.shape)}")
            own_share(tensor).copy_(own_share(cut_alike(kept, tensor)))
        run.average.updates = state["ema_updates"]
    run.step, run.batches = state["step"], state["batches"]
    run.accumulate = _parts(run, state)
    restore_rng_state(tensors["rng"], state["rng"])


def _parts(run: Run, state: Mapping[str, Any]) -> int:
    """Return in how many parts a rank's share goes on: the run's, or as many more as memory asked for before.

    Those are whole, and no larger than the parts that there was memory for, on however many ranks that was.
    """
    before = state.get("accumulate", run.accumulate)
    if before <= run.accumulate:
        return run.accumulate
    own = run.train.batch_size // world_size()
    size = run.train.batch_size // (state.get("ranks", world_size()) * before)
    return next(n for n in range(run.accumulate, own + 1) if own % n == 0 and own // n <= size)


def refuse_other_recipe(snapshot: Snapshot, recipe: Recipe, *, folder: str) -> None:
    """Refuse to go on with a checkpoint of another recipe.

    Raises:
        TrainingError: Names every field that differs, with both values.
    """
    asked = dict(_fields(recipe.model_dump(mode="json")))
    saved = dict(_fields(_of_this_version(snapshot.state["recipe"])))
    differing = [
        f"{path} is {_value(saved, path)} there and {_value(asked, path)} here"
        for path in dict.fromkeys(itertools.chain(saved, asked))
        if _value(saved, path) != _value(asked, path)
    ]
    if differing:
        raise TrainingError(
            f"the checkpoint in {folder!r} is of another recipe ({snapshot.state['name']!r}): "
            f"{'; '.join(differing)}. Give the same name and settings (run.json there holds the command), or "
            "train elsewhere with --out"
        )


def _of_this_version(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a saved recipe with the fields that it was saved before, which say that all is as it was."""
    try:
        return Recipe.model_validate(recipe).model_dump(mode="json")
    except ValidationError:  # it has fields that there are no more
        return recipe


def _named(tensors: Mapping[str, Mapping[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    return itertools.chain(*(named.items() for named in tensors.values()))


def _fields(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    def listed(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: listed(item) for key, item in value.items()}
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            return {str(index): listed(item) for index, item in enumerate(value)}
        return value

    skipped = tuple(f"{path}." for path in MAY_DIFFER)
    return [(path, value) for path, value in flat(listed(recipe)) if not f"{path}.".startswith(skipped)]


def _value(fields: Mapping[str, Any], path: str) -> str:
    return repr(fields[path]) if path in fields else "not set"
