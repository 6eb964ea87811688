"""How much of a codebook a data set uses, counted exactly over all of it.

Shape legend: B clips, q codebooks, t h w the latent grid, K codes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.errors import ZooError


class CodebookUsage:
    """Counts of every code, and what follows from them.

    Args:
        codebook_size: Codes in each codebook (K).
        num_codebooks: Codebooks (q). They are counted apart; the figures are means over them.
    """

    def __init__(self, codebook_size: int, num_codebooks: int = 1) -> None:
        if codebook_size < 1 or num_codebooks < 1:
            raise ZooError(
                f"usage needs at least one code and one codebook; got codebook_size = {codebook_size}, "
                f"num_codebooks = {num_codebooks} (a continuous bottleneck has no codes to count)"
            )
        self.codebook_size = codebook_size
        self.num_codebooks = num_codebooks
        self.counts_qK = torch.zeros(num_codebooks, codebook_size, dtype=torch.int64)

    def update(self, i_Bqthw: Tensor) -> None:
        """Add the codes of a batch.

        Args:
            i_Bqthw: int64 code numbers from 0 to codebook_size - 1.

        Raises:
            ZooError: Another number of codebooks, or a code outside the codebook; nothing is counted then.
        """
        if i_Bqthw.ndim != 5 or i_Bqthw.shape[1] != self.num_codebooks or i_Bqthw.is_floating_point():
            raise ZooError(
                f"indices are whole numbers of shape (B, {self.num_codebooks}, t, h, w); "
                f"got {i_Bqthw.dtype} {tuple(i_Bqthw.shape)}"
            )
        codes_qN = i_Bqthw.detach().transpose(0, 1).flatten(1).to("cpu", torch.int64)
        if codes_qN.numel() == 0:
            return
        low, high = int(codes_qN.min()), int(codes_qN.max())
        if low < 0 or high >= self.codebook_size:
            raise ZooError(f"codes run from {low} to {high}; the codebook has 0 to {self.codebook_size - 1}")
        self.counts_qK += torch.stack([codes.bincount(minlength=self.codebook_size) for codes in codes_qN])

    @property
    def num_tokens(self) -> int:
        """Tokens counted, over all codebooks."""
        return int(self.counts_qK.sum())

    @property
    def used_share(self) -> float:
        """Share of codes that occur at least once, 0 to 1."""
        return float((self.counts_qK > 0).double().mean())

    @property
    def entropy_bits(self) -> float:
        """Entropy of the codes in bits, mean over codebooks; 0 before the first update."""
        return float(self._entropy_q().mean() / torch.log(torch.tensor(2.0, dtype=torch.float64)))

    @property
    def perplexity(self) -> float:
        """exp(entropy), mean over codebooks: K when all codes are equally frequent, 1 when one is used."""
        return float(self._entropy_q().exp().mean())

    def _entropy_q(self) -> Tensor:
        totals_q1 = self.counts_qK.sum(1, keepdim=True).clamp(min=1)
        p_qK = self.counts_qK.double() / totals_q1
        return -torch.xlogy(p_qK, p_qK).sum(1)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain data for JSON; `histogram` holds the counts, one list per codebook."""
        return {
            "codebook_size": self.codebook_size,
            "num_codebooks": self.num_codebooks,
            "num_tokens": self.num_tokens,
            "used_share": self.used_share,
            "entropy_bits": self.entropy_bits,
            "perplexity": self.perplexity,
            "histogram": self.counts_qK.tolist(),
        }
