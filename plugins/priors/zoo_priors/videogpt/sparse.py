"""Which places see which in the sparse attention of VideoGPT's published models.

Shape legend: N places in raster order.
"""

from __future__ import annotations

import math
from itertools import accumulate

import torch
from torch import Tensor


def strided_mask(grid: tuple[int, int, int], *, block: int = 32, num_local: int = 4) -> Tensor:
    """Return mask_NN of the strided sparse attention that the published models were trained with.

    Places are taken in blocks along the raster. A place sees those before it in its own block, in the
    `num_local` blocks before, and in the blocks that differ from its own in one axis of the grid
    of blocks other than the last. After Sparse Transformers, https://arxiv.org/abs/1904.10509.

    Raises:
        ValueError: Blocks do not fill the grid.
    """
    sizes = list(accumulate(reversed(grid), lambda a, b: a * b))
    axis = next((number for number, size in enumerate(sizes) if size > block), len(sizes) - 1)
    if sizes[axis] % block:
        raise ValueError(f"blocks of {block} do not fill {sizes[axis]} places")
    shape = (*grid[: len(grid) - 1 - axis], sizes[axis] // block)
    number = torch.arange(math.prod(shape))
    back = number[:, None] - number[None]
    sees = (back >= 0) & (back <= num_local)
    places = torch.stack(torch.unravel_index(number, shape))
    same = places[:, :, None] == places[:, None]
    for axis in range(len(shape) - 1):
        others = torch.cat([same[:axis], same[axis + 1 :]]).all(0)
        sees |= others & (back >= 0)
    sees = sees.repeat_interleave(block, 0).repeat_interleave(block, 1)
    return sees.tril()
