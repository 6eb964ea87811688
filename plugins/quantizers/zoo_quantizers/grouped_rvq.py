"""Grouped residual vector quantization: the channels in groups, each with residual codebooks of its own.

Shapes: B batch, D latent channels, t h w the latent grid, n = t*h*w, q = levels * groups codebooks.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from zoo.code_gradients import straight_through
from zoo.errors import RecipeError
from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo_quantizers.checks import require_latent, require_sizes
from zoo_quantizers.residual import ResidualCodes, commitment_loss, draw_depths
from zoo_quantizers.rvq import level_stats, require_prefix, require_residual


class GroupedResidualVQ(nn.Module):
    """Splits the channels into groups and quantizes each by a chain of residual codebooks.

    As `rvq` otherwise. The codebooks are numbered level by level: index level * num_groups + group, so that
    a prefix of the indices holds the coarse levels of all groups. A clip drops the same levels in each group.

    Source: https://arxiv.org/abs/2305.02765

    Args:
        num_groups: Groups of D / num_groups adjacent channels.
        num_levels: Codebooks of a group.
        codebook_size: Codes K of each.
        latent_dim: Channels D, a multiple of num_groups.
        decay: Weight of the past in the moving averages, in [0, 1).
        commitment: Weight of the pull of the latent to its codes.
        kmeans_steps: Rounds of k-means on the first training batch; 0 takes vectors of the batch.
        restart_below: Moving-average count under which a code is dead; 0 restarts none.
        quantizer_dropout: Probability that a training clip uses a random number of levels, from 1
            to num_levels, instead of all; in [0, 1].

    Raises:
        RecipeError: An option is out of range.
    """

    continuous = False

    def __init__(
        self,
        *,
        num_groups: int = 2,
        num_levels: int = 4,
        codebook_size: int = 1024,
        latent_dim: int = 256,
        decay: float = 0.99,
        commitment: float = 0.25,
        kmeans_steps: int = 10,
        restart_below: float = 2.0,
        quantizer_dropout: float = 0.5,
    ) -> None:
        super().__init__()
        require_residual(
            "grouped-rvq",
            num_levels=num_levels,
            decay=decay,
            commitment=commitment,
            kmeans_steps=kmeans_steps,
            restart_below=restart_below,
            quantizer_dropout=quantizer_dropout,
        )
        require_sizes("grouped-rvq", codebook_size=codebook_size, latent_dim=latent_dim)
        if num_groups < 1 or latent_dim % num_groups:
            raise RecipeError(
                f"quantizer grouped-rvq: num_groups is {num_groups} and latent_dim {latent_dim}; the "
                "channels must split evenly, such as num_groups=2, latent_dim=256"
            )
        self.num_groups = num_groups
        self.num_levels = num_levels
        self.num_codebooks = num_levels * num_groups
        self.codebook_size = codebook_size
        self.latent_dim = latent_dim
        self.commitment = commitment
        self.quantizer_dropout = quantizer_dropout
        self.groups = nn.ModuleList(
            ResidualCodes(
                num_levels=num_levels,
                codebook_size=codebook_size,
                latent_dim=latent_dim // num_groups,
                decay=decay,
                kmeans_steps=kmeans_steps,
                restart_below=restart_below,
            )
            for _ in range(num_groups)
        )

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Quantize, and while training move the codebooks.

        Args:
            z_BDthw: Latent of any float type; computed in float32 inside any autocast.

        Returns:
            As `rvq`, with indices (B, num_levels * num_groups, t, h, w); the loss is the mean over groups.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("grouped-rvq", z_BDthw, self.latent_dim)
        num_clips, grid = z_BDthw.shape[0], z_BDthw.shape[2:]
        depths = draw_depths(num_clips, self.num_levels, self.quantizer_dropout) if self.training else None
        with full_precision(z_BDthw):
            z_BDn = at_least_fp32(z_BDthw).flatten(2)
            found = [
                group.quantize(z_Bdn, depths)
                for group, z_Bdn in zip(self._residuals(), z_BDn.chunk(self.num_groups, dim=1), strict=True)
            ]
            squares = torch.stack([group.squares for group in found]).sum()
            pulls = [group.pull_BDn for group in found if group.pull_BDn is not None]
            pull_BDn = torch.cat(pulls, dim=1) if pulls else None
            num_used = num_clips * self.num_levels if depths is None else sum(depths)
            mean = commitment_loss(z_BDn, squares, pull_BDn) / (num_used * z_BDn[0].numel())
            out_BDn = straight_through(z_BDn, torch.cat([group.codes_BDn for group in found], dim=1))
            indices_Bqn = rearrange([group.indices_Bqn for group in found], "g b l n -> b (l g) n")
            stats = level_stats(indices_Bqn, self.codebook_size)
            stats["restarted"] = torch.stack([group.restarted for group in found]).sum()
        indices_Bqthw = indices_Bqn.reshape(num_clips, self.num_codebooks, *grid)
        return Quantized(out_BDn.view(z_BDthw.shape), indices_Bqthw, self.commitment * mean, stats)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return z_BDthw of int64 indices (B, q', t, h, w), of the first q' <= q codebooks.

        Where q' ends within a level the later groups go without it; a group without any code is 0.
        """
        require_prefix("grouped-rvq", indices_Bqthw, self.num_codebooks)
        indices_Bqn = indices_Bqthw.flatten(2)
        groups = [
            group.look_up(indices_Bqn[:, number :: self.num_groups])
            for number, group in enumerate(self._residuals()[: indices_Bqn.shape[1]])
        ]
        missing = self.num_groups - len(groups)
        groups += [torch.zeros_like(groups[0])] * missing
        codes_BDn = torch.cat(groups, dim=1)
        return codes_BDn.view(*codes_BDn.shape[:2], *indices_Bqthw.shape[2:])

    def _residuals(self) -> list[ResidualCodes]:
        return [group for group in self.groups if isinstance(group, ResidualCodes)]
