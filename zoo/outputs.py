"""What parts and assemblies return: plain named tuples, the same in training and evaluation.

Shape legend: B batch, C colour channels, T H W frames and pixels; D latent channels, t h w the
latent grid, q codebooks.
"""

from __future__ import annotations

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
