"""Checks of the options that generator and discriminator share. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.errors import ZooError
from zoo_gan.checks import check_counts


def check_stages(
    part: str,
    /,
    *,
    widths: Sequence[int],
    cardinalities: Sequence[int],
    num_blocks: Sequence[int],
    time_scales: Sequence[int],
    expansion: int,
) -> None:
    """Refuse stages that do not fit together.

    Raises:
        ZooError: A list is of another length than the stages ask for, or a number is out of its range.
    """
    check_counts(part, expansion=expansion)
    stages = len(widths)
    if stages < 2:
        raise ZooError(f"{part}: widths is {list(widths)}; give two stages or more, which make frames of 8x8")
    lengths = {
        "cardinalities": (cardinalities, stages),
        "num_blocks": (num_blocks, stages),
        "time_scales": (time_scales, stages - 1),
    }
    for name, (values, length) in lengths.items():
        if len(values) != length:
            raise ZooError(
                f"{part}: {name} is {list(values)}; widths has {stages} stages, so give {length} numbers"
            )
    for width, cardinality, blocks in zip(widths, cardinalities, num_blocks, strict=True):
        check_counts(part, widths=width, cardinalities=cardinality, num_blocks=blocks)
        if width * expansion % cardinality:
            raise ZooError(
                f"{part}: {cardinality} groups do not divide the {width * expansion} channels inside a block "
                f"of width {width} and expansion {expansion}; change cardinalities"
            )
    if not set(time_scales) <= {1, 2}:
        raise ZooError(f"{part}: time_scales is {list(time_scales)}; each must be 1 or 2")
