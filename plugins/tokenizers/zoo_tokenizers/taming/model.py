"""Encoder and decoder of the VQGAN of taming-transformers (https://arxiv.org/abs/2012.09841), per frame.

State-dict names inside a part are those of the public code, so its weights load through
`zoo_tokenizers.taming.weights`. Frames are in [-1, 1] there as here. The f8 models of latent diffusion
(https://arxiv.org/abs/2112.10752) are the same network with other options.

Shapes: B frames, C colour channels, H W pixels, D latent channels, h w the latent grid.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo.checks import require_image_latents, require_images
from zoo.convolution import in_groups, silu
from zoo_tokenizers.taming.layers import (
    DownLevel,
    Middle,
    UpLevel,
    check_options,
    group_norm,
)


class TamingEncoder(nn.Module):
    """Shrinks a frame level by level with 2D residual blocks.

    Ends before the published `quant_conv`: that 1x1 projection is the recipe's `pre_quant`. A level is
    a resolution: 0 the full one, each further one half of the one before. The public configurations name
    resolutions of attention instead, of frames of the training size; 16 at 256 pixels is level 4.

    Args:
        in_channels: Colour channels.
        base_channels: Width of the first convolution.
        channel_multipliers: Width of every level, finest first, in units of `base_channels`; n levels
            give a stride of 2**(n - 1).
        num_residual_blocks: Residual blocks in a level.
        attention_levels: Levels with attention after every residual block. The coarsest has attention
            between two blocks of its own besides, always.
        latent_dim: Channels of the latent.

    Raises:
        RecipeError: An option is out of range.
    """

    causal = True  # a frame depends on itself alone
    consumes = "image"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: list[int] = [1, 1, 2, 2, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 2,
        attention_levels: list[int] = [4],  # noqa: B006 - read, never changed
        latent_dim: int = 256,
    ) -> None:
        super().__init__()
        widths = check_options(
            "encoder taming",
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            attention_levels=attention_levels,
            latent_dim=latent_dim,
        )
        last = len(widths) - 1
        self.widths = widths
        self.in_channels = in_channels
        self.latent_dim = latent_dim
        self.stride = (1, 2**last, 2**last)
        self.conv_in = nn.Conv2d(in_channels, base_channels, 3, padding=1)
        self.down = nn.ModuleList(
            DownLevel(
                widths[level - 1] if level else base_channels,
                width,
                num_blocks=num_residual_blocks,
                attends=level in attention_levels,
                is_last=level == last,
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
        require_images("encoder taming", x_BCHW, in_channels=self.in_channels, stride=self.stride)
        h = self.mid(self._shrink(x_BCHW, len(self.down) - 1))
        z_BDhw: Tensor = self.conv_out(silu(self.norm_out(h)))
        return z_BDhw

    def _shrink(self, x_BCHW: Tensor, level: int) -> Tensor:
        """Run all levels down to one, the finer the fewer frames at a time."""
        if level < 0:
            h: Tensor = self.conv_in(x_BCHW)
            return h
        return in_groups(
            lambda group: self.down[level](self._shrink(group, level - 1)),
            x_BCHW,
            bytes_each=_bytes_of(x_BCHW, self.widths[level], 2.0**-level),
        )


class TamingDecoder(nn.Module):
    """Grows a latent to a frame level by level with 2D residual blocks, one more a level than the encoder.

    Starts after the published `post_quant_conv`: that 1x1 projection is the recipe's `post_quant`.

    Args:
        out_channels: Colour channels.
        base_channels: Unit of `channel_multipliers`.
        channel_multipliers: Width of every level, finest first; n levels give a stride of 2**(n - 1).
        num_residual_blocks: Residual blocks in a level, less one.
        attention_levels: Levels with attention after every residual block. The coarsest has attention
            between two blocks of its own besides, always.
        latent_dim: Channels of the latent.

    Raises:
        RecipeError: An option is out of range.
    """

    causal = True  # a frame depends on itself alone
    emits = "image"

    def __init__(
        self,
        *,
        out_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: list[int] = [1, 1, 2, 2, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 2,
        attention_levels: list[int] = [4],  # noqa: B006 - read, never changed
        latent_dim: int = 256,
    ) -> None:
        super().__init__()
        widths = check_options(
            "decoder taming",
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            attention_levels=attention_levels,
            latent_dim=latent_dim,
        )
        last = len(widths) - 1
        self.widths = widths
        self.out_channels = out_channels
        self.latent_dim = latent_dim
        self.stride = (1, 2**last, 2**last)
        self.conv_in = nn.Conv2d(latent_dim, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        # Finest first, as published, though the coarsest comes first in the pass.
        self.up = nn.ModuleList(
            UpLevel(
                widths[min(level + 1, last)],
                width,
                num_blocks=num_residual_blocks + 1,
                attends=level in attention_levels,
                is_last=level == 0,
            )
            for level, width in enumerate(widths)
        )
        self.norm_out = group_norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels, 3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution."""
        return self.conv_out.get_parameter("weight")

    def forward(self, z_BDhw: Tensor) -> Tensor:
        """Decode to x_BCHW, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_image_latents("decoder taming", z_BDhw, latent_dim=self.latent_dim)
        h = self.mid(self.conv_in(z_BDhw))
        return self._grow(h, len(self.up) - 1)

    def _grow(self, h_BDhw: Tensor, level: int) -> Tensor:
        """Run all levels up from one, the finer the fewer frames at a time."""
        if level < 0:
            x_BCHW: Tensor = self.conv_out(silu(self.norm_out(h_BDhw)))
            return x_BCHW
        return in_groups(
            lambda group: self._grow(self.up[level](group), level - 1),
            h_BDhw,
            bytes_each=_bytes_of(h_BDhw, self.widths[level], 2.0 if level else 1.0),
        )


def _bytes_of(x_BCHW: Tensor, width: int, scale: float) -> int:
    """Return the size of a frame of so many channels, with sides longer by a factor."""
    height, breadth = x_BCHW.shape[2:]
    return int(width * height * breadth * scale**2 * x_BCHW.element_size())
