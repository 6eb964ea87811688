"""Encoder and decoder of VidTok (https://arxiv.org/abs/2412.13061), causal, versions 1.0 and 1.1.

State-dict names inside a part are those of the published code, so its weights load through
`zoo_tokenizers.vidtok.weights`.

In both versions the first frame is repeated s_t - 1 times before the network, so that it is a latent frame of
its own. In the layers, version 1.0 puts zeros before it (``edge: zeros``), 1.1 that frame again (``repeat``).
No layer looks ahead in time but the interpolation of the 1.1 decoder, which is a part of its own.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from zoo.errors import RecipeError
from zoo_tokenizers.vidtok.layers import EdgeMode
from zoo_tokenizers.vidtok.network import DecoderBase, EncoderBase
from zoo_tokenizers.vidtok.resample import SmoothUpsample

Edge = Literal["zeros", "repeat"]


class VidTokEncoder(EncoderBase):
    """Shrinks video by convolutions in frames and causal ones between them; 1 + k*s_t frames become 1 + k.

    Args:
        in_channels: Colour channels.
        base_channels: Width that `channel_multipliers` multiply.
        channel_multipliers: Width of each level, finest first; see `zoo_tokenizers.vidtok.plan` for where
            the grid is halved. The models of stride 16 have [1, 2, 4, 4, 4].
        num_residual_blocks: Residual blocks of a level, inside frames and between them each.
        latent_dim: Channels of the latent: for a KL bottleneck mean and log-variance, twice its own.
        stride: Shrinkage of time, height and width, powers of two.
        edge: What stands before the first frame, in every layer: `zeros` (1.0) or that frame, `repeat` (1.1).

    Raises:
        RecipeError: An option is out of range, or there are too few levels for the stride.
    """

    name = "vidtok"
    causal = True

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: list[int] = [1, 2, 4, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 2,
        latent_dim: int = 8,
        stride: list[int] = [4, 8, 8],  # noqa: B006 - read, never changed
        edge: Edge = "zeros",
    ) -> None:
        _check_edge("encoder vidtok", edge)
        super().__init__(
            in_channels=in_channels,
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            latent_dim=latent_dim,
            stride=stride,
            edge=edge,
        )


class VidTokDecoder(DecoderBase):
    """Grows the latent by convolutions inside frames and causal ones between them.

    Args:
        out_channels: Colour channels.
        base_channels: Width that `channel_multipliers` multiply.
        channel_multipliers: Width of each level, the one nearest to the pixels first.
        num_residual_blocks: Residual blocks of a level less one, inside frames and between them each.
        latent_dim: Channels of the latent.
        stride: Growth of time, height and width, powers of two.
        edge: What stands before the first frame, in every layer: `zeros` or that frame, `repeat`. Of the
            published models only those of `vidtok-smooth` repeat.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for the stride.
    """

    name = "vidtok"
    causal = True
    lead_frame = True

    def __init__(
        self,
        *,
        out_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: list[int] = [1, 2, 4, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 2,
        latent_dim: int = 4,
        stride: list[int] = [4, 8, 8],  # noqa: B006 - read, never changed
        edge: Edge = "zeros",
    ) -> None:
        _check_edge("decoder vidtok", edge)
        super().__init__(
            out_channels=out_channels,
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            latent_dim=latent_dim,
            stride=stride,
            edge=edge,
        )


class VidTokSmoothDecoder(DecoderBase):
    """Grows the latent as `VidTokDecoder` of `edge: repeat`, with frames interpolated as they double (1.1).

    The interpolation weighs in the frame after: what is decoded of a latent frame depends on the next latent
    frame, and the last one comes out another way when more follow. So it does not stream, and is not causal;
    the first latent frame alone depends on no other.

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

    name = "vidtok-smooth"
    causal = False
    lead_frame = True

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
            edge="repeat",
        )

    def _temporal_upsample(self, dim: int, edge: EdgeMode, num_lead: int) -> nn.Module:
        return SmoothUpsample(dim, edge, num_lead=num_lead)


def _check_edge(part: str, edge: str) -> None:
    if edge not in ("zeros", "repeat"):
        raise RecipeError(
            f"{part}: edge is {edge!r}; it must be 'zeros' (VidTok 1.0) or 'repeat' (1.1): what "
            "stands before the first frame"
        )
