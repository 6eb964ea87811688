"""Options of VideoGPT's prior, and what is wrong with them.

Shape legend: N places in raster order, t h w the latent grid.
"""

from __future__ import annotations

from torch import Tensor

from zoo.errors import RecipeError
from zoo_priors.videogpt.sparse import strided_mask

PART = "generator 'videogpt'"


def check_width(option: str, width: int, num_heads: int) -> None:
    """Refuse a width that axes or heads cannot share."""
    if width % 3 or width % num_heads:
        raise RecipeError(
            f"{PART}: {option} is {width}; it must be a multiple of 3, as three axes share it, and of "
            f"num_heads = {num_heads}"
        )


def attention_mask(attention: str, grid_thw: tuple[int, int, int]) -> Tensor | None:
    """Return what "sparse" attention sees, or None for "full"."""
    if attention == "full":
        return None
    if attention != "sparse":
        raise RecipeError(f"{PART}: attention is {attention!r}; it must be 'full' or 'sparse'")
    try:
        return strided_mask(grid_thw)
    except ValueError as error:
        raise RecipeError(f"{PART}: attention is 'sparse' and grid {list(grid_thw)}: {error}") from error


def frame_size(cond_size: list[int]) -> tuple[int, int]:
    """Return (height, width) of the frames that are given as pixels."""
    if len(cond_size) != 2 or min(cond_size) < 4 or any(side % 4 for side in cond_size):
        raise RecipeError(
            f"{PART}: cond_size is {list(cond_size)}; give the height and width of the frames it is "
            "conditioned on, multiples of 4, such as [64, 64]"
        )
    return cond_size[0], cond_size[1]
