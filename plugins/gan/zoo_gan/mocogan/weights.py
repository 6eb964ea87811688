"""Reads state dicts of the authors' MoCoGAN code: which part and options they are for, and the weights.

Names agree already, so this is a matter of reading options off shapes, checking that nothing is
missing or left over, and dropping what a part here does not have. No file is opened: hand over a
state dict that was read safely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import WeightsError
from zoo_gan.mocogan.discriminators import (
    ImageDiscriminator,
    PatchImageDiscriminator,
    PatchVideoDiscriminator,
    VideoDiscriminator,
)
from zoo_gan.mocogan.generator import MoCoGANGenerator


class Published(NamedTuple):
    """A published network in the zoo's terms.

    Attributes:
        kind: "generator" or "discriminator".
        name: Name of the part.
        options: Options that build the part.
        weights: State dict of that part.
    """

    kind: str
    name: str
    options: dict[str, Any]
    weights: dict[str, Tensor]


_LANDMARK = "recurrent.weight_hh"

# Axes of the kernel and position of the last layer -> the discriminator with that layout.
_DISCRIMINATORS: dict[tuple[int, int], tuple[str, type[nn.Module]]] = {
    (4, 15): ("mocogan-image", ImageDiscriminator),
    (4, 12): ("mocogan-patch-image", PatchImageDiscriminator),
    (5, 15): ("mocogan-video", VideoDiscriminator),
    (5, 11): ("mocogan-patch-video", PatchVideoDiscriminator),
}


def read_generator(state: Mapping[str, Tensor], *, num_categories: int = 6) -> Published:
    """Read the state dict of the published ``VideoGenerator``.

    Args:
        state: Names and tensors as the authors' code has them.
        num_categories: What it was trained with; the weights only tell content and categories together.

    Raises:
        WeightsError: The state dict is not one of that network.
    """
    kernels = _kernels(state, num_axes=4)
    motion = state.get("recurrent.weight_hh")
    if not kernels or motion is None or motion.ndim != 2:
        raise WeightsError(
            "not a MoCoGAN generator: it has 'recurrent.weight_hh' and 'main.N.weight' with 4 axes; "
            f"{_found(state)}"
        )
    first, last = kernels[min(kernels)], kernels[max(kernels)]
    motion_dim = motion.shape[1]
    content_dim = first.shape[0] - motion_dim - num_categories
    if content_dim < 1:
        raise WeightsError(
            f"a MoCoGAN generator of {first.shape[0]} noise numbers, {motion_dim} of them motion, cannot "
            f"have num_categories={num_categories} and content too; say what it was trained with"
        )
    options = {
        "out_channels": last.shape[1],
        "image_size": 2 ** (len(kernels) + 1),
        "base_channels": last.shape[0],
        "content_dim": content_dim,
        "motion_dim": motion_dim,
        "num_categories": num_categories,
    }
    return Published("generator", "mocogan", options, _checked(state, MoCoGANGenerator, options))


def read_discriminator(state: Mapping[str, Tensor]) -> Published:
    """Read the state dict of one of the published discriminators; which one follows from the weights.

    Raises:
        WeightsError: The state dict is not one of those networks.
    """
    for num_axes in (4, 5):
        kernels = _kernels(state, num_axes=num_axes)
        layout = (num_axes, max(kernels, default=-1))
        if layout not in _DISCRIMINATORS or 1 not in kernels:
            continue
        name, cls = _DISCRIMINATORS[layout]
        options = {"in_channels": kernels[1].shape[1], "base_channels": kernels[1].shape[0]}
        weights = dict(state)
        if name == "mocogan-video":
            options["num_categories"] = len(weights["main.15.weight"]) - 1
        return Published("discriminator", name, options, _checked(weights, cls, options))
    wanted = ", ".join(
        f"'main.{last}.weight' with {axes} axes ({name})"
        for (axes, last), (name, _) in _DISCRIMINATORS.items()
    )
    raise WeightsError(f"not a MoCoGAN discriminator: its last layer is one of {wanted}; {_found(state)}")


def map_mocogan_state_dict(
    state: Mapping[str, Tensor],
    *,
    num_categories: int = 6,
    discriminators: Sequence[str] = (),
    named: Sequence[int | None] | None = None,
    prefix: str | None = None,
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a published MoCoGAN to those of our GAN.

    Args:
        state: Names to tensors of the generator; or of generator and discriminators, each under a prefix.
        num_categories: What it was trained with; the weights only tell content and categories together.
        discriminators: Names of the parts that our GAN has. They are filled when there is exactly one
            published network for each, and otherwise none is.
        named: How many categories each of them tells apart; where it is none, published rows that do are
            left out.
        prefix: Which generator to take where there are several.

    Returns:
        Our names to tensors, and the sorted names of `state` that have no place.

    Raises:
        WeightsError: There is no such generator, several are, or a name or shape does not fit.
    """
    if prefix is None:
        found = sorted(n.removesuffix(_LANDMARK) for n in state if f".{n}".endswith(f".{_LANDMARK}"))
        if len(found) > 1:
            raise WeightsError(
                f"these weights hold {len(found)} MoCoGAN generators; choose one by prefix={found[0]!r} "
                f"(there are {', '.join(map(repr, found))})"
            )
        prefix = found[0] if found else ""
    inside = {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
    generator = read_generator(
        {short: state[name] for short, name in inside.items()}, num_categories=num_categories
    )
    mapped = {f"generator.{name}": tensor for name, tensor in generator.weights.items()}
    rest = [name for name in state if name not in inside.values()]
    judges = {}
    for head in sorted({name.partition("main.")[0] for name in rest if f".{name}".find(".main.") >= 0}):
        under = {name.removeprefix(head): state[name] for name in rest if name.startswith(head)}
        published = read_discriminator(under)
        judges[published.name] = (head, published)
    if judges and sorted(judges) == sorted(discriminators):
        for i, name in enumerate(discriminators):
            head, published = judges[name]
            if name == "mocogan-video" and not (named and named[i]):
                last = "main.15.weight"
                published.weights[last] = published.weights[last][:1]
            mapped |= {f"discriminator.{i}.{key}": value for key, value in published.weights.items()}
            rest = [name for name in rest if not name.startswith(head)]
    return mapped, sorted(rest)


def _kernels(state: Mapping[str, Tensor], *, num_axes: int) -> dict[int, Tensor]:
    """Position in `main` -> weight of each convolution with `num_axes` axes."""
    return {
        int(parts[1]): tensor
        for name, tensor in state.items()
        if len(parts := name.split(".")) == 3
        and parts[0] == "main"
        and parts[1].isdecimal()
        and parts[2] == "weight"
        and tensor.ndim == num_axes
    }


def _checked(state: Mapping[str, Tensor], cls: type[nn.Module], options: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights if they are exactly those of the part that `options` build."""
    with torch.device("meta"):
        wanted = cls(**options).state_dict()
    # Code older than torch 0.4.1 saved no count of batches; it does not change an output.
    counts = {name: torch.tensor(0) for name in wanted if name.endswith(".num_batches_tracked")}
    weights = {**counts, **state}
    missing = [name for name in wanted if name not in weights]
    foreign = [name for name in weights if name not in wanted]
    misfits = [
        f"{name} {tuple(weights[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    if missing or foreign or misfits:
        raise WeightsError(
            f"weights of a {cls.__name__} with {options} do not fit: missing {missing or 'none'}, "
            f"unknown {foreign or 'none'}, of another shape {misfits or 'none'}"
        )
    return {name: weights[name] for name in wanted}


def _found(state: Mapping[str, Tensor]) -> str:
    names = list(state)
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"found {', '.join(names[:6]) or 'nothing'}{more}"
