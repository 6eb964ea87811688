"""Encoder and decoder of the Open-MAGVIT2 video tokenizer (https://arxiv.org/abs/2409.04410).

Two pairs of one network with the same state-dict names, those of the published code, so that its weights
load into either through `zoo_tokenizers.open_magvit2.weights`.

`open-magvit2` is the published one. Its convolutions never look ahead, but its norms do: group norm pools
over all frames of a clip, and the decoder's adaptive norms take mean and deviation of the latent over all of
time. So it is not causal and does not stream; it does map 1 + k*s_t frames to 1 + k.

`open-magvit2-causal` takes every one of these statistics per frame. Later frames never move earlier ones,
and it streams. With the published weights it runs, but gives other latents and videos than the published
model (the same for a clip of one frame); it is meant to be trained, or tuned from those weights.

Shapes: B batch, C colour channels, T H W frames and pixels, D channels, t h w the latent grid.
"""

from __future__ import annotations

import operator
from functools import partial
from itertools import accumulate
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import require_clip, require_latent
from zoo_tokenizers.magvit.plan import check_options
from zoo_tokenizers.open_magvit2.layers import (
    CausalConv,
    ClipAdaptiveNorm,
    ClipGroupNorm,
    FrameAdaptiveNorm,
    FrameGroupNorm,
    Level,
    Upsample,
    residual_blocks,
)


class OpenMagvit2Encoder(nn.Module):
    """Shrinks video by strided causal convolutions, residual blocks in between; norms see the whole clip.

    Not causal for its norms, see the module. The latent is what the quantizer takes; there is no
    projection in between.

    Args:
        in_channels: Colour channels.
        base_channels: Width that `channel_multipliers` multiply, a multiple of `num_groups`.
        channel_multipliers: Width of each level, finest first; height and width are halved between two.
        num_residual_blocks: Residual blocks of a level, and in the middle.
        latent_dim: Channels of the latent, one for every bit of a code.
        temporal_stride: Shrinkage of time, a power of two, in the last steps between levels.
        num_groups: Groups of channels that a norm takes together.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for `temporal_stride`.
    """

    causal = False
    lead_frame = True
    part: ClassVar[str] = "encoder open-magvit2"
    norm: ClassVar[type[ClipGroupNorm]] = ClipGroupNorm

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: list[int] = [1, 2, 2, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 4,
        latent_dim: int = 18,
        temporal_stride: int = 4,
        num_groups: int = 32,
    ) -> None:
        super().__init__()
        widths, steps = check_options(
            self.part,
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            latent_dim=latent_dim,
            temporal_stride=temporal_stride,
            num_groups=num_groups,
            time="coarsest",
        )
        norm = partial(self.norm, num_groups)
        self.in_channels = in_channels
        self.latent_dim = latent_dim
        self.stride = (temporal_stride, 2 ** len(steps), 2 ** len(steps))

        self.conv_in = CausalConv(in_channels, base_channels, bias=False)
        self.down = nn.ModuleList()
        dim = base_channels
        for n, width in enumerate(widths):
            downsample = CausalConv(width, width, stride=steps[n]) if n < len(steps) else None
            self.down.append(Level(dim, width, num_residual_blocks, norm=norm, downsample=downsample))
            dim = width
        self.mid_block = residual_blocks(dim, dim, num_residual_blocks, norm=norm)
        self.norm_out = norm(dim)
        self.conv_out = CausalConv(dim, latent_dim, kernel_size=1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Encode video in [-1, 1] to z_BDthw of t = 1 + (T - 1) / s_t, H / s_h, W / s_w.

        Raises:
            PortError: T is not 1 + k*s_t, H or W not a multiple of the stride, or C not `in_channels`.
        """
        require_clip(self.part, x_BCTHW, in_channels=self.in_channels, stride=self.stride, lead_frame=True)
        h = self.conv_in(x_BCTHW)
        for level in self.down:
            h = level(h)
        for block in self.mid_block:
            h = block(h)
        z_BDthw: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return z_BDthw


class OpenMagvit2Decoder(nn.Module):
    """Grows a latent by causal convolutions and depth to space; norms follow its statistics, over all frames.

    Not causal for its norms, see the module.

    Args:
        out_channels: Colour channels.
        base_channels: Width that `channel_multipliers` multiply, a multiple of `num_groups`.
        channel_multipliers: Width of each level, the one nearest to the pixels first; height and width are
            doubled between two.
        num_residual_blocks: Residual blocks of a level, and in the middle.
        latent_dim: Channels of the latent, one for every bit of a code.
        temporal_stride: Growth of time, a power of two, in the first steps between levels.
        num_groups: Groups of channels that a norm takes together.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for `temporal_stride`.
    """

    causal = False
    lead_frame = True
    part: ClassVar[str] = "decoder open-magvit2"
    norm: ClassVar[type[ClipGroupNorm]] = ClipGroupNorm
    adaptive_norm: ClassVar[type[ClipAdaptiveNorm]] = ClipAdaptiveNorm

    def __init__(
        self,
        *,
        out_channels: int = 3,
        base_channels: int = 128,
        channel_multipliers: list[int] = [1, 2, 2, 4],  # noqa: B006 - read, never changed
        num_residual_blocks: int = 4,
        latent_dim: int = 18,
        temporal_stride: int = 4,
        num_groups: int = 32,
    ) -> None:
        super().__init__()
        widths, steps = check_options(
            self.part,
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            latent_dim=latent_dim,
            temporal_stride=temporal_stride,
            num_groups=num_groups,
            time="coarsest",
        )
        norm = partial(self.norm, num_groups)
        self.out_channels = out_channels
        self.latent_dim = latent_dim
        self.stride = (temporal_stride, 2 ** len(steps), 2 ** len(steps))

        dim = widths[-1]
        self.conv_in = CausalConv(latent_dim, dim)
        self.mid_block = residual_blocks(dim, dim, num_residual_blocks, norm=norm)
        # Frames that follow from one of the latent, at every level.
        self._growths = list(accumulate([s_t for s_t, _, _ in reversed(steps)], operator.mul, initial=1))
        levels: list[Level] = []
        adaptive: list[ClipAdaptiveNorm] = []
        for n in reversed(range(len(widths))):
            width = widths[n]
            upsample = Upsample(width, stride=steps[n - 1]) if n > 0 else None
            adaptive.append(self.adaptive_norm(latent_dim, num_groups, dim))
            levels.append(Level(dim, width, num_residual_blocks, norm=norm, upsample=upsample))
            dim = width
        self.up = nn.ModuleList(reversed(levels))
        self.adaptive = nn.ModuleList(reversed(adaptive))
        self.norm_out = norm(dim)
        self.conv_out = CausalConv(dim, out_channels)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution."""
        return self.conv_out.get_parameter("conv_1.weight")

    def forward(self, z_BDthw: Tensor) -> Tensor:
        """Decode to x_BCTHW of T = 1 + (t - 1) * s_t frames, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent(self.part, z_BDthw, latent_dim=self.latent_dim)
        h = self.conv_in(z_BDthw)
        for block in self.mid_block:
            h = block(h)
        for level, adaptive, growth in zip(
            reversed(self.up), reversed(self.adaptive), self._growths, strict=True
        ):
            h = level(adaptive(h, z_BDthw, growth=growth))
        x_BCTHW: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return x_BCTHW


class OpenMagvit2CausalEncoder(OpenMagvit2Encoder):
    """Shrinks video as `open-magvit2` does, every norm per frame: truly causal, it streams.

    The published weights load; latents differ from the published ones, see the module.
    """

    causal = True
    part = "encoder open-magvit2-causal"
    norm = FrameGroupNorm


class OpenMagvit2CausalDecoder(OpenMagvit2Decoder):
    """Grows a latent as `open-magvit2` does, every norm and statistic per frame: truly causal, it streams.

    The published weights load; videos differ from the published ones, see the module.
    """

    causal = True
    part = "decoder open-magvit2-causal"
    norm = FrameGroupNorm
    adaptive_norm = FrameAdaptiveNorm
