"""Spectral normalisation: a weight divided by its largest singular value (https://arxiv.org/abs/1802.05957).

Parts that are published with it call `spectral_norm` layer by layer; `normalize_weights` does it to whatever
learns in a module.

Shape legend: G groups, O outputs of a group, I inputs of a group (channels times the sides of the kernel).
"""

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

    Unlike `torch.nn.utils.parametrizations.spectral_norm` it stays in full precision under autocast, takes a
    weight of zeros as it is, and knows groups and gains. Its power iteration has the order of the published
    one, v from u and then u from v, so that weights and vectors of other code give the same weight here.

    Args:
        weight: What is normalised, of two axes or more.
        groups: Groups of a convolution. All of them are the blocks of one matrix, zero elsewhere.
        gain: What the layer multiplies the weight by.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, *, groups: int, gain: float) -> None:
        super().__init__()
        self.groups = groups
        self.gain = gain
        matrix_GOI = self._matrix(weight.detach())
        starts = (torch.randn_like(side).flatten() for side in (matrix_GOI[:, :, 0], matrix_GOI[:, 0]))
        for name, start in zip(("u", "v"), starts, strict=True):
            self.register_buffer(name, F.normalize(start, dim=0))
        # On the meta device there is nothing to iterate on, and pretending to takes long.
        for _ in range(0 if matrix_GOI.is_meta else _FIRST_ITERATIONS):
            self._step(matrix_GOI)

    def _matrix(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.groups, len(weight) // self.groups, -1)

    @torch.no_grad()
    def _step(self, matrix_GOI: Tensor) -> None:
        _aim(self.v, torch.einsum("goi,go->gi", matrix_GOI, self.u.view(self.groups, -1)))
        _aim(self.u, torch.einsum("goi,gi->go", matrix_GOI, self.v.view(self.groups, -1)))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight, which times the gain has a largest singular value of about 1."""
        with full_precision(weight):
            matrix_GOI = self._matrix(weight)
            if self.training:
                self._step(matrix_GOI)
            # Copies, because a second forward pass before backward changes what is stored.
            u_GO, v_GI = (vector.clone().view(self.groups, -1) for vector in (self.u, self.v))
            sigma = (u_GO * torch.einsum("goi,gi->go", matrix_GOI, v_GI)).sum() * self.gain
            return weight / torch.where(sigma == 0, 1.0, sigma)


def _aim(vector: Tensor, image: Tensor) -> None:
    """Point a vector along its image, in length 1; where that is zero it stays, to find what comes later."""
    length = torch.linalg.vector_norm(image)
    vector.copy_(torch.where(length > _EPS, image.flatten() / length.clamp_min(_EPS), vector))


def spectral_norm(module: _M) -> _M:
    """Hold the largest singular value of a layer's weight at 1, from its present value on.

    The value is estimated by one power iteration for each time that the weight is read in train mode, and by
    what is stored in eval mode. Reading the weight is a computation: read it once a forward pass.

    Of a layer with `groups`, as torch's convolutions have, it is the value of the convolution as a whole; of
    one with `weight_gain`, as layers with an equalised learning rate have, that of the weight times the gain.

    Source: https://arxiv.org/abs/1802.05957
    """
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    groups, gain = getattr(module, "groups", 1), getattr(module, "weight_gain", 1.0)
    norm = _SpectralNorm(weight, groups=int(groups), gain=float(gain))
    parametrize.register_parametrization(module, "weight", norm, unsafe=True)
    return module


def normalize_weights(module: nn.Module) -> None:
    """Put spectral norm on every layer within a module.

    A layer is whatever has a `weight` of two axes or more. Those whose weight is a function of other
    parameters already, by spectral norm or otherwise, stay as they are, and so do frozen ones.
    """
    for layer in list(module.modules()):
        weight = dict(layer.named_parameters(recurse=False)).get("weight")
        if weight is not None and weight.ndim > 1 and weight.requires_grad:
            spectral_norm(layer)


def is_normalized(module: nn.Module) -> bool:
    """Whether a layer within a module has spectral norm, by `spectral_norm` or torch's parametrization."""
    return any(type(part).__name__ == _SpectralNorm.__name__ for part in module.modules())


def original_weight(module: nn.Module) -> nn.Parameter:
    """Return the parameter behind a layer's weight, spectrally normalised or not."""
    if not parametrize.is_parametrized(module, "weight"):
        return cast("nn.Parameter", module.weight)
    parametrizations = cast("nn.ModuleDict", module.parametrizations)
    return cast("nn.Parameter", parametrizations["weight"].original)
