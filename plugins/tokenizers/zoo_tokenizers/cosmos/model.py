"""Encoder and decoder of the Cosmos video tokenizer (https://arxiv.org/abs/2501.03575).

Haar wavelet patches, factorised causal convolutions and attention, hybrid down- and upsampling: strides
4x8x8, 8x8x8 and 8x16x16 are published, with continuous (CV) and discrete (DV) latents. State-dict names
inside a part are those of the published code, so its weights load through `zoo_tokenizers.cosmos.weights`.

No layer looks ahead in time. The only layer whose work grows faster than the clip is the attention in the
middle, once in each part and at the latent's size: for a grid of t x h x w and D channels it takes
4 * D * h * w * t * (h * w + t) operations, which a clip of twice the sides makes sixteen-fold.

Shapes: B batch, C colour channels, T H W frames and pixels, D channels, t h w the latent grid; inside,
frames stand before channels (x_BtDhw, see `zoo_tokenizers.cosmos.layers`).
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo.checks import require_clip, require_latent
from zoo.convolution import silu
from zoo.streaming import is_first_piece
from zoo_tokenizers.cosmos.haar import haar_patches, haar_unpatches
from zoo_tokenizers.cosmos.layers import (
    FrameNorm,
    HybridDownsample,
    HybridUpsample,
    Middle,
    ResidualBlock,
    factorised_conv,
)
from zoo_tokenizers.cosmos.plan import Step, check_options, doublings, halvings


class CosmosEncoder(nn.Module):
    """Cuts video into Haar wavelet patches and shrinks them by causal factorised convolutions.

    Ends before the published `quant_conv`: that 1x1x1 projection is the recipe's `pre_quant`.

    Args:
        in_channels: Colour channels.
        base_channels: Width that `channel_multipliers` multiply.
        channel_multipliers: Width of each level; between two levels the grid is halved where the stride
            still asks for it, in the first ones first.
        num_residual_blocks: Residual blocks of a level.
        latent_dim: Channels of the latent, 16 in all published models.
        stride: Shrinkage of time, height and width, powers of two and multiples of `patch_size`.
        patch_size: Side and duration of a wavelet patch.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for the stride.
    """

    causal = True

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: list[int] = [2, 4, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 2,
        latent_dim: int = 16,
        stride: list[int] = [8, 8, 8],  # noqa: B006 - read, never changed
        patch_size: int = 4,
    ) -> None:
        super().__init__()
        widths, self.stride = check_options(
            "encoder cosmos",
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            latent_dim=latent_dim,
            stride=stride,
            patch_size=patch_size,
        )
        self.in_channels = in_channels
        self.latent_dim = latent_dim
        self.patch_size = patch_size

        self.conv_in = factorised_conv(in_channels * patch_size**3, base_channels)
        self.down = nn.ModuleList()
        dim = base_channels
        steps = [*halvings(self.stride, patch_size, len(widths)), Step(False, False)]
        for width, step in zip(widths, steps, strict=True):
            downsample = (
                HybridDownsample(width, spatial=step.spatial, temporal=step.temporal) if any(step) else None
            )
            self.down.append(_Level(dim, width, num_residual_blocks, downsample=downsample))
            dim = width
        self.mid = Middle(dim)
        self.norm_out = FrameNorm(dim)
        self.conv_out = factorised_conv(dim, latent_dim)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Encode video in [-1, 1] to z_BDthw of t = 1 + (T - 1) / s_t, H / s_h, W / s_w.

        Raises:
            PortError: T is not 1 + k*s_t, H or W not a multiple of the stride, or C not `in_channels`.
        """
        require_clip(
            "encoder cosmos", x_BCTHW, in_channels=self.in_channels, stride=self.stride, lead_frame=True
        )
        h = haar_patches(x_BCTHW, self.patch_size, is_first=is_first_piece()).transpose(1, 2)
        h = self.conv_in(h)
        for level in self.down:
            h = level(h)
        z_BtDhw: Tensor = self.conv_out(silu(self.norm_out(self.mid(h))))
        return z_BtDhw.transpose(1, 2).contiguous()


class CosmosDecoder(nn.Module):
    """Grows the latent by causal factorised convolutions and puts its wavelet patches together.

    Starts after the published `post_quant_conv`: that 1x1x1 projection is the recipe's `post_quant`.

    Args:
        out_channels: Colour channels.
        base_channels: Width that `channel_multipliers` multiply.
        channel_multipliers: Width of each level, the one nearest to the pixels first. The published CV4x8x8
            decoder, unlike all others and its own encoder, has [2, 4].
        num_residual_blocks: Residual blocks of a level less one.
        latent_dim: Channels of the latent, 16 in all published models.
        stride: Growth of time, height and width, powers of two and multiples of `patch_size`.
        patch_size: Side and duration of a wavelet patch.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for the stride.
    """

    causal = True

    def __init__(
        self,
        *,
        out_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: list[int] = [2, 4, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 2,
        latent_dim: int = 16,
        stride: list[int] = [8, 8, 8],  # noqa: B006 - read, never changed
        patch_size: int = 4,
    ) -> None:
        super().__init__()
        widths, self.stride = check_options(
            "decoder cosmos",
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            latent_dim=latent_dim,
            stride=stride,
            patch_size=patch_size,
        )
        self.out_channels = out_channels
        self.latent_dim = latent_dim
        self.patch_size = patch_size

        dim = widths[-1]
        self.conv_in = factorised_conv(latent_dim, dim)
        self.mid = Middle(dim)
        levels = []
        steps = [*doublings(self.stride, patch_size, len(widths)), Step(False, False)]
        for width, step in zip(reversed(widths), steps, strict=True):
            upsample = (
                HybridUpsample(width, spatial=step.spatial, temporal=step.temporal) if any(step) else None
            )
            levels.append(_Level(dim, width, num_residual_blocks + 1, upsample=upsample))
            dim = width
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = FrameNorm(dim)
        self.conv_out = factorised_conv(dim, out_channels * patch_size**3)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution, which mixes frames."""
        return self.conv_out[1].get_parameter("conv3d.weight")

    def forward(self, z_BDthw: Tensor) -> Tensor:
        """Decode to x_BCTHW of T = 1 + (t - 1) * s_t frames, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("decoder cosmos", z_BDthw, latent_dim=self.latent_dim)
        h = self.mid(self.conv_in(z_BDthw.transpose(1, 2)))
        for level in reversed(self.up):
            h = level(h)
        y_BtDhw: Tensor = self.conv_out(silu(self.norm_out(h)))
        return haar_unpatches(y_BtDhw.transpose(1, 2), self.patch_size, is_first=is_first_piece())


class _Level(nn.Module):
    """The residual blocks of one size, and what changes the size after them, if anything does."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_blocks: int,
        *,
        downsample: HybridDownsample | None = None,
        upsample: HybridUpsample | None = None,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResidualBlock(in_dim if i == 0 else out_dim, out_dim) for i in range(num_blocks)
        )
        self.downsample = downsample
        self.upsample = upsample

    def forward(self, x_BtDhw: Tensor) -> Tensor:
        h = x_BtDhw
        for block in self.block:
            h = block(h)
        resample = self.downsample or self.upsample
        return h if resample is None else resample(h)
