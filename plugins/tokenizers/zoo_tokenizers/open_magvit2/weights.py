"""Names of the public Open-MAGVIT2 video weights, turned into ours.

The public model holds `encoder` and `decoder`, which keep their names, a quantizer without weights, and
moving averages of all weights under `model_ema`, by their names without dots.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.converting.public_state import PublicState
from zoo.errors import RecipeError, WeightsError
from zoo_tokenizers.open_magvit2.model import OpenMagvit2Decoder, OpenMagvit2Encoder

_FAMILY = "Open-MAGVIT2 video tokenizer"
_NEEDED = {
    "encoder.conv_in.conv_1.weight": 5,
    "encoder.conv_out.conv_1.weight": 5,
    "decoder.conv_in.conv_1.weight": 5,
    "decoder.conv_out.conv_1.weight": 5,
}


def map_open_magvit2_state_dict(
    state: Mapping[str, Any],
    *,
    weights: Literal["averaged", "last"] | None = None,
    prefix: str | None = None,
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public Open-MAGVIT2 video tokenizer to those of our autoencoder.

    The result fits an autoencoder around `lfq` without projections, of `open-magvit2` encoder and decoder,
    whose outputs are the public ones, or of `open-magvit2-causal`, whose are not. Tensors are passed on, not
    copied. All sizes are read from the tensors. Discriminator and LPIPS (under ``loss.``) have no place.

    The public index of a code weighs bit j by 2^j, `lfq` here by 2^(D - 1 - j): the order of the bits is
    reversed in the number, not in the code.

    Args:
        state: Names to tensors; or a whole Lightning checkpoint, whose ``state_dict`` is taken. A common
            prefix is stripped.
        weights: "averaged" takes the moving averages, "last" the weights of the last step; left out, the
            averages where there are any, as the public code does.
        prefix: Which tokenizer to take where there are several.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place, which
        are those of the other kind of weights too.

    Raises:
        WeightsError: These are not such weights, names are missing, or a shape does not fit.
    """
    public = PublicState(state, family=_FAMILY, needed=_NEEDED, prefix=prefix)
    shapes = {name: value.shape for name, value in _model(public).state_dict().items()}
    names = {name: name for name in shapes}
    if weights == "averaged" or (weights is None and _average_of(next(iter(shapes))) in public.tensors):
        names = {name: _average_of(name) for name in shapes}
    known, unused = public.take({names[name]: shape for name, shape in shapes.items()})
    return {name: known[names[name]] for name in shapes}, unused


def _average_of(name: str) -> str:
    return f"model_ema.{name.replace('.', '')}"


def _model(public: PublicState) -> nn.ModuleDict:
    """Build the same model on the meta device, sizes read off the shapes."""
    tensors = public.tensors
    base_channels, colours_in = tensors["encoder.conv_in.conv_1.weight"].shape[:2]
    levels = range(public.count(r"encoder\.down\.(\d+)\.block\."))
    last_convs = [tensors.get(f"encoder.down.{n}.block.0.conv2.conv_1.weight") for n in levels]
    growths = [tensors.get(f"decoder.up.{n}.upsample.conv1.conv_1.weight") for n in levels]
    times_t = sum(conv is not None and len(conv) == 8 * conv.shape[1] for conv in growths)
    options: dict[str, Any] = {
        "base_channels": base_channels,
        "channel_multipliers": [0 if conv is None else len(conv) // base_channels for conv in last_convs],
        "num_residual_blocks": public.count(r"encoder\.down\.0\.block\.(\d+)\."),
        "temporal_stride": 2**times_t,
    }
    try:
        with torch.device("meta"):
            return nn.ModuleDict(
                {
                    "encoder": OpenMagvit2Encoder(
                        in_channels=colours_in,
                        latent_dim=len(tensors["encoder.conv_out.conv_1.weight"]),
                        **options,
                    ),
                    "decoder": OpenMagvit2Decoder(
                        out_channels=len(tensors["decoder.conv_out.conv_1.weight"]),
                        latent_dim=tensors["decoder.conv_in.conv_1.weight"].shape[1],
                        **options,
                    ),
                }
            )
    except RecipeError as error:
        raise WeightsError(f"these {_FAMILY} weights are of no size that can be built: {error}") from None
