"""Parameters of MAGVIT's public discriminator, which is written in Flax, turned into ours.

Flax numbers the modules of a network in the order in which they are called, by their kind; kernels are
stored with the output channels last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from zoo.converting.public_state import PublicState
from zoo_gan.stylegan3d.discriminator import StyleGAN3DDiscriminator

_BLOCK = {"conv_0": "Conv_0", "conv_skip": "Conv_1", "conv_1": "Conv_2"}


def map_stylegan3d_state_dict(
    state: Mapping[str, Any], *, num_frames: int, height: int, width: int, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the parameters of MAGVIT's discriminator to those of `stylegan3d`, and turn its kernels.

    Args:
        state: Names joined by dots to tensors, such as ``ResBlock_0.Conv_0.kernel``. Values are passed on as
            views.
        num_frames: Frames of a clip, which no single tensor tells.
        height: Rows of a frame.
        width: Columns of a frame.
        prefix: Which discriminator to take where there are several.

    Returns:
        Our names to tensors, and the sorted names of `state` that have no place.

    Raises:
        WeightsError: These are no such parameters, names are missing, or a shape does not fit.
    """
    public = PublicState(
        state,
        family="MAGVIT discriminator",
        needed={"ResBlock_0.Conv_2.kernel": 5, "Conv_0.kernel": 5, "Conv_1.kernel": 5, "Dense_0.kernel": 2},
        prefix=prefix,
    )
    colours, base_channels = public.tensors["Conv_0.kernel"].shape[3:]
    blocks = range(public.count(r"ResBlock_(\d+)\.Conv_2\.kernel"))
    names = {"conv_in": "Conv_0", "conv_out": "Conv_1", "dense": "Dense_0", "score": "Dense_1"}
    for n in blocks:
        names |= {f"blocks.{n}.{ours}": f"ResBlock_{n}.{theirs}" for ours, theirs in _BLOCK.items()}
    with torch.device("meta"):
        shapes = StyleGAN3DDiscriminator(
            in_channels=colours,
            num_frames=num_frames,
            height=height,
            width=width,
            base_channels=base_channels,
            channel_multipliers=[
                public.tensors[f"ResBlock_{n}.Conv_2.kernel"].shape[-1] // base_channels for n in blocks
            ],
        ).state_dict()
    theirs, expected = {}, {}
    for name, value in shapes.items():
        layer, _, kind = name.rpartition(".")
        theirs[name] = f"{names[layer]}.{'kernel' if kind == 'weight' else kind}"
        # The way back for shapes: (O, I, ...) to (..., I, O).
        expected[theirs[name]] = torch.Size([*value.shape[2:], *value.shape[:2][::-1]])
    known, unused = public.take(expected)
    return {name: _turned(known[theirs[name]]) for name in shapes}, unused


def _turned(value: Tensor) -> Tensor:
    if value.ndim == 5:
        return rearrange(value, "t y x I O -> O I t y x")
    return value.T if value.ndim == 2 else value
