"""Encoder and decoder of the time-agnostic VQGAN of TATS (https://arxiv.org/abs/2204.03638).

State-dict names inside a part are those of the public code, so its weights load through
`zoo_tokenizers.tats.weights`. The published network sees video in [-0.5, 0.5]; both parts rescale.

Shapes: B batch, C colour channels, T H W frames and pixels, D channels, t h w the latent grid.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo.checks import require_clip, require_latent
from zoo_tokenizers.tats.layers import (
    DownBlock,
    EdgePadConv3d,
    Norm,
    UpBlock,
    check_options,
    normalization,
    steps,
)


class TATSEncoder(nn.Module):
    """Shrinks video by strided 3D convolutions that double the width, a residual block after each.

    Ends before the published `pre_vq_conv`: that 1x1x1 projection is the recipe's `pre_quant`. The
    published batch norm is synchronised over GPUs; `torch.nn.SyncBatchNorm.convert_sync_batchnorm` does
    that here, and names stay.

    Args:
        in_channels: Colour channels.
        base_channels: Width of the first convolution, doubled by every halving: the latent is
            base_channels * max(stride) wide.
        stride: Shrinkage of time, height and width, powers of two.
        norm: "batch" as in the published checkpoints, or "group" (32 groups).

    Raises:
        RecipeError: An option is out of range.
    """

    causal = False

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 32,
        stride: list[int] = [4, 8, 8],  # noqa: B006 - read, never changed
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.stride = check_options("encoder tats", base_channels=base_channels, stride=stride, norm=norm)
        self.in_channels = in_channels
        self.latent_dim = base_channels * max(self.stride)
        self.conv_first = EdgePadConv3d(in_channels, base_channels, kernel_size=3)
        self.conv_blocks = nn.ModuleList(
            DownBlock(base_channels << n, base_channels << (n + 1), stride=step, norm=norm)
            for n, step in enumerate(steps(self.stride))
        )
        self.final_block = nn.Sequential(normalization(norm, self.latent_dim), nn.SiLU())

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Encode video in [-1, 1] to z_BDthw of T/s_t, H/s_h, W/s_w.

        Raises:
            PortError: T, H or W is not a multiple of the stride, or C is not `in_channels`.
        """
        require_clip(
            "encoder tats", x_BCTHW, in_channels=self.in_channels, stride=self.stride, lead_frame=False
        )
        h = self.conv_first(x_BCTHW * 0.5)
        for block in self.conv_blocks:
            h = block(h)
        z_BDthw: Tensor = self.final_block(h)
        return z_BDthw


class TATSDecoder(nn.Module):
    """Grows a latent by transposed 3D convolutions, two residual blocks after each.

    Starts after the published `post_vq_conv`: that 1x1x1 projection is the recipe's `post_quant`.

    Args:
        out_channels: Colour channels.
        base_channels: Half of the width at full size; the latent is base_channels * max(stride) wide.
        stride: Growth of time, height and width, powers of two.
        norm: "batch" as in the published checkpoints, or "group" (32 groups).

    Raises:
        RecipeError: An option is out of range.
    """

    causal = False

    def __init__(
        self,
        *,
        out_channels: int = 3,
        base_channels: int = 32,
        stride: list[int] = [4, 8, 8],  # noqa: B006 - read, never changed
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.stride = check_options("decoder tats", base_channels=base_channels, stride=stride, norm=norm)
        self.out_channels = out_channels
        self.latent_dim = base_channels * max(self.stride)
        self.final_block = nn.Sequential(normalization(norm, self.latent_dim), nn.SiLU())
        growths = steps(self.stride)
        # The first growth keeps the width, so that the last one ends at twice base_channels.
        widths = [self.latent_dim] + [self.latent_dim >> n for n in range(len(growths))]
        self.conv_blocks = nn.ModuleList(
            UpBlock(widths[n], widths[n + 1], stride=growth, norm=norm) for n, growth in enumerate(growths)
        )
        self.conv_last = EdgePadConv3d(widths[-1], out_channels, kernel_size=3)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution."""
        return self.conv_last.get_parameter("conv.weight")

    def forward(self, z_BDthw: Tensor) -> Tensor:
        """Decode to x_BCTHW, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("decoder tats", z_BDthw, latent_dim=self.latent_dim)
        h = self.final_block(z_BDthw)
        for block in self.conv_blocks:
            h = block(h)
        x_BCTHW: Tensor = self.conv_last(h) * 2
        return x_BCTHW
