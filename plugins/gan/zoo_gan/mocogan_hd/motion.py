"""The motion of MoCoGAN-HD: an LSTM that walks along the principal directions of a latent space.

Shape legend: B clips, T frames, S = T - 1 steps between them, D numbers of a latent, N numbers of a step's
noise (as many), E width of the LSTM, P directions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.precision import at_least_fp32, full_precision

_BATCH = 4000


class MotionWalk(nn.Module):
    """Turns the latent of a first frame, and noise for each step, into the latents of all frames.

    A first LSTM cell reads the latent and sets the state; a second one reads a step's noise. Each step moves
    the latent by ``residual_scale * tanh(h w + b)`` along directions scaled by their deviation.

    The head ``fc1``, ``fc2`` guesses from the states which noise each step was given. It changes no frame and
    learns by `reconstruct` alone.

    State-dict names are those of the public ``RNNModule``, whose directions are files of their own; here they
    are the buffers ``pca_comp`` (P, D), of length 1, and ``pca_stdev`` (P,), largest first.

    Source: MoCoGAN-HD, https://arxiv.org/abs/2104.15069, section 3.1

    Args:
        style_dim: Numbers of a latent, and of a step's noise.
        hidden_dim: Width of the LSTM.
        num_directions: Directions, at most `style_dim`.
        residual_scale: Largest step along a direction, in deviations of the latents.
    """

    pca_comp: Tensor
    pca_stdev: Tensor

    def __init__(
        self, *, style_dim: int, hidden_dim: int, num_directions: int, residual_scale: float
    ) -> None:
        super().__init__()
        self.style_dim = style_dim
        self.residual_scale = residual_scale
        self.enc_cell = nn.LSTMCell(style_dim, hidden_dim)
        self.cell = nn.LSTMCell(style_dim, hidden_dim)
        self.w = nn.Parameter(torch.randn(hidden_dim, num_directions) * 0.02)
        self.b = nn.Parameter(torch.zeros(num_directions))
        self.fc1 = nn.Linear(2 * hidden_dim, style_dim)
        self.fc2 = nn.Linear(style_dim, style_dim)
        self.register_buffer("pca_comp", torch.eye(num_directions, style_dim))
        self.register_buffer("pca_stdev", torch.ones(num_directions))
        if self.w.device.type != "meta":
            self._start()

    def _start(self) -> None:
        """Start recurrent and linear weights orthogonal, gate by gate, as published."""
        for cell in (self.enc_cell, self.cell):
            for gates in (cell.weight_ih, cell.weight_hh):
                for gate in gates.detach().chunk(4):
                    nn.init.orthogonal_(gate)
            nn.init.zeros_(cell.bias_ih)
            nn.init.zeros_(cell.bias_hh)
        nn.init.orthogonal_(self.fc1.weight)
        nn.init.orthogonal_(self.fc2.weight)

    def forward(self, start_BD: Tensor, noise_BSN: Tensor) -> Tensor:
        """Return the latents w_BTD, the first of them `start_BD`."""
        return self._walk(start_BD, noise_BSN)[0]

    def reconstruct(self, start_BD: Tensor, noise_BSN: Tensor) -> Tensor:
        """Return the noise of each step as the head guesses it, (B, S, N)."""
        states = self._walk(start_BD, noise_BSN)[1]
        with full_precision(states):
            guess_BSN: Tensor = self.fc2(F.relu(self.fc1(states)))
            return guess_BSN

    def _walk(self, start_BD: Tensor, noise_BSN: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latents w_BTD, and hidden and cell state after each step, (B, S, 2E)."""
        # A walk that feeds itself drifts in half precision, so autocast stops here.
        with full_precision(start_BD):
            start_BD, noise_BSN = at_least_fp32(start_BD), at_least_fp32(noise_BSN)
            hidden_BE, memory_BE = self.enc_cell(start_BD)
            hiddens, memories = [], []
            for noise_BN in noise_BSN.unbind(dim=1):
                hidden_BE, memory_BE = self.cell(noise_BN, (hidden_BE, memory_BE))
                hiddens.append(hidden_BE)
                memories.append(memory_BE)
            if not hiddens:
                return start_BD.unsqueeze(1), hidden_BE.new_empty(len(hidden_BE), 0, 2 * hidden_BE.shape[1])
            hidden_BSE = torch.stack(hiddens, dim=1)
            amounts_BSP = torch.tanh(hidden_BSE @ self.w + self.b)
            steps_BSD = self.residual_scale * (amounts_BSP @ (self.pca_comp * self.pca_stdev[:, None]))
            w_BTD = torch.cat([start_BD.unsqueeze(1), steps_BSD], dim=1).cumsum(dim=1)
            return w_BTD, torch.cat([hidden_BSE, torch.stack(memories, dim=1)], dim=2)


@torch.no_grad()
def principal_directions(
    mapping: Callable[[Tensor], Tensor],
    *,
    dim: int,
    num_directions: int,
    num_samples: int,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Estimate along which directions mapped latents differ most.

    Exact principal components of the samples, in double precision and constant memory; of each direction the
    largest number is positive. These are what the public code's incremental PCA gives when it keeps all.

    Args:
        mapping: Maps standard normal rows (n, `dim`) to latents (n, D).
        dim: Numbers that are drawn for a sample.
        num_directions: Directions wanted, at most D.
        num_samples: Samples, at least 2; the public code takes 1,000,000.
        generator: Source of randomness; torch's global one for the CPU when left out.
        device: Where `mapping` computes.

    Returns:
        Directions (num_directions, D) of length 1 and their standard deviations (num_directions,), largest
        first, float32.
    """
    source = "cpu" if generator is None else generator.device
    count, origin = 0, None
    total = product = torch.zeros(())
    for start in range(0, num_samples, _BATCH):
        size = min(_BATCH, num_samples - start)
        drawn = torch.randn(size, dim, generator=generator, device=source)
        w = mapping(drawn.to(device)).double()
        if origin is None:
            # Near the mean, so that nothing large is subtracted in the end.
            origin = w.mean(dim=0)
            total, product = torch.zeros_like(origin), w.new_zeros(w.shape[1], w.shape[1])
        centred = w - origin
        count += size
        total = total + centred.sum(dim=0)
        product = product + centred.T @ centred
    covariance = (product - torch.outer(total, total) / count) / (count - 1)
    variances, vectors = torch.linalg.eigh(covariance)
    directions = vectors.T.flip(0)[:num_directions]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    deviations = variances.flip(0)[:num_directions].clamp_min(0).sqrt()
    return (directions * largest.sign()).float(), deviations.float()
