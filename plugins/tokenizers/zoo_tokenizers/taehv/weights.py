"""Names of the public TAEHV weights, turned into ours.

The public models hold `encoder.<n>` and `decoder.<n>`; an autoencoder of ours holds `encoder.layers.<n>` and
`decoder.layers.<n>`. Its bottleneck has no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.converting.public_state import PublicState
from zoo.errors import RecipeError, WeightsError
from zoo_tokenizers.taehv.layers import TimeGrow
from zoo_tokenizers.taehv.model import TAEHVDecoder, TAEHVEncoder, TAEHVSuperDecoder

_POOLS = ("encoder.2", "encoder.7", "encoder.12")


def map_taehv_state_dict(
    state: Mapping[str, Any], *, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public TAEHV to those of our autoencoder.

    The result fits an autoencoder of `taehv` encoder and `taehv` or `taehv-super` decoder without
    projections, around `identity`. Tensors are passed on, not copied. All sizes are read from the tensors;
    with which frames a clip begins (`alignment`) shows in none, and changes no weight.

    Where a layer of the file makes more frames than the encoder joins, its last ones are taken, as the
    public code does.

    Args:
        state: Names to tensors, of encoder and decoder together; a common prefix is stripped.
        prefix: Which model to take where there are several.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place.

    Raises:
        WeightsError: These are not such weights, names are missing, or a shape does not fit.
    """
    needed = {f"{pool}.conv.weight": 4 for pool in _POOLS}
    needed |= {"encoder.0.weight": 4, "encoder.17.weight": 4, "decoder.22.weight": 4}
    public = PublicState(state, family="TAEHV", needed=needed, prefix=prefix)
    model = _model(public.tensors)
    shapes = {_public_name(name): value.shape for name, value in model.state_dict().items()}
    for name, layer in model.named_modules():
        weight_name = _public_name(f"{name}.conv.weight")
        if isinstance(layer, TimeGrow) and weight_name in public.tensors:
            public.tensors[weight_name] = public.tensors[weight_name][-shapes[weight_name][0] :]
    known, unused = public.take(shapes)
    return {name: known[_public_name(name)] for name in model.state_dict()}, unused


def _public_name(name: str) -> str:
    return name.replace(".layers.", ".", 1)


def _model(tensors: Mapping[str, Tensor]) -> nn.ModuleDict:
    """Build the same model on the meta device, sizes read off the shapes."""
    base_channels, pixels = tensors["encoder.0.weight"].shape[:2]
    patch_size = round((pixels / 3) ** 0.5)
    time = 1
    for pool in _POOLS:
        time *= tensors[f"{pool}.conv.weight"].shape[1] // base_channels
    latent_dim = len(tensors["encoder.17.weight"])
    options: dict[str, Any] = {"latent_dim": latent_dim, "stride": [time, 8 * patch_size, 8 * patch_size]}
    is_super = "decoder.0.weight" in tensors
    firsts = (
        ("decoder.0", "decoder.4", "decoder.11") if is_super else ("decoder.1", "decoder.8", "decoder.14")
    )
    widths = [
        len(tensors.get(f"{layer}.weight", ())) // (4 if is_super and i else 1)
        for i, layer in enumerate(firsts)
    ]
    widths.append(tensors["decoder.22.weight"].shape[1])
    try:
        with torch.device("meta"):
            decoder: nn.Module
            if is_super:
                decoder = TAEHVSuperDecoder(widths=widths, **options)
            else:
                block = "wide" if "decoder.3.conv.6.weight" in tensors else "plain"
                decoder = TAEHVDecoder(widths=widths, block=block, **options)
            encoder = TAEHVEncoder(base_channels=base_channels, **options)
    except RecipeError as error:
        raise WeightsError(f"these TAEHV weights are of no size that can be built: {error}") from None
    return nn.ModuleDict({"encoder": encoder, "decoder": decoder})
