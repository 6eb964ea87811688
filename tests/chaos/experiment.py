"""What the experiments on reliability share: what one is, and what it found.

Each module of this folder is a topic. It holds functions that do one thing to a real run and return what
came of it; its tests call them with small numbers, and its `EXPERIMENTS` with the full ones.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Attributes:
        measured: The figures, in a few words.
        met: Whether the goal is met, all of it.
        note: What a reader of the table has to know beside it: what falls short, and why.
    """

    measured: str
    met: bool
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One row of docs/reliability.md.

    Attributes:
        number: Place in the table.
        title: What is done to a run.
        goal: What has to come of it.
        run: Does it, in an empty folder; `quick` asks for a tenth of the tries, for a look.
    """

    number: int
    title: str
    goal: str
    run: Callable[[Path, bool], Outcome]
