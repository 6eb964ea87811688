"""Row 2: a run that was cut and went on is the run that was not, bit for bit."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from chaos.experiment import Experiment, Outcome
from training.squares import GAN, VQGAN, VQVAE, Squares
from training.test_token_prior import PRIOR
from training.test_trainer import losses, run

import zoo
from zoo.training import Callback, TrainResult, session
from zoo.training.checkpoint import load_checkpoint

FAMILIES = ("vqvae", "vqgan", "gan", "prior")
_CLIPS = 13  # batches of 4: no cut is at the end of an epoch


def recipe(name: str, steps: int) -> dict[str, Any]:
    """Return a tiny recipe; the discriminators of the VQGAN start in the middle of the run."""
    found = copy.deepcopy({"vqvae": VQVAE, "vqgan": VQGAN, "gan": GAN, "prior": PRIOR}[name])
    train = found["train"]
    train |= {"steps": steps, "save_every": 1000, "log_every": 1, "ema": {"decay": 0.9}, "health": "off"}
    train["schedule"] = {"use": "cosine", "warmup_steps": 5}
    if name == "vqgan":
        train["objective"]["adversarial"] |= {"start_step": steps // 2, "lecam": {"weight": 0.1}}
    if name == "gan":
        train["objective"]["adversarial"] |= {
            "r1": {"weight": 1.0, "every": 4},
            "augment": {"use": "ada", "interval": 4, "adjust_clips": 400},
        }
    return found


def cuts_of(steps: int) -> list[int]:
    """Return where a run of so many steps is cut: five places, the second and third one step apart."""
    return [steps // 8, steps // 4 + 1, steps // 4 + 2, steps // 2 + 3, steps - 5]


class Named(Squares):
    """Clips whose label is their number, so that a step's batch tells which clips it was of."""

    def _take(self, index: int, chance: Any) -> Any:
        taken, name, _ = super()._take(index, chance)
        return taken, name, index


@contextlib.contextmanager
def watching(ids: list[list[int]]) -> Iterator[None]:
    """Note the clips of every batch that a step takes."""
    step = session.training_step

    def noting(run: Any, batches: Any) -> Any:
        def passed_on() -> Iterator[Any]:
            for batch in batches:
                ids.append(batch.label_B.tolist())
                yield batch

        return step(run, passed_on())

    session.training_step = noting
    try:
        yield
    finally:
        session.training_step = step


class CutAfter(Callback):
    """Asks the run to stop once so many steps are taken, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_log(self, step: int, numbers: Mapping[str, float]) -> None:
        import os
        import signal

        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


@dataclasses.dataclass
class Compared:
    """Which of the things that two runs kept differ; none should."""

    differing: list[str]
    steps: int


def compare(folder: Path, name: str, *, steps: int, workers: int) -> Compared:
    """Train twice, once in one go and once cut five times, and compare all that was kept.

    Args:
        folder: For the runs.
        name: One of `FAMILIES`.
        steps: Steps of the whole run.
        workers: Processes that make clips.
    """
    options: dict[str, Any] = {"data": Named(_CLIPS), "num_workers": workers}
    if name == "prior":
        options["init"] = {"tokenizer": _tokenizer(folder)}
    whole_ids: list[list[int]] = []
    cut_ids: list[list[int]] = []
    with watching(whole_ids):
        whole = run(recipe(name, steps), folder / "whole", **options)
    with watching(cut_ids):
        for number, step in enumerate([*cuts_of(steps), steps]):
            torch.manual_seed(number)  # the caller's generators are in another state each time
            part = run(
                recipe(name, steps),
                folder / "cut",
                callbacks=[CutAfter(step)],
                resume=number > 0,
                **(options if number == 0 else {k: v for k, v in options.items() if k != "init"}),
            )
            assert part.step == step
    return Compared(_differences(whole, part, whole_ids, cut_ids), part.step)


def _tokenizer(folder: Path) -> Path:
    stage = PRIOR["tokenizer"]["use"]
    model = zoo.build(stage, clip=PRIOR["clip"], seed=0)
    from zoo.weights import save

    return save(model, folder / "tokenizer")


def _differences(
    whole: TrainResult, part: TrainResult, whole_ids: list[list[int]], cut_ids: list[list[int]]
) -> list[str]:
    found = [] if whole_ids == cut_ids else ["clips of the batches"]
    for a, b in itertools.zip_longest(losses(whole), losses(part), fillvalue={}):
        names = {name for name in {*a, *b} if a.get(name) != b.get(name)}
        found += [f"step {a.get('step')}: {name}" for name in sorted(names)]
    one, other = (load_checkpoint(result.folder / "checkpoint") for result in (whole, part))
    for file, tensors in one.tensors.items():
        for name, tensor in tensors.items():
            if not torch.equal(tensor, other.tensors[file][name]):
                found.append(f"{file}: {name}")
    for name in ("step", "batches", "optimizers", "rng", "ema_updates", "window"):
        if one.state[name] != other.state[name]:
            found.append(name)
    return found


def _run(folder: Path, quick: bool) -> Outcome:
    steps, found = (40 if quick else 200), []
    for name, workers in itertools.product(FAMILIES, (0, 2)):
        compared = compare(folder / f"{name}-{workers}", name, steps=steps, workers=workers)
        found.append(compared)
        if compared.differing:
            print(f"{name}, {workers} workers: {compared.differing[:20]}", flush=True)
    equal = sum(not one.differing for one in found)
    return Outcome(
        f"{equal} of {len(found)} runs of {steps} steps, cut at 5 places, are bit-equal to the uninterrupted "
        "one in losses, rates, weights, EMA, codebook, optimizers, random generators and clips of every "
        "batch (VQ-VAE, VQGAN whose discriminators start after three of the cuts, GAN with ADA and lazy R1, "
        "MaskGIT prior; 0 and 2 workers)",
        equal == len(found),
    )


EXPERIMENTS = [
    Experiment(
        2,
        "a run of 200 steps is cut at 5 places, mid-epoch, twice in a row, and goes on",
        "bit-equal to the uninterrupted run: losses of both players, EMA, codebook, rates, clips",
        _run,
    )
]
