"""Row 6: NaN and Inf in clips, in either player and in a gradient; nothing that is kept takes them in."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from chaos.experiment import Experiment, Outcome
from chaos.ranks import bad_numbers
from torch import nn
from training.squares import GAN, VQGAN, VQVAE, Squares

import zoo
from zoo.ranks import own_share
from zoo.training import trainer
from zoo.training.checkpoint import load_checkpoint
from zoo.training.finite import NotFiniteError
from zoo.training.run import Run

POLICIES = ("stop", "skip", "roll-back")
FAULTS = ("clips nan", "clips inf", "model", "discriminator", "gradient")
STEPS = 8
SAVE_EVERY = 2


def recipe(name: str, policy: str) -> dict[str, Any]:
    """Return a tiny recipe with all that moves from step to step: codebook, EMA, ADA, LeCam."""
    found = copy.deepcopy({"vqvae": VQVAE, "vqgan": VQGAN, "gan": GAN}[name])
    found["train"] |= {
        "steps": STEPS,
        "save_every": SAVE_EVERY,
        "ema": {"decay": 0.9},
        "not_finite": policy,
        "health": "off",
    }
    if name != "vqvae":
        found["train"]["objective"]["adversarial"] |= {
            "start_step": 0,
            "discriminator_steps": 1,
            "lecam": {"weight": 0.1},
            "augment": {"use": "ada", "interval": 1, "adjust_clips": 100},
        }
    return found


@contextlib.contextmanager
def at_start(change: Callable[[Run], None]) -> Iterator[None]:
    """Have every run changed as it starts."""
    start = trainer.start

    def changed(*args: Any, **kwargs: Any) -> Run:
        run = start(*args, **kwargs)
        change(run)
        return run

    trainer.start = changed
    try:
        yield
    finally:
        trainer.start = start


class Broken(Squares):
    """Clips that hold a bad number wherever they are of batch number `at` of four clips."""

    def __init__(self, value: float | None, at: int) -> None:
        super().__init__(4)
        self.value, self.at = value, at

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        if self.value is not None and key[0] == self.at:
            item["x_CTHW"][0, 0, 0, 0] = self.value
        return item


def break_part(run: Run, fault: str, at: int) -> None:
    """Break what the run computes from batch number `at`."""

    def now() -> bool:
        return run.batches == at + 1  # the batch was taken

    model: Any = run.model
    maker: nn.Module = model.decoder if hasattr(model, "decoder") else model.generator
    if fault == "model":
        maker.register_forward_hook(lambda module, _, x: _spoilt(x) if now() else x)
    elif fault == "gradient":
        next(maker.parameters()).register_hook(lambda grad: grad * math.inf if now() else grad)
    elif fault == "discriminator":
        for judge in model.discriminator:
            judge.register_forward_hook(
                lambda module, _, judged: (
                    judged._replace(logits=[x * math.nan for x in judged.logits])
                    if now() and next(module.parameters()).requires_grad
                    else judged
                )
            )


def _spoilt(x: Any) -> Any:
    return x * math.nan if isinstance(x, torch.Tensor) else type(x)(*(_spoilt(one) for one in x))


@dataclasses.dataclass
class Survived:
    """What came of a bad number.

    Attributes:
        finite: Whether all that the run kept is finite: weights, EMA, codebook, means of the penalties.
        as_asked: Whether it stopped, skipped or rolled back as the recipe says, and told so.
        steps: Steps it came to.
    """

    finite: bool
    as_asked: bool
    steps: int


def survive(
    folder: Path, name: str, fault: str, policy: str, *, at: int, here: bool = True, fsdp: bool = False
) -> Survived:
    """Train a tiny model in which something breaks at batch number `at`.

    Args:
        folder: The run's.
        name: Of the recipe.
        fault: What breaks.
        policy: What the recipe says to do then.
        at: Number of the batch.
        here: Whether it breaks on this rank.
        fsdp: Cut weights over the ranks.
    """
    value = {"clips nan": math.nan, "clips inf": math.inf}.get(fault) if here else None
    runs: list[Run] = []

    def change(run: Run) -> None:
        runs.append(run)
        if here:
            break_part(run, fault, at)

    stopped, told = False, 0
    with at_start(change):
        try:
            result = zoo.train(
                recipe(name, policy),
                data=Broken(value, at),
                out=folder,
                progress=False,
                num_workers=0,
                device="cpu",
                fsdp=fsdp,
            )
            told = len(_facts(folder)["not_finite"])
            assert result.step == STEPS
        except NotFiniteError:
            stopped = True
    (run,) = runs
    kept = itertools.chain(run.model.state_dict().values(), run.keepers.state_dict().values())
    assert run.average is not None
    tensors = [*kept, *run.average.tensors().values()]
    if (folder / "checkpoint").exists():
        snapshot = load_checkpoint(folder / "checkpoint")
        tensors += [tensor for named in snapshot.tensors.values() for tensor in named.values()]
    finite = all(bool(torch.isfinite(own_share(x)).all()) for x in tensors if x.is_floating_point())
    # Where the model is broken the discriminators cannot learn from what it made either.
    expected = 2 if (policy, fault) == ("skip", "model") and name != "vqvae" else 1
    return Survived(finite, stopped if policy == "stop" else not stopped and told == expected, run.step)


def _facts(folder: Path) -> dict[str, Any]:
    import json

    facts: dict[str, Any] = json.loads((folder / "run.json").read_text())
    return facts


def _run(folder: Path, quick: bool) -> Outcome:
    found = []
    for at in (5,) if quick else (0, 5):
        for name, fault, policy in itertools.product(("vqvae", "vqgan", "gan"), FAULTS, POLICIES):
            if name == "vqvae" and fault == "discriminator":
                continue
            one = survive(folder / f"{name}-{fault}-{policy}-{at}", name, fault, policy, at=at)
            found.append(one)
            if not one.finite or not one.as_asked:
                print(name, fault, policy, at, one, flush=True)
    finite, asked = sum(one.finite for one in found), sum(one.as_asked for one in found)
    ways, names = ("2 ranks", "2 ranks with --fsdp"), ("gan",) if quick else ("vqvae", "vqgan", "gan")
    differ = [
        f"{case} on {way}"
        for number, way in enumerate(ways)
        for case in bad_numbers(folder / f"ranks-{number}", way=way, names=names)
    ]
    return Outcome(
        f"{len(found)} runs (VQ-VAE, VQGAN, GAN with ADA, LeCam; NaN or Inf in clips, model, discriminator "
        f"or gradient; at the first step and later): weights, EMA, codebook and running means finite in "
        f"{finite}; stopped, skipped or rolled back as asked in {asked}; the same on one of two ranks, with "
        f"and without --fsdp: {', '.join(differ) or 'all ranks finite, as asked and alike in every case'}",
        met=finite == asked == len(found) and not differ,
    )


EXPERIMENTS = [
    Experiment(
        6,
        "NaN or Inf in clips, model, discriminator or a gradient, of all ranks or of one",
        "seen before the step on all ranks; weights, EMA and codebook stay finite; stop, skip or roll back "
        "as the recipe says",
        _run,
    )
]
