"""Names of the public MAGVIT 3D-VQ parameters (Flax), turned into ours.

Flax numbers the modules of a network in the order in which they are called, by their kind; kernels are
stored as (t, h, w, in, out).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.converting.public_state import PublicState
from zoo.errors import RecipeError, WeightsError
from zoo_tokenizers.magvit.layers import ResidualBlock, Upsample
from zoo_tokenizers.magvit.model import MAGVITDecoder, MAGVITEncoder

_FAMILY = "MAGVIT 3D-VQ"
_NEEDED = {
    "encoder.Conv_0.kernel": 5,
    "encoder.Conv_1.kernel": 5,
    "decoder.Conv_0.kernel": 5,
    "quantizer.codebook": 2,
}


def map_magvit_state_dict(
    state: Mapping[str, Any],
    *,
    num_residual_blocks: int = 2,
    temporal_stride: int = 4,
    quantizer: Literal["vq", "vq-ema"] = "vq",
    prefix: str | None = None,
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the parameters of a public MAGVIT 3D-VQ to those of our autoencoder, and turn its kernels.

    The result fits an autoencoder of `magvit` encoder and decoder around a codebook, without projections.

    Args:
        state: Names to tensors: the tree of parameters, flattened with "/" or "." between its levels.
        num_residual_blocks: Blocks of a level; 2 in the base and large models.
        temporal_stride: 4 in all of them.
        quantizer: The part that the codebook is for. Moving averages that the public model does not have
            start from the codes, each counted once.
        prefix: Which parameters to take where there are several (raw and averaged, say), with "." between
            levels.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place.

    Raises:
        WeightsError: These are not such weights, names are missing, or a shape does not fit.
    """
    dotted = {name.replace("/", "."): name for name in state}
    public = PublicState(
        {new: state[name] for new, name in dotted.items()}, family=_FAMILY, needed=_NEEDED, prefix=prefix
    )
    model = _model(public, num_residual_blocks=num_residual_blocks, temporal_stride=temporal_stride)
    names = dict(_names(model))
    shapes = {}
    for name, value in model.state_dict().items():
        shape = value.shape
        shapes[names[name]] = torch.Size([*shape[2:], shape[1], shape[0]]) if len(shape) == 5 else shape
    codes_KD = public.tensors["quantizer.codebook"]
    known, unused = public.take(shapes | {"quantizer.codebook": codes_KD.shape})
    mapped = {
        name: known[public_name].permute(4, 3, 0, 1, 2)
        if known[public_name].ndim == 5
        else known[public_name]
        for name, public_name in names.items()
    }
    mapped["quantizer.embeddings"] = codes_KD
    mapped["quantizer.N"] = codes_KD.new_ones(len(codes_KD))
    mapped["quantizer.initialized"] = torch.tensor(True)
    if quantizer == "vq-ema":
        mapped["quantizer.z_avg"] = codes_KD
    return mapped, sorted(dotted[name] for name in unused)


def _names(model: nn.ModuleDict) -> Iterator[tuple[str, str]]:
    """Pair our names of parameters with Flax's."""
    for part, module in model.items():
        if isinstance(module, MAGVITEncoder):
            in_order: list[nn.Module] = [*module.down, module.mid]
        else:
            assert isinstance(module, MAGVITDecoder)
            in_order = [module.mid, *reversed(module.up)]
        layers = [layer for each in in_order for layer in each.modules()]
        blocks = [layer for layer in layers if isinstance(layer, ResidualBlock)]
        grown = [layer.conv for layer in layers if isinstance(layer, Upsample)]
        flax: list[tuple[nn.Module, str]] = [(module.norm_out, "GroupNorm_0")]
        flax += [(conv, f"Conv_{n}") for n, conv in enumerate([module.conv_in, *grown, module.conv_out])]
        for n, block in enumerate(blocks):
            flax += [
                (block.norm1, f"ResBlock_{n}.GroupNorm_0"),
                (block.conv1, f"ResBlock_{n}.Conv_0"),
                (block.norm2, f"ResBlock_{n}.GroupNorm_1"),
                (block.conv2, f"ResBlock_{n}.Conv_1"),
                (block.shortcut, f"ResBlock_{n}.Conv_2"),
            ]
        ours = {layer: name for name, layer in module.named_modules()}
        for layer, public_name in flax:
            weight = "scale" if isinstance(layer, nn.GroupNorm) else "kernel"
            for name, _ in layer.named_parameters():
                kind = weight if name == "weight" else name
                yield f"{part}.{ours[layer]}.{name}", f"{part}.{public_name}.{kind}"


def _model(public: PublicState, *, num_residual_blocks: int, temporal_stride: int) -> nn.ModuleDict:
    """Build the same model on the meta device, sizes read off the shapes."""
    tensors = public.tensors
    colours_in, base_channels = tensors["encoder.Conv_0.kernel"].shape[3:]
    num_convs = public.count(r"decoder\.Conv_(\d+)\.kernel")
    num_levels = num_convs - 1  # one grows the grid between two levels; first and last convolution
    firsts = [
        tensors.get(f"encoder.ResBlock_{n * num_residual_blocks}.Conv_1.kernel") for n in range(num_levels)
    ]
    options: dict[str, Any] = {
        "base_channels": base_channels,
        "channel_multipliers": [
            0 if kernel is None else kernel.shape[-1] // base_channels for kernel in firsts
        ],
        "num_residual_blocks": num_residual_blocks,
        "temporal_stride": temporal_stride,
    }
    try:
        with torch.device("meta"):
            return nn.ModuleDict(
                {
                    "encoder": MAGVITEncoder(
                        in_channels=colours_in,
                        latent_dim=tensors["encoder.Conv_1.kernel"].shape[-1],
                        **options,
                    ),
                    "decoder": MAGVITDecoder(
                        out_channels=tensors[f"decoder.Conv_{num_convs - 1}.kernel"].shape[-1],
                        latent_dim=tensors["decoder.Conv_0.kernel"].shape[-2],
                        **options,
                    ),
                }
            )
    except RecipeError as error:
        raise WeightsError(f"these {_FAMILY} weights are of no size that can be built: {error}") from None
