"""Batches in parts: the same step as on the whole batch, and what is done when there is no memory for one."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.assemblies import TokenPrior
from zoo.errors import TrainingError
from zoo.training.loop import training_step
from zoo.training.run import Labelled, Run, start
from zoo.training.snapshot import restore, take_snapshot

SMALL = {"clip": {"num_frames": 8, "height": 32, "width": 32}}
ADA = {"use": "ada", "adjust_clips": 50, "interval": 1}
RECIPES: dict[str, dict[str, Any]] = {
    "zoo-causal-video-tiny": {**SMALL, "train": {"objective": {"perceptual": None}, "ema": None}},
    "gan-video-r3gan-tiny": {"train": {"objective": {"adversarial": {"augment": ADA}}}},
    "maskgit-video-tiny": {**SMALL, "generator": {"dropout": 0.0, "attention_dropout": 0.0}},
}
"""Parts without batch norm, without codebooks that learn in the forward pass and without dropout."""


def run_of(name: str, **train: Any) -> Run:
    changes = copy.deepcopy(RECIPES[name])
    changes["train"] = {**changes.get("train", {}), "batch_size": 4, **train}
    return start(zoo.build(name, seed=0, **changes), torch.device("cpu"))


def batches(run: Run) -> Iterator[Labelled]:
    clip, rng = run.model.recipe.clip, torch.Generator().manual_seed(5)
    if isinstance(run.model, TokenPrior):
        # Codes as they are: of clips, a rounding error of the encoder could choose another one.
        shape = (4, 1, *run.model.generator.grid_thw)
        return (Labelled(torch.randint(900, shape, generator=rng)) for _ in itertools.count())
    shape = (4, clip.channels, clip.num_frames, clip.height, clip.width)
    return (Labelled(torch.rand(shape, generator=rng) * 2 - 1) for _ in itertools.count())


def trained(run: Run, steps: int = 2) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    torch.manual_seed(0)
    data = batches(run)
    numbers = [{k: float(v) for k, v in training_step(run, data).items()} for _ in range(steps)]
    return dict(run.model.state_dict()), numbers


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("parts", [2, 4])
def test_a_step_in_parts_is_the_step_on_the_whole_batch(name: str, parts: int) -> None:
    options: dict[str, Any] = {"optimizer": {"use": "sgd", "lr": 1e-2, "betas": [0.9, 0.99]}}
    if name == "maskgit-video-tiny":
        options["objective"] = {"tokens": {"weight": 1}}
    whole, numbers = trained(run_of(name, **options))
    in_parts, again = trained(run_of(name, accumulate=parts, **options))
    for a, b in zip(numbers, again, strict=True):
        own = {key for key in a if key.startswith("quantizer/")}  # counted in a part alone
        for key in a.keys() - own:
            assert b[key] == pytest.approx(a[key], rel=1e-5, abs=1e-6), key
    for key, value in whole.items():
        assert torch.allclose(value.double(), in_parts[key].double(), rtol=1e-5, atol=1e-6), key


class Crowded:
    """Has no memory for more than so many clips at a time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.refused: list[int] = []

    def __call__(self, module: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if len(inputs[0]) > self.room:
            self.refused.append(len(inputs[0]))
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("room", [1, 2])
def test_without_memory_parts_are_made_smaller_and_the_step_is_the_same(room: int) -> None:
    options: dict[str, Any] = {"optimizer": {"use": "sgd", "lr": 1e-2, "betas": [0.9, 0.99]}}
    whole, _ = trained(run_of("zoo-causal-video-tiny", **options))
    run, crowded = run_of("zoo-causal-video-tiny", **options), Crowded(room)
    run.model.part("decoder").register_forward_pre_hook(crowded)
    in_parts, _ = trained(run)
    assert run.accumulate == 4 // room
    assert crowded.refused == [4, 2][: 3 - room]
    assert len(run.notices) == len(crowded.refused)
    assert "out of memory with 4 clips at a time; from here on 2" in run.notices[0]
    for key, value in whole.items():
        assert torch.allclose(value.double(), in_parts[key].double(), rtol=1e-5, atol=1e-6), key


def test_where_nothing_smaller_helps_it_says_what_to_set() -> None:
    run = run_of("zoo-causal-video-tiny")
    run.model.part("decoder").register_forward_pre_hook(Crowded(0))
    before = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    with pytest.raises(TrainingError, match=r"out of memory with 1 clips at a time.*train.batch_size"):
        training_step(run, batches(run))
    assert all(torch.equal(tensor, before[name]) for name, tensor in run.model.state_dict().items())


def test_parts_that_do_not_divide_and_terms_of_whole_batches_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"4 clips of a rank cannot be cut into 3 parts"):
        run_of("zoo-causal-video-tiny", accumulate=3)
    with pytest.raises(TrainingError, match=r"adaptive is not a mean over clips"):
        zoo.train("vqgan-video-tiny", data="demo", train={"accumulate": 2})


@pytest.mark.parametrize(
    ("before", "after", "parts"),
    [((1, 2), 1, 2), ((1, 2), 4, 1), ((1, 4), 4, 1), ((4, 3), 1, 12), ((2, 2), 3, 2), ((3, 1), 1, 1)],
)
def test_on_another_number_of_ranks_parts_are_whole_and_no_larger(
    monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], after: int, parts: int
) -> None:
    """Of 12 clips; `before` and `after` are numbers of ranks, the former with the parts of a rank's share."""
    run = run_of("zoo-causal-video-tiny", batch_size=12)
    snapshot = take_snapshot(run)
    snapshot.state["ranks"], snapshot.state["accumulate"] = before
    monkeypatch.setattr("zoo.training.snapshot.world_size", lambda: after)
    restore(run, snapshot)
    assert run.accumulate == parts
    clips = [place for own, _ in run.parts(12 // after) for place in range(12)[own]]
    assert clips == list(range(12 // after))


def test_no_clip_of_a_batch_is_left_over() -> None:
    run = run_of("zoo-causal-video-tiny", accumulate=2)
    with pytest.raises(TrainingError, match=r"5 clips cannot be cut into 2 parts alike.*train.accumulate"):
        run.parts(5)
