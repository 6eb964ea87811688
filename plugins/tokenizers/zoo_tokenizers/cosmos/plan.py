"""Which levels of a Cosmos tokenizer change the size, and the checks of its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from zoo.checks import is_power_of_two
from zoo.errors import RecipeError
from zoo_tokenizers.widths import level_widths

Size3 = tuple[int, int, int]


class Step(NamedTuple):
    """What is halved (encoder) or doubled (decoder) after a level."""

    spatial: bool
    temporal: bool


def halvings(stride: Size3, patch_size: int, num_levels: int) -> list[Step]:
    """Plan the encoder: after each level but the last, halve all that is left to halve."""
    times_t, times_hw = _times(stride, patch_size)
    return [Step(i < times_hw, i < times_t) for i in range(num_levels - 1)]


def doublings(stride: Size3, patch_size: int, num_levels: int) -> list[Step]:
    """Plan the decoder: as the encoder, but time is first doubled after the second level.

    Where time and sides are doubled equally often, they go together.
    """
    times_t, times_hw = _times(stride, patch_size)
    steps = []
    for i in range(num_levels - 1):
        temporal = 1 <= i <= times_t
        steps.append(Step(temporal or i < times_hw != times_t, temporal))
    return steps


def check_options(
    part: str,
    *,
    base_channels: int,
    channel_multipliers: Sequence[int],
    num_residual_blocks: int,
    latent_dim: int,
    stride: Sequence[int],
    patch_size: int,
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
    fits = len(stride) == 3 and all(is_power_of_two(s) and s >= patch_size for s in stride)
    if not fits or not is_power_of_two(patch_size) or not stride[0] <= stride[1] == stride[2]:
        raise RecipeError(
            f"{part}: stride is {list(stride)} and patch_size {patch_size}; both must be powers of two, the "
            "stride (time, height, width) nowhere below patch_size, height and width equal and time not "
            "above them, such as [4, 8, 8], [8, 8, 8] or [8, 16, 16] with patch_size=4"
        )
    size = (stride[0], stride[1], stride[2])
    times_t, times_hw = _times(size, patch_size)
    needed = 1 + max(times_hw, times_t + 1 if times_t else 0)  # a decoder waits a level before time
    if len(channel_multipliers) < needed:
        raise RecipeError(
            f"{part}: stride {list(stride)} with patch_size={patch_size} takes {needed} levels or more, and "
            f"channel_multipliers {list(channel_multipliers)} are {len(channel_multipliers)}; add levels"
        )
    return widths, size


def _times(stride: Size3, patch_size: int) -> tuple[int, int]:
    """Count how often time and sides are halved beyond the patches."""
    return (stride[0] // patch_size).bit_length() - 1, (stride[1] // patch_size).bit_length() - 1
