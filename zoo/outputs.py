"""What parts and assemblies return: plain named tuples, the same in training and evaluation.

Shape legend: B batch, C colour channels, T H W frames and pixels; D latent channels, t h w the
latent grid, q codebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Quantized(NamedTuple):
    """The result of a quantizer.

    Attributes:
        z_BDthw: What the decoder reads, with gradients to the encoder.
        indices_Bqthw: int64 code numbers, or None for a continuous bottleneck.
        loss: Scalar the encoder and codebook are trained with, weighted inside by the part's own
            options (such as the commitment beta); 0 when there is none.
        stats: Detached scalars worth logging, by name (`perplexity`, `kl`, ...).
    """

    z_BDthw: Tensor
    indices_Bqthw: Tensor | None
    loss: Tensor
    stats: dict[str, Tensor]


class Judged(NamedTuple):
    """The verdict of a discriminator.

    Attributes:
        logits: Raw scores, one tensor per head or scale, batch first; higher means more real.
        features: Intermediate activations for feature matching, shallow first; may be empty.
    """

    logits: list[Tensor]
    features: list[Tensor]


class Selection(NamedTuple):
    """Which frames of each clip the discriminators see.

    Attributes:
        frames_BT: int64 numbers of the frames that any of them sees, or None for all.
        places: For each discriminator, int64 places_BK of its frames among those, or None for all of them.
    """

    frames_BT: Tensor | None
    places: list[Tensor | None]

    def of(self, x_BCTHW: Tensor) -> Tensor:
        """Cut whole clips down to the frames that are seen."""
        return x_BCTHW if self.frames_BT is None else take_frames(x_BCTHW, self.frames_BT)

    def to(self, device: torch.device | str) -> Selection:
        """Return the selection on a device."""
        frames_BT = None if self.frames_BT is None else self.frames_BT.to(device)
        return Selection(frames_BT, [None if place is None else place.to(device) for place in self.places])

    def part(self, clips: slice) -> Selection:
        """Return the selection of some clips."""
        return Selection(
            None if self.frames_BT is None else self.frames_BT[clips],
            [None if place is None else place[clips] for place in self.places],
        )

    @staticmethod
    def joined(parts: Sequence[Selection]) -> Selection:
        """Put the selections of the parts of a batch together."""
        import torch

        first = parts[0]
        frames = [part.frames_BT for part in parts if part.frames_BT is not None]
        places = [
            None if place is None else torch.cat([part.places[n] for part in parts])  # type: ignore[misc]
            for n, place in enumerate(first.places)
        ]
        return Selection(None if first.frames_BT is None else torch.cat(frames), places)

    def repeat(self, times: int) -> Selection:
        """Return the selection for as many batches one after the other."""
        frames_BT = None if self.frames_BT is None else self.frames_BT.repeat(times, 1)
        return Selection(
            frames_BT, [None if place is None else place.repeat(times, 1) for place in self.places]
        )


def take_frames(x_BCTHW: Tensor, frames_BK: Tensor) -> Tensor:
    """Return x_BCKHW, other frames of each clip."""
    index = frames_BK[:, None, :, None, None].expand(-1, x_BCTHW.shape[1], -1, *x_BCTHW.shape[3:])
    return x_BCTHW.gather(2, index)


class Tokens(NamedTuple):
    """An encoded clip, and the size it has to be decoded to.

    Attributes:
        z_BDthw: What the quantizer emitted, or None when the tokens are known by index only.
        indices_Bqthw: int64 code numbers, or None for a continuous bottleneck.
        size_THW: Frames, height and width of the clip before padding.
    """

    z_BDthw: Tensor | None
    indices_Bqthw: Tensor | None
    size_THW: tuple[int, int, int]

    def to(self, device: torch.device | str) -> Tokens:
        """Return the tokens on a device."""
        z_BDthw, i_Bqthw, size_THW = self
        return Tokens(
            None if z_BDthw is None else z_BDthw.to(device),
            None if i_Bqthw is None else i_Bqthw.to(device),
            size_THW,
        )
