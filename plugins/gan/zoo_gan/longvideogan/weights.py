"""Names of the public weights of LongVideoGAN's low-resolution network, turned into ours.

Names agree, but for biases of the discriminator's convolutions (``_bias`` there) and the filters, which the
public networks store and ours make anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from zoo.converting.public_state import PublicState
from zoo.errors import WeightsError
from zoo_gan.longvideogan.discriminator import LongVideoGANDiscriminator
from zoo_gan.longvideogan.generator import LongVideoGANGenerator
from zoo_gan.public_weights import built_on_meta

_GENERATOR = "w_to_temp_input.weight"
_DISCRIMINATOR = "epilogue.conv1d_0.weight"
_FILTERS = "temporal_emb.blur_filters"


def map_longvideogan_state_dict(
    state: Mapping[str, Any],
    *,
    height: int = 36,
    width: int = 64,
    blur_widths: int = 128,
    longest_blur: int = 10_000,
    prefix: str | None = None,
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public low-resolution LongVideoGAN to those of our GAN.

    Tensors are passed on, not copied. Channels are read from them.

    Args:
        state: Names to tensors of the generator, or of generators and a discriminator, each under a prefix.
        height: Rows of a frame.
        width: Columns of a frame.
        blur_widths: Filters of the temporal noise.
        longest_blur: Width of the longest of them, in frames.
        prefix: Which generator to take where there are several; ``G_ema.`` if left out, or the only one.

    Returns:
        Our names to tensors, of the generator and, if there is one, the discriminator; and the sorted names
        of `state` that have no place, such as those of the filters.

    Raises:
        WeightsError: These are no such weights, names are missing, or a shape does not fit.
    """
    averaged = f"G_ema.{_GENERATOR}" in state
    generator = PublicState(
        state,
        family="LongVideoGAN generator",
        needed={_GENERATOR: 2, "to_rgb.weight": 5, "latent_mapping.layer_0.weight": 2},
        prefix="G_ema." if prefix is None and averaged else prefix,
    )
    tensors = generator.tensors
    filters = tensors.get(_FILTERS)
    if filters is not None and tuple(filters.shape) != (blur_widths, 1, -(-longest_blur // 2)):
        raise WeightsError(
            f"these LongVideoGAN weights have {filters.shape[0]} blur widths of up to "
            f"{2 * filters.shape[2]} frames, the recipe has blur_widths={blur_widths} and "
            f"longest_blur={longest_blur}"
        )
    colours, base_channels = tensors["to_rgb.weight"].shape[:2]
    latent_dim, embedding_dim = tensors["latent_mapping.layer_0.weight"].shape
    known, rest = generator.take(
        _shapes(
            lambda: LongVideoGANGenerator(
                out_channels=colours,
                height=height,
                width=width,
                base_channels=base_channels,
                latent_dim=latent_dim,
                noise_channels=1,
                blur_widths=embedding_dim,
                # The filters have no weights; the shortest are the quickest to make.
                shortest_blur=4,
                longest_blur=4,
            )
        )
    )
    unused = set(state) & set(rest)
    mapped = {f"generator.{name}": tensor for name, tensor in known.items()}
    if any(f".{name}".endswith(f".{_DISCRIMINATOR}") for name in state):
        known, rest = _discriminator(state)
        unused &= set(rest)
        mapped |= {f"discriminator.0.{name}": tensor for name, tensor in known.items()}
    return mapped, sorted(unused)


def _discriminator(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    public = PublicState(
        state,
        family="LongVideoGAN discriminator",
        needed={_DISCRIMINATOR: 3, "blocks.0.conv_vid.weight": 5, "epilogue.linear_0.weight": 2},
    )
    base_channels, colours = public.tensors["blocks.0.conv_vid.weight"].shape[:2]
    head_channels, width = public.tensors["epilogue.linear_0.weight"].shape
    shapes = _shapes(
        lambda: LongVideoGANDiscriminator(
            in_channels=colours,
            num_frames=8 * (width // head_channels),
            base_channels=base_channels,
            head_channels=head_channels,
        )
    )
    theirs = {re.sub(r"(conv\w*)\.bias$", r"\1._bias", name): name for name in shapes}
    known, unused = public.take({name: shapes[ours] for name, ours in theirs.items()})
    return {ours: known[name] for name, ours in theirs.items()}, unused


def _shapes(build: Callable[[], nn.Module]) -> dict[str, torch.Size]:
    """Sizes of the state dict of a part, built on the meta device."""
    model = built_on_meta(build, "LongVideoGAN")
    return {name: value.shape for name, value in model.state_dict().items()}
