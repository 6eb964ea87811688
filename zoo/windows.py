"""Take a video of any length through an autoencoder, in windows and in constant memory.

Shape legend: C colour channels, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data import to_grey
from zoo.outputs import Tokens

if TYPE_CHECKING:
    from zoo.assemblies import Autoencoder


class Window(NamedTuple):
    """Frames that went through the model together.

    Attributes:
        x_CTHW: What went in, in [-1, 1], on the CPU.
        y_CTHW: What came out, clamped to [-1, 1], on the CPU.
        tokens: What it was in between, of a batch of one.
    """

    x_CTHW: Tensor
    y_CTHW: Tensor
    tokens: Tokens


def reconstruct_windows(model: Autoencoder, frames: Iterable[Tensor]) -> Iterator[Window]:
    """Encode and decode frames in windows as long as the model's clips, each on its own.

    Args:
        model: In evaluation mode.
        frames: RGB frames x_CHW in [-1, 1], one after the other. One of another size than the first is
            scaled to it; a model of one channel gets them grey.

    Yields:
        Window: The last one may be shorter.
    """
    clip = model.recipe.clip
    device = model.last_layer.device
    frames = iter(frames)
    size: tuple[int, ...] | None = None
    while window := list(islice(frames, clip.num_frames)):
        size = size or tuple(window[0].shape[1:])
        x_CTHW = torch.stack([_scaled(x_CHW, size) for x_CHW in window], dim=1)
        if clip.channels == 1:
            x_CTHW = to_grey(x_CTHW)
        with torch.no_grad():
            tokens = model.encode(x_CTHW[None].to(device))
            y_CTHW = model.decode(tokens)[0].float().clamp(-1, 1).cpu()
        yield Window(x_CTHW, y_CTHW, tokens)


def _scaled(x_CHW: Tensor, size: tuple[int, ...]) -> Tensor:
    if x_CHW.shape[1:] == size:
        return x_CHW
    return F.interpolate(x_CHW[None], size, mode="bilinear", antialias=True)[0]
