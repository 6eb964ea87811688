"""How far a prior is: those who draw codes say how many, and a bar shows them.

Nothing is shown unless somebody asks for it::

    with zoo.progress.bar():
        model.sample(4, num_frames=64)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_BAR: ContextVar[Any] = ContextVar("bar", default=None)


@contextmanager
def bar(*, disable: bool = False) -> Iterator[None]:
    """Show on standard error how many codes are made inside of the block, and how many a second.

    Args:
        disable: Show nothing.
    """
    from tqdm import tqdm

    with tqdm(unit=" tokens", unit_scale=True, desc="making", leave=False, disable=disable) as shown:
        before = _BAR.set(shown)
        try:
            yield
        finally:
            _BAR.reset(before)


def expect(num: int) -> None:
    """Say that so many codes are going to be made, beside those that were expected before."""
    shown = _BAR.get()
    if shown is not None:
        shown.total = (shown.total or 0) + num
        shown.refresh()


def made(num: int) -> None:
    """Say that so many codes were made; those beyond what was expected are not shown."""
    shown = _BAR.get()
    if shown is not None:
        shown.update(num if shown.total is None else min(num, shown.total - shown.n))
