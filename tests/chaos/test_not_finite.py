"""Some of the bad numbers of docs/reliability.md, and what exactly skip and roll-back do."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from chaos.not_finite import FAULTS, POLICIES, Broken, recipe, survive
from training.squares import Squares
from training.test_trainer import StopAfter, losses, run

from zoo.training.checkpoint import load_checkpoint
from zoo.training.finite import IN_A_ROW, NotFiniteError


@pytest.mark.parametrize(
    ("name", "fault", "policy"),
    [
        ("vqvae", "clips nan", "skip"),
        ("vqvae", "model", "roll-back"),
        ("vqgan", "discriminator", "skip"),
        ("gan", "gradient", "roll-back"),
        ("gan", "discriminator", "stop"),
    ],
)
def test_a_bad_number_goes_nowhere(tmp_path: Path, name: str, fault: str, policy: str) -> None:
    found = survive(tmp_path / "run", name, fault, policy, at=3)
    assert found.finite
    assert found.as_asked


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", ["vqgan", "gan"])
def test_every_bad_number_goes_nowhere(tmp_path: Path, name: str, fault: str, policy: str) -> None:
    for at in (0, 5):
        found = survive(tmp_path / f"run-{at}", name, fault, policy, at=at)
        assert found.finite
        assert found.as_asked


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    found = load_checkpoint(folder / "checkpoint").tensors
    return {f"{file}/{name}": tensor for file, named in found.items() for name, tensor in named.items()}


def test_a_skipped_step_leaves_everything_as_it_was_and_the_run_resumes_exactly(tmp_path: Path) -> None:
    data = Broken(math.nan, 3)
    vqvae = recipe("vqvae", "skip")
    whole = run(vqvae, tmp_path / "whole", data=data)
    before, after = (run(vqvae, tmp_path / f"{n}", data=data, steps=n).folder for n in (3, 4))
    assert load_checkpoint(after / "checkpoint").state["batches"] == 4
    a, b = tensors(before), tensors(after)
    assert all(torch.equal(tensor, b[name]) for name, tensor in a.items())
    cut = tmp_path / "cut"
    run(vqvae, cut, data=data, callbacks=[StopAfter(5)])
    assert losses(run(vqvae, cut, data=data, resume=True)) == losses(whole)
    facts: dict[str, Any] = json.loads((cut / "run.json").read_text())
    assert facts["not_finite"] == [
        "step 4: the clips hold numbers that are not finite; this update is skipped"
    ]


def test_a_rolled_back_run_goes_on_with_the_next_clips(tmp_path: Path) -> None:
    vqvae = recipe("vqvae", "roll-back") | {"summary": "Another."}
    result = run(vqvae, tmp_path / "run", data=Broken(math.inf, 3))
    assert result.step == 8
    # Batch 3 is bad, the checkpoint of step 2 comes before it: batches 2 and 3 are gone.
    assert load_checkpoint(tmp_path / "run" / "checkpoint").state["batches"] == 8 + 2
    assert [line["step"] for line in result.history if line["kind"] == "train"] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize("policy", ["skip", "roll-back"])
def test_it_stops_where_skipping_leads_nowhere(tmp_path: Path, policy: str) -> None:
    class Bad(Squares):
        def __getitem__(self, key: Any) -> Any:
            item = super().__getitem__(key)
            item["x_CTHW"][:] = math.nan
            return item

    vqvae = recipe("vqvae", policy)
    with pytest.raises(
        NotFiniteError, match=f"{IN_A_ROW} updates in a row" if policy == "skip" else "step 1"
    ):
        run(vqvae, tmp_path / "run", data=Bad(4), steps=100)
