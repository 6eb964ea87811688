"""Names of the public VidTok weights, turned into ours.

The public models hold `encoder`, `regularization` and `decoder`; an autoencoder of ours holds `encoder`,
`quantizer` and `decoder`, without projections. Neither regularization (KL, FSQ) has weights. Encoder and
decoder keep their names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.converting.public_state import PublicState
from zoo.errors import RecipeError, WeightsError
from zoo_tokenizers.vidtok.model import VidTokDecoder, VidTokEncoder
from zoo_tokenizers.vidtok.noncausal import VidTokNoncausalDecoder, VidTokNoncausalEncoder

_FAMILY = "VidTok"
_COMPILED = "._orig_mod."
"""What `torch.compile` puts into the names of a part; the public code can train compiled."""


def map_vidtok_state_dict(
    state: Mapping[str, Any], *, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public VidTok to those of our autoencoder.

    The result fits an autoencoder of `vidtok` (or `vidtok-noncausal`) encoder and decoder around a quantizer
    without weights, `kl` or `fsq`. Tensors are passed on, not copied. Everything is read from the tensors but
    the version: 1.0 and 1.1 have the same names and shapes, so take the recipe named like the file.

    Args:
        state: Names to tensors; or a whole Lightning checkpoint, whose ``state_dict`` is taken. A common
            prefix is stripped.
        prefix: Which tokenizer to take where there are several.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place: losses,
        discriminators, averages, the implicit codebook of FSQ.

    Raises:
        WeightsError: These are not such weights, names are missing, or a shape does not fit.
    """
    inner = state.get("state_dict")
    named = inner if isinstance(inner, Mapping) else state
    public_names = {name.replace(_COMPILED, "."): name for name in named}
    is_causal = not any(f".{name}".endswith(".encoder.conv_in.weight") for name in public_names)
    conv = ".conv.weight" if is_causal else ".weight"
    needed = {f"encoder.conv_in{conv}": 5, f"encoder.conv_out{conv}": 5}
    needed |= {f"decoder.conv_in{conv}": 5, f"decoder.conv_out{conv}": 5}
    public = PublicState(
        {name: named[original] for name, original in public_names.items()},
        family=_FAMILY,
        needed=needed,
        prefix=prefix,
    )
    model = _model(public, conv, is_causal=is_causal)
    mapped, unused = public.take({name: value.shape for name, value in model.state_dict().items()})
    return mapped, sorted(public_names[name] for name in unused)


def _model(public: PublicState, conv: str, *, is_causal: bool) -> nn.ModuleDict:
    """Build the same model on the meta device, sizes read off names and shapes.

    Args:
        public: The public tensors.
        conv: End of a name, after that of the first or last convolution of a part.
        is_causal: Which parts they fit.
    """
    tensors = public.tensors
    base_channels, in_channels = tensors[f"encoder.conv_in{conv}"].shape[:2]
    levels = range(public.count(r"encoder\.down\.(\d+)\.block\."))
    times_t, times_hw = (
        sum(f"encoder.{name}" in tensors for name in names)
        for names in (
            [f"down_temporal.{level}.downsample.mix_factor" for level in levels],
            [f"down.{level}.downsample.conv.weight" for level in levels],
        )
    )
    widths = [tensors.get(f"encoder.down.{level}.block.0.norm2.norm.weight") for level in levels]
    shared: dict[str, Any] = {
        "base_channels": base_channels,
        "channel_multipliers": [0 if width is None else len(width) // base_channels for width in widths],
        "num_residual_blocks": public.count(r"encoder\.down\.0\.block\.(\d+)\."),
        "stride": [2**times_t, 2**times_hw, 2**times_hw],
    }
    encoder: type[nn.Module] = VidTokEncoder if is_causal else VidTokNoncausalEncoder
    decoder: type[nn.Module] = VidTokDecoder if is_causal else VidTokNoncausalDecoder
    latent_dims = (
        tensors[f"encoder.conv_out{conv}"].shape[0],
        tensors[f"decoder.conv_in{conv}"].shape[1],
    )
    try:
        with torch.device("meta"):
            return nn.ModuleDict(
                {
                    "encoder": encoder(in_channels=in_channels, latent_dim=latent_dims[0], **shared),
                    "decoder": decoder(
                        out_channels=tensors[f"decoder.conv_out{conv}"].shape[0],
                        latent_dim=latent_dims[1],
                        **shared,
                    ),
                }
            )
    except RecipeError as error:
        raise WeightsError(f"these {_FAMILY} weights are of no size that can be built: {error}") from None
