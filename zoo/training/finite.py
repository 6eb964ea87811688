"""Numbers that are not finite: seen before a step is taken, by every process at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.ranks import any_rank

IN_A_ROW = 20
"""Updates that may be skipped one after the other, and roll-backs that get no further, before a run stops."""


class NotFiniteError(TrainingError):
    """A loss, gradient, clip or weight is not finite.

    Attributes:
        reason: The step, what it was and the step's numbers, without advice.
    """

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}; {advice}")
        self.reason = reason


def agreed(fine: bool) -> bool:
    """Return whether all is fine on every process that trains together."""
    return not any_rank(not fine)


def step_not_finite(
    what: str,
    step: int,
    numbers: Mapping[str, Tensor],
    *,
    advice: str = "Try a lower rate (train.optimizer.lr) or train.clip_grad_norm",
) -> NotFiniteError:
    """Make the error of step number `step`, counted from 0."""
    terms = ", ".join(f"{name} {float(value):.4g}" for name, value in numbers.items())
    return NotFiniteError(
        f"step {step + 1}: {what}" + (f" ({terms})" if terms else ""),
        f"stopped, and nothing of this step is saved: the last checkpoint is whole. {advice}; or have such "
        "steps left out (train.not_finite=skip, or roll-back)",
    )


class Buffers:
    """A copy of what moves in a forward pass: codebooks, running statistics, the running means of penalties.

    Args:
        *modules: Whose buffers.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self._modules = modules
        self._copies: dict[str, Tensor] = {}

    @torch.no_grad()
    def remember(self) -> None:
        """Copy them as they are now."""
        for name, buffer in self._named():
            copy = self._copies.get(name)
            if copy is None or copy.shape != buffer.shape or copy.device != buffer.device:
                self._copies[name] = buffer.clone()
            else:
                copy.copy_(buffer)

    @torch.no_grad()
    def put_back(self) -> None:
        """Make them what they were when last remembered."""
        for name, buffer in self._named():
            if name in self._copies:
                buffer.copy_(self._copies[name])

    def _named(self) -> Iterator[tuple[str, Tensor]]:
        for number, module in enumerate(self._modules):
            for name, buffer in module.named_buffers():
                yield f"{number}.{name}", buffer
