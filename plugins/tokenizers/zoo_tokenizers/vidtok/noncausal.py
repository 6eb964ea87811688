"""Encoder and decoder of VidTok where every frame sees those around it (https://arxiv.org/abs/2412.13061).

The same network with zeros on both sides of time and no frame repeated: k*s_t frames become k.
Weights go by slightly other names, as published.
"""

from __future__ import annotations

from zoo_tokenizers.vidtok.network import DecoderBase, EncoderBase


class VidTokNoncausalEncoder(EncoderBase):
    """Shrinks video by convolutions inside frames and between them; k*s_t frames become k.

    Args:
        in_channels: Colour channels.
        base_channels: Width that `channel_multipliers` multiply.
        channel_multipliers: Width of each level, finest first.
        num_residual_blocks: Residual blocks of a level, inside frames and between them each.
        latent_dim: Channels of the latent: for a KL bottleneck mean and log-variance, twice its own.
        stride: Shrinkage of time, height and width; published: [4, 8, 8] and, with five levels, [4, 16, 16].

    Raises:
        RecipeError: An option is out of range, or there are too few levels for the stride.
    """

    name = "vidtok-noncausal"
    causal = False
    lead_frame = False

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: list[int] = [1, 2, 4, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 2,
        latent_dim: int = 8,
        stride: list[int] = [4, 8, 8],  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            latent_dim=latent_dim,
            stride=stride,
            edge="both",
        )


class VidTokNoncausalDecoder(DecoderBase):
    """Grows the latent by convolutions inside frames and between them; k latent frames become k*s_t.

    Args:
        out_channels: Colour channels.
        base_channels: Width that `channel_multipliers` multiply.
        channel_multipliers: Width of each level, the one nearest to the pixels first.
        num_residual_blocks: Residual blocks of a level less one, inside frames and between them each.
        latent_dim: Channels of the latent.
        stride: Growth of time, height and width, powers of two.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for the stride.
    """

    name = "vidtok-noncausal"
    causal = False
    lead_frame = False

    def __init__(
        self,
        *,
        out_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: list[int] = [1, 2, 4, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 2,
        latent_dim: int = 4,
        stride: list[int] = [4, 8, 8],  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__(
            out_channels=out_channels,
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            latent_dim=latent_dim,
            stride=stride,
            edge="both",
        )
