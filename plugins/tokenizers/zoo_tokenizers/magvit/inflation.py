"""Starting a video network from an image network: kernels get an axis of time.

Source: https://arxiv.org/abs/2212.05199 (section 3.1), and for causal kernels
https://arxiv.org/abs/2310.05737
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from zoo.converting.public_state import listing
from zoo.errors import WeightsError

Mode = Literal["centre", "average", "last"]


def inflate(
    image_state: Mapping[str, Tensor], video_state: Mapping[str, Tensor], *, mode: Mode = "centre"
) -> dict[str, Tensor]:
    """Turn the weights of a 2D network into those of a 3D network with the same names.

    With "centre" every frame goes through the 2D network on its own at first, and so it does with "last"
    where kernels are causal: a clip of equal frames gives exactly what the 2D network gives for one of them,
    if norms see equal frames alike. "average" does that too where no zeros are padded in time; frames at the
    ends see some, and come out weaker.

    Args:
        image_state: Names to tensors of the 2D network.
        video_state: State dict of the 3D network, for names, shapes and types; and for the values of tensors
            that the 2D network has not got.
        mode: Where a 2D kernel goes along time: "centre" into the middle slice, "last" into the last (the
            frame itself, where kernels look back), "average" into all, divided by their number.

    Returns:
        All names of `video_state` to new tensors. Where the 3D network has a whole number of times as many
        output channels (depth to space that makes frames too), those of the 2D network are repeated.

    Raises:
        WeightsError: A name of the 2D network is not in the 3D one, or a shape does not become its one.
    """
    if mode not in get_args(Mode):
        raise WeightsError(f"inflation mode is {mode!r}; it must be one of {', '.join(get_args(Mode))}")
    strange = [name for name in image_state if name not in video_state]
    if strange:
        raise WeightsError(
            f"the 3D network has no {listing(strange)}; it has {listing(video_state)}; "
            "rename the 2D weights first"
        )
    inflated = {name: value.detach().clone() for name, value in video_state.items()}
    for name, value in image_state.items():
        inflated[name] = _inflate(name, value.detach(), inflated[name], mode)
    return inflated


def _inflate(name: str, value: Tensor, like: Tensor, mode: Mode) -> Tensor:
    value = value.to(like)
    if value.ndim and like.ndim and len(value) and len(like) > len(value) and len(like) % len(value) == 0:
        value = value.repeat(len(like) // len(value), *[1] * (value.ndim - 1))
    if value.shape == like.shape:
        return value.clone()
    if like.ndim != 5 or value.shape != like.shape[:2] + like.shape[3:]:
        raise WeightsError(
            f"{name} is {tuple(value.shape)} in the 2D network, which does not become {tuple(like.shape)} "
            "by an axis of time"
        )
    num = like.shape[2]
    if mode == "average":
        return (value / num).unsqueeze(2).repeat(1, 1, num, 1, 1)
    kernel = torch.zeros_like(like)
    kernel[:, :, num // 2 if mode == "centre" else num - 1] = value
    return kernel
