"""What the quantizers of signs refuse, in the same words."""

from __future__ import annotations

from zoo.errors import RecipeError

_MOST_BITS = 24
"""Bits of one index, and of one table of code probabilities: 64 MiB in float32."""


def require_bits(name: str, *, num_bits: int, num_codebooks: int, group_size: int) -> None:
    """Raise `RecipeError` unless the bits split evenly into codebooks and groups of at most 24 bits."""
    if num_bits < 1:
        raise RecipeError(f"quantizer {name}: num_bits is {num_bits}; it must be at least 1, such as 18")
    if num_codebooks < 1 or num_bits % num_codebooks or num_bits // num_codebooks > _MOST_BITS:
        raise RecipeError(
            f"quantizer {name}: num_codebooks is {num_codebooks} and num_bits {num_bits}; the bits must "
            f"split evenly, into numbers of at most {_MOST_BITS} bits, such as num_bits=36, num_codebooks=2"
        )
    if group_size == num_bits > _MOST_BITS:
        raise RecipeError(
            f"quantizer {name}: the entropy over codes of {num_bits} bits needs a table of "
            f"2^{num_bits} numbers; the most is {_MOST_BITS} bits. Quantizer bsq splits them: "
            "num_bits=36, group_size=9"
        )
    if group_size < 1 or num_bits % group_size or group_size > _MOST_BITS:
        raise RecipeError(
            f"quantizer {name}: group_size is {group_size} and num_bits {num_bits}; the bits must "
            f"split evenly, into groups of at most {_MOST_BITS}, such as num_bits=18, group_size=9"
        )
