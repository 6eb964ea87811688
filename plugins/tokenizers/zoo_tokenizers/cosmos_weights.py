"""Names of the public Cosmos video tokenizer weights, turned into ours.

The public model holds `encoder`, `quant_conv`, `post_quant_conv` and `decoder`; an autoencoder of ours
holds `encoder`, `pre_quant`, `quantizer`, `post_quant` and `decoder`. Neither its quantizer (FSQ) nor its
continuous bottleneck (none) has weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import WeightsError
from zoo_tokenizers.cosmos import CosmosDecoder, CosmosEncoder

_LANDMARK = "quant_conv.conv3d.weight"
_NEEDED = (
    "encoder.conv_in.0.conv3d.weight",
    "encoder.conv_out.0.conv3d.weight",
    "decoder.conv_in.0.conv3d.weight",
    "decoder.norm_out.norm.weight",
    "decoder.conv_out.0.conv3d.weight",
    "post_quant_conv.conv3d.weight",
)
_RENAMED = {"quant_conv.conv3d.": "pre_quant.", "post_quant_conv.conv3d.": "post_quant."}


def map_cosmos_state_dict(
    state: Mapping[str, Any], *, stride: Sequence[int], patch_size: int = 4
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public Cosmos video tokenizer to those of our autoencoder.

    The result fits an autoencoder of `cosmos` encoder and decoder and both 1x1x1 projections, around a
    quantizer without weights. Tensors are passed on, not copied. Widths and depths are read from the
    tensors; the stride shows in none of them.

    Args:
        state: Names to tensors, of encoder and decoder together; a common prefix is stripped. The public
            files are TorchScript, whose ``state_dict()`` this is.
        stride: What the file's name says: [4, 8, 8], [8, 8, 8] or [8, 16, 16].
        patch_size: Side of a wavelet patch; 4 in every public file.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place. Those are
        always some: the convolutions ``downsample.conv*`` and ``upsample.conv*`` of levels that the public
        network leaves at their size, which it stores and never reads, and constants of its wavelets.

    Raises:
        RecipeError: The levels of these weights cannot give such a stride.
        WeightsError: These are not such weights, names are missing, or a shape does not fit.
    """
    prefix = _prefix(state)
    known = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    unused = [name for name in state if not name.startswith(prefix)]

    expected = _expected_shapes(known, stride, patch_size)
    unused += [prefix + name for name in known if name not in expected]
    missing = [prefix + name for name in expected if name not in known]
    if missing:
        raise WeightsError(
            f"Cosmos weights of stride {list(stride)} lack {_listing(missing)}; "
            f"names without a place: {_listing(unused)}"
        )
    wrong = [
        f"{prefix}{name} is {tuple(known[name].shape)} where {tuple(shape)} fits"
        for name, shape in expected.items()
        if known[name].shape != shape
    ]
    if wrong:
        raise WeightsError(f"Cosmos weights do not fit together: {_listing(wrong)}")
    return {_rename(name, _RENAMED): known[name] for name in expected}, sorted(unused)


def _prefix(state: Mapping[str, Any]) -> str:
    found = [name for name in state if name == _LANDMARK or name.endswith("." + _LANDMARK)]
    if len(found) != 1:
        raise WeightsError(
            f"no Cosmos video tokenizer in these weights: {len(found)} names end in {_LANDMARK!r} and one "
            f"must; there are {_listing(state)}"
        )
    prefix = found[0].removesuffix(_LANDMARK)
    lacking = [prefix + name for name in _NEEDED if not isinstance(state.get(prefix + name), Tensor)]
    if lacking:
        raise WeightsError(
            f"Cosmos weights lack the tensors {_listing(lacking)}; there are {_listing(state)}. "
            "An encoder file and a decoder file are halves: give the names of both"
        )
    return prefix


def _expected_shapes(
    known: Mapping[str, Any], stride: Sequence[int], patch_size: int
) -> dict[str, torch.Size]:
    """Build the same model on the meta device, and read its names, in the public words."""

    def length(pattern: str) -> int:
        found = (re.match(pattern, name) for name in known)
        return max((int(match[1]) + 1 for match in found if match), default=0)

    def multipliers(levels: str, base_channels: int) -> list[int]:
        names = (
            f"{levels}.{i}.block.0.norm2.norm.weight" for i in range(length(rf"{levels}\.(\d+)\.block\."))
        )
        return [known[name].shape[0] // base_channels for name in names if name in known]

    base_channels = known["encoder.conv_in.0.conv3d.weight"].shape[0]
    depth = length(r"encoder\.down\.0\.block\.(\d+)\.")
    shared = {
        "base_channels": base_channels,
        "num_residual_blocks": depth,
        "stride": list(stride),
        "patch_size": patch_size,
    }
    out_dim = known["decoder.conv_out.0.conv3d.weight"].shape[0]
    quantizer_dim, encoder_dim = known[_LANDMARK].shape[:2]
    decoder_dim = known["post_quant_conv.conv3d.weight"].shape[0]
    with torch.device("meta"):
        model = nn.ModuleDict(
            {
                "encoder": CosmosEncoder(
                    in_channels=known["encoder.conv_in.0.conv3d.weight"].shape[1] // patch_size**3,
                    channel_multipliers=multipliers("encoder.down", base_channels),
                    latent_dim=encoder_dim,
                    **shared,
                ),
                "pre_quant": nn.Conv3d(encoder_dim, quantizer_dim, 1),
                "post_quant": nn.Conv3d(quantizer_dim, decoder_dim, 1),
                "decoder": CosmosDecoder(
                    out_channels=out_dim // patch_size**3,
                    channel_multipliers=multipliers("decoder.up", base_channels),
                    latent_dim=decoder_dim,
                    **shared,
                ),
            }
        )
    public = {ours: theirs for theirs, ours in _RENAMED.items()}
    return {_rename(name, public): value.shape for name, value in model.state_dict().items()}


def _rename(name: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def _listing(names: Iterable[str], most: int = 8) -> str:
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "none"
