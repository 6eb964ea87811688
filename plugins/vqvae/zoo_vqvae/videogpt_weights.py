"""Names of the public VideoGPT VQ-VAE weights, turned into ours.

The public model holds `encoder`, `pre_vq_conv`, `codebook`, `post_vq_conv` and `decoder`; an
autoencoder of ours holds `encoder`, `pre_quant`, `quantizer`, `post_quant` and `decoder`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import WeightsError
from zoo_vqvae.videogpt import VideoGPTDecoder, VideoGPTEncoder
from zoo_vqvae.vq_ema import EMACodebook

_LANDMARK = "encoder.conv_last.conv.weight"
_NEEDED = (_LANDMARK, "encoder.convs.0.conv.weight", "codebook.embeddings")
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
    inner = state.get("state_dict")
    if isinstance(inner, Mapping):
        state = inner
    prefix = _prefix(state, prefix)
    known = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    unused = [name for name in state if not name.startswith(prefix)]

    expected = _expected_shapes(known)
    unused += [prefix + name for name in known if name not in expected]
    missing = [prefix + name for name in expected if name not in known]
    if missing:
        raise WeightsError(
            f"VideoGPT weights lack {_listing(missing)}; names without a place: {_listing(unused)}"
        )
    wrong = [
        f"{prefix}{name} is {tuple(known[name].shape)} where {tuple(shape)} fits"
        for name, shape in expected.items()
        if known[name].shape != shape
    ]
    if wrong:
        raise WeightsError(f"VideoGPT weights do not fit together: {_listing(wrong)}")
    mapped = {_rename(name): known[name] for name in expected}
    mapped["quantizer.initialized"] = torch.tensor(True)
    return mapped, sorted(unused)


def _prefix(state: Mapping[str, Any], prefix: str | None) -> str:
    found = [name for name in state if f".{name}".endswith(f".{_LANDMARK}")]
    if prefix is not None:
        found = [name for name in found if name == prefix + _LANDMARK]
    if len(found) != 1:
        raise WeightsError(
            f"no VideoGPT VQ-VAE in these weights: {len(found)} names end in {_LANDMARK!r} and one must; "
            f"there are {_listing(found or state)}"
        )
    prefix = found[0].removesuffix(_LANDMARK)
    lacking = [prefix + name for name in _NEEDED if not isinstance(state.get(prefix + name), Tensor)]
    if lacking:
        raise WeightsError(
            f"VideoGPT weights lack the tensors {_listing(lacking)}; there are {_listing(state)}"
        )
    return prefix


def _expected_shapes(known: Mapping[str, Any]) -> dict[str, torch.Size]:
    """Build the same model on the meta device, and read its names, in the public words."""

    def length(pattern: str) -> int:
        found = (re.match(pattern, name) for name in known)
        return max((int(match[1]) + 1 for match in found if match), default=0)

    hidden_dim = known[_LANDMARK].shape[0]
    options = {
        "hidden_dim": hidden_dim,
        "num_residual_blocks": length(r"encoder\.res_stack\.(\d+)\.block\."),
        "num_heads": 1,  # neither the heads nor the axes that shrink show in a name or a shape
        "stride": [2 ** length(r"encoder\.convs\.(\d+)\.")] * 3,
    }
    colours = known["encoder.convs.0.conv.weight"].shape[1]
    codebook_size, latent_dim = known["codebook.embeddings"].shape
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


def _listing(names: Iterable[str], most: int = 8) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "none"
