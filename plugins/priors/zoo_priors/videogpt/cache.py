"""A cache of keys and values, and the loop that draws code after code.

Shape legend: B batch, H heads, N places in the order of the codes, n places at once, d width of a head,
K codes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo import progress
from zoo.sampling import Sampling, choose, shaped

Step = Callable[[Tensor], Tensor]
"""Takes the code_B of the last place in, and gives logits_BK of the next."""


class LayerCache:
    """Keys and values of one attention layer, in memory that is allocated once.

    Args:
        length: How many places there is room for.

    Attributes:
        num: How many places are in it.
    """

    def __init__(self, length: int) -> None:
        self.num = 0
        self._length = length
        self._keys_BHNd: Tensor | None = None
        self._values_BHNd: Tensor | None = None

    def append(self, k_BHnd: Tensor, v_BHnd: Tensor) -> tuple[Tensor, Tensor]:
        """Add places, and return the keys and values of all so far, as views."""
        if self._keys_BHNd is None or self._values_BHNd is None:
            # Only now the dtype is known, which autocast chooses.
            self._keys_BHNd = k_BHnd.new_empty(*k_BHnd.shape[:2], self._length, k_BHnd.shape[3])
            self._values_BHNd = v_BHnd.new_empty(*v_BHnd.shape[:2], self._length, v_BHnd.shape[3])
        first, self.num = self.num, self.num + k_BHnd.shape[2]
        self._keys_BHNd[:, :, first : self.num] = k_BHnd
        self._values_BHNd[:, :, first : self.num] = v_BHnd
        return self._keys_BHNd[:, :, : self.num], self._values_BHNd[:, :, : self.num]


def draw_codes(step: Step, last_B: Tensor, uniform_Bn: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Draw the next codes one after the other, one for each uniform number.

    Args:
        step: The prior: takes in the last code and gives the logits of the next.
        last_B: The code before the first that is drawn; it has not been taken in yet.
        uniform_Bn: Numbers in [0, 1), as `zoo.sampling.Chance` draws them.
        sampling: Temperature and cuts.

    Returns:
        codes_Bn int64; and the last of them, which has not been taken in yet.
    """
    codes_Bn = torch.empty(uniform_Bn.shape, dtype=torch.int64, device=uniform_Bn.device)
    for place in range(uniform_Bn.shape[1]):
        last_B = choose(shaped(step(last_B), sampling), uniform_Bn[:, place])
        codes_Bn[:, place] = last_B
        progress.made(len(last_B))
    return codes_Bn, last_B
