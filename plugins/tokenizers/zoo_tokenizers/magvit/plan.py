"""Widths of the levels of a MAGVIT network and the steps between them, and what options cannot be built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from zoo.checks import is_power_of_two
from zoo.errors import RecipeError

Size3 = tuple[int, int, int]


def check_options(
    part: str,
    *,
    base_channels: int,
    channel_multipliers: Sequence[int],
    num_residual_blocks: int,
    latent_dim: int,
    temporal_stride: int,
    num_groups: int,
    time: Literal["finest", "coarsest"],
) -> tuple[list[int], list[Size3]]:
    """Plan the levels.

    Args:
        part: Whose options these are, for errors; the others are its options.
        base_channels: Unit of width.
        channel_multipliers: Width of each level, finest first.
        num_residual_blocks: Blocks of a level.
        latent_dim: Channels of the latent.
        temporal_stride: Shrinkage of time.
        num_groups: Groups of channels in a norm.
        time: At which steps time shrinks.

    Returns:
        Width of every level, and shrinkage between one and the next, both finest first.

    Raises:
        RecipeError: An option is out of range.
    """
    widths = [base_channels * multiplier for multiplier in channel_multipliers]
    if num_groups < 1 or not widths or any(n < 1 or n % num_groups for n in [base_channels, *widths]):
        raise RecipeError(
            f"{part}: base_channels is {base_channels}, channel_multipliers {list(channel_multipliers)} and "
            f"num_groups {num_groups}; widths must be multiples of num_groups (group norm), such as "
            "base_channels=64, channel_multipliers=[1, 2, 2, 4], num_groups=32"
        )
    if num_residual_blocks < 1 or latent_dim < 1:
        raise RecipeError(
            f"{part}: num_residual_blocks is {num_residual_blocks} and latent_dim {latent_dim}; "
            "both must be at least 1, such as num_residual_blocks=2, latent_dim=16"
        )
    num_steps = len(widths) - 1
    times_t = temporal_stride.bit_length() - 1
    if not is_power_of_two(temporal_stride) or times_t > num_steps:
        raise RecipeError(
            f"{part}: temporal_stride is {temporal_stride}; with {len(widths)} levels it must be a power of "
            f"two up to {1 << num_steps}, such as 4 with channel_multipliers=[1, 2, 2, 4]"
        )
    steps: list[Size3] = [(1 + (n < times_t), 2, 2) for n in range(num_steps)]
    return widths, steps if time == "finest" else steps[::-1]
