"""What tells two models apart whose tokens are not each other's."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import nn

    from zoo.assemblies import Autoencoder, TokenPrior

_FIELDS = {"encoder", "pre_quant", "quantizer", "post_quant", "decoder"}


def fingerprint(model: Autoencoder) -> str:
    """Return the SHA-256 of all that tokens depend on: the model's parts, their options and their weights."""
    parts = model.recipe.model_dump(mode="json", include=_FIELDS)
    return _digest(parts, model, leaving_out="discriminator.")


def prior_fingerprint(prior: TokenPrior) -> str:
    """Return the SHA-256 of all that the odds of a prior depend on, its tokenizer apart."""
    parts = prior.recipe.model_dump(mode="json", include={"generator"})
    return _digest({**parts, "grid": list(prior.generator.grid_thw)}, prior.generator)


def _digest(parts: dict[str, Any], module: nn.Module, *, leaving_out: str | None = None) -> str:
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name, value in sorted(module.state_dict().items()):
        if leaving_out is None or not name.startswith(leaving_out):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
