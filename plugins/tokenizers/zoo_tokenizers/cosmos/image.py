"""Encoder and decoder of the Cosmos image tokenizer (https://arxiv.org/abs/2501.03575), frame by frame.

The network of `zoo_tokenizers.taming.model` on Haar wavelet patches, attention in the middle only. Strides
8 and 16 are published, with continuous (CI) and discrete (DI) latents. State-dict names inside a part are
those of the published code, so its weights load through `zoo_tokenizers.cosmos.weights`.

Shapes: B frames, C colour channels, H W pixels, D latent channels, h w the latent grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import is_power_of_two, require_image_latents, require_images
from zoo.errors import RecipeError
from zoo_tokenizers.cosmos.haar import haar_frame_patches, haar_frame_unpatches
from zoo_tokenizers.taming.layers import (
    DownLevel,
    Middle,
    UpLevel,
    check_options,
    group_norm,
)


class CosmosImageEncoder(nn.Module):
    """Cuts frames into Haar wavelet patches and shrinks them with 2D residual blocks.

    Ends before the published `quant_conv`: that 1x1 projection is the recipe's `pre_quant`.

    Args:
        in_channels: Colour channels.
        base_channels: Width that `channel_multipliers` multiply.
        channel_multipliers: Width of each level; the first levels halve the frame after them, as often as
            the stride asks for.
        num_residual_blocks: Residual blocks of a level.
        latent_dim: Channels of the latent; published: 16 continuous, 256 discrete.
        stride: Shrinkage of height and width, the same power of two, from `patch_size` on.
        patch_size: Side of a wavelet patch.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for the stride.
    """

    causal = True  # a frame depends on itself alone
    consumes = "image"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: list[int] = [2, 4, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 2,
        latent_dim: int = 16,
        stride: list[int] = [1, 8, 8],  # noqa: B006 - read, never changed
        patch_size: int = 4,
    ) -> None:
        super().__init__()
        widths = check_options(
            "encoder cosmos-image",
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            attention_levels=[],
            latent_dim=latent_dim,
        )
        self.stride, times = _check_stride("encoder", stride, patch_size, num_levels=len(widths))
        self.in_channels = in_channels
        self.latent_dim = latent_dim
        self.patch_size = patch_size
        self.conv_in = nn.Conv2d(in_channels * patch_size**2, base_channels, 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(
                widths[level - 1] if level else base_channels,
                width,
                num_blocks=num_residual_blocks,
                attends=False,
                is_last=level >= times,
            )
            for level, width in enumerate(widths)
        )
        self.mid = Middle(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], latent_dim, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Encode frames in [-1, 1] to z_BDhw of H/s, W/s.

        Raises:
            PortError: H or W is not a multiple of the stride, or C is not `in_channels`.
        """
        require_images("encoder cosmos-image", x_BCHW, in_channels=self.in_channels, stride=self.stride)
        h = self.conv_in(haar_frame_patches(x_BCHW, self.patch_size))
        for level in self.down:
            h = level(h)
        z_BDhw: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(h))))
        return z_BDhw


class CosmosImageDecoder(nn.Module):
    """Grows the latent with 2D residual blocks and puts its wavelet patches together.

    Starts after the published `post_quant_conv`: that 1x1 projection is the recipe's `post_quant`.

    Args:
        out_channels: Colour channels.
        base_channels: Width that `channel_multipliers` multiply.
        channel_multipliers: Width of each level, the one nearest to the pixels first.
        num_residual_blocks: Residual blocks of a level less one.
        latent_dim: Channels of the latent; published: 16 continuous, 256 discrete.
        stride: Growth of height and width, the same power of two, from `patch_size` on.
        patch_size: Side of a wavelet patch.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for the stride.
    """

    causal = True  # a frame depends on itself alone
    emits = "image"

    def __init__(
        self,
        *,
        out_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: list[int] = [2, 4, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 2,
        latent_dim: int = 16,
        stride: list[int] = [1, 8, 8],  # noqa: B006 - read, never changed
        patch_size: int = 4,
    ) -> None:
        super().__init__()
        widths = check_options(
            "decoder cosmos-image",
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            attention_levels=[],
            latent_dim=latent_dim,
        )
        self.stride, times = _check_stride("decoder", stride, patch_size, num_levels=len(widths))
        self.out_channels = out_channels
        self.latent_dim = latent_dim
        self.patch_size = patch_size
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(latent_dim, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        # Nearest to the pixels first, as published, though it comes last in the pass.
        self.up = nn.ModuleList(
            UpLevel(
                widths[min(level + 1, last)],
                width,
                num_blocks=num_residual_blocks + 1,
                attends=False,
                is_last=level <= last - times,
            )
            for level, width in enumerate(widths)
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels * patch_size**2, 3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution."""
        return self.conv_out.get_parameter("weight")

    def forward(self, z_BDhw: Tensor) -> Tensor:
        """Decode to x_BCHW, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_image_latents("decoder cosmos-image", z_BDhw, latent_dim=self.latent_dim)
        h = self.mid(self.conv_in(z_BDhw))
        for level in reversed(self.up):
            h = level(h)
        return haar_frame_unpatches(self.conv_out(F.silu(self.norm_out(h))), self.patch_size)


def _check_stride(
    part: str, stride: Sequence[int], patch_size: int, *, num_levels: int
) -> tuple[tuple[int, int, int], int]:
    """Return the stride as a tuple, and how often sides are halved beyond the patches."""
    powers = [is_power_of_two(n) for n in (patch_size, *stride)]
    if len(stride) != 3 or not all(powers) or stride[0] != 1 or not patch_size <= stride[1] == stride[2]:
        raise RecipeError(
            f"{part} cosmos-image: stride is {list(stride)} and patch_size {patch_size}; both must be powers "
            "of two, the stride 1 in time and the same in height and width, not below patch_size, such as "
            "[1, 8, 8] or [1, 16, 16] with patch_size=4"
        )
    times = (stride[1] // patch_size).bit_length() - 1
    if times > num_levels:
        raise RecipeError(
            f"{part} cosmos-image: stride {list(stride)} with patch_size={patch_size} takes {times} levels "
            f"or more, and channel_multipliers are {num_levels}; add levels"
        )
    return (1, stride[1], stride[2]), times
