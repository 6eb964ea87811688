"""Names of the public VideoGPT VQ-VAE weights, turned into ours.

The public model holds `encoder`, `pre_vq_conv`, `codebook`, `post_vq_conv` and `decoder`; an
autoencoder of ours holds `encoder`, `pre_quant`, `quantizer`, `post_quant` and `decoder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.converting.public_state import PublicState
from zoo_vqvae.videogpt import VideoGPTDecoder, VideoGPTEncoder
from zoo_vqvae.vq_ema import EMACodebook

_NEEDED = {
    "encoder.conv_last.conv.weight": 5,
    "encoder.convs.0.conv.weight": 5,
    "codebook.embeddings": 2,
}
_RENAMED = {
    "pre_vq_conv.conv.": "pre_quant.",
    "post_vq_conv.conv.": "post_quant.",
    "codebook.": "quantizer.",
}


def map_videogpt_state_dict(
    state: Mapping[str, Any], *, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public VideoGPT VQ-VAE to those of our autoencoder.

    The result fits an autoencoder of `videogpt` encoder and decoder, `vq-ema` and both 1x1x1
    projections. Tensors are passed on, not copied. The public code does not store whether the
    codebook has seen data; it has in any trained file, so `quantizer.initialized` is set.

    Args:
        state: Names to tensors; or a whole Lightning checkpoint, whose ``state_dict`` is taken. A
            common prefix (``vqvae.`` in a checkpoint of the VideoGPT prior) is stripped.
        prefix: Which VQ-VAE to take where there are several.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place.

    Raises:
        WeightsError: These are not such weights, names are missing, or a shape does not fit.
    """
    public = PublicState(state, family="VideoGPT VQ-VAE", needed=_NEEDED, prefix=prefix)
    known, unused = public.take(_expected_shapes(public))
    mapped = {_rename(name): value for name, value in known.items()}
    mapped["quantizer.initialized"] = torch.tensor(True)
    return mapped, unused


def _expected_shapes(public: PublicState) -> dict[str, torch.Size]:
    """Build the same model on the meta device, and read its names, in the public words."""
    hidden_dim = public.tensors["encoder.conv_last.conv.weight"].shape[0]
    options: dict[str, Any] = {
        "hidden_dim": hidden_dim,
        "num_residual_blocks": public.count(r"encoder\.res_stack\.(\d+)\.block\."),
        "num_heads": 1,  # neither the heads nor the axes that shrink show in a name or a shape
        "stride": [2 ** public.count(r"encoder\.convs\.(\d+)\.")] * 3,
    }
    colours = public.tensors["encoder.convs.0.conv.weight"].shape[1]
    codebook_size, latent_dim = public.tensors["codebook.embeddings"].shape
    with torch.device("meta"):
        model = nn.ModuleDict(
            {
                "encoder": VideoGPTEncoder(in_channels=colours, **options),
                "pre_quant": nn.Conv3d(hidden_dim, latent_dim, 1),
                "quantizer": EMACodebook(codebook_size=codebook_size, latent_dim=latent_dim),
                "post_quant": nn.Conv3d(latent_dim, hidden_dim, 1),
                "decoder": VideoGPTDecoder(out_channels=colours, **options),
            }
        )
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    del shapes["quantizer.initialized"]
    return {_public_name(name): shape for name, shape in shapes.items()}


def _rename(public: str) -> str:
    for theirs, ours in _RENAMED.items():
        if public.startswith(theirs):
            return ours + public.removeprefix(theirs)
    return public


def _public_name(name: str) -> str:
    for theirs, ours in _RENAMED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
