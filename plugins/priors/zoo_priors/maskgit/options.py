"""Checks of the options of a masked prior, and of what it is given.

Shape legend: B batch, q codebooks, t h w the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from zoo.errors import PortError, ZooError
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


def check_codes(
    indices_Bqthw: Tensor, size_qthw: tuple[int, int | None, int, int], *, codebook_size: int
) -> None:
    """Refuse codes of another shape or outside the codebook; None in the size is any number of frames.

    Raises:
        PortError: They are.
    """
    shape = indices_Bqthw.shape
    fits = len(shape) == 5 and all(
        wanted in (None, num) for wanted, num in zip(size_qthw, shape[1:], strict=True)
    )
    if not fits:
        wanted = ", ".join("t" if num is None else str(num) for num in size_qthw)
        raise PortError(f"{PART} was given codes of shape {tuple(shape)}; its window takes (B, {wanted})")
    # On other devices it would wait for them.
    if indices_Bqthw.device.type == "cpu" and indices_Bqthw.numel():
        low, high = (int(end) for end in indices_Bqthw.aminmax())
        if low < 0 or high >= codebook_size:
            raise PortError(f"{PART} was given codes from {low} to {high}; it has {codebook_size}, from 0")


def check_labels(label_B: Tensor, *, num_classes: int) -> None:
    """Refuse labels of no class; those below 0 mean none.

    Raises:
        PortError: There are such labels.
    """
    if label_B.device.type == "cpu" and (label_B >= num_classes).any():
        raise PortError(f"{PART} was given labels up to {int(label_B.max())}; it has {num_classes} classes")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
