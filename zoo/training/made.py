"""What a model made in a step, on its way to the discriminators.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from zoo.outputs import Selection

if TYPE_CHECKING:
    from zoo.outputs import Quantized


class Made(NamedTuple):
    """What a model made for a batch, and what of it the discriminators see.

    Attributes:
        x_BCTHW: Reconstructions; of a GAN the frames that are seen.
        seen_x_BCTHW: The frames that the discriminators see.
        selection: Which those are.
        quantized: What its quantizer said, where it has one.
        latents: What path lengths are measured along, where they are due.
        own_loss: What a generator is trained with of its own, where it has such a loss.
        kind_B: int64 kind of each clip, of a generator that makes several.
    """

    x_BCTHW: Tensor
    seen_x_BCTHW: Tensor
    selection: Selection
    quantized: Quantized | None = None
    latents: tuple[Tensor, ...] = ()
    own_loss: Tensor | None = None
    kind_B: Tensor | None = None

    def part(self, clips: slice) -> Made:
        """Return some of its clips, of one that has no gradient."""
        kind_B = None if self.kind_B is None else self.kind_B[clips]
        return Made(self.x_BCTHW[clips], self.seen_x_BCTHW[clips], self.selection.part(clips), kind_B=kind_B)

    def detach(self) -> Made:
        """Return it without gradient."""
        return Made(self.x_BCTHW.detach(), self.seen_x_BCTHW.detach(), self.selection, kind_B=self.kind_B)

    @staticmethod
    def joined(parts: list[Made]) -> Made:
        """Put the parts of a batch together, none of which has a gradient; a whole batch is not copied."""
        if len(parts) == 1:
            return parts[0]
        x_BCTHW = torch.cat([part.x_BCTHW for part in parts])
        seen_x_BCTHW = torch.cat([part.seen_x_BCTHW for part in parts])
        kinds = [part.kind_B for part in parts if part.kind_B is not None]
        return Made(
            x_BCTHW,
            seen_x_BCTHW,
            Selection.joined([part.selection for part in parts]),
            kind_B=torch.cat(kinds) if kinds else None,
        )
