"""A few bad clips of the many in docs/reliability.md."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chaos.bad_clips import Crashing, crash, facts_of, shared_odd, train_on, write_many

from zoo.data.crashes import start_quietly
from zoo.errors import DataError
from zoo.training.records import train_command


@pytest.mark.parametrize(("num", "batch"), [(100, 50), pytest.param(2000, 50, marks=pytest.mark.slow)])
def test_bad_clips_are_listed_exactly_and_too_many_stop_the_run(tmp_path: Path, num: int, batch: int) -> None:
    bad = write_many(tmp_path / "clips", num, share=0.05, odd=shared_odd())
    data, size = str(tmp_path / "clips"), {"batch_size": batch}
    facts = train_on(data, tmp_path / "run", steps=num // batch, num_workers=2, train=size)
    assert facts["status"] == "finished"
    assert {name for name, _ in facts["skipped"]} == bad
    with pytest.raises(DataError, match="more than the 3% allowed"):
        train_on(data, tmp_path / "strict", steps=num // batch, num_workers=2, max_bad=0.03, train=size)
    assert facts_of(tmp_path / "strict")["status"].startswith("stopped: DataError")


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGSEGV], pytest.param([signal.SIGABRT, signal.SIGKILL, signal.SIGBUS], marks=pytest.mark.slow)],
)
def test_a_decoder_that_crashes_costs_one_clip(tmp_path: Path, signals: list[signal.Signals]) -> None:
    assert crash(tmp_path, signals, num_clips=12) == []


def test_a_reader_that_dies_while_its_last_batch_is_taken_costs_one_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipe that a batch's memory is handed over by is then torn, instead of the batch missed."""

    def torn(loader: Any) -> Iterator[Any]:
        try:
            yield from start_quietly(loader)
        except RuntimeError as error:
            raise EOFError from error

    monkeypatch.setattr("zoo.data.loader.start_quietly", torn)
    assert crash(tmp_path, [signal.SIGSEGV], num_clips=12) == []


def test_max_bad_is_a_share_and_the_command_repeats_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="max_bad is 3"):
        train_on(Crashing(4, {}), tmp_path / "run", steps=1, max_bad=3)
    command = train_command("x", "clips", Path("runs/a"), keep=3, max_bad=0.1, overrides={}, resume=True)
    assert command == "zoo train x --data clips --out runs/a --keep 3 --max-bad 0.1 --resume"
