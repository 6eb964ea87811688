"""Spectral normalisation: a weight divided by its largest singular value."""

from __future__ import annotations

from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from zoo.precision import full_precision

_M = TypeVar("_M", bound=nn.Module)
_FIRST_ITERATIONS = 15
_EPS = 1e-12


class _SpectralNorm(nn.Module):
    """Divides by the singular value that the stored vectors see; in train mode they take a step before.

    Unlike `torch.nn.utils.parametrizations.spectral_norm` it stays in full precision under autocast and takes
    a weight of zeros as it is. Its power iteration has the order of the published one, v from u and then u
    from v, so that weights and vectors of other code give the same weight here.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", F.normalize(torch.randn_like(matrix[:, 0]), dim=0, eps=_EPS))
        self.register_buffer("v", F.normalize(torch.randn_like(matrix[0]), dim=0, eps=_EPS))
        # On the meta device there is nothing to iterate on, and pretending to takes long.
        for _ in range(0 if matrix.is_meta else _FIRST_ITERATIONS):
            self._step(matrix)

    @torch.no_grad()
    def _step(self, matrix: Tensor) -> None:
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0, eps=_EPS))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0, eps=_EPS))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with a largest singular value of about 1."""
        with full_precision(weight):
            matrix = weight.flatten(1)
            if self.training:
                self._step(matrix)
            # Copies, because a second forward pass before backward changes what is stored.
            u, v = self.u.clone(), self.v.clone()
            sigma = u @ (matrix @ v)
            return weight / torch.where(sigma == 0, 1.0, sigma)


def spectral_norm(module: _M) -> _M:
    """Hold the largest singular value of a layer's weight at 1, from its present value on.

    The value is estimated by one power iteration for each time that the weight is read in train mode, and by
    what is stored in eval mode. Reading the weight is a computation: read it once a forward pass.

    Source: https://arxiv.org/abs/1802.05957
    """
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    parametrize.register_parametrization(module, "weight", _SpectralNorm(weight), unsafe=True)
    return module


def original_weight(module: nn.Module) -> nn.Parameter:
    """Return the parameter behind a layer's weight, spectrally normalised or not."""
    if not parametrize.is_parametrized(module, "weight"):
        return cast("nn.Parameter", module.weight)
    parametrizations = cast("nn.ModuleDict", module.parametrizations)
    return cast("nn.Parameter", parametrizations["weight"].original)
