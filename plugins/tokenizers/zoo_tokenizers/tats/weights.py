"""Names of the public TATS VQGAN weights, turned into ours.

The public model holds `encoder`, `pre_vq_conv`, `codebook`, `post_vq_conv` and `decoder`; an
autoencoder of ours holds `encoder`, `pre_quant`, `quantizer`, `post_quant` and `decoder`. Encoder and
decoder keep their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.converting.public_state import PublicState
from zoo.errors import RecipeError, WeightsError
from zoo_tokenizers.tats.model import TATSDecoder, TATSEncoder

_FAMILY = "TATS VQGAN"
_NEEDED = {
    "encoder.conv_first.conv.weight": 5,
    "decoder.conv_last.conv.weight": 5,
    "codebook.embeddings": 2,
}
_RENAMED = {
    "pre_quant.": "pre_vq_conv.conv.",
    "post_quant.": "post_vq_conv.conv.",
    "quantizer.": "codebook.",
}


def map_tats_state_dict(
    state: Mapping[str, Any], *, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public TATS VQGAN to those of our autoencoder.

    The result fits an autoencoder of `tats` encoder and decoder, `vq-ema` and both 1x1x1 projections.
    Tensors are passed on, not copied. The public code does not store whether the codebook has seen
    data; it has in any trained file, so `quantizer.initialized` is set. Discriminators and LPIPS have no
    place; what stands under ``video_discriminator.`` is a `patch3d` as it is.

    Args:
        state: Names to tensors; or a whole Lightning checkpoint, whose ``state_dict`` is taken. A
            common prefix (``first_stage_model.`` in a checkpoint of a TATS transformer) is stripped.
        prefix: Which VQGAN to take where there are several.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place.

    Raises:
        WeightsError: These are not such weights, names are missing, or a shape does not fit.
    """
    public = PublicState(state, family=_FAMILY, needed=_NEEDED, prefix=prefix)
    codes = public.tensors["codebook.embeddings"]
    model = _model(public, num_channels=codes.shape[1])
    ours = {name: value.shape for name, value in model.state_dict().items()}
    ours |= {"quantizer.embeddings": codes.shape, "quantizer.z_avg": codes.shape}
    ours["quantizer.N"] = codes.shape[:1]
    known, unused = public.take({_public_name(name): shape for name, shape in ours.items()})
    mapped = {name: known[_public_name(name)] for name in ours}
    mapped["quantizer.initialized"] = torch.tensor(True)
    return mapped, unused


def _model(public: PublicState, *, num_channels: int) -> nn.ModuleDict:
    """Build the same model on the meta device, sizes read off the shapes."""
    base_channels, colours = public.tensors["encoder.conv_first.conv.weight"].shape[:2]
    is_batch = "encoder.final_block.0.running_mean" in public.tensors
    options: dict[str, Any] = {
        "base_channels": base_channels,
        # Which axes shrink shows in no name or shape, only how often.
        "stride": [2 ** public.count(r"encoder\.conv_blocks\.(\d+)\.")] * 3,
        "norm": "batch" if is_batch else "group",
    }
    try:
        with torch.device("meta"):
            encoder = TATSEncoder(in_channels=colours, **options)
            return nn.ModuleDict(
                {
                    "encoder": encoder,
                    "pre_quant": nn.Conv3d(encoder.latent_dim, num_channels, 1),
                    "post_quant": nn.Conv3d(num_channels, encoder.latent_dim, 1),
                    "decoder": TATSDecoder(out_channels=colours, **options),
                }
            )
    except RecipeError as error:
        raise WeightsError(f"these {_FAMILY} weights are of no size that can be built: {error}") from None


def _public_name(name: str) -> str:
    for ours, theirs in _RENAMED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name
