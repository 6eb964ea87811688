"""What tells two models apart whose tokens are not each other's."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from zoo.assemblies import Autoencoder

_FIELDS = {"encoder", "pre_quant", "quantizer", "post_quant", "decoder"}


def fingerprint(model: Autoencoder) -> str:
    """Return the SHA-256 of all that tokens depend on: the model's parts, their options and their weights."""
    parts = model.recipe.model_dump(mode="json", include=_FIELDS)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith("discriminator."):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
