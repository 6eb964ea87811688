"""Blocks and changes of size of the zoo's own tokenizer, on frames in channels-last memory.

Every layer works on x_NDhw with N = B * t frames, clip by clip: what happens inside a frame is a 2D
convolution, what happens between frames a product of matrices, and the norm is over the channels of a pixel,
so nothing is pooled over time or space.

Shapes: B batch, t h w the grid, D channels, N = B * t frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import RecipeError
from zoo.streaming import lead_in


class PixelNorm(nn.Module):
    """Normalises the channels of every pixel, with a learned scale (layer norm without a shift)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x_NDhw: Tensor) -> Tensor:
        """Normalise; the shape stays."""
        y_NhwD = F.layer_norm(x_NDhw.permute(0, 2, 3, 1), self.weight.shape, self.weight)
        return y_NhwD.permute(0, 3, 1, 2)


class CausalMix(nn.Module):
    """Mixes every pixel's channels over its frame and the two before it; the first is repeated in front.

    Args:
        dim: Channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, dim, 3))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x_NDhw: Tensor, *, num_clips: int) -> Tensor:
        """Mix the frames of each of `num_clips` clips; the shape stays."""
        n, d, h, w = x_NDhw.shape
        x_BtPD = x_NDhw.permute(0, 2, 3, 1).reshape(num_clips, -1, h * w, d)
        x_BsPD = lead_in(self, x_BtPD, 2, dim=1, pad="repeat")
        t = x_BtPD.shape[1]
        y_BtPD = sum(F.linear(x_BsPD[:, k : k + t], self.weight[:, :, k]) for k in range(3))
        assert isinstance(y_BtPD, Tensor)
        return y_BtPD.view(n, h, w, d).permute(0, 3, 1, 2)


class Block(nn.Module):
    """Adds a convolution inside frames, then one between them, to what comes in."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = PixelNorm(dim)
        self.space = nn.Conv2d(dim, dim, 3, padding=1)
        self.time = CausalMix(dim)

    def forward(self, x_NDhw: Tensor, *, num_clips: int) -> Tensor:
        """Refine; the shape stays."""
        h = F.silu(self.space(self.norm(x_NDhw)))
        y_NDhw: Tensor = x_NDhw + self.time(h, num_clips=num_clips)
        return y_NDhw


class Level(nn.Module):
    """The blocks of one size."""

    def __init__(self, dim: int, num_blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim) for _ in range(num_blocks))

    def forward(self, x_NDhw: Tensor, *, num_clips: int) -> Tensor:
        """Refine; the shape stays."""
        for block in self.blocks:
            x_NDhw = block(x_NDhw, num_clips=num_clips)
        return x_NDhw


def fold(x_NDhw: Tensor, *, time: int, space: int, num_clips: int) -> Tensor:
    """Move neighbouring pixels and frames into the channels, those of one channel side by side."""
    return rearrange(
        x_NDhw,
        "(B t T) D (h H) (w W) -> (B t) (D T H W) h w",
        B=num_clips,
        T=time,
        H=space,
        W=space,
    )


def unfold(x_NDhw: Tensor, *, time: int, space: int, num_clips: int) -> Tensor:
    """Undo `fold`."""
    return rearrange(
        x_NDhw,
        "(B t) (D T H W) h w -> (B t T) D (h H) (w W)",
        B=num_clips,
        T=time,
        H=space,
        W=space,
    )


class Shrink(nn.Module):
    """Shrinks frames' sides, the number of frames, or both: a learned mix of the cells that become one.

    Means of them go past it (https://arxiv.org/abs/2410.10733): a channel becomes as many as there is room
    for, each the mean of as many of its cells.

    Raises:
        RecipeError: The channels of all cells cannot be shared out evenly.
    """

    def __init__(self, in_dim: int, out_dim: int, *, time: int, space: int) -> None:
        super().__init__()
        self.time, self.space = time, space
        _require_even("shrink", in_dim * time * space**2, out_dim)
        self.mix = nn.Conv2d(in_dim * time * space**2, out_dim, 1)

    def forward(self, x_NDhw: Tensor, *, num_clips: int) -> Tensor:
        """Shrink; the number of frames must be a multiple of `time`."""
        folded = fold(x_NDhw, time=self.time, space=self.space, num_clips=num_clips)
        y_NDhw: Tensor = self.mix(folded)
        return y_NDhw + _resize_channels(folded, y_NDhw.shape[1])


class Grow(nn.Module):
    """Undoes `Shrink`: what goes past the mix repeats a channel over as many cells as there are to fill.

    Raises:
        RecipeError: The channels cannot be shared out evenly.
    """

    def __init__(self, in_dim: int, out_dim: int, *, time: int, space: int) -> None:
        super().__init__()
        self.time, self.space = time, space
        _require_even("grow", out_dim * time * space**2, in_dim)
        self.mix = nn.Conv2d(in_dim, out_dim * time * space**2, 1)

    def forward(self, x_NDhw: Tensor, *, num_clips: int) -> Tensor:
        """Grow to `time` as many frames, of `space` times the sides."""
        y_NDhw: Tensor = self.mix(x_NDhw)
        y_NDhw = y_NDhw + _resize_channels(x_NDhw, y_NDhw.shape[1])
        return unfold(y_NDhw, time=self.time, space=self.space, num_clips=num_clips)


def _require_even(what: str, many: int, few: int) -> None:
    if many % few:
        raise RecipeError(
            f"zoo-causal: a {what} between {many} channels of the finer cells and {few} of the coarser does "
            "not work: the first must be a multiple of the second, as with widths of [64, 128]"
        )


def _resize_channels(x_NDhw: Tensor, num: int) -> Tensor:
    """Average neighbouring channels, or repeat each, to get `num`."""
    dim = x_NDhw.shape[1]
    if num < dim:
        return torch.unflatten(x_NDhw, 1, (num, dim // num)).mean(2)
    return x_NDhw.repeat_interleave(num // dim, dim=1)
