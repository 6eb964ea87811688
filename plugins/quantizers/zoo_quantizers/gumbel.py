"""Quantization by sampling: a code is drawn by Gumbel-softmax from logits over all codes.

Shapes: B batch, D latent channels, t h w the latent grid, n = t*h*w, N = B*n vectors, q = 1 codebook,
K codes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.codebook import code_stats, count_codes, look_up, on_grid
from zoo.errors import RecipeError
from zoo.nearest import nearest_codes
from zoo.outputs import Quantized
from zoo.precision import at_least_fp32, full_precision
from zoo_quantizers.checks import require_at_least_zero, require_indices, require_latent, require_sizes
from zoo_quantizers.recompute import in_pieces


class GumbelVQ(nn.Module):
    """Draws a code for every latent vector from the softmax of a linear layer's logits.

    Training adds Gumbel noise from torch's global generator and divides by a temperature. With
    `straight_through` the value is the one drawn code and the gradient that of the softmax's mixture
    of codes; without, the value is the mixture as well (the dVAE of DALL-E), while the indices still
    say the likeliest code. Evaluation takes the code of the greatest logit, without noise or gradient. The
    temperature falls along a half cosine from `temperature` to `min_temperature` over the first
    `anneal_steps` training steps, counted in the state. There is nothing to fill from data: the KL
    to the uniform distribution, kl_weight * mean_positions KL in nats, keeps the codes in use.

    Sources: https://arxiv.org/abs/1611.01144, https://arxiv.org/abs/2102.12092,
    https://arxiv.org/abs/2012.09841

    Args:
        codebook_size: Number of codes K.
        latent_dim: Channels D, of the latent and of a code.
        straight_through: Whether training decodes single codes instead of mixtures.
        kl_weight: Weight of the KL.
        temperature: Temperature at the first step.
        min_temperature: Temperature after `anneal_steps`; DALL-E ends at 1/16.
        anneal_steps: Training steps until then; 0 keeps `temperature`. DALL-E takes 150000.

    Raises:
        RecipeError: An option is out of range.
    """

    continuous = False
    num_codebooks = 1

    steps: Tensor

    def __init__(
        self,
        *,
        codebook_size: int = 8192,
        latent_dim: int = 256,
        straight_through: bool = True,
        kl_weight: float = 5e-4,
        temperature: float = 1.0,
        min_temperature: float = 0.0625,
        anneal_steps: int = 0,
    ) -> None:
        super().__init__()
        require_sizes("gumbel", codebook_size=codebook_size, latent_dim=latent_dim)
        require_at_least_zero("gumbel", kl_weight=kl_weight, anneal_steps=anneal_steps)
        if not (temperature > 0 and min_temperature > 0):
            raise RecipeError(
                f"quantizer gumbel: temperature is {temperature} and min_temperature {min_temperature}; "
                "both must be above 0, such as temperature=1.0, min_temperature=0.0625"
            )
        self.codebook_size = codebook_size
        self.latent_dim = latent_dim
        self.straight_through = straight_through
        self.kl_weight = kl_weight
        self.temperature = temperature
        self.min_temperature = min_temperature
        self.anneal_steps = anneal_steps
        self.logits = nn.Linear(latent_dim, codebook_size)
        self.embeddings = nn.Parameter(torch.randn(codebook_size, latent_dim))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, z_BDthw: Tensor) -> Quantized:
        """Draw codes (training) or take the likeliest (evaluation).

        Args:
            z_BDthw: Latent of any float type; computed in float32 inside any autocast.

        Returns:
            z_BDthw the codes (or mixtures, see the class); indices (B, 1, t, h, w); loss = kl_weight *
            KL while training, 0 in evaluation, which does not compute it; stats `perplexity` and
            `usage` of this batch and `temperature`.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("gumbel", z_BDthw, self.latent_dim)
        with full_precision(z_BDthw):
            z_BDn = at_least_fp32(z_BDthw).flatten(2)
            weight_KD, bias_K, codes_KD = (
                at_least_fp32(w) for w in (self.logits.weight, self.logits.bias, self.embeddings)
            )
            temperature = self._temperature()
            if self.training:
                z_ND = rearrange(z_BDn, "b d n -> (b n) d")
                outs, indices, kls = zip(
                    *in_pieces(
                        self._draw,
                        *(z_ND, weight_KD, bias_K, codes_KD, temperature),
                        codebook_size=self.codebook_size,
                    ),
                    strict=True,
                )
                out_BDn = rearrange(torch.cat(outs), "(b n) d -> b d n", b=z_BDn.shape[0]).contiguous()
                indices_Bn = torch.cat(indices).view(z_BDn.shape[0], -1)
                loss = torch.stack(kls).sum() * (self.kl_weight / z_ND.shape[0])
                self.steps.add_(1)
            else:
                indices_Bn = nearest_codes(z_BDn, weight_KD, -bias_K)
                out_BDn = look_up(self.embeddings, indices_Bn)
                loss = z_BDn.new_zeros(())
            stats = code_stats(count_codes(indices_Bn, self.codebook_size)) | {"temperature": temperature}
        grid = z_BDthw.shape[2:]
        return Quantized(on_grid(out_BDn, grid), on_grid(indices_Bn[:, None], grid), loss, stats)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        """Return the codes z_BDthw of int64 indices (B, 1, t, h, w)."""
        require_indices("gumbel", indices_Bqthw)
        return on_grid(look_up(self.embeddings, indices_Bqthw[:, 0].flatten(1)), indices_Bqthw.shape[2:])

    def _temperature(self) -> Tensor:
        if self.anneal_steps == 0:
            return torch.full((), self.temperature, device=self.steps.device)
        done = (self.steps / self.anneal_steps).clamp(max=1)
        fall = 0.5 * (self.temperature - self.min_temperature)
        return self.min_temperature + fall * (1 + torch.cos(math.pi * done))

    def _draw(
        self, z_RD: Tensor, weight_KD: Tensor, bias_K: Tensor, codes_KD: Tensor, temperature: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output rows, the indices and the summed KL of some rows."""
        logits_RK = F.linear(z_RD, weight_KD, bias_K)
        # A tensor divides as a number does; the annotation knows numbers only.
        soft_RK = F.gumbel_softmax(logits_RK, tau=temperature, dim=1)  # type: ignore[arg-type]
        indices_R = soft_RK.argmax(dim=1)
        if self.straight_through:
            # soft - soft is exactly 0, so the value is exactly the code.
            out_RD = F.embedding(indices_R, codes_KD) + (soft_RK - soft_RK.detach()) @ codes_KD
        else:
            out_RD = soft_RK @ codes_KD
        p_RK = logits_RK.softmax(dim=1)
        kl = (p_RK * torch.log(p_RK * self.codebook_size + 1e-10)).sum()
        return out_RD, indices_R, kl
