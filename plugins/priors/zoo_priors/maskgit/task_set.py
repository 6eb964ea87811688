"""The tasks of one prior on its window, by number.

Shape legend: B batch, R tasks, t h w the window, N = t h w its places, C colours, T H W frames and pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo_priors.maskgit.options import PART
from zoo_priors.maskgit.tasks import TASKS, Size3, fits, get_task, padded_clip, region

_MOST_PLACES = 1 << 22


class TaskSet:
    """Names of tasks with their regions and tokens.

    Args:
        names: Names out of `TASKS`; None is all that the window is large enough for.
        grid_thw: The window.
        context: Frames known at an end in prediction and interpolation.
        has_classes: Whether there are classes, without which "class_generation" is no task.

    Attributes:
        names: The names, in the order in which numbers mean them.
        has_token: Whether there are several kinds of tasks, and so a token to tell them.

    Raises:
        ZooError: A name is unknown or double, or leaves nothing known or nothing to fill in; or the window
            has more places than any prior has.
    """

    def __init__(
        self, names: Sequence[str] | None, grid_thw: Size3, *, context: int, has_classes: bool
    ) -> None:
        if math.prod(grid_thw) > _MOST_PLACES:  # a task takes a byte of each, on any device
            raise ZooError(f"{PART}: a grid of {grid_thw} has more than {_MOST_PLACES:,} places")
        self.names = _usable(names, grid_thw, context, has_classes)
        # Plain tensors, not buffers: they follow from the options, whatever device the weights are on.
        self.regions_RN = torch.stack(
            [region(name, grid_thw, context=context).flatten() for name in self.names]
        )
        self._tokens = [TASKS[name].token for name in self.names]
        self.has_token = len(set(self._tokens)) > 1

    def number(self, name: str) -> int:
        """Return the number of a task.

        Raises:
            ZooError: It is not among these.
        """
        get_task(name)
        if name not in self.names:
            raise ZooError(f"{PART} was not trained on {name}, only on {', '.join(self.names)}")
        return self.names.index(name)

    def tokens(self, task_B: Tensor) -> Tensor:
        """Return the token of each task, counted from the end of the embeddings: below 0."""
        return torch.tensor(self._tokens, device=task_B.device)[task_B]

    def draw(self, num: int, generator: torch.Generator | None) -> Tensor:
        """Draw `num` tasks, all as likely, as int64 (B,) on the CPU."""
        return torch.randint(len(self.names), (num,), generator=generator, device="cpu")

    def nearest(self, known_BN: Tensor) -> Tensor:
        """Number of the task for each clip whose region agrees with what is known at most places."""
        if not self.has_token:
            return torch.zeros(len(known_BN), dtype=torch.int64, device=known_BN.device)
        regions_RN = self.regions_RN.to(known_BN.device)
        return (known_BN[:, None] == regions_RN).sum(-1).argmax(1)

    def tells_class(self, task_B: Tensor) -> Tensor:
        """Say in which tasks (B,) the class is told: in all but full generation."""
        told = [self.names[r] != "full_generation" for r in task_B.tolist()]
        return torch.tensor(told, dtype=torch.bool, device="cpu")

    def padded_clips(self, x_BCTHW: Tensor, task_B: Tensor, *, num_frames: int) -> Tensor:
        """Show only what is known of each clip in its task; see `zoo_priors.maskgit.tasks.padded_clip`."""
        names = [self.names[r] for r in task_B.tolist()]
        clips = [padded_clip(name, x, context=num_frames) for name, x in zip(names, x_BCTHW, strict=True)]
        return torch.stack(clips)


def _usable(names: Sequence[str] | None, grid_thw: Size3, context: int, has_classes: bool) -> tuple[str, ...]:
    if names is None:
        usable = (name for name in TASKS if fits(name, grid_thw, context=context))
        return tuple(name for name in usable if has_classes or name != "class_generation")
    if isinstance(names, str) or not names or len(set(names)) < len(names):
        raise ZooError(
            f"{PART}: tasks is {names!r}; give a list of different names out of {', '.join(TASKS)}"
        )
    for name in names:
        get_task(name)
        if not fits(name, grid_thw, context=context):
            raise ZooError(
                f"{PART}: {name} on a grid of {grid_thw} with context_frames {context} leaves nothing known "
                "or nothing to fill in; leave it out, or change the grid or context_frames"
            )
    if "class_generation" in names and not has_classes:
        raise ZooError(f"{PART}: class_generation needs num_classes above 0")
    return tuple(names)
