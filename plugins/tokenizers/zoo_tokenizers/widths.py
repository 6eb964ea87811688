"""Widths of the levels of a convolutional network, from the options that most families share."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.errors import RecipeError


def level_widths(
    part: str,
    *,
    base_channels: int,
    channel_multipliers: Sequence[int],
    num_residual_blocks: int,
    latent_dim: int,
) -> list[int]:
    """Return the width of each level, in the order of `channel_multipliers`.

    Raises:
        RecipeError: An option is less than 1, or there is no level.
    """
    counts = (base_channels, num_residual_blocks, latent_dim, min(channel_multipliers, default=0))
    if min(counts) < 1:
        raise RecipeError(
            f"{part}: base_channels is {base_channels}, num_residual_blocks {num_residual_blocks}, "
            f"latent_dim {latent_dim} and channel_multipliers {list(channel_multipliers)}; all must be at "
            "least 1, such as base_channels=128, num_residual_blocks=2, latent_dim=16, "
            "channel_multipliers=[2, 4, 4]"
        )
    return [base_channels * multiplier for multiplier in channel_multipliers]
