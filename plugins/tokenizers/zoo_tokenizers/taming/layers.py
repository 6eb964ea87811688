"""Blocks that the encoder and the decoder of the taming-transformers VQGAN share.

Source: https://arxiv.org/abs/2012.09841

Shapes: B frames, C or D channels, H W pixels, N = H*W positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.convolution import add, doubled_conv2d, silu
from zoo.errors import RecipeError

_NUM_GROUPS = 32


def check_options(
    part: str,
    *,
    base_channels: int,
    channel_multipliers: Sequence[int],
    num_residual_blocks: int,
    attention_levels: Sequence[int],
    latent_dim: int,
) -> list[int]:
    """Refuse sizes the blocks cannot be built with, and return the width of every level, finest first.

    Raises:
        RecipeError: A number is out of range.
    """
    widths = [base_channels * multiplier for multiplier in channel_multipliers]
    if not widths or any(width < 1 or width % _NUM_GROUPS for width in [base_channels, *widths]):
        raise RecipeError(
            f"{part}: base_channels is {base_channels} and channel_multipliers {list(channel_multipliers)}; "
            f"widths must be multiples of {_NUM_GROUPS} (group norm), such as base_channels=128, "
            "channel_multipliers=[1, 1, 2, 2, 4]"
        )
    if num_residual_blocks < 1 or latent_dim < 1:
        raise RecipeError(
            f"{part}: num_residual_blocks is {num_residual_blocks} and latent_dim {latent_dim}; "
            "both must be at least 1, such as num_residual_blocks=2, latent_dim=256"
        )
    if not set(attention_levels) <= set(range(len(widths))):
        raise RecipeError(
            f"{part}: attention_levels is {list(attention_levels)}; a level is one of 0 (full size) to "
            f"{len(widths) - 1} (the coarsest), such as [{len(widths) - 1}], or [] for none"
        )
    return widths


def group_norm(dim: int) -> nn.GroupNorm:
    """Build the normalisation that stands before every activation."""
    return nn.GroupNorm(_NUM_GROUPS, dim, eps=1e-6)


class ResidualBlock(nn.Module):
    """Adds two 3x3 convolutions, each after group norm and swish; 1x1 on the way past where widths differ."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm1 = group_norm(in_dim)
        self.conv1 = nn.Conv2d(in_dim, out_dim, 3, padding=1)
        self.norm2 = group_norm(out_dim)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(in_dim, out_dim, 1) if in_dim != out_dim else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Refine; only the number of channels changes."""
        h = self.conv1(silu(self.norm1(x_BCHW)))
        h = self.conv2(silu(self.norm2(h)))
        return add(h, self.nin_shortcut(x_BCHW))


class AttentionBlock(nn.Module):
    """Lets every position of a frame attend to all others, with one head as wide as the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = group_norm(dim)
        self.q = nn.Conv2d(dim, dim, 1)
        self.k = nn.Conv2d(dim, dim, 1)
        self.v = nn.Conv2d(dim, dim, 1)
        self.proj_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Attend; the shape stays."""
        h = self.norm(x_BCHW)
        q, k, v = (rearrange(conv(h), "b c h w -> b 1 (h w) c") for conv in (self.q, self.k, self.v))
        mixed_B1NC = F.scaled_dot_product_attention(q, k, v)
        mixed_BCHW = rearrange(mixed_B1NC, "b 1 (h w) c -> b c h w", h=x_BCHW.shape[2])
        return add(self.proj_out(mixed_BCHW), x_BCHW)


class Downsample(nn.Module):
    """Halves height and width by a 3x3 convolution, zeros to the right and below only."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve; x_BCHW -> (B, C, H / 2, W / 2)."""
        y: Tensor = self.conv(F.pad(x_BCHW, (0, 1, 0, 1)))
        return y


class Upsample(nn.Module):
    """Doubles height and width by repeating pixels, then a 3x3 convolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Convolve; x_BCHW -> (B, C, 2 * H, 2 * W)."""
        return doubled_conv2d(x_BCHW, self.conv.weight, self.conv.bias)


class Level(nn.Module):
    """The blocks of one resolution, attention after each where asked for."""

    def __init__(self, in_dim: int, out_dim: int, *, num_blocks: int, attends: bool) -> None:
        super().__init__()
        widths = [in_dim] + [out_dim] * num_blocks
        self.block = nn.ModuleList(ResidualBlock(a, out_dim) for a in widths[:-1])
        self.attn = nn.ModuleList(AttentionBlock(out_dim) for _ in range(num_blocks if attends else 0))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Refine; only the number of channels changes."""
        for n, block in enumerate(self.block):
            x_BCHW = block(x_BCHW)
            if len(self.attn):
                x_BCHW = self.attn[n](x_BCHW)
        return x_BCHW


class DownLevel(Level):
    """The blocks of one resolution of the encoder, and the step to the next coarser one."""

    def __init__(self, in_dim: int, out_dim: int, *, num_blocks: int, attends: bool, is_last: bool) -> None:
        super().__init__(in_dim, out_dim, num_blocks=num_blocks, attends=attends)
        self.downsample = nn.Identity() if is_last else Downsample(out_dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Refine, then halve unless this is the coarsest level."""
        y: Tensor = self.downsample(super().forward(x_BCHW))
        return y


class UpLevel(Level):
    """The blocks of one resolution of the decoder, and the step to the next finer one."""

    def __init__(self, in_dim: int, out_dim: int, *, num_blocks: int, attends: bool, is_last: bool) -> None:
        super().__init__(in_dim, out_dim, num_blocks=num_blocks, attends=attends)
        self.upsample = nn.Identity() if is_last else Upsample(out_dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Refine, then double unless this is the finest level."""
        y: Tensor = self.upsample(super().forward(x_BCHW))
        return y


class Middle(nn.Module):
    """Attention between two residual blocks, at the coarsest resolution."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(dim, dim)
        self.attn_1 = AttentionBlock(dim)
        self.block_2 = ResidualBlock(dim, dim)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Refine; the shape stays."""
        y: Tensor = self.block_2(self.attn_1(self.block_1(x_BCHW)))
        return y
