"""One signal in each phase of a run; docs/reliability.md has all of them in all phases."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from chaos.stopped import ON_RANKS, PHASES, SIGNALS, prepare, stop, stop_ranks

CASES = [
    ("start", signal.SIGTERM, 2, True),
    ("train", signal.SIGUSR1, 2, True),
    ("eval", signal.SIGTERM, 2, True),
    ("save", signal.SIGUSR1, 0, False),
]


@pytest.mark.parametrize(("phase", "number", "workers", "group"), CASES, ids=[case[0] for case in CASES])
def test_a_run_that_is_asked_to_stop_saves_and_leaves(
    tmp_path: Path, phase: str, number: signal.Signals, workers: int, group: bool
) -> None:
    found = stop(
        prepare(tmp_path), tmp_path / "run", phase=phase, number=number, workers=workers, group=group
    )
    assert found.fine, found


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_in_every_phase(tmp_path: Path, phase: str, number: signal.Signals) -> None:
    found = stop(prepare(tmp_path), tmp_path / "run", phase=phase, number=number, workers=2, group=True)
    assert found.fine, found


def test_ranks_that_are_asked_to_stop_save_and_leave(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    found = stop_ranks(words, tmp_path / "run", phase="train", number=signal.SIGTERM, whom="launcher")
    assert found.fine_on_ranks, found


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("number", "whom"), ON_RANKS)
def test_every_phase_of_ranks(tmp_path: Path, phase: str, number: signal.Signals, whom: str) -> None:
    found = stop_ranks(prepare(tmp_path), tmp_path / "run", phase=phase, number=number, whom=whom)
    assert found.fine_on_ranks, found
