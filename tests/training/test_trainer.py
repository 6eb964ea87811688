"""Whole runs: what is in the folder, going on, interrupts, and what is refused."""

from __future__ import annotations

import copy
import gc
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import get_worker_info
from training.squares import GAN, VQGAN, VQVAE, Squares, squares

import zoo
from zoo.data import write_video
from zoo.errors import DataError, OutputExistsError, TrainingError
from zoo.files import sha256
from zoo.metrics import evaluate
from zoo.training import Callback, TrainResult
from zoo.training.checkpoint import Snapshot, load_checkpoint, save_checkpoint
from zoo.training.records import begin_run, is_run, refuse_existing_run, write_facts
from zoo.training.trainer import _where_it_stands

TIMES = {"steps_per_s", "data_wait_share", "seconds"}


def run(recipe: dict[str, Any], out: Path, **options: Any) -> TrainResult:
    options = {"data": squares(), "progress": False, "num_workers": 0, "device": "cpu", **options}
    return zoo.train(recipe, out=out, **options)


def facts_of(result: TrainResult) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((result.folder / "run.json").read_text())
    return facts


def losses(result: TrainResult) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name not in TIMES}
        for line in result.history
        if line["kind"] == "train"
    ]


class StopAfter(Callback):
    """Presses Ctrl-C when a step was logged."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step = step
        self.number = number

    def on_log(self, step: int, numbers: Mapping[str, float]) -> None:
        if step == self.step:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("recipe", [VQVAE, VQGAN, GAN], ids=["vqvae", "vqgan", "gan"])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(
    recipe: dict[str, Any], tmp_path: Path
) -> None:
    whole = run(recipe, tmp_path / "whole")
    for stop_at in (1, 3):
        out = tmp_path / f"cut at {stop_at}"
        torch.rand(3), random.random(), np.random.rand()  # another state of the caller's generators
        first = run(recipe, out, callbacks=[StopAfter(stop_at)])
        assert first.interrupted
        assert first.step == stop_at
        second = run(recipe, out, resume=True)
        assert not second.interrupted
        assert losses(second) == losses(whole)
        assert [line["step"] for line in losses(second)] == [1, 2, 3, 4, 5, 6]
        a, b = (load_checkpoint(folder / "checkpoint").tensors for folder in (tmp_path / "whole", out))
        for name in ("model", "ema", "optimizers", "rng"):
            assert a.get(name, {}).keys() == b.get(name, {}).keys()
            assert all(torch.equal(tensor, b[name][key]) for key, tensor in a.get(name, {}).items())
        assert second.figures == whole.figures


def test_the_folder_of_a_run(tmp_path: Path) -> None:
    recipe = copy.deepcopy(VQVAE)
    recipe["train"] |= {"eval_every": 3, "log_every": 2, "ema": {"decay": 0.5}}
    out = tmp_path / "run"
    result = run(recipe, out, callbacks=["tensorboard"])
    facts = json.loads((out / "run.json").read_text())
    assert facts["status"] == "finished"
    assert facts["step"] == facts["steps"] == 6
    assert facts["data"]["clips"] == 12
    assert facts["data"]["heldout_clips"] == 5
    assert 0 <= facts["data_wait_share"] <= 1
    assert facts["evaluation"]["values"] == result.figures
    assert facts["evaluation"]["protocol"]["num_clips"] == 5
    assert facts["evaluation"]["codebook"]["num_tokens"] == 5 * 2 * 4 * 4
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines == result.history
    assert [(line["step"], line["kind"]) for line in lines] == [
        (2, "train"),
        (3, "eval"),
        (4, "train"),
        (6, "train"),
        (6, "eval"),
    ]
    names = {str(path.relative_to(out)) for path in out.rglob("*.mp4")}
    assert names == {
        f"samples/{place}/{index}.mp4"
        for place in ("original", "step-00000003", "step-00000006")
        for index in range(4)
    }
    assert (out / "report.html").is_file()
    assert list((out / "tensorboard").iterdir())
    loaded = zoo.load(out)
    x = torch.stack([Squares(5, random=False)[index]["x_CTHW"] for index in range(5)])
    with torch.no_grad():
        assert torch.equal(loaded.reconstruct(x), result.model.reconstruct(x))
    assert not result.model.training


def test_the_callers_generators_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    expected = (torch.rand(1), random.random(), np.random.rand())
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    run(VQVAE, tmp_path / "run", steps=1)
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


def test_nan_stops_the_run_and_the_last_checkpoint_is_whole(tmp_path: Path) -> None:
    class Poisoned(Squares):
        def __getitem__(self, key: Any) -> Any:
            item = super().__getitem__(key)
            if isinstance(key, tuple) and key[0] == 1:  # the second epoch: from step 4 on
                item["x_CTHW"] = torch.full_like(item["x_CTHW"], torch.nan)
            return item

    recipe = copy.deepcopy(VQVAE)
    recipe["train"]["save_every"] = 2
    out = tmp_path / "run"
    with pytest.raises(TrainingError, match="step 4: the clips hold numbers that are not finite"):
        run(recipe, out, data={"train": Poisoned(12), "test": Squares(5, random=False)})
    assert json.loads((out / "run.json").read_text())["status"].startswith("stopped: NotFiniteError: step 4")
    assert load_checkpoint(out / "checkpoint").state["step"] == 2
    assert zoo.load(out).name == "custom"
    whole = run(recipe, tmp_path / "whole")
    assert losses(run(recipe, out, resume=True)) == losses(whole)


def test_sigterm_saves_as_well(tmp_path: Path) -> None:
    result = run(VQVAE, tmp_path / "run", callbacks=[StopAfter(2, signal.SIGTERM)])
    assert (result.interrupted, result.step) == (True, 2)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    assert zoo.load(tmp_path / "run").name == "custom"


SCRIPT = """
import sys
from training.squares import VQVAE, squares
import zoo
result = zoo.train(VQVAE, data=squares(), out=sys.argv[1], steps=1_000_000, num_workers=2, device="cpu")
sys.exit(0 if result.interrupted else 3)
"""


def test_ctrl_c_on_a_run_with_workers_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(out)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    try:
        deadline = time.monotonic() + 60
        while not (out / "metrics.jsonl").is_file() or not (out / "metrics.jsonl").stat().st_size:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers, too
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "Traceback" not in said
    step = load_checkpoint(out / "checkpoint").state["step"]
    assert f"interrupted by SIGINT at step {step}; all is saved. Go on with:" in said
    assert run(VQVAE, out, resume=True, steps=step + 1).step == step + 1


def test_another_recipe_is_refused_by_the_fields_that_differ(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(VQVAE, out, steps=2)
    before = (out / "checkpoint" / "state.json").read_bytes()
    with pytest.raises(TrainingError) as caught:
        run(VQVAE, out, resume=True, quantizer={"codebook_size": 32}, train={"batch_size": 2})
    message = str(caught.value)
    assert "quantizer.codebook_size is 16 there and 32 here" in message
    assert "train.batch_size is 4 there and 2 here" in message
    assert "steps" not in message
    assert (out / "checkpoint" / "state.json").read_bytes() == before
    assert run(VQVAE, out, resume=True, steps=3, train={"save_every": 1}).step == 3


def test_a_bent_checkpoint_costs_no_line_of_the_journal_and_adds_no_command(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(VQVAE, out, steps=2)
    state, metrics = out / "checkpoint" / "state.json", out / "metrics.jsonl"
    whole, lines = json.loads(state.read_text()), metrics.read_bytes()
    for change in ({"optimizers": {}}, {"rng": {}}, {"window": [1]}, {"recipe": 7}):
        state.write_text(json.dumps({**whole, **change}))
        with pytest.raises(TrainingError, match="the checkpoint is damaged"):
            run(VQVAE, out, resume=True)
        assert metrics.read_bytes() == lines
    state.write_text(json.dumps({**whole, "facts": {**whole["facts"], "resume_command": "rm -rf ~"}}))
    assert "rm" not in run(VQVAE, out, resume=True, steps=3).resume_command.split()


@pytest.mark.parametrize("file", ["model", "ema", "optimizers", "rng"])
def test_tensors_of_another_shape_with_the_right_hash_are_refused(tmp_path: Path, file: str) -> None:
    out = tmp_path / "run"
    run(VQVAE, out, steps=2, train={"ema": {"decay": 0.9}})
    path, state = out / "checkpoint" / f"{file}.safetensors", out / "checkpoint" / "state.json"
    tensors = {name: torch.cat([x, x]) if x.ndim else x for name, x in load_file(path).items()}
    save_file(tensors, path)
    facts = json.loads(state.read_text())
    facts["files"][path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    state.write_text(json.dumps(facts))
    lines = (out / "metrics.jsonl").read_bytes()
    with pytest.raises(TrainingError, match="the checkpoint is damaged"):
        run(VQVAE, out, resume=True, steps=3, train={"ema": {"decay": 0.9}})
    assert (out / "metrics.jsonl").read_bytes() == lines


def test_no_memory_for_the_optimizer_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr("zoo.training.player.Player.update", full)
    with pytest.raises(TrainingError, match=r"step 1: out of memory.*set a smaller train.batch_size"):
        run(VQVAE, tmp_path / "run", steps=2)


def test_what_is_there_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(VQVAE, out, steps=1)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"--resume.*--force.*--out"):
        run(VQVAE, out)
    assert len(run(VQVAE, out, steps=1, force=True).history) == 2
    assert (out / "notes.txt").read_text() == "mine"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("mine")
    with pytest.raises(OutputExistsError, match="not the folder of a run"):
        run(VQVAE, other, force=True)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]
    with pytest.raises(TrainingError, match="no checkpoint"):
        run(VQVAE, other, resume=True)


@pytest.mark.parametrize("left", ["metrics.jsonl", ".run.tmp-0123.json", "tokenizer/.run.tmp-0123.json"])
def test_a_run_that_was_killed_while_it_began_is_replaced(tmp_path: Path, left: str) -> None:
    out = tmp_path / "run"
    (out / left).parent.mkdir(parents=True)
    (out / left).write_text("")
    refuse_existing_run(out, force=True)
    assert _where_it_stands(out) == (False, True)
    (out / "thesis.tex").write_text("mine")
    assert _where_it_stands(out) == (False, False)
    with pytest.raises(OutputExistsError, match="not the folder of a run"):
        refuse_existing_run(out, force=True)


def test_a_folder_is_that_of_a_run_whenever_the_next_one_is_killed_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    write_facts(folder, {"status": "finished"})
    theirs = [folder / "checkpoint-good1", folder / "notes.txt"]
    for path in theirs:
        path.write_text("mine")
    ours = ["checkpoint", "checkpoint-00000002", ".checkpoint.old-1/old", "model", "samples"]
    for name in ours:
        save_checkpoint(folder / name, Snapshot({}, {"step": 2}))
    steps: list[bool] = []
    real = shutil.rmtree

    def removing(path: Any, **options: Any) -> None:
        steps.append(is_run(folder))
        real(path, **options)

    monkeypatch.setattr("shutil.rmtree", removing)
    begin_run(folder, {"status": "running"})
    assert steps
    assert all(steps)
    assert sorted(folder.iterdir()) == sorted([*theirs, folder / "run.json"])


def test_mistakes_leave_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "run"
    for options, error, hint in (
        ({"callbacks": ["tensorbord"]}, TrainingError, "tensorboard"),
        ({"device": "cuda:99"}, TrainingError, "There is cpu"),
        ({"data": str(tmp_path / "nowhere")}, DataError, "nowhere"),
        ({"train": {"objective": {"reconstruction": None}}}, TrainingError, "no objective"),
        ({"resume": True, "force": True}, TrainingError, "one of them"),
    ):
        with pytest.raises(error, match=hint):
            run(VQVAE, out, **options)  # type: ignore[arg-type]
    assert not out.exists()


def test_a_run_without_held_out_clips_says_so_and_measures_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(VQVAE, tmp_path / "run", data=Squares(12), steps=1, progress=True)
    assert result.figures == {}
    assert "nothing is held out" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["evaluation"] is None


def test_of_a_lone_video_nothing_is_held_out(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", torch.rand(3, 8, 16, 16) * 2 - 1, 8)
    result = run(VQVAE, tmp_path / "run", data=str(path), steps=1)
    facts = facts_of(result)
    assert (result.figures, facts["evaluation"], facts["data"]["heldout_clips"]) == ({}, None, None)
    assert "nothing can be held out" in facts["data"]["heldout"]


class Damaged(Squares):
    """No clip can be read."""

    def _take(self, index: int, chance: Any) -> Any:
        raise DataError(f"square {index}: no video")


def test_held_out_clips_that_cannot_be_read_do_not_take_the_model_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"train": Squares(12), "test": Damaged(5, random=False)}
    recipe = copy.deepcopy(VQVAE)
    recipe["train"] |= {"eval_every": 2}
    result = run(recipe, tmp_path / "run", data=data, steps=3, progress=True)
    facts = facts_of(result)
    assert (facts["status"], result.step, result.figures) == ("finished", 3, {})
    assert facts["evaluation_error"].startswith("at step 3: ")
    assert "the model could not be measured: " in capsys.readouterr().err
    assert "no video" in (tmp_path / "run" / "report.html").read_text()
    assert ["square 0", "square 0: no video"] in facts["skipped"]
    again = facts_of(run(recipe, tmp_path / "run", steps=4, resume=True))
    assert again["evaluation_error"] is None
    assert again["evaluation"]["protocol"]["num_clips"] == 5
    assert ["square 0", "square 0: no video"] in again["skipped"]


class Deadly(Squares):
    """Whoever reads clip 1 dies of it."""

    def _take(self, index: int, chance: Any) -> Any:
        if get_worker_info() is None:
            raise AssertionError("held-out clips are read in the run's own process")
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._take(index, chance)


def test_a_held_out_clip_that_kills_its_reader_is_left_out(tmp_path: Path) -> None:
    data = {"train": Squares(12), "test": Deadly(5, random=False)}
    facts = facts_of(run(VQVAE, tmp_path / "run", data=data, steps=1, num_workers=1))
    assert facts["evaluation_error"] is None
    assert facts["evaluation"]["protocol"]["num_clips"] == 4
    assert "the process that read it died" in dict(facts["skipped"])["square 1"]
    samples = tmp_path / "run" / "samples" / "step-00000001"
    assert [path.name for path in sorted(samples.iterdir())] == ["0.mp4", "1.mp4", "2.mp4"]


@pytest.mark.parametrize("room", [1, 0])
def test_a_model_is_measured_in_parts_of_a_step_and_smaller_ones_without_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    tried: list[int] = []

    def crowded(*args: Any, batch_size: int, **options: Any) -> dict[str, Any]:
        tried.append(batch_size)
        if batch_size > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return evaluate(*args, batch_size=batch_size, **options)

    monkeypatch.setattr("zoo.training.session.evaluate", crowded)
    facts = facts_of(run(VQVAE, tmp_path / "run", steps=1, train={"accumulate": 2}))
    assert tried == [2, 1]
    assert facts["status"] == "finished"
    if room:
        assert facts["evaluation"]["protocol"]["num_clips"] == 5
    else:
        assert facts["evaluation_error"] == "at step 1: OutOfMemoryError: CUDA out of memory"


def test_the_first_rank_says_whether_there_is_something_to_roll_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []

    class Notes(Callback):
        def on_save(self, step: int, folder: Path) -> None:
            saved.append(step)

    # This rank sees still what the first one, which says no, has cleared.
    monkeypatch.setattr("zoo.training.session.has_checkpoint", lambda folder: True)
    monkeypatch.setattr("zoo.training.session.gathered", lambda value: [False if value is True else value])
    run(VQVAE, tmp_path / "run", steps=1, callbacks=[Notes()], train={"not_finite": "roll-back"})
    assert saved == [0, 1]


def test_facts_and_samples_of_a_run_that_goes_on_on_other_clips(tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = copy.deepcopy(VQVAE)
    recipe["train"] |= {"eval_every": 1, "log_every": 100}
    first = facts_of(run(recipe, out, callbacks=[StopAtSave(3)], train={"save_every": 3}))
    assert first["waited_seconds"] > 0  # though no line was logged since the run began
    assert first["steps_per_s"] == pytest.approx(3 / first["seconds"])
    original = (out / "samples" / "original" / "0.mp4").read_bytes()
    kept = load_checkpoint(out / "checkpoint").state["facts"]
    assert kept["evaluation"]["step"] == 2
    other = {"train": Squares(12), "test": Squares(7, random=False, first=100)}
    facts = facts_of(run(recipe, out, resume=True, data=other))
    assert facts["resumed_at"] == [3]
    assert (out / "samples" / "original" / "0.mp4").read_bytes() != original


class StopAtSave(Callback):
    """Presses Ctrl-C when the checkpoint of a step is written."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_save(self, step: int, folder: Path) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_the_checkpoint_that_a_run_goes_on_from_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(VQVAE, tmp_path / "run", steps=1)
    read: list[weakref.ref[Any]] = []

    def load(folder: Path) -> Any:
        snapshot = load_checkpoint(folder)
        read.append(weakref.ref(snapshot))
        return snapshot

    class Look(Callback):
        def on_log(self, step: int, numbers: Mapping[str, float]) -> None:
            gc.collect()
            assert read[0]() is None

    monkeypatch.setattr("zoo.training.trainer.load_checkpoint", load)
    run(VQVAE, tmp_path / "run", steps=2, resume=True, callbacks=[Look()])
    assert len(read) == 1


class PressAgain(Callback):
    """Presses Ctrl-C twice within a step, and notes that it was closed."""

    closed = 0

    def on_log(self, step: int, numbers: Mapping[str, float]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    def close(self) -> None:
        self.closed += 1


def test_callbacks_are_closed_and_the_report_is_written_however_a_run_ends(tmp_path: Path) -> None:
    twice = PressAgain()
    with pytest.raises(KeyboardInterrupt):
        run(VQVAE, tmp_path / "run", callbacks=["tensorboard", twice])
    assert twice.closed == 1
    assert "stopped: KeyboardInterrupt" in (tmp_path / "run" / "report.html").read_text()


def test_a_full_disk_does_not_hide_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fails(Callback):
        def on_log(self, step: int, numbers: Mapping[str, float]) -> None:
            monkeypatch.setattr("zoo.training.session.write_facts", full)
            raise RuntimeError("what it was")

    def full(folder: Path, facts: Mapping[str, Any]) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(RuntimeError, match="what it was"):
        run(VQVAE, tmp_path / "run", callbacks=[Fails()])


def test_a_full_disk_before_the_first_checkpoint_claims_none(tmp_path: Path) -> None:
    class Full(Callback):
        step = 0

        def on_log(self, step: int, numbers: Mapping[str, float]) -> None:
            if step == self.step:
                raise OSError(28, "No space left on device", "events")

    full = Full()
    for full.step, said in ((1, "nothing was saved yet.*--force"), (3, "its last checkpoint is whole")):
        with pytest.raises(TrainingError, match=f"(?s)events cannot be written.*step {full.step}; {said}"):
            run(VQVAE, tmp_path / str(full.step), callbacks=[full], train={"save_every": 2})


def test_ctrl_c_while_measuring_ends_it_and_the_run_is_measured_when_it_goes_on(tmp_path: Path) -> None:
    class Pressing(Squares):
        def __getitem__(self, key: Any) -> Any:
            if isinstance(key, int) and key == 17:  # read by the evaluation only, not for a sample
                os.kill(os.getpid(), signal.SIGINT)
            return super().__getitem__(key)

    data = {"train": Squares(12), "test": Pressing(40, random=False)}
    result = run(VQVAE, tmp_path / "run", data=data)
    facts = facts_of(result)
    assert (result.interrupted, facts["status"], facts["evaluation"]) == (True, "interrupted", None)
    again = facts_of(run(VQVAE, tmp_path / "run", resume=True))
    assert (again["status"], again["evaluation"]["step"]) == ("finished", 6)


def test_the_command_that_goes_on_repeats_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.training.records import train_command

    given: dict[str, Any] = {
        "steps": 20,
        "init": {"encoder": "runs/b"},
        "callbacks": ("tensorboard",),
        "overrides": {"quantizer": {"use": "fsq", "levels": [8, 5]}, "train": {"ema": None}, "paper": "8"},
    }
    command = train_command("vqvae-video-tiny", "my clips", Path("runs/a"), **given)
    assert command == (
        "zoo train vqvae-video-tiny --data 'my clips' --out runs/a --steps 20 --init encoder=runs/b "
        "--callback tensorboard --set quantizer.use=fsq --set 'quantizer.levels=[8, 5]' "
        "--set train.ema=null --set 'paper=\"8\"'"
    )
    resumed = train_command("vqvae-video-tiny", "my clips", Path("runs/a"), **given, resume=True)
    assert resumed == command.replace(" --init encoder=runs/b", "") + " --resume"
    monkeypatch.setattr("zoo.training.records.world_size", lambda: 4)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    ranks = train_command("vqvae-video-tiny", "my clips", Path("runs/a"), **given)
    assert ranks == f"torchrun --nproc-per-node 4 -m {command}"
    monkeypatch.undo()
    assert train_command("x", [1], Path("a"), overrides={}) == "zoo.train(..., out='a')"
    cut = train_command("x", "y", Path("a"), overrides={}, fsdp=True, timeout_s=60.0, resume=True)
    assert cut == (
        "torchrun --nproc-per-node 2 -m zoo train x --data y --out a --fsdp --rank-timeout 60 --resume"
    )


def test_a_callback_of_a_plugin_that_breaks_is_left_out_and_ours_stops_the_run(tmp_path: Path) -> None:
    from zoo.training.callbacks import Callbacks

    class Broken:
        calls = 0

        def on_log(self, step: int, numbers: Mapping[str, float]) -> None:
            self.calls += 1
            raise RuntimeError("no network")

    theirs = Broken()
    callbacks = Callbacks((), [("tracker", theirs)])
    with pytest.warns(UserWarning, match="plugin 'tracker'.*no network"):
        callbacks.call("on_log", 1, {})
    callbacks.call("on_log", 2, {})
    callbacks.call("on_eval", 2, {})
    assert theirs.calls == 1

    class Leaves:
        def close(self) -> None:
            raise SystemExit(1)

    closed: list[str] = []
    last = Callback()
    last.close = lambda: closed.append("last")  # type: ignore[method-assign]
    with pytest.warns(UserWarning, match="Leaves broke in close"):
        Callbacks([Leaves(), last]).close()
    assert closed == ["last"]
    with pytest.raises(RuntimeError, match="no network"):
        run(VQVAE, tmp_path / "run", callbacks=[Broken()])
