"""Encoder and decoder of the MAGVIT 3D-VQ (https://arxiv.org/abs/2212.05199).

Neither is causal: kernels look both ways in time, and group norm pools over all frames of a clip. The
published network sees video in [0, 1]; both parts rescale. Public weights, which are Flax parameters, load
through `zoo_tokenizers.magvit.weights`. `zoo_tokenizers.magvit.inflate` starts the network from a 2D one.

Shapes: B batch, C colour channels, T H W frames and pixels, D channels, t h w the latent grid.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import require_clip, require_latent
from zoo_tokenizers.magvit.layers import BlockMean, Level, Upsample, group_norm, residual_blocks
from zoo_tokenizers.magvit.plan import check_options


class MAGVITEncoder(nn.Module):
    """Shrinks video by residual 3D convolutions with average pooling in between.

    The latent is what the quantizer takes; there is no projection in between.

    Args:
        in_channels: Colour channels.
        base_channels: Width that `channel_multipliers` multiply: 64 in the base model, 128 in the large one.
        channel_multipliers: Width of each level, finest first; height and width are halved between two.
        num_residual_blocks: Residual blocks of a level, and in the middle.
        latent_dim: Channels of the latent.
        temporal_stride: Shrinkage of time, a power of two, in the first steps between levels.
        num_groups: Groups of channels that a norm takes together.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for `temporal_stride`.
    """

    causal = False

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 64,
        channel_multipliers: list[int] = [1, 2, 2, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 2,
        latent_dim: int = 256,
        temporal_stride: int = 4,
        num_groups: int = 32,
    ) -> None:
        super().__init__()
        widths, steps = check_options(
            "encoder magvit",
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            latent_dim=latent_dim,
            temporal_stride=temporal_stride,
            num_groups=num_groups,
            time="finest",
        )
        self.in_channels = in_channels
        self.latent_dim = latent_dim
        self.stride = (temporal_stride, 2 ** len(steps), 2 ** len(steps))

        self.conv_in = nn.Conv3d(in_channels, base_channels, 3, padding=1, bias=False)
        self.down = nn.ModuleList()
        dim = base_channels
        for n, width in enumerate(widths):
            pool = BlockMean(steps[n]) if n < len(steps) else None
            self.down.append(Level(dim, width, num_residual_blocks, num_groups=num_groups, resample=pool))
            dim = width
        self.mid = residual_blocks(dim, dim, num_residual_blocks, num_groups=num_groups)
        self.norm_out = group_norm(dim, num_groups=num_groups)
        self.conv_out = nn.Conv3d(dim, latent_dim, 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Encode video in [-1, 1] to z_BDthw of T/s_t, H/s_h, W/s_w.

        Raises:
            PortError: T, H or W is not a multiple of the stride, or C is not `in_channels`.
        """
        require_clip(
            "encoder magvit", x_BCTHW, in_channels=self.in_channels, stride=self.stride, lead_frame=False
        )
        h = self.conv_in(x_BCTHW * 0.5 + 0.5)
        for level in self.down:
            h = level(h)
        z_BDthw: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(h))))
        return z_BDthw


class MAGVITDecoder(nn.Module):
    """Grows a latent by residual 3D convolutions; pixels and frames are repeated and convolved in between.

    Args:
        out_channels: Colour channels.
        base_channels: Width that `channel_multipliers` multiply: 64 in the base model, 128 in the large one.
        channel_multipliers: Width of each level, the one nearest to the pixels first; height and width are
            doubled between two.
        num_residual_blocks: Residual blocks of a level, and in the middle.
        latent_dim: Channels of the latent.
        temporal_stride: Growth of time, a power of two, in the last steps between levels.
        num_groups: Groups of channels that a norm takes together.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for `temporal_stride`.
    """

    causal = False

    def __init__(
        self,
        *,
        out_channels: int = 3,
        base_channels: int = 64,
        channel_multipliers: list[int] = [1, 2, 2, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 2,
        latent_dim: int = 256,
        temporal_stride: int = 4,
        num_groups: int = 32,
    ) -> None:
        super().__init__()
        widths, steps = check_options(
            "decoder magvit",
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            latent_dim=latent_dim,
            temporal_stride=temporal_stride,
            num_groups=num_groups,
            time="finest",
        )
        self.out_channels = out_channels
        self.latent_dim = latent_dim
        self.stride = (temporal_stride, 2 ** len(steps), 2 ** len(steps))

        dim = widths[-1]
        self.conv_in = nn.Conv3d(latent_dim, dim, 3, padding=1)
        self.mid = residual_blocks(dim, dim, num_residual_blocks, num_groups=num_groups)
        levels: list[Level] = []
        for n in reversed(range(len(widths))):
            width = widths[n]
            grow = Upsample(width, stride=steps[n - 1]) if n > 0 else None
            levels.append(Level(dim, width, num_residual_blocks, num_groups=num_groups, resample=grow))
            dim = width
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = group_norm(dim, num_groups=num_groups)
        self.conv_out = nn.Conv3d(dim, out_channels, 3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution."""
        return self.conv_out.get_parameter("weight")

    def forward(self, z_BDthw: Tensor) -> Tensor:
        """Decode to x_BCTHW, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("decoder magvit", z_BDthw, latent_dim=self.latent_dim)
        h = self.mid(self.conv_in(z_BDthw))
        for level in reversed(self.up):
            h = level(h)
        x_BCTHW: Tensor = self.conv_out(F.silu(self.norm_out(h))) * 2 - 1
        return x_BCTHW
