"""A few kills of the many in docs/reliability.md, and which checkpoints stay."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from chaos.killed import SAVE_EVERY, kill_at_random
from training.squares import VQVAE
from training.test_checkpoint import snapshot, value_of
from training.test_trainer import losses, run

from zoo.errors import TrainingError
from zoo.training.checkpoint import load_checkpoint, older_checkpoints, save_checkpoint


@pytest.mark.parametrize("tries", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_and_nothing_is_left_over(tmp_path: Path, tries: int) -> None:
    found = kill_at_random(tmp_path, tries)
    assert (found.failed, found.torn, found.missing, found.left, found.equal) == (0, 0, 0, 0, True)
    assert found.lost <= SAVE_EVERY


def test_the_newest_checkpoints_stay_and_the_old_ones_go(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for value in range(1, 6):
        save_checkpoint(folder, snapshot(value), keep=3)
    assert [path.name for path in older_checkpoints(folder)] == ["c-00000004", "c-00000003"]
    assert [value_of(load_checkpoint(path)) for path in older_checkpoints(folder)] == [4, 3]
    assert value_of(load_checkpoint(folder)) == 5
    save_checkpoint(folder, snapshot(6))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for value in range(1, 4):
        save_checkpoint(folder, snapshot(value), keep=2)
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    # The older one is of files of its own, though a save makes it without copying.
    with pytest.warns(UserWarning, match=r"is damaged: model.safetensors .* older c-00000002"):
        assert value_of(load_checkpoint(folder)) == 2
    shutil.rmtree(tmp_path / "c-00000002")
    with pytest.raises(TrainingError, match=r"damaged.*--force"):
        load_checkpoint(folder)


def test_keep_is_an_option_of_a_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = run(VQVAE, out, keep=3, train={"save_every": 2})
    assert sorted(path.name for path in out.glob("checkpoint*")) == [
        "checkpoint",
        "checkpoint-00000002",
        "checkpoint-00000004",
    ]
    shutil.rmtree(out / "checkpoint")  # as a user does who wants to go back further
    assert losses(run(VQVAE, out, resume=True, train={"save_every": 2})) == losses(result)
    assert [path.name for path in out.glob("checkpoint*")] == ["checkpoint"]
    run(VQVAE, out, keep=2, force=True, train={"save_every": 4})
    run(VQVAE, out, force=True)
    assert [path.name for path in out.glob("checkpoint*")] == ["checkpoint"]
    with pytest.raises(TrainingError, match="keep is 0"):
        run(VQVAE, tmp_path / "other", keep=0)
