"""Drawing noise, clip by clip, so that a clip is the same whatever it is drawn with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def draw_clips(
    draw: Callable[[torch.Generator], dict[str, Tensor]],
    num: int,
    *,
    like: Tensor,
    generator: torch.Generator | None,
    device: torch.device | str | None,
) -> dict[str, Tensor]:
    """Draw the noise of `num` clips, each from a seed of its own, so that a larger draw begins as a smaller.

    Args:
        draw: Draws the noise of one clip, on the CPU and without a batch axis.
        num: Clips.
        like: A weight; floating-point noise has its type.
        generator: Where the seeds come from; torch's global one for the CPU when left out.
        device: Where the noise goes; the device of the weight when left out. On "meta" nothing is drawn from
            `generator`.
    """
    device = like.device if device is None else torch.device(device)
    seeds = [0]
    if device.type != "meta":
        source = "cpu" if generator is None else generator.device
        seeds = torch.randint(2**63 - 1, (num,), generator=generator, device=source).tolist()
    clips = [draw(torch.Generator("cpu").manual_seed(seed)) for seed in seeds]
    if device.type == "meta":
        clips *= num
    noise = {name: torch.stack([clip[name] for clip in clips]).to(device) for name in clips[0]}
    return {
        name: value.to(like.dtype) if value.is_floating_point() else value for name, value in noise.items()
    }


def normal_rows(num: int, width: int, source: torch.Generator) -> Tensor:
    """Draw standard normal rows (num, width) that a draw of more rows begins with."""
    # One by one, because a longer randn does not start with the numbers of a shorter one.
    return torch.stack([torch.randn(width, generator=source, device="cpu") for _ in range(num)])
