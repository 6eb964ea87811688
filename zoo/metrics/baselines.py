"""What a reconstruction has to beat: the mean colour, and nearest-neighbour resizing at the same bits.

Bits are counted plainly. A clip's tokens cost tokens x log2(codebook size) bits; a stored pixel costs
8 bits a channel (24 for RGB). Neither side counts what is sent once for all clips: the model's weights
there, the grid's shape here. No entropy coding on either side.

Shape legend: B clips, C colour channels, T H W frames and pixels; t h w a grid of stored pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.metrics.reconstruction import psnr_per_clip

BITS_PER_CHANNEL = 8
"""Bits of a stored pixel's channel."""

BITS_PER_LATENT = 16
"""Bits counted for a number of a continuous latent, as if stored in half precision."""


def stored_bits(num_tokens: int, codebook_size: int) -> float:
    """Return the bits that tokens take when each is stored as a number below codebook_size.

    Args:
        num_tokens: Tokens of one clip, over all codebooks; numbers of the latent when it is continuous.
        codebook_size: Codes in each codebook; 0 for a continuous latent, counted at `BITS_PER_LATENT`.
    """
    return num_tokens * (math.log2(codebook_size) if codebook_size else BITS_PER_LATENT)


def raw_bits(num_pixels: int, *, channels: int) -> int:
    """Return the bits of pixels stored as they are."""
    return num_pixels * channels * BITS_PER_CHANNEL


def mean_colour(x_BCTHW: Tensor) -> Tensor:
    """Return clips filled with their own mean colour: one stored pixel for each clip."""
    return x_BCTHW.double().mean((2, 3, 4), keepdim=True).to(x_BCTHW.dtype).expand_as(x_BCTHW).clone()


def nearest_grids(
    size_THW: tuple[int, int, int], *, bits: float, channels: int = 3
) -> list[tuple[int, int, int]]:
    """Return the (t, h, w) grids of stored pixels to try within a budget, most frames first.

    For T, T/2, T/4, ... frames kept: the largest grid of nearly the frame's own aspect that the budget
    pays for, never larger than the clip. Trading frames for pixels helps still clips and hurts moving
    ones, so `zoo.metrics.evaluate` tries all of them and reports the best.

    Args:
        size_THW: Frames, height and width of the clip.
        bits: Budget for one clip; below one pixel it still buys one.
        channels: Colour channels, `BITS_PER_CHANNEL` each.
    """
    num_frames, height, width = size_THW
    if min(size_THW) < 1 or channels < 1 or not bits > 0:
        raise ZooError(f"no grid for a clip of {size_THW} (T, H, W), {channels} channels and {bits} bits")
    pixels = max(1, math.floor(bits / raw_bits(1, channels=channels) + 1e-9))
    grids = []
    frames = num_frames
    while True:
        a_frame = pixels // frames
        if a_frame >= 1:
            grids.append((frames, *_largest(height, width, a_frame)))
        if frames == 1:
            return list(dict.fromkeys(grids))
        frames = math.ceil(frames / 2)


def _largest(height: int, width: int, pixels: int) -> tuple[int, int]:
    ideal = math.sqrt(pixels * height / width)
    found = []
    for rows in (math.floor(ideal), math.ceil(ideal)):
        rows = min(max(rows, 1), height, pixels)
        columns = min(width, pixels // rows)
        found.append((min(height, pixels // columns), columns))
    return max(found, key=math.prod)


def nearest(x_BCTHW: Tensor, grid_thw: tuple[int, int, int]) -> Tensor:
    """Return clips sampled at the middle of each cell of a grid and blown up again to their size."""
    if min(grid_thw) < 1 or any(
        cells > size for cells, size in zip(grid_thw, x_BCTHW.shape[2:], strict=True)
    ):
        raise ZooError(f"a grid of {grid_thw} pixels does not fit in a clip of {tuple(x_BCTHW.shape[2:])}")
    for axis, cells in zip((2, 3, 4), grid_thw, strict=True):
        size = x_BCTHW.shape[axis]
        # A pixel belongs to the cell its own middle lies in, so that each cell shows a pixel of its own.
        cell = (2 * torch.arange(size, device=x_BCTHW.device) + 1) * cells // (2 * size)
        middle = ((2 * cell + 1) * size) // (2 * cells)
        x_BCTHW = x_BCTHW.index_select(axis, middle)
    return x_BCTHW


def best_nearest(x_BCTHW: Tensor, bits: float) -> tuple[Tensor, list[tuple[int, int, int]]]:
    """Return clips by `nearest` on the grid of `nearest_grids` with the best PSNR, and each clip's grid."""
    num_frames, height, width = x_BCTHW.shape[2:]
    grids = nearest_grids((num_frames, height, width), bits=bits, channels=x_BCTHW.shape[1])
    tries = torch.stack([nearest(x_BCTHW, grid) for grid in grids])
    best_B = torch.stack([psnr_per_clip(x_BCTHW, y_BCTHW) for y_BCTHW in tries]).argmax(0)
    clips = torch.arange(len(x_BCTHW), device=x_BCTHW.device)
    return tries[best_B, clips], [grids[int(index)] for index in best_B]


def model_bits(i_Bqthw: Tensor | None, z_BDthw: Tensor | None, *, codebook_size: int) -> float:
    """Return the bits that one clip's tokens take, by `stored_bits`, read off an encoded batch."""
    tokens = i_Bqthw if i_Bqthw is not None else z_BDthw
    if tokens is None:
        raise ZooError("tokens hold neither indices nor a latent; there is nothing to count")
    return stored_bits(tokens[0].numel(), codebook_size if i_Bqthw is not None else 0)
