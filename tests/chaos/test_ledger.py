"""The ledger of docs/reliability.md with fewer rows; and that it would notice."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.ledger import Ledger, ledger, measure, over_ranks


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stream", [False, True])
def test_every_row_is_seen_once_an_epoch_however_often_the_run_is_cut(workers: int, stream: bool) -> None:
    found = measure(336, workers, stream=stream)
    assert found == Ledger(rows=672, lost=0, twice=0)


def test_every_row_is_seen_once_while_the_number_of_ranks_changes(tmp_path: Path) -> None:
    assert over_ranks(tmp_path, 80, (1, 2), batch_size=8) == Ledger(rows=80, lost=0, twice=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there are fewer cores
@pytest.mark.parametrize("workers", [0, 2, 4])
@pytest.mark.parametrize("stream", [False, True])
def test_every_row_of_many(workers: int, stream: bool) -> None:
    assert measure(10_000, workers, stream=stream, epochs=1) == Ledger(rows=10_000, lost=0, twice=0)


def test_the_ledger_notices_what_is_lost_and_what_comes_twice() -> None:
    assert ledger([0, 1, 2, 2, 1, 0], rows=3, epochs=2) == Ledger(6, 0, 0)
    assert ledger([0, 1, 1, 2, 1, 0], rows=3, epochs=2) == Ledger(6, 1, 1)
    assert ledger([0, 1, 2, 2, 1], rows=3, epochs=2) == Ledger(6, 1, 0)
    assert ledger([0, 1, 2, 0], rows=3) == Ledger(3, 0, 1)
