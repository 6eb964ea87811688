"""Codes as symbols: a code of a large vocabulary as a few digits, and codebooks that start one after another.

Shape legend: B batch, P = h w places of a frame, S steps of a frame, q codebooks, f digits of a code, V
values of a digit, g codebooks at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import RecipeError

LARGEST_WHOLE = 2**14
"""Codes up to which a vocabulary is left whole, unless `factors` says otherwise."""
LARGEST_DIGIT = 2**10


class Digits:
    """Writes codes as digits, the most significant first.

    A vocabulary of a power of two has digits of whole bits, so that those of LFQ and BSQ stay together;
    any other has digits of the least base that is enough.

    Args:
        part: Who asks, for errors.
        codebook_size: Codes.
        factors: Digits of a code; None is 1 for up to 2^14 codes, and otherwise as few as have 2^10 values at
            most.

    Attributes:
        codebook_size: Codes.
        num: Digits of a code, f.
        base: Values of a digit, V.

    Raises:
        RecipeError: There are more digits than a code can have.
    """

    def __init__(self, part: str, codebook_size: int, factors: int | None) -> None:
        self.codebook_size = codebook_size
        if factors is None:
            factors = 1
            while codebook_size > LARGEST_WHOLE and _base(codebook_size, factors) > LARGEST_DIGIT:
                factors += 1
        most = max(1, (codebook_size - 1).bit_length())
        if not 1 <= factors <= most:
            raise RecipeError(
                f"{part}: factors is {factors}; a code out of {codebook_size} has 1 to {most} digits"
            )
        self.num = factors
        self.base = _base(codebook_size, factors)
        self._places = [self.base ** (factors - 1 - n) for n in range(factors)]

    def split(self, codes: Tensor) -> Tensor:
        """Return the digits (..., f) of codes (...)."""
        return torch.stack([codes // place % self.base for place in self._places], dim=-1)

    def join(self, digits_f: Tensor) -> Tensor:
        """Return the codes (...) of digits (..., f), or of as many as there are what they begin with."""
        codes = digits_f[..., 0]
        for n in range(1, digits_f.shape[-1]):
            codes = codes * self.base + digits_f[..., n]
        return codes

    def allow(self, logits_V: Tensor, before_f: Tensor) -> Tensor:
        """Give minus infinity to values of the next digit that no code has after those before.

        Args:
            logits_V: Of the next digit, (..., V).
            before_f: The digits before it, (..., n); there may be none.
        """
        n = before_f.shape[-1]
        last = (self.codebook_size - 1) // self._places[n]
        if last == self.base ** (n + 1) - 1:
            return logits_V
        value_V = torch.arange(self.base, device=logits_V.device)
        start = (self.join(before_f) * self.base)[..., None] if n else 0
        return logits_V.masked_fill(start + value_V > last, -torch.inf)


def _base(codebook_size: int, factors: int) -> int:
    bits = (codebook_size - 1).bit_length()
    if codebook_size == 1 << bits:
        return 1 << -(-bits // factors)
    base = round(codebook_size ** (1 / factors))
    # Roots are rounded; only whole numbers tell.
    while base**factors < codebook_size:
        base += 1
    while base > 1 and (base - 1) ** factors >= codebook_size:
        base -= 1
    return base


class Pattern:
    """At which step of a frame each codebook's code of each place is predicted.

    "parallel": all codebooks of a place at once. "delay": each codebook one step after the one before it
    (MusicGen, https://arxiv.org/abs/2306.05284), within a frame, so that a frame is whole before the next
    begins; a frame has q - 1 more steps then.

    Args:
        name: "parallel" or "delay".
        num_places: Places of a frame, P.
        num_codebooks: Codebooks, q.

    Attributes:
        num_steps: Steps of a frame, S.
        delays: Steps that each codebook lags behind the first.
    """

    def __init__(self, name: str, num_places: int, num_codebooks: int) -> None:
        self.num_places = num_places
        self.delays = [n if name == "delay" else 0 for n in range(num_codebooks)]
        self.num_steps = num_places + self.delays[-1]

    def delay(self, x_BtPq: Tensor, fill: float = 0) -> Tensor:
        """Return x (B, t, S, q, ...) by step of x (B, t, P, q, ...) by place, `fill` where there is none."""
        if self.num_steps == self.num_places:
            return x_BtPq
        x_BtSq = x_BtPq.new_full((*x_BtPq.shape[:2], self.num_steps, *x_BtPq.shape[3:]), fill)
        for codebook, lag in enumerate(self.delays):
            x_BtSq[:, :, lag : lag + self.num_places, codebook] = x_BtPq[:, :, :, codebook]
        return x_BtSq

    def undo(self, x_BtSq: Tensor) -> Tensor:
        """Return x (B, t, P, q, ...) by place of x (B, t, S, q, ...) by step."""
        if self.num_steps == self.num_places:
            return x_BtSq
        own = [x_BtSq[:, :, lag : lag + self.num_places, n] for n, lag in enumerate(self.delays)]
        return torch.stack(own, dim=3)

    def codebooks(self, step: int) -> range:
        """Return the codebooks that have a code at a step of a frame."""
        there = [n for n, lag in enumerate(self.delays) if 0 <= step - lag < self.num_places]
        return range(there[0], there[-1] + 1)
