"""Names of the public OmniTokenizer weights, turned into ours.

The public model holds `encoder`, `pre_vq_conv`, `codebook`, `post_vq_conv` and `decoder`; an autoencoder of
ours holds `encoder`, `pre_quant`, `quantizer`, `post_quant` and `decoder`. Encoder and decoder keep their
names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.converting.public_state import PublicState
from zoo.errors import RecipeError, WeightsError
from zoo_tokenizers.omnitokenizer.model import OmniTokenizerDecoder, OmniTokenizerEncoder

_FAMILY = "OmniTokenizer"
_ATTENTION = "encoder.enc_temporal_transformer.layers.0.1"
_NEEDED = {
    "encoder.to_patch_emb_first_frame.2.weight": 2,
    "encoder.to_patch_emb.2.weight": 2,
    f"{_ATTENTION}.to_q.weight": 2,
    f"{_ATTENTION}.q_scale": 1,
    "pre_vq_conv.1.weight": 2,
    "post_vq_conv.1.weight": 2,
    "codebook.embeddings": 2,
}
_PROJECTIONS = {"pre_quant": "pre_vq_conv.1", "post_quant": "post_vq_conv.1"}
_CODEBOOK = ("embeddings", "N", "z_avg")


def map_omnitokenizer_state_dict(
    state: Mapping[str, Any], *, positions: str = "none", in_channels: int = 3, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public OmniTokenizer to those of our autoencoder.

    The result fits an autoencoder of `omnitokenizer` (or `omnitokenizer-causal`) encoder and decoder, both
    1x1x1 projections (whose kernels get three axes) and a quantizer: `vq-ema-unit`, or `kl`, which has no
    weights, where the public one is a VAE. The public code does not store whether the codebook has seen
    data; it has in any trained file, so `quantizer.initialized` is set.

    No place have: the discriminators and LPIPS; ``context_norm`` (for attention to something else), all
    ``spatial_rel_pos_bias`` of the layers in time and ``relative_position_index``, which the public network
    stores and never reads or can compute; ``codebook.codebook_usage``; and in a VAE the whole codebook.

    Args:
        state: Names to tensors; or a whole Lightning checkpoint, whose ``state_dict`` is taken. A common
            prefix is stripped.
        positions: "bias" keeps ``spatial_rel_pos_bias`` of the layers in space, which only image models have
            (imagenet_only.ckpt reads it, see `OmniTokenizerEncoder`); otherwise it has no place either.
        in_channels: Colour channels, which show in no shape.
        prefix: Which model to take where there are several.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place.

    Raises:
        WeightsError: These are not such weights, names are missing, or a shape does not fit.
    """
    public = PublicState(state, family=_FAMILY, needed=_NEEDED, prefix=prefix)
    model = _model(public, positions=positions, in_channels=in_channels)
    expected = {_public_name(name): value.shape for name, value in model.state_dict().items()}
    for field in _PROJECTIONS.values():
        expected[f"{field}.weight"] = expected[f"{field}.weight"][:2]  # a matrix there
    is_vae = (
        len(public.tensors["pre_vq_conv.1.weight"]) == 2 * public.tensors["post_vq_conv.1.weight"].shape[1]
    )
    codes = public.tensors["codebook.embeddings"].shape
    codebook = {} if is_vae else {f"codebook.{name}": codes for name in _CODEBOOK}
    if codebook:
        codebook["codebook.N"] = codes[:1]
    known, unused = public.take(expected | codebook)

    mapped = {name: known[_public_name(name)] for name in model.state_dict()}
    for field in _PROJECTIONS:
        mapped[f"{field}.weight"] = mapped[f"{field}.weight"][:, :, None, None, None]
    mapped |= {name.replace("codebook", "quantizer"): known[name] for name in codebook}
    if codebook:
        mapped["quantizer.initialized"] = torch.tensor(True)
    return mapped, unused


def _public_name(name: str) -> str:
    field, _, rest = name.partition(".")
    return f"{_PROJECTIONS.get(field, field)}.{rest}"


def _model(public: PublicState, *, positions: str, in_channels: int) -> nn.ModuleDict:
    """Build the same model on the meta device, sizes read off the shapes."""
    tensors = public.tensors
    latent_dim, frame_values = tensors["encoder.to_patch_emb_first_frame.2.weight"].shape
    patch_values = tensors["encoder.to_patch_emb.2.weight"].shape[1]
    side = math.isqrt(frame_values // in_channels)
    head_dim = len(tensors[f"{_ATTENTION}.q_scale"])
    quantizer_in, quantizer_out = (
        len(tensors["pre_vq_conv.1.weight"]),
        tensors["post_vq_conv.1.weight"].shape[1],
    )

    def options(part: str, short: str) -> dict[str, Any]:
        space, time = (f"{part}.{short}_{kind}_transformer.layers" for kind in ("spatial", "temporal"))
        tables = [
            tensors.get(f"{space}.{n}.1.relative_position_bias_table")
            for n in range(public.count(rf"{space}\.(\d+)\."))
        ]
        sizes = [math.isqrt(len(table)) // 2 + 1 for table in tables if table is not None]
        return {
            "latent_dim": latent_dim,
            "num_heads": len(tensors[f"{_ATTENTION}.to_q.weight"]) // head_dim,
            "head_dim": head_dim,
            "spatial_layers": "".join("t" if table is None else "w" for table in tables),
            "temporal_depth": public.count(rf"{time}\.(\d+)\."),
            "window_size": sizes[0] if sizes else 8,
            "positions": positions,
            "stride": [patch_values // frame_values, side, side],
        }

    try:
        with torch.device("meta"):
            return nn.ModuleDict(
                {
                    "encoder": OmniTokenizerEncoder(in_channels=in_channels, **options("encoder", "enc")),
                    "pre_quant": nn.Conv3d(latent_dim, quantizer_in, 1),
                    "post_quant": nn.Conv3d(quantizer_out, latent_dim, 1),
                    "decoder": OmniTokenizerDecoder(out_channels=in_channels, **options("decoder", "dec")),
                }
            )
    except RecipeError as error:
        raise WeightsError(f"these {_FAMILY} weights are of no size that can be built: {error}") from None
