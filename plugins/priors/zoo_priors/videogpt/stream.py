"""Clips of VideoGPT's prior in the making, code after code.

Shape legend: B batch, C colours, T H W frames and pixels, N places in raster order, n places at once, D
width, K codes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo_priors.videogpt.cache import LayerCache

if TYPE_CHECKING:
    from zoo_priors.videogpt.prior import VideoGPTPrior


class Stream:
    """A batch of clips in the making: what the layers keep of the codes so far.

    Args:
        prior: The prior.
        label_B: Their classes, if there are any.
        frames_BCTHW: Their first frames as pixels, if they are given.
    """

    @torch.inference_mode()
    def __init__(self, prior: VideoGPTPrior, label_B: Tensor | None, frames_BCTHW: Tensor | None) -> None:
        self._prior = prior
        self._label_B = label_B
        self._num = 0
        self._positions_ND = prior.positions(prior.max_frames)
        self._caches = [LayerCache(len(self._positions_ND)) for _ in prior.blocks]
        self._memories = prior.memories(frames_BCTHW)

    @torch.inference_mode()
    def take_in(self, codes_Bn: Tensor) -> None:
        """Take the first codes in, all at once; none is a beginning too."""
        self._layers(self._prior.inputs(codes_Bn, first=True))

    @torch.inference_mode()
    def step(self, last_B: Tensor) -> Tensor:
        """Take the last code in, which the very first step does not look at, and return logits_BK."""
        first = self._num == 0
        x_B1D = self._layers(self._prior.inputs(last_B[:, None][:, int(first) :], first=first))
        logits_BK: Tensor = self._prior.fc_out(self._prior.norm(x_B1D, self._label_B))[:, 0]
        return logits_BK

    def _layers(self, x_BnD: Tensor) -> Tensor:
        first, self._num = self._num, self._num + x_BnD.shape[1]
        x_BnD = x_BnD + self._positions_ND[first : self._num]
        return self._prior.layers(x_BnD, self._label_B, self._memories, self._caches)
