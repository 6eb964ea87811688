"""How much of a codebook a batch uses.

Shapes: N vectors in the batch, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def count_codes(indices: Tensor, codebook_size: int) -> Tensor:
    """Count how often each code occurs.

    Args:
        indices: int64 of any shape, in [0, codebook_size).
        codebook_size: Number of codes K.

    Returns:
        counts_K, float32 (exact up to 2**24 of one code), on the device of the indices.
    """
    indices_N = indices.flatten()
    ones_N = torch.ones(indices_N.shape, device=indices_N.device)
    return torch.zeros(codebook_size, device=indices_N.device).index_add_(0, indices_N, ones_N)


def code_stats(counts_K: Tensor) -> dict[str, Tensor]:
    """Summarise the counts of a batch.

    Returns:
        `perplexity`, e to the entropy of the codes in nats: 1 when one code is used, K when all
        are used alike; `usage`, the fraction of codes that occur, in [0, 1].
    """
    p_K = counts_K / counts_K.sum()
    perplexity = torch.exp(torch.special.entr(p_K).sum())
    return {"perplexity": perplexity, "usage": (counts_K > 0).float().mean()}
