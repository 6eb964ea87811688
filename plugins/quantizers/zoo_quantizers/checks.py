"""What the quantizers here refuse, in the same words.

Shapes: B batch, D latent channels, t h w the latent grid, q codebooks.
"""

from __future__ import annotations

from torch import Tensor

from zoo import checks
from zoo.errors import RecipeError


def require_latent(name: str, z_BDthw: Tensor, width: int, meaning: str = "latent_dim") -> None:
    """Raise `PortError` unless the latent is (B, width, t, h, w); `meaning` says where the width is from."""
    checks.require_latent(f"quantizer {name}", z_BDthw, latent_dim=width, meaning=meaning)


def require_indices(name: str, indices_Bqthw: Tensor, num_codebooks: int = 1) -> None:
    """Raise `PortError` unless the indices are (B, num_codebooks, t, h, w)."""
    checks.require_indices(f"quantizer {name}", indices_Bqthw, num_codebooks=num_codebooks)


def require_sizes(name: str, *, codebook_size: int, latent_dim: int) -> None:
    """Raise `RecipeError` unless there are at least 2 codes and 1 channel."""
    if codebook_size < 2 or latent_dim < 1:
        raise RecipeError(
            f"quantizer {name}: codebook_size is {codebook_size} and latent_dim {latent_dim}; "
            "they must be at least 2 and 1, such as codebook_size=1024, latent_dim=256"
        )


def require_count(name: str, **options: int) -> None:
    """Raise `RecipeError` when one of the options is less than 1."""
    checks.require_positive(f"quantizer {name}", **options)


def require_at_least_zero(name: str, **options: float) -> None:
    """Raise `RecipeError` when one of the options is negative or no number."""
    for option, value in options.items():
        if not value >= 0:
            raise RecipeError(f"quantizer {name}: {option} is {value}; it must be 0 or more")


def require_decay(name: str, decay: float) -> None:
    """Raise `RecipeError` unless the decay is in [0, 1)."""
    if not 0 <= decay < 1:
        raise RecipeError(f"quantizer {name}: decay is {decay}; it must be in [0, 1), such as 0.99")
