"""Ranks: a small part of each experiment, and what needs no second process."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from chaos.rank_jobs import Rough
from chaos.ranks import (
    WITHIN,
    codebooks_that_differ,
    death_of_a_rank,
    launch,
    quantizers,
    results,
    rows_measured,
    same_as_one,
)

from zoo.data import make_loader


def test_two_ranks_do_what_one_process_does(tmp_path: Path) -> None:
    found = same_as_one(tmp_path, steps=4, worlds=(2,), repeat=False)
    assert not found["ranks differ"]
    assert found["gan on 2 ranks"] <= WITHIN
    assert found["vqgan on 2 ranks"] <= WITHIN


@pytest.mark.slow
def test_ranks_with_activation_checkpointing_and_bf16_do_what_they_do_without(tmp_path: Path) -> None:
    for name, change in (
        ("off", {}),
        ("twice", {"activation_checkpointing": True}),
        ("bf16", {"precision": "bf16"}),
        ("both", {"precision": "bf16", "activation_checkpointing": True}),
    ):
        options = {"recipes": ["gan", "vqgan"], "steps": 3, "change": change}
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


@pytest.mark.slow
def test_a_killed_rank_takes_the_other_down_and_both_go_on(tmp_path: Path) -> None:
    down = death_of_a_rank(tmp_path / "down", restarts=0)
    assert down["exit"] != 0
    assert down["seconds"] < 15
    assert "lost the others" in down["said"]
    up = death_of_a_rank(tmp_path / "up", restarts=1)
    assert up["exit"] == 0, up["said"]
    assert [one["step"] for one in up["ranks"]] == [30, 30]
