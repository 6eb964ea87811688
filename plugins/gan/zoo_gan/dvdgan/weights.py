"""Names of the weights of the PyTorch port of DVD-GAN, turned into ours.

The port (https://github.com/Harrypotterrrr/DVD-GAN) saves generator and discriminators in files of their
own. Its spectral norm keeps the raw weight as ``weight_bar`` and the vectors of the power iteration
beside it, which are the same numbers here. No file is opened: hand over state dicts that were read
safely.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.converting.public_state import PublicState
from zoo.errors import WeightsError
from zoo_gan.dvdgan.discriminators import SpatialDiscriminator, TemporalDiscriminator
from zoo_gan.dvdgan.generator import DVDGANGenerator
from zoo_gan.public_weights import built_on_meta

_SPECTRAL = {
    ".parametrizations.weight.original": ".module.weight_bar",
    ".parametrizations.weight.0.u": ".module.weight_u",
    ".parametrizations.weight.0.v": ".module.weight_v",
}
_NORMS = {"norm0": "CBNorm1", "norm1": "CBNorm2"}
_GATES = r"reset_gate|update_gate|out_gate"
_ATTENTION = {"query": "query_conv", "key": "key_conv", "value": "value_conv", "gamma": "gamma"}
_DISCRIMINATORS: dict[str, tuple[str, type[SpatialDiscriminator] | type[TemporalDiscriminator]]] = {
    "dvd-spatial": ("ds.", SpatialDiscriminator),
    "dvd-temporal": ("dt.", TemporalDiscriminator),
}


def map_dvdgan_generator(
    state: Mapping[str, Any], *, prefix: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """Read a generator of the port: what builds the same part, and its weights.

    Args:
        state: Names to tensors, as its ``state_dict()`` gives them.
        prefix: What stands before the names, where it cannot be told.

    Returns:
        Options of `dvdgan`, our names to tensors, and the sorted names of `state` that have no place.

    Raises:
        WeightsError: It is not such a generator, or names are missing or shapes do not fit.
    """
    needed = {
        "affine_transfrom.weight": 2,
        "embedding.weight": 2,
        "conv.0.cells.0.reset_gate.weight": 4,
        "colorize.module.weight_bar": 4,
    }
    public = PublicState(state, family="DVD-GAN generator of the port", needed=needed, prefix=prefix)
    tensors = public.tensors
    num_groups = public.count(r"conv\.(\d+)\.") // 3

    def width(name: str) -> int:
        if name not in tensors:
            raise WeightsError(f"weights of the port's DVD-GAN generator lack {name}")
        return len(tensors[name])

    num_layers = public.count(r"conv\.0\.cells\.(\d+)\.")
    gates = [
        [f"conv.{3 * group}.cells.{layer}.reset_gate.bias" for layer in range(num_layers)]
        for group in range(num_groups)
    ]
    widths = [width(gates[group][-1]) for group in range(num_groups)]
    widths.append(width(f"conv.{3 * num_groups - 1}.conv0.module.bias"))
    num_classes, class_dim = tensors["embedding.weight"].shape
    options: dict[str, Any] = {
        "out_channels": width("colorize.module.bias"),
        "base_channels": 1,
        "channel_multipliers": widths,
        "noise_dim": tensors["affine_transfrom.weight"].shape[1] - class_dim,
        "num_classes": num_classes,
        "class_dim": class_dim,
        "gru_multipliers": [width(name) // widths[0] for name in gates[0]],
        "gru_kernels": [
            [tensors[name.replace("bias", "weight")].shape[-1] for name in names] for names in gates
        ],
        "gru_activation": "tanh",
        "attention": "none",
        "spectral_norm": "blocks",
    }
    ours = built_on_meta(lambda: DVDGANGenerator(**options), "DVD-GAN").state_dict()
    names = {name: _generator_name(name) for name in ours}
    known, unused = public.take({names[name]: value.shape for name, value in ours.items()})
    return options, {name: known[names[name]] for name in ours}, unused


def map_dvdgan_discriminator(
    state: Mapping[str, Any], *, name: str, prefix: str | None = None
) -> tuple[dict[str, Any], dict[str, Tensor], list[str]]:
    """Read a discriminator of the port: what builds the same part, and its weights.

    Args:
        state: Names to tensors, as its ``state_dict()`` gives them.
        name: "dvd-spatial" or "dvd-temporal".
        prefix: What stands before the names, where it cannot be told.

    Returns:
        Options of the part, our names to tensors, and the sorted names of `state` that have no place.

    Raises:
        WeightsError: It is not such a discriminator, or names are missing or shapes do not fit.
    """
    _, cls = _DISCRIMINATORS[name]
    needed = {
        "pre_conv.0.module.weight_bar": 5 if cls is TemporalDiscriminator else 4,
        "linear.module.weight_bar": 2,
        "embed.module.weight_bar": 2,
    }
    public = PublicState(state, family=f"{name} of the port of DVD-GAN", needed=needed, prefix=prefix)
    last = _discriminator_stem(name)
    blocks = ["pre_conv.2", f"{last[0]}.conv0", *(f"{last[1]}.{n}.conv0" for n in range(3))]
    lacking = [block for block in blocks if f"{block}.module.bias" not in public.tensors]
    if lacking:
        raise WeightsError(f"weights of the port's {name} lack {', '.join(lacking)}")
    first = public.tensors["pre_conv.0.module.weight_bar"]
    options: dict[str, Any] = {
        "in_channels": first.shape[1],
        "base_channels": 1,
        "channel_multipliers": [len(public.tensors[f"{block}.module.bias"]) for block in blocks],
        "num_classes": len(public.tensors["embed.module.weight_bar"]),
        "reduction": "none",
        "spectral_norm": "blocks",
    }
    with torch.device("meta"):
        ours = cls(**options).state_dict()
    names = {ours_name: _discriminator_name(ours_name, last) for ours_name in ours}
    # The port projects by 1x1 convolutions over frames, ours over positions.
    known, unused = public.take(
        {
            names[n]: torch.Size((*value.shape, 1))
            if n.startswith("attention.") and value.ndim == 3
            else value.shape
            for n, value in ours.items()
        }
    )
    return options, {n: known[names[n]].reshape(value.shape) for n, value in ours.items()}, unused


def map_dvdgan_state_dict(
    state: Mapping[str, Any], *, discriminators: Sequence[str] = (), prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of the port's generator, and discriminators if they are there, to those of our GAN.

    Args:
        state: Names to tensors of the generator; discriminators under ``ds.`` and ``dt.`` beside it.
        discriminators: Names of the parts that our GAN has. They are filled when `state` has them all.
        prefix: Which generator to take where there are several.

    Returns:
        Our names to tensors, and the sorted names of `state` that have no place.

    Raises:
        WeightsError: There is no such generator, several are, or a name or shape does not fit.
    """
    _, weights, unused = map_dvdgan_generator(state, prefix=prefix)
    mapped = {f"generator.{name}": tensor for name, tensor in weights.items()}
    heads = [_DISCRIMINATORS[name][0] if name in _DISCRIMINATORS else None for name in discriminators]
    if heads and all(head and any(name.startswith(head) for name in unused) for head in heads):
        for number, (name, head) in enumerate(zip(discriminators, heads, strict=True)):
            _, judge, _ = map_dvdgan_discriminator(state, name=name, prefix=head)
            mapped |= {f"discriminator.{number}.{key}": tensor for key, tensor in judge.items()}
            assert head
            unused = [key for key in unused if not key.startswith(head)]
    return mapped, unused


def _generator_name(name: str) -> str:
    """Return the port's name of a weight of our generator."""
    group = re.match(r"groups\.(\d+)\.", name)
    if group is None:
        name = name.replace("affine.", "affine_transfrom.")
    else:
        first, rest = 3 * int(group[1]), name[group.end() :]
        rest = re.sub(rf"^gru\.(\d+)\.(?={_GATES})", rf"{first}.cells.\1.", rest)
        rest = re.sub(r"^block0\.", f"{first + 1}.", rest)
        rest = re.sub(r"^block1\.", f"{first + 2}.", rest)
        name = "conv." + re.sub(r"norm[01](?=\.)", lambda found: _NORMS[found[0]], rest)
    return _spectral_name(name)


def _discriminator_stem(name: str) -> tuple[str, str]:
    """Return the port's names of the second block and of the list of those after it."""
    return ("conv1", "conv2") if name == "dvd-spatial" else ("res3d", "conv")


def _discriminator_name(name: str, stem: tuple[str, str]) -> str:
    """Return the port's name of a weight of our discriminator."""
    if name.startswith("attention."):
        first, _, rest = name.removeprefix("attention.").partition(".")
        layer = "attn" if stem[0] == "conv1" else "self_attn"
        return ".".join(filter(None, (layer, _ATTENTION[first], rest)))
    block = re.match(r"blocks\.(\d+)\.(conv0|conv1|conv_sc)", name)
    if block is not None:
        number, conv, rest = int(block[1]), block[2], name[block.end() :]
        if number == 0:
            name = {"conv0": "pre_conv.0", "conv1": "pre_conv.2", "conv_sc": "pre_skip"}[conv] + rest
        else:
            where = stem[0] if number == 1 else f"{stem[1]}.{number - 2}"
            name = f"{where}.{conv}{rest}"
    return _spectral_name(name, always=not name.startswith("attention"))


def _spectral_name(name: str, *, always: bool = False) -> str:
    """Return the name that the port's spectral norm gives to a weight, and to the bias beside it."""
    for ours, theirs in _SPECTRAL.items():
        if name.endswith(ours):
            return name.removesuffix(ours) + theirs
    if name.endswith(".bias") and (always or re.search(r"conv0|conv1|conv_sc|colorize", name)):
        return name.removesuffix(".bias") + ".module.bias"
    return name
