"""Run the conformance checks without a test of one's own.

pytest --pyargs zoo.testing.suite --zoo-plugin fsq
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoo.parts import Part


def test_part(zoo_part: Part, zoo_check: Callable[[Part], None]) -> None:
    zoo_check(zoo_part)
