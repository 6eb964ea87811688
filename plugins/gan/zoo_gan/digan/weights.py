"""Names of the public DIGAN weights, turned into ours.

A network snapshot of the authors' training holds `G`, `G_ema` and `D` as whole pickled modules; what is read
here are their state dicts, under such prefixes or without. Most names are ours already. Coordinates are
``b4.input.input.coord_fuser`` and ``b64.coord_fuser`` there, ``b4.coords`` and ``b64.coords`` here; the two
discriminators are ``videoD`` and ``imageD`` there, ``motion`` and ``frame`` here. The filters that are stored
with every layer of the public generator are never read, and have no place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from zoo.converting.public_state import PublicState
from zoo.errors import WeightsError
from zoo_gan.digan.discriminator import DIGANDiscriminator
from zoo_gan.digan.generator import DIGANGenerator
from zoo_gan.public_weights import averaged_prefix, built_on_meta

_GENERATOR = "synthesis.b4.input.input.coord_fuser.xyaffine.weight"
_DISCRIMINATOR = "videoD.b4.out.weight"
_NETWORKS = {"motion": "videoD", "frame": "imageD"}


def map_digan_state_dict(
    state: Mapping[str, Any], *, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public DIGAN to those of a GAN of `digan` parts.

    Tensors are passed on, not copied. Sizes, widths and depths are read from the tensors. Labels, for
    which the public code has an option and no published setting, have no place.

    Args:
        state: Names to tensors, of a generator alone, or of generators and a discriminator under
            ``G_ema.*``, ``G.*`` and ``D.*``.
        prefix: Which generator to take; the averaged one, ``G_ema.``, if left out, or the only one.

    Returns:
        Our names to tensors, of the generator and, if there is one, the discriminator; and the sorted names
        of `state` that have no place.

    Raises:
        WeightsError: These are no such weights, names are missing, or a shape does not fit.
    """
    unused = set(state)
    needed = {_GENERATOR: 2, "mapping.fc0.weight": 2, "synthesis.b4.torgb.weight": 4}
    generator = PublicState(
        state,
        family="DIGAN generator",
        needed=needed | {"synthesis.b4.conv1.affine.weight": 2, "synthesis.b4.conv1.weight": 4},
        prefix=averaged_prefix(state, _GENERATOR) if prefix is None else prefix,
    )
    mapped, rest = _generator(generator)
    unused &= set(rest)
    result = {f"generator.{name}": tensor for name, tensor in mapped.items()}
    if any(name == _DISCRIMINATOR or name.endswith(f".{_DISCRIMINATOR}") for name in state):
        discriminator = PublicState(state, family="DIGAN discriminator", needed={_DISCRIMINATOR: 2})
        mapped, rest = _discriminator(discriminator)
        unused &= set(rest)
        result |= {f"discriminator.0.{name}": tensor for name, tensor in mapped.items()}
    return result, sorted(unused)


def _widths(public: PublicState, family: str, pattern: str) -> dict[int, int]:
    """The channels at each resolution, smallest first: the lengths of the tensors of these names."""
    found = {
        int(match[1]): len(tensor)
        for name, tensor in public.tensors.items()
        if (match := re.fullmatch(pattern, name))
    }
    widths = dict(sorted(found.items()))
    if list(widths) != [4 << n for n in range(len(widths))] or not widths:
        raise WeightsError(f"{family} weights have resolutions {list(widths)}; it must be 4, 8, 16 and so on")
    return widths


def _channels(widths: Mapping[int, int]) -> dict[str, int]:
    return {
        "image_size": max(widths),
        "channel_base": max(size * width for size, width in widths.items()),
        "channel_max": max(widths.values()),
    }


def _generator(public: PublicState) -> tuple[dict[str, Tensor], list[str]]:
    tensors = public.tensors
    widths = _widths(public, "DIGAN generator", r"synthesis\.b(\d+)\.conv1\.bias")
    doubled = [size for size in widths if f"synthesis.b{size}.coord_fuser.xyaffine.weight" in tensors]
    extra = [size for size in widths if f"synthesis.b{size}.extra_convs.0.weight" in tensors]
    w_dim = tensors["synthesis.b4.conv1.affine.weight"].shape[1]
    features = tensors[_GENERATOR].shape[0] // 3
    modulation = tensors["synthesis.b4.conv1.affine.weight"].shape[0]
    options: dict[str, Any] = _channels(widths) | {
        "out_channels": len(tensors["synthesis.b4.torgb.weight"]),
        "grid_size": min(doubled, default=2 * max(widths)) // 2,
        "content_dim": tensors["mapping.fc0.weight"].shape[1],
        "motion_dim": w_dim,
        "w_dim": w_dim,
        "mapping_layers": public.count(r"mapping\.fc(\d+)\."),
        "num_frequencies": features,
        "rank": modulation // sum(tensors["synthesis.b4.conv1.weight"].shape[:2]),
        "extra_layer_sizes": extra,
    }

    def public_name(name: str) -> str:
        name = name.replace("synthesis.b4.coords.", "synthesis.b4.input.input.coord_fuser.")
        return name.replace(".coords.", ".coord_fuser.")

    return _taken(public, DIGANGenerator, options, public_name)


def _discriminator(public: PublicState) -> tuple[dict[str, Tensor], list[str]]:
    widths = _widths(public, "DIGAN discriminator", r"imageD\.b(\d+)\.(?:conv0|fc)\.bias")
    colours = public.tensors.get(f"imageD.b{max(widths)}.fromrgb.weight")
    options = _channels(widths) | {"in_channels": 3 if colours is None else colours.shape[1]}

    def public_name(name: str) -> str:
        network, _, rest = name.partition(".")
        return f"{_NETWORKS[network]}.{rest}"

    return _taken(public, DIGANDiscriminator, options, public_name)


def _taken(
    public: PublicState, part: type[DIGANGenerator] | type[DIGANDiscriminator], options: Any, public_name: Any
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by our names, complete and of the right shapes, and the names of all others."""
    model = built_on_meta(lambda: part(**options), "DIGAN")
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    known, unused = public.take({public_name(name): shape for name, shape in shapes.items()})
    return {name: known[public_name(name)] for name in shapes}, unused
