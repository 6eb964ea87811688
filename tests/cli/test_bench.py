"""`zoo bench`: what is sent and held follows from the number of weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from training.squares import VQGAN

from zoo.building import build, resolve_recipe
from zoo.cli.group import cli
from zoo.training.bench import _lazy_turn


def test_what_ranks_send_and_hold_follows_from_the_number_of_weights(tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(json.dumps({"recipes": {"tiny": VQGAN}}))
    words = [
        "bench",
        str(recipe),
        "--ranks",
        "1,2",
        "--steps",
        "1",
        "--clips",
        "2",
        "--device",
        "cpu",
        "--json",
    ]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    alone, two = json.loads(result.output)
    assert (alone["ranks"], alone["batch_size"], two["ranks"], two["batch_size"]) == (1, 2, 2, 4)
    model = build(VQGAN)
    judges = sum(p.numel() for p in model.discriminator.parameters())
    # The model's gradients once, the discriminators' at each of two turns; half of it goes out twice.
    gradients = 4 * (model.num_parameters() + 2 * judges)
    assert alone["sent_bytes"] == 0
    assert (
        gradients < two["sent_bytes"] < 1.3 * gradients + 4096
    )  # the rest: batch norm, adaptive weight, flags
    # Weights, their average and two moments of Adam; SGD of the discriminators keeps one, or none.
    assert (
        4 * 4 * model.num_parameters() < alone["held_bytes"] < 4 * (4 * model.num_parameters() + 3 * judges)
    )
    assert alone["activation_bytes"] > 0

    result = CliRunner().invoke(cli, [*words[:2], "--ranks", "2", *words[4:], "--fsdp", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    (cut,) = json.loads(result.output)
    # Weights are gathered for both passes, or stay from the first on, and gradients are scattered.
    assert gradients < cut["sent_bytes"] < 2 * gradients + 4096
    assert cut["held_bytes"] < 0.6 * two["held_bytes"]


def test_a_rank_that_dies_is_told_with_what_it_said_and_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    die = "import atexit, os\nif os.environ.get('RANK') == '1':\n    atexit.register(os.abort)\n"
    (tmp_path / "sitecustomize.py").write_text(die)
    paths = [str(tmp_path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    words = ["bench", "vqvae-video-tiny", "--ranks", "2", "--steps", "1", "--clips", "1", "--device", "cpu"]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 1
    assert "2 ranks did not come to the end" in result.output
    assert "rank 1: Fatal Python error: Aborted" in result.output


@pytest.mark.parametrize("ranks", ["0", "1,", "two", "-1"])
def test_a_list_that_is_none_is_refused(ranks: str) -> None:
    result = CliRunner().invoke(cli, ["bench", "vqvae-video-tiny", f"--ranks={ranks}"])
    assert result.exit_code == 2
    assert "1,2,4" in result.output


def test_what_a_training_refuses_is_not_measured() -> None:
    lr = "anneal=[{number: optimizer.lr, to: 1}]"
    for change, says in ((lr, "what can change"), ("batch_size=8", "--clips")):
        result = CliRunner().invoke(cli, ["bench", "gan-video-tiny", "--set", f"train.{change}"])
        assert (result.exit_code, says in result.output) == (1, True), result.output


def test_steps_are_whole_turns_of_lazy_penalties() -> None:
    assert _lazy_turn(resolve_recipe("gan-video-stylegan-v", {}).recipe) == 16
    assert _lazy_turn(resolve_recipe("vqvae-video-tiny", {}).recipe) == 1
