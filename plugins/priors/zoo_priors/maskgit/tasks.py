"""The tasks that one masked prior is trained on: which places of a clip are known, and padded clips of them.

Regions are those of https://arxiv.org/abs/2212.05199 (its code, where the text leaves them open). They are
fractions of the grid, so the same function gives them for tokens and for pixels.

Shape legend: B batch, C colours, T H W the grid at hand, of tokens or of frames and pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import ZooError

Size3 = tuple[int, int, int]
_BLACK = -1.0


@dataclasses.dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        region: ``(size_THW, context) -> known``, bool, broadcastable to the grid; `context` is how many
            frames are known at an end.
        token: Which of the special tokens stands before the clip; tasks that share one are one kind.
        padding: What a padded clip shows outside the region.
    """

    region: Callable[[Size3, int], Tensor]
    token: int
    padding: Literal["edge", "blend", "black"] = "edge"


def _nothing(size_THW: Size3, context: int) -> Tensor:
    return torch.zeros(1, 1, 1, dtype=torch.bool, device="cpu")


def _first(size_THW: Size3, context: int) -> Tensor:
    return (_index(size_THW[0]) < context)[:, None, None]


def _both_ends(size_THW: Size3, context: int) -> Tensor:
    k = _index(size_THW[0])
    return ((k < context) | (k >= size_THW[0] - context))[:, None, None]


def _rows(size_THW: Size3, context: int) -> Tensor:
    return _middle(size_THW[1])[None, :, None]


def _columns(size_THW: Size3, context: int) -> Tensor:
    return _middle(size_THW[2])[None, None, :]


def _centre(size_THW: Size3, context: int) -> Tensor:
    return _rows(size_THW, context) & _columns(size_THW, context)


def _moving_columns(size_THW: Size3, context: int) -> Tensor:
    num_frames, _, width = size_THW
    start_T = torch.linspace(0, width // 2, num_frames, device="cpu").round()[:, None, None]
    k = _index(width)
    return (k >= start_T) & (k < start_T + width // 2)


def _all_but_centre(size_THW: Size3, context: int) -> Tensor:
    return ~_centre(size_THW, context)


def _all_but_moving_centre(size_THW: Size3, context: int) -> Tensor:
    return ~(_moving_columns(size_THW, context) & _rows(size_THW, context))


# The tokens are counted from the end of the embeddings, as the public code does.
FULL, PREDICT, INTERPOLATE, OUTPAINT, INPAINT = -3, -4, -5, -6, -7
TASKS: dict[str, Task] = {
    "class_generation": Task(_nothing, FULL),
    "full_generation": Task(_nothing, FULL),
    "frame_prediction": Task(_first, PREDICT),
    "frame_interpolation": Task(_both_ends, INTERPOLATE, "blend"),
    "outpainting_central": Task(_centre, OUTPAINT),
    "outpainting_vertical": Task(_columns, OUTPAINT),
    "outpainting_horizontal": Task(_rows, OUTPAINT),
    "outpainting_dynamic": Task(_moving_columns, OUTPAINT, "black"),
    "inpainting_central": Task(_all_but_centre, INPAINT, "black"),
    "inpainting_dynamic": Task(_all_but_moving_centre, INPAINT, "black"),
}


def region(task: str, size_THW: Size3, *, context: int = 1) -> Tensor:
    """Say which places of a clip are known in a task, as bool (T, H, W) on the CPU.

    Prediction knows the first `context` frames, interpolation as many at both ends. Central outpainting
    knows the middle half of the height and of the width; horizontal outpainting the middle half of the
    rows, and vertical of the columns, over the whole length; dynamic outpainting half the columns, a band
    that moves from the left to the right. Inpainting knows all but the centre, or all but where the band
    meets the middle rows. Generation knows nothing.

    Raises:
        ZooError: No such task.
    """
    return get_task(task).region(size_THW, context).expand(size_THW).clone()


def get_task(task: str) -> Task:
    """Look up a task by its name.

    Raises:
        ZooError: No such task.
    """
    try:
        return TASKS[task]
    except (KeyError, TypeError):
        raise ZooError(f"{task!r} is no task of a masked prior; there are {', '.join(TASKS)}") from None


def fits(task: str, size_THW: Size3, *, context: int) -> bool:
    """Tell whether a task leaves something known, if it knows anything at all, and something to fill in."""
    known_THW = region(task, size_THW, context=context)
    knows = TASKS[task].region is not _nothing
    return bool(known_THW.any()) == knows and not known_THW.all()


def padded_clip(task: str, x_CTHW: Tensor, *, context: int = 1) -> Tensor:
    """Show only what is known of a clip in a task; its tokens are the condition tokens of COMMIT.

    What is not known repeats the nearest known pixel in space, or the last known frame (prediction), or
    blends the two known frames at the ends (interpolation), or is black (-1: dynamic outpainting, inpainting,
    generation).

    Args:
        task: One of `TASKS`.
        x_CTHW: A clip in [-1, 1].
        context: Frames (not latent frames) that are known at an end.

    Returns:
        A new clip of the same shape.

    Raises:
        ZooError: No such task, or nothing of so small a clip is known.
    """
    size_THW = (x_CTHW.shape[1], x_CTHW.shape[2], x_CTHW.shape[3])
    known_THW = region(task, size_THW, context=context).to(x_CTHW.device)
    padding = TASKS[task].padding
    if padding == "black" or TASKS[task].region is _nothing:
        return torch.where(known_THW, x_CTHW, torch.full_like(x_CTHW, _BLACK))
    if not known_THW.any():
        raise ZooError(f"nothing of a clip of {size_THW} (time, height, width) is known in {task}")
    if padding == "blend":
        num_between = size_THW[0] - 2 * context
        if num_between <= 0:
            return x_CTHW.clone()
        start, end = x_CTHW[:, context - 1, None], x_CTHW[:, -context, None]
        share_T = torch.arange(1, num_between + 1, device=x_CTHW.device) / (num_between + 1)
        between = start + (end - start) * share_T.to(x_CTHW)[:, None, None]
        return torch.cat((x_CTHW[:, :context], between, x_CTHW[:, -context:]), 1)
    # The region is a box: cut it out and repeat its faces.
    spans = [_span(known_THW.any(dim=others)) for others in ((1, 2), (0, 2), (0, 1))]
    (t0, t1), (h0, h1), (w0, w1) = spans
    num_T, num_H, num_W = size_THW
    around = (w0, num_W - w1, h0, num_H - h1, t0, num_T - t1)
    return F.pad(x_CTHW[None, :, t0:t1, h0:h1, w0:w1], around, mode="replicate")[0]


def _index(num: int) -> Tensor:
    return torch.arange(num, device="cpu")


def _middle(num: int) -> Tensor:
    k = _index(num)
    return (k >= num // 4) & (k < num * 3 // 4)


def _span(known: Tensor) -> tuple[int, int]:
    (places,) = known.nonzero(as_tuple=True)
    return int(places[0]), int(places[-1]) + 1
