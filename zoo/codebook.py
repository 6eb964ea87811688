"""Reading, filling and reviving a codebook, and how much of it a batch uses; for quantizers of any plugin.

Shapes: B batch, D channels, n positions of the latent grid, N = B*n vectors, K codes.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from zoo.nearest import nearest_codes, pieces
from zoo.ranks import distributed, everywhere, places_of_ranks


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
    num = counts_K.sum()
    # Unlike p log p, which has to step around 0, a logarithm of counts is vectorised.
    entropy = num.log() - (counts_K * counts_K.clamp(min=1).log()).sum() / num
    return {"perplexity": entropy.exp(), "usage": (counts_K > 0).float().mean()}


def look_up(codes_KD: Tensor, indices_Bn: Tensor) -> Tensor:
    """Return z_BDn, the code of every index; no gradient to the codes."""
    codes_KD = codes_KD.detach()
    (b, n), (k, d) = indices_Bn.shape, codes_KD.shape
    if b * n < k // 2:
        return rearrange(F.embedding(indices_Bn, codes_KD), "b n d -> b d n").contiguous()
    # A channel at a time reads and writes near by; whole codes would have to be transposed afterwards.
    codes_BDK = codes_KD.t().contiguous().expand(b, d, k)
    return codes_BDK.gather(2, indices_Bn[:, None].expand(b, d, n))


def on_grid(z_BDn: Tensor, grid: torch.Size) -> Tensor:
    """Return z_BDthw, the positions n laid out on the grid (t, h, w) again."""
    return z_BDn.reshape(*z_BDn.shape[:2], *grid)


def sum_by_code(z_BDn: Tensor, indices_Bn: Tensor, codebook_size: int) -> Tensor:
    """Return sums_KD, for every code the sum of the vectors it was given; over this process."""
    sums_DK = z_BDn.new_zeros(z_BDn.shape[1], codebook_size)
    for clips, places in pieces(z_BDn):
        z_DN = rearrange(z_BDn[clips, :, places], "b d n -> d (b n)")
        sums_DK.index_add_(1, indices_Bn[clips, places].flatten(), z_DN)
    return sums_DK.t().contiguous()


def draw_vectors(z_BDn: Tensor, num: int) -> Tensor:
    """Draw vectors_KD of the batch without repeats, or jittered repeats where it has too few.

    Draws from torch's global generator, on rank 0 for all: as one process would from the whole batch.
    """
    b, d, n = z_BDn.shape
    before, total = places_of_ranks(b * n, z_BDn.device)
    order_N = torch.randperm(total, device=z_BDn.device)
    chosen_K = order_N.repeat(-(-num // total))[:num]
    noise_KD = torch.randn(num, d, device=z_BDn.device) * (0.01 / d**0.5) if num > total else None
    if not distributed():
        vectors_KD = z_BDn[chosen_K // n, :, chosen_K % n]
    else:
        dist.broadcast(chosen_K, 0)
        mine_K = chosen_K - before
        is_here_K = (mine_K >= 0) & (mine_K < b * n)
        here_K = mine_K.clamp(0, b * n - 1)
        vectors_KD = everywhere(z_BDn[here_K // n, :, here_K % n] * is_here_K[:, None])
        if noise_KD is not None:
            dist.broadcast(noise_KD, 0)
    return vectors_KD if noise_KD is None else vectors_KD + noise_KD.to(vectors_KD.dtype)


@torch.no_grad()
def k_means(z_BDn: Tensor, num: int, *, steps: int, cosine: bool = False) -> tuple[Tensor, Tensor]:
    """Cluster the vectors of a batch, over all processes, starting from drawn ones.

    Args:
        z_BDn: Vectors; of length 1 when `cosine`.
        num: Number of clusters K.
        steps: Rounds of assigning and averaging, at least 1.
        cosine: Assign by inner product, and give the means length 1.

    Returns:
        means_KD and counts_K, how many vectors each was the mean of; an empty cluster keeps its place.
    """
    means_KD = draw_vectors(z_BDn, num)
    if cosine:
        means_KD = F.normalize(means_KD, dim=1)
    for _ in range(steps):
        indices_Bn = nearest_codes(z_BDn, means_KD, means_KD.new_zeros(num) if cosine else None)
        counts_K, sums_KD = count_and_sum(z_BDn, indices_Bn, num)
        new_KD = sums_KD / counts_K.clamp(min=1)[:, None].to(sums_KD.dtype)
        if cosine:
            new_KD = F.normalize(new_KD, dim=1)
        means_KD = torch.where(counts_K[:, None] > 0, new_KD, means_KD)
    return means_KD, counts_K


def count_and_sum(z_BDn: Tensor, indices_Bn: Tensor, codebook_size: int) -> tuple[Tensor, Tensor]:
    """Return counts_K and sums_KD of the vectors that each code was given, over all processes."""
    counts_K = everywhere(count_codes(indices_Bn, codebook_size))
    return counts_K, everywhere(sum_by_code(z_BDn, indices_Bn, codebook_size))


def move_averages(N_K: Tensor, z_avg_KD: Tensor, z_BDn: Tensor, indices_Bn: Tensor, *, decay: float) -> None:
    """Move the averages of counts and sums towards those of a batch, over all processes.

    Source: https://arxiv.org/abs/1711.00937 (appendix A.1)
    """
    counts_K, sums_KD = count_and_sum(z_BDn, indices_Bn, N_K.shape[0])
    N_K.mul_(decay).add_(counts_K, alpha=1 - decay)
    z_avg_KD.mul_(decay).add_(sums_KD, alpha=1 - decay)
