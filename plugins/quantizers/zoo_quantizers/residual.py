"""Residual codebooks: each one quantizes what the ones before it left over.

Shapes: B batch, D channels, n positions of the latent grid, K codes, q levels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from zoo.codebook import draw_vectors, k_means, look_up, move_averages
from zoo.nearest import nearest_codes

_SMOOTHING = 1e-5
"""Added to every count, so that an unused code stays finite; the value of SoundStream's ports."""


class Residuals(NamedTuple):
    """What `ResidualCodes.quantize` finds; nothing here carries a gradient.

    Attributes:
        codes_BDn: Sum of the codes of each clip's levels.
        indices_Bqn: The nearest code at every level, also at levels that a clip does not use.
        squares: Sum of the squared residuals after each level that a clip uses.
        pull_BDn: Sum of these residuals, half the gradient of `squares`; None where no gradient is asked.
        restarted: Number of dead codes replaced.
    """

    codes_BDn: Tensor
    indices_Bqn: Tensor
    squares: Tensor
    pull_BDn: Tensor | None
    restarted: Tensor


class EMALevel(nn.Module):
    """One codebook learned by moving averages; `N` counts, `z_avg` sums and `embeddings` are stored."""

    embeddings: Tensor
    N: Tensor
    z_avg: Tensor
    initialized: Tensor

    def __init__(self, codebook_size: int, latent_dim: int) -> None:
        super().__init__()
        embeddings_KD = torch.randn(codebook_size, latent_dim)
        self.register_buffer("embeddings", embeddings_KD)
        self.register_buffer("N", torch.ones(codebook_size))
        self.register_buffer("z_avg", embeddings_KD.clone())
        self.register_buffer("initialized", torch.tensor(False))

    def fill(self, z_BDn: Tensor, *, kmeans_steps: int) -> None:
        """Take the codes from a batch: the means of its clusters, or (0 steps) vectors of its own."""
        num = self.embeddings.shape[0]
        if kmeans_steps:
            means_KD, counts_K = k_means(z_BDn, num, steps=kmeans_steps)
        else:
            means_KD = draw_vectors(z_BDn, num)
            counts_K = means_KD.new_ones(num)
        self.embeddings.copy_(means_KD)
        self.N.copy_(counts_K)
        self.z_avg.copy_(means_KD * counts_K[:, None].to(means_KD.dtype))
        self.initialized.fill_(True)

    def move(self, z_BDn: Tensor, indices_Bn: Tensor, *, decay: float) -> None:
        """Move the averages towards the vectors of a batch, and the codes to the averages."""
        num = self.embeddings.shape[0]
        move_averages(self.N, self.z_avg, z_BDn, indices_Bn, decay=decay)
        total = self.N.sum()
        smoothed_K = (self.N + _SMOOTHING) / (total + num * _SMOOTHING) * total
        self.embeddings.copy_(self.z_avg / smoothed_K[:, None])

    def restart(self, z_BDn: Tensor, *, below: float) -> Tensor:
        """Replace the codes whose count is too low by vectors of a batch; returns how many."""
        dead_K = self.N.lt(below)
        # Drawn at every step, needed or not: asking whether any code is dead would stall the device.
        drawn_KD = draw_vectors(z_BDn, dead_K.shape[0]).to(self.embeddings.dtype)
        drawn_KD = drawn_KD[(dead_K.cumsum(0) - 1).clamp(min=0)]
        self.embeddings.copy_(torch.where(dead_K[:, None], drawn_KD, self.embeddings))
        # A new code starts at the limit; it has to be used to stay.
        self.z_avg.copy_(torch.where(dead_K[:, None], drawn_KD * below, self.z_avg))
        self.N.masked_fill_(dead_K, below)
        return dead_K.sum().float()


class ResidualCodes(nn.Module):
    """A chain of codebooks whose codes add up, shared by `rvq` and the groups of `grouped-rvq`."""

    def __init__(
        self,
        *,
        num_levels: int,
        codebook_size: int,
        latent_dim: int,
        decay: float,
        kmeans_steps: int,
        restart_below: float,
    ) -> None:
        super().__init__()
        self.decay = decay
        self.kmeans_steps = kmeans_steps
        self.restart_below = restart_below
        self.levels = nn.ModuleList(EMALevel(codebook_size, latent_dim) for _ in range(num_levels))

    @torch.no_grad()
    def quantize(self, z_BDn: Tensor, depths: list[int] | None = None) -> Residuals:
        """Quantize level after level, and while training move the codebooks.

        Args:
            z_BDn: Latents, at least float32.
            depths: How many levels each clip uses; all when None. A level is trained by the clips
                that use it, and started and restarted from all.
        """
        rest_BDn = z_BDn.detach().clone()
        codes_BDn = torch.zeros_like(rest_BDn)
        pull_BDn = torch.zeros_like(rest_BDn) if z_BDn.requires_grad else None
        squares, restarted = z_BDn.new_zeros(()), z_BDn.new_zeros(())
        indices = []
        for number, level in enumerate(self.levels):
            assert isinstance(level, EMALevel)
            if self.training and not level.initialized.is_meta and not bool(level.initialized):
                level.fill(rest_BDn, kmeans_steps=self.kmeans_steps)
            indices_Bn = nearest_codes(rest_BDn, level.embeddings.to(rest_BDn.dtype))
            level_BDn = look_up(level.embeddings, indices_Bn)
            users = None if depths is None else [clip for clip, depth in enumerate(depths) if depth > number]
            if self.training:
                used_BDn = rest_BDn if users is None else rest_BDn[users]
                level.move(used_BDn, indices_Bn if users is None else indices_Bn[users], decay=self.decay)
                if self.restart_below:
                    restarted += level.restart(rest_BDn, below=self.restart_below)
            rest_BDn -= level_BDn
            if users is None:
                codes_BDn += level_BDn
                pull_BDn = None if pull_BDn is None else pull_BDn.add_(rest_BDn)
                squares += rest_BDn.square().sum()
            elif users:
                codes_BDn[users] += level_BDn[users]
                if pull_BDn is not None:
                    pull_BDn[users] += rest_BDn[users]
                squares += rest_BDn[users].square().sum()
            indices.append(indices_Bn)
        return Residuals(codes_BDn, torch.stack(indices, dim=1), squares, pull_BDn, restarted)

    def look_up(self, indices_Bqn: Tensor) -> Tensor:
        """Return the sum of the codes of the first levels, as many as there are indices."""
        codes_BDn = None
        for level, indices_Bn in zip(self.levels, indices_Bqn.unbind(1), strict=False):
            assert isinstance(level, EMALevel)
            level_BDn = look_up(level.embeddings, indices_Bn)
            codes_BDn = level_BDn if codes_BDn is None else codes_BDn + level_BDn
        assert codes_BDn is not None, "at least one level"
        return codes_BDn


def commitment_loss(z_BDn: Tensor, squares: Tensor, pull_BDn: Tensor | None) -> Tensor:
    """Return `squares` as a function of the latent: its value, and the gradient 2 * pull.

    Every residual is the latent less constants, so one product serves all levels in the backward pass.
    """
    if pull_BDn is None:
        return squares
    return squares + 2 * ((z_BDn - z_BDn.detach()) * pull_BDn).sum()


def draw_depths(num_clips: int, num_levels: int, dropout: float) -> list[int] | None:
    """Draw how many levels each clip uses: all, or with probability `dropout` any number from 1.

    Draws from torch's global generator of the processor; None when nothing is dropped.
    """
    if dropout == 0 or num_levels == 1:
        return None
    dropped_B = torch.rand(num_clips, device="cpu") < dropout
    depths_B = torch.randint(1, num_levels + 1, (num_clips,), device="cpu")
    depths: list[int] = torch.where(dropped_B, depths_B, num_levels).tolist()
    return depths
