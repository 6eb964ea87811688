"""Encoder and decoder of the zoo's own causal tokenizer.

What it is made of: patches of pixels over several frames become channels first, so that no layer runs at full
size; convolutions are factorised into one inside frames and one between them; the norm is over the channels
of a pixel, so nothing looks ahead; every change of size is one product of matrices with a shortcut past it.
s_t frames become one latent frame, the first ones like all others, so a stream is made of equal pieces.

Shapes: B batch, C colour channels, T H W frames and pixels, D channels, t h w the latent grid, N = B * t
frames (see `zoo_tokenizers.zoo_causal.layers`).
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from zoo.checks import require_clip, require_latent
from zoo.errors import RecipeError
from zoo_tokenizers.zoo_causal.layers import Grow, Level, PixelNorm, Shrink, fold, unfold


def _check(
    label: str, *, stride: list[int], patch_size: list[int], widths: list[int], num_blocks: list[int]
) -> tuple[tuple[int, int, int], list[tuple[int, int]]]:
    """Return the stride, and by how much time and space change between each two levels.

    Raises:
        RecipeError: An option is out of range, or there are too few or too many levels for the stride.
    """
    powers = (1, 2, 4, 8, 16, 32)
    for name, value in (("stride", stride), ("patch_size", patch_size)):
        if len(value) != 3 or any(n not in powers for n in value) or value[1] != value[2]:
            raise RecipeError(
                f"{label}: {name} is {value}; it must be three powers of two, the last two equal"
            )
    if any(s % p for s, p in zip(stride, patch_size, strict=True)):
        raise RecipeError(f"{label}: patch_size is {patch_size}; it must divide the stride {stride}")
    times, spaces = (s // p for s, p in zip(stride[:2], patch_size[:2], strict=True))
    times, spaces = times.bit_length() - 1, spaces.bit_length() - 1
    wanted = max(times, spaces) + 1
    if not len(widths) == len(num_blocks) == wanted:
        raise RecipeError(
            f"{label}: stride {stride} with patches of {patch_size} needs {wanted} levels; there are "
            f"{len(widths)} widths and {len(num_blocks)} num_blocks"
        )
    if any(width < 1 for width in widths) or any(num < 0 for num in num_blocks):
        raise RecipeError(f"{label}: widths are {widths} and num_blocks {num_blocks}; both count")
    # Space shrinks first and time last, where frames are small.
    steps = [(2 if n >= wanted - 1 - times else 1, 2 if n < spaces else 1) for n in range(wanted - 1)]
    return (stride[0], stride[1], stride[2]), steps


class ZooCausalEncoder(nn.Module):
    """Turns patches of pixels into a latent by causal factorised convolutions.

    Args:
        in_channels: Colour channels.
        widths: Channels of every level, the one of the patches first.
        num_blocks: Blocks of every level.
        latent_dim: Channels of the latent.
        stride: Shrinkage of time, height and width, powers of two.
        patch_size: Frames, height and width of a patch, powers of two that divide the stride.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for the stride.
    """

    causal = True
    lead_frame = False

    def __init__(
        self,
        *,
        in_channels: int = 3,
        widths: list[int] = [192, 384],  # noqa: B006 - read, never changed
        num_blocks: list[int] = [2, 8],  # noqa: B006 - read, never changed
        latent_dim: int = 6,
        stride: list[int] = [4, 8, 8],  # noqa: B006 - read, never changed
        patch_size: list[int] = [4, 4, 4],  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__()
        self.stride, steps = _check(
            "encoder zoo-causal", stride=stride, patch_size=patch_size, widths=widths, num_blocks=num_blocks
        )
        self.in_channels = in_channels
        self.latent_dim = latent_dim
        self.patch_time, self.patch_space = patch_size[0], patch_size[1]
        self.conv_in = nn.Conv2d(in_channels * math.prod(patch_size), widths[0], 3, padding=1)
        self.levels = nn.ModuleList(Level(width, num) for width, num in zip(widths, num_blocks, strict=True))
        self.shrinks = nn.ModuleList(
            Shrink(widths[n], widths[n + 1], time=time, space=space) for n, (time, space) in enumerate(steps)
        )
        self.norm_out = PixelNorm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], latent_dim, 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Encode video in [-1, 1] to z_BDthw of T / s_t, H / s_h, W / s_w.

        Raises:
            PortError: T, H or W is not a multiple of the stride, or C is not `in_channels`.
        """
        require_clip(
            "encoder zoo-causal",
            x_BCTHW,
            in_channels=self.in_channels,
            stride=self.stride,
            lead_frame=self.lead_frame,
        )
        b = len(x_BCTHW)
        h = fold(
            rearrange(x_BCTHW, "B C T H W -> (B T) C H W"),
            time=self.patch_time,
            space=self.patch_space,
            num_clips=b,
        )
        h = self.conv_in(h.contiguous(memory_format=torch.channels_last))
        for n, level in enumerate(self.levels):
            h = self.shrinks[n - 1](h, num_clips=b) if n else h
            h = level(h, num_clips=b)
        return rearrange(self.conv_out(self.norm_out(h)), "(B t) D h w -> B D t h w", B=b).contiguous()


class ZooCausalDecoder(nn.Module):
    """Grows a latent by causal factorised convolutions to patches of pixels.

    Args:
        out_channels: Colour channels.
        widths: Channels of every level, the one of the patches first.
        num_blocks: Blocks of every level.
        latent_dim: Channels of the latent.
        stride: Growth of time, height and width, powers of two.
        patch_size: Frames, height and width of a patch, powers of two that divide the stride.

    Raises:
        RecipeError: An option is out of range, or there are too few levels for the stride.
    """

    causal = True
    lead_frame = False

    def __init__(
        self,
        *,
        out_channels: int = 3,
        widths: list[int] = [192, 384],  # noqa: B006 - read, never changed
        num_blocks: list[int] = [4, 8],  # noqa: B006 - read, never changed
        latent_dim: int = 6,
        stride: list[int] = [4, 8, 8],  # noqa: B006 - read, never changed
        patch_size: list[int] = [4, 4, 4],  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__()
        self.stride, steps = _check(
            "decoder zoo-causal", stride=stride, patch_size=patch_size, widths=widths, num_blocks=num_blocks
        )
        self.out_channels = out_channels
        self.latent_dim = latent_dim
        self.patch_time, self.patch_space = patch_size[0], patch_size[1]
        self.conv_in = nn.Conv2d(latent_dim, widths[-1], 1)
        self.levels = nn.ModuleList(Level(width, num) for width, num in zip(widths, num_blocks, strict=True))
        self.grows = nn.ModuleList(
            Grow(widths[n + 1], widths[n], time=time, space=space) for n, (time, space) in enumerate(steps)
        )
        self.norm_out = PixelNorm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], out_channels * math.prod(patch_size), 3, padding=1)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution."""
        return self.conv_out.get_parameter("weight")

    def forward(self, z_BDthw: Tensor) -> Tensor:
        """Decode to x_BCTHW of t * s_t frames, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("decoder zoo-causal", z_BDthw, latent_dim=self.latent_dim)
        b = len(z_BDthw)
        h = rearrange(z_BDthw, "B D t h w -> (B t) D h w").contiguous(memory_format=torch.channels_last)
        h = self.conv_in(h)
        for n in reversed(range(len(self.levels))):
            h = self.levels[n](h, num_clips=b)
            h = self.grows[n - 1](h, num_clips=b) if n else h
        y = unfold(self.conv_out(self.norm_out(h)), time=self.patch_time, space=self.patch_space, num_clips=b)
        return rearrange(y, "(B T) C H W -> B C T H W", B=b).contiguous()
