"""Weights of public R3GANs, which make images, as a start for our video networks.

What a single frame goes through is theirs, under other names. What is ours starts as if it were not there:
temporal filters are centred, and the basis does not hear the motion noise. So the generator makes clips that
stand still, each frame the public network's image, and the discriminator scores them as those images.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.converting.public_state import PublicState
from zoo.errors import WeightsError
from zoo_gan.public_weights import averaged_prefix, built_on_meta
from zoo_gan.r3gan.discriminator import R3GANVideoDiscriminator
from zoo_gan.r3gan.generator import R3GANVideoGenerator
from zoo_gan.r3gan.layers import SPACE_TAPS

_GENERATOR = "AggregationLayer.Layer.weight"
_DISCRIMINATOR = "ExtractionLayer.Layer.weight"
_BLOCK = {
    "expand.weight": "LinearLayer1.Layer.weight",
    "bias1": "NonLinearity1.Bias",
    "spatial.weight": "LinearLayer2.Layer.weight",
    "bias2": "NonLinearity2.Bias",
    "reduce.weight": "LinearLayer3.Layer.weight",
}
_ENDS = {
    "to_frame.weight": _GENERATOR,
    "from_frame.weight": _DISCRIMINATOR,
    "embed.weight": "EmbeddingLayer.weight",
}


def map_r3gan_state_dict(
    state: Mapping[str, Any], *, motion_dim: int = 64, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Turn the weights of a public R3GAN into those of a GAN of `r3gan-video` parts.

    Tensors are passed on; only the first linear layer is a copy, widened by the zeros that do not hear
    motion. Widths, depths, cardinalities and labels are read from the tensors.

    Args:
        state: Names to tensors, of a generator alone or of generators and a discriminator, as a snapshot of
            the public training has them: ``G_ema.Model.*``, ``G.Model.*`` and ``D.Model.*``.
        motion_dim: Motion numbers of a frame that the generator has.
        prefix: Which generator to take; ``G_ema.Model.`` if left out, or the only one.

    Returns:
        Our names to tensors, of the generator and, if there is one, the discriminator; and the sorted names
        of `state` that have no place: other generators, and the filters of the resampling layers.

    Raises:
        WeightsError: These are no such weights, names are missing, a shape or filter does not fit.
    """
    unused = set(state)
    generator = PublicState(
        state,
        family="R3GAN generator",
        needed={
            _GENERATOR: 4,
            "MainLayers.0.Layers.0.Basis": 3,
            "MainLayers.0.Layers.0.LinearLayer.weight": 2,
        },
        prefix=averaged_prefix(state, _GENERATOR) if prefix is None else prefix,
    )
    mapped, rest = _generator(generator, motion_dim)
    unused &= set(rest)
    result = {f"generator.{name}": tensor for name, tensor in mapped.items()}
    if any(name == _DISCRIMINATOR or name.endswith(f".{_DISCRIMINATOR}") for name in state):
        discriminator = PublicState(state, family="R3GAN discriminator", needed={_DISCRIMINATOR: 4})
        mapped, rest = _discriminator(discriminator)
        unused &= set(rest)
        result |= {f"discriminator.0.{name}": tensor for name, tensor in mapped.items()}
    return result, sorted(unused)


def _generator(public: PublicState, motion_dim: int) -> tuple[dict[str, Tensor], list[str]]:
    tensors = public.tensors
    embed = tensors.get("EmbeddingLayer.weight")
    code_dim = tensors["MainLayers.0.Layers.0.LinearLayer.weight"].shape[1]
    options = _stages(public, first_block=1) | {
        "out_channels": len(tensors[_GENERATOR]),
        "content_dim": code_dim - (0 if embed is None else len(embed)),
        "motion_dim": motion_dim,
    }
    if embed is not None:
        options |= {"num_classes": embed.shape[1], "embedding_dim": len(embed)}
    model = built_on_meta(lambda: R3GANVideoGenerator(**options), "R3GAN")
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    linear = "stages.0.basis.linear.weight"
    wanted[linear] = torch.Size((wanted[linear][0], code_dim))
    mapped, unused = _taken(public, wanted, options["num_blocks"], is_generator=True)
    deaf = mapped[linear].new_zeros(len(mapped[linear]), motion_dim)
    mapped[linear] = torch.cat([mapped[linear], deaf], dim=1)
    return mapped, unused


def _discriminator(public: PublicState) -> tuple[dict[str, Tensor], list[str]]:
    embed = public.tensors.get("EmbeddingLayer.weight")
    options = _stages(public, first_block=0) | {"in_channels": public.tensors[_DISCRIMINATOR].shape[1]}
    if embed is not None:
        options |= {"num_classes": embed.shape[1], "embedding_dim": len(embed)}
    model = built_on_meta(lambda: R3GANVideoDiscriminator(**options), "R3GAN")
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return _taken(public, wanted, options["num_blocks"], is_generator=False)


def _stages(public: PublicState, *, first_block: int) -> dict[str, Any]:
    """Read the options of the stages off the shapes of each stage's first block, and count them."""
    widths, cardinalities, num_blocks, expansions = [], [], [], set()
    for stage in range(public.count(r"MainLayers\.(\d+)\.")):
        grouped = re.compile(rf"MainLayers\.{stage}\.Layers\.\d+\.LinearLayer2\.Layer\.weight")
        block = f"MainLayers.{stage}.Layers.{first_block}"
        expand = public.tensors.get(f"{block}.LinearLayer1.Layer.weight")
        spatial = public.tensors.get(f"{block}.LinearLayer2.Layer.weight")
        if expand is None or spatial is None or expand.ndim != 4 or spatial.ndim != 4:
            raise WeightsError(f"R3GAN weights: stage {stage} has no block {block}")
        widths.append(expand.shape[1])
        cardinalities.append(len(spatial) // max(1, spatial.shape[1]))
        num_blocks.append(sum(1 for name in public.tensors if grouped.fullmatch(name)))
        expansions.add(len(expand) // max(1, expand.shape[1]))
    if len(expansions) != 1:
        raise WeightsError(f"R3GAN weights: blocks expand by {sorted(expansions)}; one factor is needed")
    return {
        "widths": widths,
        "cardinalities": cardinalities,
        "num_blocks": num_blocks,
        "expansion": expansions.pop(),
        "time_scales": [1] * (len(widths) - 1),  # shows in no weight
    }


def _taken(
    public: PublicState, wanted: Mapping[str, torch.Size], num_blocks: list[int], *, is_generator: bool
) -> tuple[dict[str, Tensor], list[str]]:
    """Return our names to tensors, centred temporal filters among them, and public names without a place."""
    taps = torch.tensor(SPACE_TAPS, dtype=torch.float64)
    kernel = torch.outer(taps, taps) / taps.sum() ** 2
    for name, tensor in public.tensors.items():
        if name.endswith(".Resampler.Kernel") and not (
            tensor.shape == kernel.shape and torch.allclose(tensor.cpu().double(), kernel, atol=1e-3)
        ):
            raise WeightsError(f"R3GAN weights: {name} is another filter than {list(SPACE_TAPS)} each way")
    theirs = {
        name: _public_name(name, num_blocks, is_generator=is_generator)
        for name in wanted
        if not name.endswith(".temporal.weight")
    }
    known, unused = public.take({theirs[name]: wanted[name] for name in theirs})
    mapped = {name: known[public_name] for name, public_name in theirs.items()}
    some = next(iter(mapped.values()))
    for name, shape in wanted.items():
        if name not in theirs:
            mapped[name] = some.new_tensor([0.0, 1.0, 0.0]).repeat(shape[0], 1)
    return mapped, unused


def _public_name(name: str, num_blocks: list[int], *, is_generator: bool) -> str:
    if name in _ENDS:
        return _ENDS[name]
    _, stage, field, rest = name.split(".", 3)
    layers = f"MainLayers.{stage}.Layers"
    if field == "blocks":
        number, _, inner = rest.partition(".")
        return f"{layers}.{int(number) + is_generator}.{_BLOCK[inner]}"
    transition = f"{layers}.{0 if is_generator else num_blocks[int(stage)]}"
    if field == "project":
        return f"{transition}.LinearLayer.Layer.weight"
    return f"{transition}.{rest.replace('basis', 'Basis', 1).replace('linear', 'LinearLayer', 1)}"
