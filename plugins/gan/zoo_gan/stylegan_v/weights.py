"""Reads state dicts of the authors' StyleGAN-V code: generator (G or G_ema), and discriminator beside it.

Names agree but for two prefixes: the motion encoder stands inside the synthesis network there, and the input
has one more module around it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from zoo.converting.public_state import PublicState
from zoo.errors import WeightsError
from zoo_gan.stylegan_v.discriminator import StyleGANVDiscriminator
from zoo_gan.stylegan_v.generator import StyleGANVGenerator

_RENAMED = {
    "motion_encoder.": "synthesis.motion_encoder.",
    "synthesis.b4.input.": "synthesis.b4.input.input.",
}
_GENERATOR = "synthesis.motion_encoder.conv.0.weight"
_JUDGE = "time_encoder.const_embed.weight"


def public_name(name: str) -> str:
    """Return what a tensor of our generator is called in the authors' code."""
    for ours, theirs in _RENAMED.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def map_stylegan_v_state_dict(
    state: Mapping[str, Tensor], *, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a published StyleGAN-V to those of our GAN.

    Args:
        state: Names to tensors of the generator; or of generators and the discriminator, each under a prefix
            such as ``G_ema.`` and ``D.``.
        prefix: Which generator to take where there are several.

    Returns:
        Our names to tensors, and the sorted names of `state` that have no place.

    Raises:
        WeightsError: There is no such generator, several are, or a name or shape does not fit.
    """
    generator = PublicState(
        state,
        family="StyleGAN-V generator",
        needed={
            _GENERATOR: 3,
            "synthesis.motion_encoder.conv.1.weight": 3,
            "synthesis.motion_encoder.time_encoder.freqs": 2,
            "synthesis.b4.input.input.const": 4,
            "mapping.fc0.weight": 2,
        },
        prefix=prefix,
    )
    wanted = {public_name(name): (name, shape) for name, shape in _generator_shapes(generator).items()}
    found, unused = generator.take({public: shape for public, (_, shape) in wanted.items()})
    mapped = {f"generator.{wanted[public][0]}": tensor for public, tensor in found.items()}

    judges = [name for name in unused if f".{name}".endswith(f".{_JUDGE}")]
    if len(judges) == 1:
        judge = PublicState(
            {name: state[name] for name in unused},
            family="StyleGAN-V discriminator",
            needed={_JUDGE: 2, "b4.fc.weight": 2, "b8.conv1.weight": 4, "mapping.embed.weight": 2},
        )
        weights, unused = judge.take(_judge_shapes(judge))
        mapped |= {f"discriminator.0.{name}": tensor for name, tensor in weights.items()}
    return mapped, unused


def _top(public: PublicState, pattern: str) -> int:
    """Return the largest resolution that has a tensor of this name."""
    sizes = [2**n for n in range(2, 13) if pattern.format(2**n) in public.tensors]
    if not sizes:
        raise WeightsError(f"StyleGAN-V weights lack every tensor like {pattern.format('8')}")
    return sizes[-1]


def _generator_shapes(public: PublicState) -> dict[str, torch.Size]:
    """Build, on meta, the generator that these weights are for, and return the shapes of its tensors."""
    tensors = public.tensors
    size = _top(public, "synthesis.b{}.torgb.weight")
    rgb = tensors[f"synthesis.b{size}.torgb.weight"]
    const = tensors["synthesis.b4.input.input.const"].shape[1]
    first = tensors["synthesis.motion_encoder.conv.0.weight"]
    motion_dim = first.shape[0]
    w_dim = tensors["mapping.fc0.weight"].shape[0]
    num_classes = first.shape[1] - motion_dim
    with torch.device("meta"):
        generator = StyleGANVGenerator(
            out_channels=rgb.shape[0],
            image_size=size,
            channel_base=rgb.shape[1] * size,
            channel_max=const,
            content_dim=tensors["mapping.fc0.weight"].shape[1] - (w_dim if num_classes else 0),
            w_dim=w_dim,
            mapping_layers=public.count(r"mapping\.fc(\d+)\.weight"),
            motion_dim=motion_dim,
            motion_code_dim=tensors["synthesis.motion_encoder.conv.1.weight"].shape[0],
            motion_kernel_size=first.shape[2],
            num_frequencies=tensors["synthesis.motion_encoder.time_encoder.freqs"].shape[1],
            num_classes=num_classes,
        )
    return {name: value.shape for name, value in generator.state_dict().items()}


def _judge_shapes(public: PublicState) -> dict[str, torch.Size]:
    """Build, on meta, the discriminator that these weights are for, and return the shapes of its tensors."""
    tensors = public.tensors
    size = _top(public, "b{}.fromrgb.weight")
    rgb = tensors[f"b{size}.fromrgb.weight"]
    widths = {
        s: tensors[f"b{s}.conv0.weight"].shape for s in (8, 16, 32, 64, 128, 256, 512, 1024) if s <= size
    }
    # Where frames are put together, a block reads more or fewer channels than its own width.
    joined = [s for s, shape in widths.items() if s < size and shape[0] != shape[1]]
    if len(joined) != 1:
        raise WeightsError(
            f"StyleGAN-V discriminator: frames are put together at {joined or 'no'} resolutions"
        )
    num_frames = widths[joined[0]][1] // (widths[joined[0]][0] // 2)
    max_frames, gap_dim = tensors[_JUDGE].shape
    octaves = (max_frames - 1).bit_length()
    told = tensors["mapping.embed.weight"].shape[1]
    with torch.device("meta"):
        judge = StyleGANVDiscriminator(
            in_channels=rgb.shape[1],
            image_size=size,
            channel_base=rgb.shape[0] * size,
            channel_max=tensors["mapping.embed.weight"].shape[0],
            num_frames=num_frames,
            concat_size=joined[0],
            max_frames=max_frames,
            gap_dim=gap_dim,
            mapping_layers=public.count(r"mapping\.fc(\d+)\.weight"),
            num_classes=told - (num_frames - 1) * (gap_dim + 2 * octaves),
        )
    return {name: value.shape for name, value in judge.state_dict().items()}
