"""Names of the public BSQ-ViT weights, turned into ours.

The public models hold `encoder`, `quant_embed`, `quantize`, `post_quant_embed` and `decoder`; an autoencoder
of ours holds `encoder`, `pre_quant`, `quantizer`, `post_quant` and `decoder`. Their quantizer has no weights,
only tables that ours does without. Encoder and decoder keep their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.converting.public_state import PublicState
from zoo.errors import RecipeError, WeightsError
from zoo_tokenizers.bsqvit.model import (
    BSQViTDecoder,
    BSQViTEncoder,
    BSQViTImageDecoder,
    BSQViTImageEncoder,
)

_PROJECTIONS = {"pre_quant": "quant_embed", "post_quant": "post_quant_embed"}


def map_bsqvit_state_dict(
    state: Mapping[str, Any], *, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public BSQ-ViT, of images or video, to those of our autoencoder.

    The result fits an autoencoder of `bsqvit` (where there are positions of time) or `bsqvit-image` encoder
    and decoder and both 1x1x1 projections, around a quantizer without weights. Sizes are read from the
    tensors; the number of heads and the sides of the grid of positions show in none and change no weight.

    Args:
        state: Names to tensors, or a whole checkpoint. Of the latter the averaged weights
            (``ema_state_dict``) are taken where there are any, as the public code does; pass its
            ``state_dict`` for the others.
        prefix: Which model to take where there are several.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place, such as the
        tables ``quantize.basis`` and ``quantize.group_basis``.

    Raises:
        WeightsError: These are not such weights, names are missing, or a shape does not fit.
    """
    averaged = state.get("ema_state_dict")
    if isinstance(averaged, Mapping):
        state = averaged
    needed = {
        "encoder.conv1.weight": 2,
        "encoder.positional_embedding": 2,
        "encoder.transformer.resblocks.0.mlp.c_fc.weight": 2,
        "quant_embed.weight": 2,
        "post_quant_embed.weight": 2,
        "decoder.positional_embedding": 2,
        "decoder.transformer.resblocks.0.mlp.c_fc.weight": 2,
        "decoder.conv_out.weight": 2,
    }
    public = PublicState(state, family="BSQ-ViT", needed=needed, prefix=prefix)
    try:
        model = _model(public)
    except RecipeError as error:
        raise WeightsError(f"these BSQ-ViT weights are of no size that can be built: {error}") from None

    def public_name(name: str) -> str:
        field, _, rest = name.partition(".")
        return f"{_PROJECTIONS.get(field, field)}.{rest}"

    expected = {public_name(name): value.shape for name, value in model.state_dict().items()}
    for field in _PROJECTIONS.values():
        expected[f"{field}.weight"] = expected[f"{field}.weight"][:2]  # a linear layer there
    known, unused = public.take(expected)
    mapped = {name: known[public_name(name)] for name in model.state_dict()}
    for field in _PROJECTIONS:
        mapped[f"{field}.weight"] = mapped[f"{field}.weight"][:, :, None, None, None]
    return mapped, unused


def _model(public: PublicState) -> nn.ModuleDict:
    """Build the same model on the meta device, sizes read off the shapes."""
    tensors = public.tensors
    patch_size = round((tensors["encoder.conv1.weight"].shape[1] / 3) ** 0.5)

    def options(part: str) -> dict[str, Any]:
        num_places, width = tensors[f"{part}.positional_embedding"].shape
        times = tensors.get(f"{part}.temporal_positional_embedding")
        return {
            # How places are laid out changes no weight.
            "size": [patch_size, patch_size * num_places],
            "patch_size": patch_size,
            "width": width,
            "num_layers": public.count(rf"{part}\.transformer\.resblocks\.(\d+)\."),
            "num_heads": 1,
            "mlp_ratio": len(tensors[f"{part}.transformer.resblocks.0.mlp.c_fc.weight"]) // width,
        } | ({} if times is None else {"num_frames": len(times)})

    encoded, decoded = options("encoder"), options("decoder")
    decoded["head_width"] = tensors["decoder.conv_out.weight"].shape[1]
    quantizer_dim = len(tensors["quant_embed.weight"])
    with torch.device("meta"):
        return nn.ModuleDict(
            {
                "encoder": (BSQViTEncoder if "num_frames" in encoded else BSQViTImageEncoder)(**encoded),
                "pre_quant": nn.Conv3d(encoded["width"], quantizer_dim, 1),
                "post_quant": nn.Conv3d(quantizer_dim, decoded["width"], 1),
                "decoder": (BSQViTDecoder if "num_frames" in decoded else BSQViTImageDecoder)(**decoded),
            }
        )
