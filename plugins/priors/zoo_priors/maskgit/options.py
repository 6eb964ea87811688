"""Checks of the options of a masked prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zoo.errors import ZooError
from zoo.sampling import SCHEDULES

PART = "generator 'maskgit'"


def check(
    *,
    counts: Mapping[str, int],
    shares: Mapping[str, float],
    grid: Sequence[int],
    num_classes: int,
    context_frames: int,
    heads: tuple[int, int],
    mask_schedule: str,
) -> None:
    """Refuse options outside their range.

    Raises:
        ZooError: One is.
    """
    for name, value in counts.items():
        if not _is_int(value) or value < 1:
            raise ZooError(f"{PART}: {name} is {value!r}; it must be a positive whole number")
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
            raise ZooError(f"{PART}: {name} is {share!r}; it must be between 0 and 1")
    if len(grid) != 3 or not all(_is_int(n) and n > 0 for n in grid):
        raise ZooError(f"{PART}: grid is {grid!r}; give [t, h, w], three positive whole numbers")
    if not _is_int(num_classes) or num_classes < 0:
        raise ZooError(f"{PART}: num_classes is {num_classes!r}; it must be a whole number of 0 or more")
    if not _is_int(context_frames) or not 0 <= context_frames <= max(grid[0] - 1, 1):
        raise ZooError(
            f"{PART}: context_frames is {context_frames!r}; it must be a whole number from 0 to "
            f"{max(grid[0] - 1, 1)}, less than the frames of the grid {list(grid)}"
        )
    if heads[0] % heads[1]:
        raise ZooError(f"{PART}: hidden_dim {heads[0]} is not divisible by num_heads {heads[1]}")
    if mask_schedule not in SCHEDULES:
        raise ZooError(f"{PART}: mask_schedule is {mask_schedule!r}; give one of {', '.join(SCHEDULES)}")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
