"""At which levels VidTok halves and doubles frames and their number, for the stride that is asked for.

Levels count from the pixels; level i of n stands for one width. The published models halve the sides after
their last levels, and twice the number of frames after the last two; halved once, it is after the first of
these two. Decoders double at the levels next to the pixels, level 0 never.

Source: https://arxiv.org/abs/2412.13061
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from zoo.checks import is_power_of_two
from zoo.errors import RecipeError
from zoo_tokenizers.widths import level_widths

Size3 = tuple[int, int, int]


class Changes(NamedTuple):
    """Levels at which the sides, and the number of frames, change."""

    spatial: frozenset[int]
    temporal: frozenset[int]


def halvings(stride: Size3, num_levels: int) -> Changes:
    """Return after which levels of an encoder the sides and the number of frames are halved."""
    times_t, times_hw = times(stride)
    last = num_levels - 1
    start = max(last - max(times_t, 2), 0)
    return Changes(frozenset(range(last - times_hw, last)), frozenset(range(start, start + times_t)))


def doublings(stride: Size3, num_levels: int) -> Changes:
    """Return after which levels of a decoder the sides and the number of frames are doubled."""
    times_t, times_hw = times(stride)
    stop = min(max(times_t, 2), num_levels - 1) + 1
    return Changes(frozenset(range(1, times_hw + 1)), frozenset(range(stop - times_t, stop)))


def times(stride: Size3) -> tuple[int, int]:
    """Count how often time and sides are halved."""
    return stride[0].bit_length() - 1, stride[1].bit_length() - 1


def check_options(
    part: str,
    *,
    base_channels: int,
    channel_multipliers: Sequence[int],
    num_residual_blocks: int,
    latent_dim: int,
    stride: Sequence[int],
) -> tuple[list[int], Size3]:
    """Return the width of each level, and the stride as a tuple.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for the stride.
    """
    widths = level_widths(
        part,
        base_channels=base_channels,
        channel_multipliers=channel_multipliers,
        num_residual_blocks=num_residual_blocks,
        latent_dim=latent_dim,
    )
    if len(stride) != 3 or not all(map(is_power_of_two, stride)) or stride[1] != stride[2]:
        raise RecipeError(
            f"{part}: stride is {list(stride)}; it must be powers of two (time, height, width), height and "
            "width equal, such as [4, 8, 8], [2, 8, 8], [4, 4, 4], [4, 16, 16] or [8, 8, 8]"
        )
    size = (stride[0], stride[1], stride[2])
    needed = 1 + max(times(size))
    if len(channel_multipliers) < needed:
        raise RecipeError(
            f"{part}: stride {list(stride)} takes {needed} levels or more, and channel_multipliers "
            f"{list(channel_multipliers)} are {len(channel_multipliers)}; add levels"
        )
    return widths, size
