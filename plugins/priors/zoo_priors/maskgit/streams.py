"""Codes of large or several codebooks as a few streams of small ones, so that no layer is too wide.

Shape legend: B batch, q codebooks, t h w the grid, N = t h w places, S = q factors streams.
"""

from __future__ import annotations

import dataclasses

from einops import rearrange
from torch import Tensor

from zoo.errors import ZooError

LARGEST_WHOLE = 2**14
LARGEST_DIGIT = 2**10


def default_factors(codebook_size: int) -> int:
    """Return 1 for up to 2^14 codes, else the fewest digits of at most 2^10 values; 1 if none do."""
    if codebook_size > LARGEST_WHOLE:
        for factors in range(2, codebook_size.bit_length()):
            base = round(codebook_size ** (1 / factors))
            if base <= LARGEST_DIGIT and base**factors == codebook_size:
                return factors
    return 1


@dataclasses.dataclass(frozen=True)
class Streams:
    """Writes each code in as many digits as there are factors, the lowest first.

    A code of 18 bits (https://arxiv.org/abs/2310.05737) is two numbers of 9 bits with two factors.

    Attributes:
        codebook_size: Codes in a codebook.
        num_codebooks: Codebooks.
        factors: Digits of a code.
        base: Values that a digit has.

    Raises:
        ZooError: The codebook size is no whole number to the power of the factors.
    """

    codebook_size: int
    num_codebooks: int
    factors: int
    base: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        base = round(self.codebook_size ** (1 / self.factors))
        other = round(self.codebook_size**0.5)
        if base**self.factors != self.codebook_size:
            raise ZooError(
                f"factors is {self.factors}, but {self.codebook_size} codes are no whole number to that "
                f"power; factors: 1 always goes, 2 goes with {other}^2 = {other**2} codes"
            )
        object.__setattr__(self, "base", base)

    @property
    def num(self) -> int:
        """Digits at one place."""
        return self.num_codebooks * self.factors

    def split(self, indices_Bqthw: Tensor) -> Tensor:
        """Turn codes into digits (B, N, S); the digits of a codebook stand together."""
        codes = rearrange(indices_Bqthw, "b q t h w -> b (t h w) q")
        if self.factors == 1:
            return codes
        digits = [(codes // self.base**j) % self.base for j in range(self.factors)]
        return rearrange(digits, "f b n q -> b n (q f)")

    def join(self, digits_BNS: Tensor, size_thw: tuple[int, int, int]) -> Tensor:
        """Turn digits (B, N, S) back into codes (B, q, t, h, w)."""
        digits = rearrange(digits_BNS, "b n (q f) -> f b q n", f=self.factors)
        codes = sum((digits[j] * self.base**j for j in range(1, self.factors)), digits[0])
        return codes.unflatten(-1, size_thw)
