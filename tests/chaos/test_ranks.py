"""Ranks: a small part of each experiment, and what needs no second process."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from chaos.memory import on_one_rank
from chaos.rank_jobs import Rough
from chaos.ranks import (
    WITHIN,
    bad_numbers,
    bundled,
    codebooks_that_differ,
    death_of_a_rank,
    files_that_differ,
    gradients_apart,
    launch,
    quantizers,
    results,
    rows_measured,
    same_as_one,
)
from training.squares import VQVAE

from zoo.data import make_loader
from zoo.errors import TrainingError
from zoo.recipes import Optimizer, Recipe
from zoo.training.optimizers import make_optimizer
from zoo.training.shards import BY_NUMBER, refuse_fsdp


def test_two_ranks_do_what_one_process_does(tmp_path: Path) -> None:
    found = same_as_one(tmp_path, steps=4, ways=("2 ranks", "2 ranks with --fsdp"))
    assert not found.pop("ranks differ")
    assert not found.pop("repeats differ")
    assert len(found) == 4
    assert max(found.values()) <= WITHIN, found


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="names of threads are read from /proc")
@pytest.mark.parametrize("fsdp", [False, True])
def test_nothing_of_the_group_is_left_when_a_rank_ends(tmp_path: Path, fsdp: bool) -> None:
    # A thread of it that is still there makes the interpreter abort at its end, one time in a hundred.
    ended = launch("threads_at_the_end", 2, tmp_path, {"fsdp": fsdp})
    assert ended.returncode == 0, ended.stderr[-2000:]
    left = [name for names in results(tmp_path) for name in names]
    assert len(left) >= 2
    assert not [name for name in left if "gloo" in name]


@pytest.mark.slow
def test_penalties_that_walk_through_a_player_twice_are_those_of_one_process(tmp_path: Path) -> None:
    ways = ("2 ranks", "2 ranks with --fsdp", "2 ranks with --fsdp")
    found = same_as_one(tmp_path, steps=6, ways=ways, recipes=("slopes",))
    assert not found.pop("ranks differ")
    assert not found.pop("repeats differ")
    assert max(found.values()) <= WITHIN, found


def test_a_part_that_is_cut_over_ranks_has_the_gradients_of_a_whole_one(tmp_path: Path) -> None:
    families = ("vqvae:", "gan:stylegan-v", "priors:gpt")
    parts = [name for name in bundled() if any(family in name for family in families)]
    assert len(parts) == 5
    assert gradients_apart(tmp_path, parts) == {}


@pytest.mark.slow
def test_every_bundled_part_can_be_cut_over_ranks(tmp_path: Path) -> None:
    assert len(bundled()) >= 60
    assert gradients_apart(tmp_path, bundled()) == {}


def test_what_two_ranks_save_of_cut_weights_is_what_one_process_saves(tmp_path: Path) -> None:
    assert files_that_differ(tmp_path, way="2 ranks with --fsdp", steps=3) == []


@pytest.mark.slow
@pytest.mark.parametrize(("way", "other"), [("alone", "2 ranks with --fsdp"), ("2 ranks", "alone")])
def test_what_is_saved_does_not_tell_on_how_many_ranks(tmp_path: Path, way: str, other: str) -> None:
    assert files_that_differ(tmp_path, way=way, steps=3, other=other) == []


def test_a_bad_number_on_one_rank_is_one_on_all(tmp_path: Path) -> None:
    assert bad_numbers(tmp_path, way="2 ranks with --fsdp", names=("gan",)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("way", ["2 ranks", "2 ranks with --fsdp"])
def test_a_bad_number_on_one_rank_is_one_on_all_in_every_family(tmp_path: Path, way: str) -> None:
    assert bad_numbers(tmp_path, way=way, names=("vqvae", "vqgan", "gan")) == {}


def test_cutting_weights_over_one_rank_is_refused() -> None:
    with pytest.raises(TrainingError, match="start with torchrun"):
        refuse_fsdp(Recipe.model_validate(VQVAE))


@pytest.mark.parametrize("name", BY_NUMBER)
def test_an_optimizer_of_single_numbers_does_to_halves_what_it_does_to_the_whole(name: str) -> None:
    config = Optimizer(use=name, lr=1e-2)
    torch.manual_seed(0)
    whole = torch.nn.Parameter(torch.randn(6, 3))
    halves = [torch.nn.Parameter(half.clone()) for half in whole.detach().chunk(2)]
    one, two = make_optimizer(config, [whole]), make_optimizer(config, halves)
    for _ in range(5):
        gradient = torch.randn(6, 3)
        whole.grad = gradient
        for half, part in zip(halves, gradient.chunk(2), strict=True):
            half.grad = part.clone()
        one.step()
        two.step()
    assert torch.equal(torch.cat(list(halves)), whole)


def test_an_optimizer_that_looks_at_whole_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.training.shards.distributed", lambda: True)
    recipe = {**VQVAE, "train": {**VQVAE["train"], "optimizer": {"use": "lamb"}}}
    with pytest.raises(TrainingError, match="'lamb' may need all of it: choose one of adadelta"):
        refuse_fsdp(Recipe.model_validate(recipe))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("compile", True),
        ("memory_format", "channels_last_3d"),
        ("objective", {"adversarial": {"loss": "hinge", "contrastive": {}}}),
    ],
)
def test_what_needs_whole_weights_is_refused(monkeypatch: pytest.MonkeyPatch, field: str, value: Any) -> None:
    monkeypatch.setattr("zoo.training.shards.distributed", lambda: True)
    recipe = {**VQVAE, "train": {**VQVAE["train"], field: value}}
    with pytest.raises(TrainingError, match=rf"train\.{field}\S* needs them whole"):
        refuse_fsdp(Recipe.model_validate(recipe))


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [False, True])
def test_ranks_with_activation_checkpointing_and_bf16_do_what_they_do_without(
    tmp_path: Path, fsdp: bool
) -> None:
    for name, change in (
        ("off", {}),
        ("twice", {"activation_checkpointing": True}),
        ("bf16", {"precision": "bf16"}),
        ("both", {"precision": "bf16", "activation_checkpointing": True}),
    ):
        options = {"recipes": ["gan", "vqgan"], "steps": 3, "change": change, "fsdp": fsdp}
        ended = launch("train", 2, tmp_path / name, options)
        assert ended.returncode == 0, ended.stderr[-2000:]
    assert results(tmp_path / "off") == results(tmp_path / "twice")
    assert results(tmp_path / "bf16") == results(tmp_path / "both") != results(tmp_path / "off")


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_shares_of_the_ranks_are_the_batch(world: int, workers: int) -> None:
    data, batch_size = Rough(7), 6
    options = {"batch_size": batch_size, "num_workers": workers, "seed": 3, "start_step": 5}
    whole = list(itertools.islice(iter(make_loader(data, **options)), 4))  # type: ignore[arg-type]
    size = batch_size // world
    shares = [
        itertools.islice(iter(make_loader(data, part=slice(r * size, (r + 1) * size), **options)), 4)  # type: ignore[arg-type]
        for r in range(world)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(batch["index_B"], torch.cat([part["index_B"] for part in parts]))
        assert torch.equal(batch["x_BCTHW"], torch.cat([part["x_BCTHW"] for part in parts]))


@pytest.mark.slow
def test_every_quantizer_is_the_same_on_all_ranks_for_200_steps(tmp_path: Path) -> None:
    assert len(quantizers()) >= 15
    assert codebooks_that_differ(tmp_path, world=4, steps=200) == []


@pytest.mark.slow
def test_every_row_is_measured_once_on_any_number_of_ranks(tmp_path: Path) -> None:
    for world in (2, 3):
        assert rows_measured(tmp_path / str(world), world=world, most=6) == {n: n for n in range(1, 7)}


def test_without_memory_on_one_rank_all_take_smaller_parts_unless_they_wait_for_it(tmp_path: Path) -> None:
    assert on_one_rank(tmp_path) == []


def test_a_signal_to_any_rank_ends_what_the_first_one_measures(tmp_path: Path) -> None:
    ended = launch("asked", 2, tmp_path, {"slow_s": 1.0})  # 40 s, were it not for the signal
    assert ended.returncode == 0, ended.stderr[-2000:]
    for one in results(tmp_path):
        assert one["interrupted"]
        assert one["seconds"] < 20


def test_a_rank_that_is_gone_outside_of_a_step_is_told_of(tmp_path: Path) -> None:
    assert launch("dies_beside", 2, tmp_path, {}, timeout_s=120).returncode
    (said,) = results(tmp_path)
    assert said.startswith("rank 0 lost the others")
    assert "--auto-resume" in said


@pytest.mark.slow
def test_a_killed_rank_takes_the_other_down_and_both_go_on(tmp_path: Path) -> None:
    down = death_of_a_rank(tmp_path / "down", restarts=0)
    assert down["exit"] != 0
    assert down["seconds"] < 15
    assert "lost the others" in down["said"]
    up = death_of_a_rank(tmp_path / "up", restarts=1)
    assert up["exit"] == 0, up["said"]
    assert [one["step"] for one in up["ranks"]] == [30, 30]
