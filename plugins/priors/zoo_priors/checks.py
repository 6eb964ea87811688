"""What priors refuse, in the same words: codes, classes and noise that do not fit.

Values are looked at on the CPU only, as another device would have to be waited for, and not when compiled.

Shape legend: B batch, q codebooks, t h w the latent grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from zoo.errors import PortError, RecipeError, ZooError


def check_codes(
    part: str,
    indices_Bqthw: Tensor,
    *,
    num_codebooks: int,
    codebook_size: int,
    size_HW: tuple[int, int],
    least: int = 1,
    most: int | None = None,
    num: int | None = None,
) -> None:
    """Refuse codes of another type or shape, or outside the codebook.

    Args:
        part: Who asks, for errors.
        indices_Bqthw: The codes.
        num_codebooks: What q must be.
        codebook_size: Codes there are.
        size_HW: Rows and columns of a latent frame.
        least: Latent frames at least.
        most: Latent frames at most; None is any number.
        num: Clips; None is any number.

    Raises:
        PortError: They are.
    """
    shape = tuple(indices_Bqthw.shape)
    fits = (
        indices_Bqthw.dtype == torch.int64
        and len(shape) == 5
        and (shape[1], *shape[3:]) == (num_codebooks, *size_HW)
        and least <= shape[2] <= (shape[2] if most is None else most)
        and num in (None, shape[0])
    )
    if not fits:
        frames = f"{least} or more" if most is None else f"{most}" if least == most else f"{least} to {most}"
        batch = "B" if num is None else f"{num}"
        raise PortError(
            f"{part} got codes of {indices_Bqthw.dtype} and shape {shape}; it takes torch.int64 and "
            f"({batch}, {num_codebooks}, {frames}, {size_HW[0]}, {size_HW[1]}): clips, codebooks, latent "
            "frames, rows, columns"
        )
    _check_range(part, "codes", indices_Bqthw, 0, codebook_size)


def check_labels(part: str, label_B: Tensor, num: int, num_classes: int, *, least: int = 0) -> None:
    """Refuse classes that are no whole numbers from `least` on, below `num_classes`, one for each clip.

    Raises:
        PortError: They are.
    """
    if label_B.shape != (num,) or label_B.dtype not in (torch.int64, torch.int32):
        raise PortError(
            f"{part} got labels of {label_B.dtype} and shape {tuple(label_B.shape)} for {num} clips; it "
            "takes one whole number for each"
        )
    _check_range(part, "classes", label_B, least, num_classes)


def check_noise(
    part: str, noise: Mapping[str, Tensor], names: Iterable[str], *, num: int | None = None
) -> int:
    """Refuse noise that lacks something, or whose seeds are none, and return for how many clips it is.

    Args:
        part: Who asks, for errors.
        noise: As `draw_noise` gives it.
        names: What it has to hold, beside "seed".
        num: How many clips there have to be; None is any number.

    Raises:
        ZooError: It is.
    """
    if missing := sorted({"seed", *names} - noise.keys()):
        raise ZooError(f"{part} needs noise with {', '.join(missing)}; it has {', '.join(sorted(noise))}")
    seed_B = noise["seed"]
    if seed_B.dtype != torch.int64 or seed_B.ndim != 1 or num not in (None, len(seed_B)):
        raise PortError(
            f"{part} got seeds of {seed_B.dtype} and shape {tuple(seed_B.shape)}; it takes torch.int64, one "
            f"for each {'clip' if num is None else f'of {num} clips'}"
        )
    return len(seed_B)


def three(part: str, grid: list[int]) -> tuple[int, int, int]:
    """Return (t, h, w) of the grid.

    Raises:
        RecipeError: It is something else.
    """
    if len(grid) != 3 or min(grid) < 1:
        raise RecipeError(
            f"{part}: grid is {list(grid)}; it must be [frames, rows, columns], such as [4, 32, 32]"
        )
    return grid[0], grid[1], grid[2]


def check_chance(part: str, **options: float) -> None:
    """Refuse chances outside [0, 1).

    Raises:
        RecipeError: One is.
    """
    for option, value in options.items():
        if not 0 <= value < 1:
            raise RecipeError(f"{part}: {option} is {value}; it must be at least 0 and below 1")


def _check_range(part: str, what: str, values: Tensor, least: int, limit: int) -> None:
    if values.device.type != "cpu" or torch.compiler.is_compiling() or not values.numel():
        return
    low, high = (int(end) for end in values.aminmax())
    if low < least or high >= limit:
        raise PortError(f"{part} got {what} from {low} to {high}; they must be in [{least}, {limit})")
