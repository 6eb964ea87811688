"""A checkpoint is whole or absent, whatever happens while it is written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import TrainingError
from zoo.training.checkpoint import (
    Snapshot,
    _read,
    load_checkpoint,
    older_checkpoints,
    pack,
    save_checkpoint,
    unpack,
)
from zoo.training.records import Journal, refuse_links, sweep
from zoo.training.session import carried

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
TREES = st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


def snapshot(value: int) -> Snapshot:
    """A snapshot whose every part says the same number."""
    tensors = {
        name: {"a": torch.full((300, 40), value), "b": torch.tensor(value)} for name in ("model", "rng")
    }
    return Snapshot(tensors, {"step": value, "text": "ä" * 10})


def value_of(read: Snapshot) -> int:
    values = {int(v) for file in read.tensors.values() for t in file.values() for v in t.unique()}
    assert values == {read.state["step"]}
    return int(read.state["step"])


@given(TREES)
def test_pack_and_json_and_unpack_give_back_exactly_what_went_in(tree: Any) -> None:
    plain, tensors = pack(tree)
    assert unpack(json.loads(json.dumps(plain)), tensors) == tree


def test_pack_takes_an_optimizer_state_apart_and_puts_it_together(tmp_path: Path) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    plain, tensors = pack(optimizer.state_dict())
    save_checkpoint(tmp_path / "c", Snapshot({"optimizers": tensors}, {"step": 1, "optimizers": plain}))
    read = load_checkpoint(tmp_path / "c")
    again = torch.optim.AdamW(model.parameters(), lr=9.0)
    again.load_state_dict(unpack(read.state["optimizers"], read.tensors["optimizers"]))
    a, b = optimizer.state_dict(), again.state_dict()
    assert a["param_groups"] == b["param_groups"]
    for index, state in a["state"].items():
        assert all(torch.equal(value, b["state"][index][name]) for name, value in state.items())


def test_what_was_read_does_not_change_with_its_files(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c", snapshot(1))
    read = load_checkpoint(tmp_path / "c")
    for path in (tmp_path / "c").glob("*.safetensors"):
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
    assert value_of(read) == 1


def test_pack_refuses_what_is_not_data() -> None:
    with pytest.raises(TrainingError, match="cannot hold a function"):
        pack({"state": [lambda: None]})


def test_tensors_that_share_memory_are_saved(tmp_path: Path) -> None:
    a = torch.arange(6.0)
    save_checkpoint(
        tmp_path / "c", Snapshot({"model": {"a": a, "tied": a, "part": a[2:4], "none": a[:0]}}, {"step": 1})
    )
    read = load_checkpoint(tmp_path / "c").tensors["model"]
    assert torch.equal(read["tied"], a)
    assert read["part"].tolist() == [2.0, 3.0]


def test_files_are_as_readable_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path / "c", snapshot(1))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "c").iterdir()} == {0o640}


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "state", "format"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "c"
    save_checkpoint(folder, snapshot(1))
    weights, state = folder / "model.safetensors", folder / "state.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "changed":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    elif damage == "missing":
        weights.unlink()
    elif damage == "state":
        state.write_text(state.read_text()[:-3])
    else:
        state.write_text(state.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(TrainingError, match="damaged"):
        load_checkpoint(folder)


GOOD = {"bytes": 0, "sha256": ""}


@pytest.mark.parametrize(
    "change",
    [
        "[" * 100_000,
        '{"format": 1, "step": ' + "9" * 5000 + "}",
        {"format": True},
        {"step": None},
        {"step": "7"},
        {"step": -1},
        {"files": [1]},
        {"files": "a"},
        {"files": None},
        {"files": {"a\0b": GOOD}},
        {"files": {"\ud800": GOOD}},
        {"files": {"pipe": GOOD}},
        {"files": {"link.safetensors": GOOD}},
    ],
    ids=str,
)
def test_a_bent_checkpoint_is_refused_and_an_older_one_is_read(tmp_path: Path, change: Any) -> None:
    folder = tmp_path / "c"
    save_checkpoint(folder, snapshot(1))
    save_checkpoint(folder, snapshot(2), keep=2)
    os.mkfifo(folder / "pipe")
    (folder / "link.safetensors").symlink_to("/dev/zero")
    state = folder / "state.json"
    bent = {**json.loads(state.read_text()), **change} if isinstance(change, dict) else None
    state.write_text(change if bent is None else json.dumps(bent))
    (tmp_path / "c-²").mkdir()
    with pytest.warns(UserWarning, match="is damaged.*Going on from the older c-00000001"):
        assert value_of(load_checkpoint(folder)) == 1
    save_checkpoint(folder, snapshot(3), keep=2)
    assert value_of(load_checkpoint(folder)) == 3


def test_nothing_outside_of_a_run_is_removed_through_a_link(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    save_checkpoint(elsewhere / "checkpoint", snapshot(1))
    (elsewhere / "clips").mkdir()
    (elsewhere / "clips" / ".mine.tmp-1").write_text("mine")
    run.mkdir()
    (run / "samples").symlink_to(elsewhere)
    (run / "checkpoint-00000001").symlink_to(elsewhere / "checkpoint")
    save_checkpoint(run / "checkpoint", snapshot(2))
    sweep(run)
    assert value_of(load_checkpoint(elsewhere / "checkpoint")) == 1
    assert (elsewhere / "clips" / ".mine.tmp-1").exists()
    for name in ("checkpoint-00000001", "samples"):
        with pytest.raises(TrainingError, match=f"{name} is a link to .* out of the run's folder"):
            refuse_links(run)
        (run / name).unlink()
    refuse_links(run)


def test_a_journal_skips_damaged_lines_and_ends_at_one_that_is_cut_short(tmp_path: Path) -> None:
    good = [json.dumps({"step": step, "kind": "train", "loss": 1.0}) for step in (1, 2, 3, 9)]
    bad = [
        "xx",
        "[1]",
        "7",
        "{}",
        '{"step": "a"}',
        '{"step": null}',
        "",
        "[" * 100_000,
        '{"step": ' + "9" * 5000 + "}",
    ]
    text = "\n".join([good[0], *bad, *good[1:]]) + '\n{"step": 4, "kind": "tr'
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\n" + text.encode())
    assert [line["step"] for line in Journal(tmp_path, upto=5).lines] == [1, 2, 3]


def test_a_checkpoint_carries_over_no_facts_but_those_of_a_run() -> None:
    facts = {"data": {"description": "clips"}, "resumed_at": [3], "seconds": 1, "skipped": [["a", "b"]]}
    more = {"resume_command": "rm -rf ~", "step": 7}
    assert carried(Snapshot({}, {"facts": {**facts, **more}})) == facts
    for bent in (
        {"resumed_at": "abc"},
        {"skipped": [["a"]]},
        {"init": ["x"]},
        {"seconds": "1"},
        {"data": []},
    ):
        with pytest.raises(TrainingError, match=f"{next(iter(bent))} is .* among its facts"):
            carried(Snapshot({}, {"facts": {**facts, **bent}}))
    with pytest.raises(TrainingError, match="data is 'None'"):
        carried(Snapshot({}, {"facts": "text"}))


def test_no_checkpoint_says_so(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no checkpoint"):
        load_checkpoint(tmp_path / "c")


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    save_checkpoint(folder, snapshot(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
        with pytest.raises(TrainingError, match="the last one is still there"):
            save_checkpoint(folder, snapshot(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert value_of(load_checkpoint(folder)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def kept(folder: Path) -> list[int]:
    """Steps of the checkpoints that are there, as they are read, the newest first."""
    return [value_of(_read(place)) for place in (folder, *older_checkpoints(folder))]


def test_what_a_run_did_not_go_on_from_is_gone_with_the_next_save(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    for step in (1, 2, 3, 4):
        save_checkpoint(folder, snapshot(step), keep=4)
    for path in (folder, tmp_path / "c-00000003"):
        (path / "model.safetensors").unlink()
    with pytest.warns(UserWarning, match="damaged.*Going on from the older c-00000002"):
        read = load_checkpoint(folder)
    assert read.passed_over == (folder, tmp_path / "c-00000003")
    save_checkpoint(folder, snapshot(7), keep=4, passed_over=read.passed_over)
    assert kept(folder) == [7, 2, 1]

    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "c-00000001", folder)  # put back by hand
    read = load_checkpoint(folder)
    assert value_of(read) == 1
    save_checkpoint(folder, snapshot(5), keep=4, passed_over=read.passed_over)
    assert kept(folder) == [5, 1]


def test_a_checkpoint_of_one_step_is_kept_once(tmp_path: Path) -> None:
    for step in (1, 2, 2):
        save_checkpoint(tmp_path / "c", snapshot(step), keep=2)
    assert kept(tmp_path / "c") == [2, 1]


SAVE_FOR_EVER = """
import sys
from pathlib import Path
import torch
from zoo.training.checkpoint import Snapshot, save_checkpoint
value = int(sys.argv[2])
while True:
    value += 1
    tensors = {name: {"a": torch.full((300, 40), value)} for name in ("model", "rng")}
    save_checkpoint(Path(sys.argv[1]), Snapshot(tensors, {"step": value}))
    print(value, flush=True)
"""


def test_kill_9_while_saving_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    save_checkpoint(folder, snapshot(1))
    last = 1
    random = Random(0)
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", SAVE_FOR_EVER, str(folder), str(last)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        ) as process:
            assert process.stdout is not None
            saved = int(process.stdout.readline())
            time.sleep(random.uniform(0, 0.02))  # somewhere within the saves that follow
            process.kill()
        last = value_of(load_checkpoint(folder))
        assert last >= saved
    save_checkpoint(folder, snapshot(last + 1))
    assert [path.name for path in tmp_path.iterdir()] == ["c"]  # what the killed ones left is gone
