"""Pickles that would run something, some of them; `python -m chaos --only 19` takes all kinds."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.pickles import canaries, judge_all, opcodes_in

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_canaries_in_pickles_do_not_fire(tmp_path: Path) -> None:
    _, wrong = judge_all(tmp_path, every=7)
    assert not wrong


def test_the_canaries_use_every_opcode_that_acts() -> None:
    acting = {"REDUCE", "BUILD", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "GLOBAL", "STACK_GLOBAL", "PERSID"}
    acting |= {"BINPERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
    assert acting <= opcodes_in(canaries(Path("ran")))


@pytest.mark.slow
def test_no_canary_in_a_pickle_fires(tmp_path: Path) -> None:
    _, wrong = judge_all(tmp_path)
    assert not wrong
