"""Numbers that change in the course of a run: their values, what they move, and what is refused."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from training.squares import GAN, squares
from training.test_trainer import StopAfter

import zoo
from zoo.building import resolve_recipe
from zoo.errors import TrainingError
from zoo.recipes import Recipe, Train
from zoo.training.anneal import annealed, check_anneal
from zoo.training.checkpoint import load_checkpoint
from zoo.training.run import start

R1 = "objective.adversarial.r1.weight"


def recipe(*anneal: dict[str, Any], **train: Any) -> dict[str, Any]:
    made = copy.deepcopy(GAN)
    made["train"] |= {"anneal": list(anneal), "optimizer": {"use": "adam", "betas": [0.5, 0.9]}, **train}
    made["train"]["objective"]["adversarial"] |= {"r1": {"weight": 2.0}}
    return made


def test_values_are_those_of_a_cosine_or_a_line_and_then_stay() -> None:
    train = Train.model_validate(
        {
            "steps": 8,
            "objective": {"reconstruction": {"weight": 3.0}},
            "anneal": [
                {"number": "objective.reconstruction.weight", "to": 1.0},
                {"number": "optimizer.betas.1", "to": 0.799, "use": "linear", "steps": 4},
            ],
        }
    )
    for step in range(12):
        now = annealed(train, step)
        assert now.objective.reconstruction is not None
        wanted = 2 + math.cos(math.pi * min(step / 8, 1))
        assert now.objective.reconstruction.weight == pytest.approx(wanted)
        assert now.optimizer.betas == [0.9, pytest.approx(0.999 - 0.2 * min(step / 4, 1))]
    assert train.optimizer.betas == [0.9, 0.999]


def test_the_published_schedules_of_r3gan_are_those_of_its_recipe() -> None:
    train = resolve_recipe("gan-video-r3gan").recipe.train
    check_anneal("gan-video-r3gan", train)
    assert train.steps * train.batch_size * 16 == 20_000_000
    for share, gamma, beta, images in ((0.0, 2, 0.9, 16), (0.5, 1.1, 0.945, 250_008), (1.0, 0.2, 0.99, 5e5)):
        now = annealed(train, round(share * train.steps))
        adversarial, ema = now.objective.adversarial, now.ema
        assert adversarial is not None
        assert ema is not None
        assert adversarial.r1 is not None
        assert adversarial.r1 == adversarial.r2
        assert adversarial.r1.weight == pytest.approx(gamma, rel=1e-3)
        assert now.optimizer.betas[1] == pytest.approx(beta, rel=1e-3)
        assert ema.half_life_clips is not None
        assert ema.half_life_clips * 16 == pytest.approx(images, rel=1e-3)


def test_each_step_takes_its_numbers_and_a_resumed_run_goes_on_with_them(tmp_path: Path) -> None:
    changes = (
        {"number": R1, "to": 0.0001},
        {"number": "optimizer.betas.1", "to": 0.99, "use": "linear"},
        {"number": "ema.decay", "to": 0.1},
    )
    options: dict[str, Any] = {"data": squares(), "num_workers": 0, "progress": False, "device": "cpu"}
    whole = zoo.train(recipe(*changes), out=tmp_path / "whole", **options)
    weighed = [line["r1"] for line in whole.history if line["kind"] == "train"]
    assert weighed[-1] < 0.2 * weighed[0]
    zoo.train(recipe(*changes), out=tmp_path / "cut", callbacks=[StopAfter(3)], **options)
    zoo.train(recipe(*changes), out=tmp_path / "cut", resume=True, **options)
    a, b = (load_checkpoint(tmp_path / name / "checkpoint") for name in ("whole", "cut"))
    assert all(torch.equal(x, b.tensors["model"][name]) for name, x in a.tensors["model"].items())
    assert all(torch.equal(x, b.tensors["ema"][name]) for name, x in a.tensors["ema"].items())
    run = start(zoo.build(recipe(*changes), seed=0), torch.device("cpu"))
    run.step = 3
    run.set_numbers()
    assert run.opponent is not None
    assert run.average is not None
    for player in (run.player, run.opponent):
        assert player.optimizer.param_groups[0]["betas"] == (0.5, pytest.approx(0.945))
    assert run.average.config.decay == pytest.approx((0.9 + 0.1) / 2)


@pytest.mark.parametrize(
    ("number", "to", "message"),
    [
        ("optimizer.lr", 1.0, "what can change in the course of a run are weights"),
        ("objective.adversarial.r3.weight", 1.0, "train has no objective.adversarial.r3.weight"),
        ("objective.adversarial.r2.weight", 1.0, "r2.weight is not set, so there is nothing to start from"),
        (R1, -1.0, "it cannot be -1: Input should be greater than 0"),
        ("optimizer.betas.1", 1.0, "it cannot be 1: Input should be less than 1"),
    ],
)
def test_what_cannot_change_is_refused(number: str, to: float, message: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match=message):
        zoo.train(recipe({"number": number, "to": to}), data=squares(), out=out, progress=False)
    assert not out.exists()


def test_a_number_with_two_ways_to_go_is_refused() -> None:
    with pytest.raises(TrainingError, match="another entry for it"):
        check_anneal("x", Recipe.model_validate(recipe(*2 * [{"number": R1, "to": 1.0}])).train)
    asked = recipe({"number": "ema.decay", "to": 0.1})
    asked["train"]["ema"] = {"half_life_clips": 100}
    with pytest.raises(TrainingError, match="half_life_clips is set and takes its place"):
        check_anneal("x", Recipe.model_validate(asked).train)
