"""Names of the public taming-transformers (and latent-diffusion) VQGAN weights, turned into ours.

The public model holds `encoder`, `quant_conv`, `quantize`, `post_quant_conv` and `decoder`; an
autoencoder of ours holds `encoder`, `pre_quant`, `quantizer`, `post_quant` and `decoder`. Encoder and
decoder keep their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Size, Tensor, nn

from zoo.converting.public_state import PublicState
from zoo.errors import RecipeError, WeightsError
from zoo_tokenizers.taming.model import TamingDecoder, TamingEncoder

_FAMILY = "taming VQGAN"
_NEEDED = {
    "encoder.conv_in.weight": 4,
    "encoder.conv_out.weight": 4,
    "decoder.conv_in.weight": 4,
    "decoder.conv_out.weight": 4,
    "quant_conv.weight": 4,
}
_PROJECTIONS = {"pre_quant": "quant_conv", "post_quant": "post_quant_conv"}


def map_taming_state_dict(
    state: Mapping[str, Any],
    *,
    quantizer: Literal["vq", "vq-ema"] = "vq",
    prefix: str | None = None,
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public VQGAN to those of our autoencoder.

    The result fits an autoencoder of `taming` encoder and decoder, both 1x1x1 projections (whose kernels
    get a third axis) and a quantizer: `gumbel` where the public one is that, and the one asked for where it
    is a codebook. Tokens and reconstructions do not depend on which codebook it is; moving averages that
    the public model does not have start from the codes, each counted once. Discriminator and LPIPS
    (under ``loss.``) have no place.

    Args:
        state: Names to tensors; or a whole Lightning checkpoint, whose ``state_dict`` is taken. A
            common prefix (``first_stage_model.`` in a checkpoint of a transformer or of latent diffusion) is
            stripped.
        quantizer: The part that a codebook is for.
        prefix: Which VQGAN to take where there are several.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place.

    Raises:
        WeightsError: These are not such weights, names are missing, or a shape does not fit.
    """
    public = PublicState(state, family=_FAMILY, needed=_NEEDED, prefix=prefix)
    num_channels = public.tensors["quant_conv.weight"].shape[0]
    model = _model(public, num_channels=num_channels)
    expected = {_public_name(name): value.shape for name, value in model.state_dict().items()}
    for name in _PROJECTIONS.values():
        expected[f"{name}.weight"] = expected[f"{name}.weight"][:-1]  # a 2D kernel there
    codebook = _codebook_shapes(public, num_channels)
    known, unused = public.take(expected | codebook)

    mapped = {name: known[_public_name(name)] for name in model.state_dict()}
    for name in _PROJECTIONS:
        mapped[f"{name}.weight"] = mapped[f"{name}.weight"].unsqueeze(-1)
    return mapped | _quantizer({name: known[name] for name in codebook}, quantizer), unused


def _codebook_shapes(public: PublicState, num_channels: int) -> dict[str, Size]:
    """Return the names and shapes of the public quantizer's weights, whichever of its three kinds it is."""
    if "quantize.embed.weight" in public.tensors:
        codes = Size([len(public.tensors["quantize.embed.weight"]), num_channels])
        proj = {"quantize.proj.weight": Size([*codes, 1, 1]), "quantize.proj.bias": codes[:1]}
        return {"quantize.embed.weight": codes} | proj
    embedding = public.tensors.get("quantize.embedding.weight")
    codes = Size([0 if embedding is None else len(embedding), num_channels])
    shapes = {"quantize.embedding.weight": codes}
    if "quantize.embedding.cluster_size" in public.tensors:
        shapes["quantize.embedding.cluster_size"] = codes[:1]
        shapes["quantize.embedding.embed_avg"] = codes
    return shapes


def _quantizer(known: Mapping[str, Tensor], quantizer: str) -> dict[str, Tensor]:
    if "quantize.embed.weight" in known:
        return {
            "quantizer.logits.weight": known["quantize.proj.weight"].flatten(1),
            "quantizer.logits.bias": known["quantize.proj.bias"],
            "quantizer.embeddings": known["quantize.embed.weight"],
            "quantizer.steps": torch.tensor(0),
        }
    codes_KD = known["quantize.embedding.weight"]
    mapped = {
        "quantizer.embeddings": codes_KD,
        "quantizer.N": known.get("quantize.embedding.cluster_size", codes_KD.new_ones(len(codes_KD))),
        "quantizer.initialized": torch.tensor(True),
    }
    if quantizer == "vq-ema":
        mapped["quantizer.z_avg"] = known.get("quantize.embedding.embed_avg", codes_KD)
    return mapped


def _model(public: PublicState, *, num_channels: int) -> nn.ModuleDict:
    """Build the same model on the meta device, sizes read off the shapes."""
    base_channels, colours_in = public.tensors["encoder.conv_in.weight"].shape[:2]
    latent_in = public.tensors["encoder.conv_out.weight"].shape[0]
    latent_out = public.tensors["decoder.conv_in.weight"].shape[1]
    colours_out = public.tensors["decoder.conv_out.weight"].shape[0]
    levels = range(public.count(r"encoder\.down\.(\d+)\."))
    last_convs = [public.tensors.get(f"encoder.down.{n}.block.0.conv2.weight") for n in levels]
    options: dict[str, Any] = {
        "base_channels": base_channels,
        "channel_multipliers": [0 if conv is None else len(conv) // base_channels for conv in last_convs],
        "num_residual_blocks": public.count(r"encoder\.down\.0\.block\.(\d+)\."),
        "attention_levels": [n for n in levels if f"encoder.down.{n}.attn.0.q.weight" in public.tensors],
    }
    try:
        with torch.device("meta"):
            return nn.ModuleDict(
                {
                    "encoder": TamingEncoder(in_channels=colours_in, latent_dim=latent_in, **options),
                    "pre_quant": nn.Conv3d(latent_in, num_channels, 1),
                    "post_quant": nn.Conv3d(num_channels, latent_out, 1),
                    "decoder": TamingDecoder(out_channels=colours_out, latent_dim=latent_out, **options),
                }
            )
    except RecipeError as error:
        raise WeightsError(f"these {_FAMILY} weights are of no size that can be built: {error}") from None


def _public_name(name: str) -> str:
    field, _, rest = name.partition(".")
    return f"{_PROJECTIONS.get(field, field)}.{rest}"
