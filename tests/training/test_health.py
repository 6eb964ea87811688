"""The monitors of a run warn when it goes wrong, say what to change, and can stop it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from tests.training.squares import GAN, VQVAE, Squares
from zoo.errors import TrainingError
from zoo.recipes import Adversarial
from zoo.training import train
from zoo.training.health import Health


def watch(game: Adversarial | None = Adversarial(), *, stop: bool = False) -> Health:  # noqa: B008
    return Health(num_codes=512, samples=True, adversarial=game, quiet=True, stop=stop)


def test_a_discriminator_that_always_wins_is_told_after_a_while_and_forgotten_when_it_loses() -> None:
    health = watch()
    for step in range(0, 400, 10):
        health.on_log(step, {"discriminator_wins": 1.0, "grad_norm": 1.0})
        assert health.findings["discriminator saturation"].warned == (step >= 200)
    assert "adversarial.r1" in health.findings["discriminator saturation"].advice
    health.on_log(400, {"discriminator_wins": 0.7, "grad_norm": 1.0})
    finding = health.findings["discriminator saturation"]
    assert (finding.since, finding.advice, finding.warned) == (None, "", True)
    assert not health.verdict


def test_collapsed_samples_a_dead_codebook_and_wild_gradients_are_told() -> None:
    health = watch(stop=True)
    health.on_eval(10, {"lpips_diversity": 0.3, "lpips_diversity_of_real_clips": 0.4})
    assert not health.findings["mode collapse"].warned
    health.on_eval(20, {"lpips_diversity": 0.1, "lpips_diversity_of_real_clips": 0.4})
    assert health.findings["mode collapse"].warned
    assert "step 20: mode collapse: samples differ by 0.100 LPIPS" in health.verdict
    health = watch()
    for step in range(0, 600, 10):
        health.on_log(step, {"quantizer/perplexity": 3.0, "grad_norm": 1.0 if step < 590 else 500.0})
    warned = {name for name, finding in health.findings.items() if finding.warned}
    assert warned == {"codebook use", "gradient norms"}
    assert "500 times its usual" in health.findings["gradient norms"].advice


def test_advice_is_not_to_add_what_the_recipe_has() -> None:
    alike = {"lpips_diversity": 0.1, "lpips_diversity_of_real_clips": 0.4}
    advice = {}
    for name, game in {
        "bare": Adversarial(),
        "r1": Adversarial(loss="relativistic", r1={"weight": 5.0}),
        "none": None,
    }.items():
        health = watch(game)
        health.on_eval(10, alike)
        advice[name] = health.findings["mode collapse"].advice
    assert "add train.objective.adversarial.r1" in advice["bare"]
    assert "relativistic" in advice["bare"]
    assert "raise train.objective.adversarial.r1.weight" in advice["r1"]
    assert "add train.objective.adversarial.augment" in advice["r1"]
    assert "relativistic" not in advice["r1"]
    assert "temperature" in advice["none"]
    assert "adversarial" not in advice["none"]


@pytest.mark.parametrize("recipe", [VQVAE, GAN], ids=["vqvae", "gan"])
def test_every_run_has_its_lines_in_run_json_and_in_the_report(recipe: dict, tmp_path: Path) -> None:  # type: ignore[type-arg]
    train(recipe, data=Squares(8), out=tmp_path / "run", steps=3, progress=False, num_workers=0)
    lines = json.loads((tmp_path / "run" / "run.json").read_text())["health"]
    monitors = {line["monitor"] for line in lines}
    assert {"gradient norms", "finite numbers"} < monitors
    assert ("mode collapse" in monitors) == (recipe is GAN)
    assert ("codebook use" in monitors) == (recipe is VQVAE)
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(monitor in page for monitor in monitors)


def test_a_run_that_is_told_to_stop_is_saved_first(tmp_path: Path) -> None:
    recipe = copy.deepcopy(GAN)
    recipe["train"] |= {"health": "stop", "log_every": 1, "optimizer": {"lr": 1e-12}}
    recipe["train"]["discriminator_optimizer"] = {"lr": 1e-2}
    with pytest.raises(TrainingError, match=r"discriminator saturation.*Stopped and saved"):
        train(recipe, data=Squares(8), out=tmp_path / "run", steps=600, progress=False, num_workers=0)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["status"].startswith("stopped")
    assert facts["step"] > 200
    assert (tmp_path / "run" / "checkpoint").is_dir()
