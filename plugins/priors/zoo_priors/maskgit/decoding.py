"""Filling open places in a few passes, the surest first (https://arxiv.org/abs/2202.04200).

Shape legend: B batch, N places, M open places (of the clip that has most), S streams of codes at a place, K
codes of a stream, P passes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from zoo import progress
from zoo.sampling import Chance, Sampling, choose, shaped
from zoo_priors.maskgit.bert import take

LogitsOf = Callable[[Tensor, Tensor, Tensor], Tensor]


def num_open(num: int, sampling: Sampling) -> list[int]:
    """Return how many of `num` places are still open after each pass; none after the last."""
    share = [sampling.open_share((step + 1) / sampling.steps) for step in range(sampling.steps)]
    # Shares that should be whole numbers of places come out a rounding error off.
    return [*(math.floor(num * each + 1e-9) for each in share[:-1]), 0]


def decode(
    logits_of: LogitsOf,
    digits_BNS: Tensor,
    open_BN: Tensor,
    chance: Chance,
    sampling: Sampling,
    *,
    codes_per_place: int = 1,
) -> Tensor:
    """Fill the open places of every clip; the others stay as they are.

    In each pass, every open place gets a code by chance, and the places whose codes were surest, give or take
    some chance that falls to none, are kept. The choice weighs the probability of a code before
    temperature and cuts, as published; of several streams, their product. A pass in which no clip keeps
    anything (few places, many passes) is left out. Logits are made for open places only.

    Args:
        logits_of: ``(digits_BNS, open_BN, places_BM) -> logits_BMSK`` for the places of those numbers.
        digits_BNS: Codes; at open places what `logits_of` is to see there.
        open_BN: Places to fill.
        chance: What codes and places are drawn by.
        sampling: How.
        codes_per_place: What a place counts as in `zoo.progress`.

    Returns:
        New digits (B, N, S).
    """
    digits_BNS, open_BN = digits_BNS.clone(), open_BN.clone()
    num_places, num_streams = digits_BNS.shape[1:]
    uniform_PBN = chance.uniform(sampling.steps, num_places, num_streams + 1).transpose(0, 1)
    # How many stay open is known beforehand, so the passes never wait for the device.
    counts: list[int] = open_BN.sum(1).tolist()
    plans = [num_open(count, sampling) for count in counts]
    for step in range(sampling.steps):
        after = [plan[step] for plan in plans]
        if after == counts:
            continue
        most = max(counts)
        places_BM = (~open_BN).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
        count_B1, after_B1 = (torch.tensor(n, device=open_BN.device)[:, None] for n in (counts, after))
        logits_BMSK = logits_of(digits_BNS, open_BN, places_BM).float()
        uniform_BM = take(uniform_PBN[step], places_BM)
        picked_BMS = choose(shaped(logits_BMSK, sampling), uniform_BM[..., :-1])
        sure_BM = _log_probability(logits_BMSK, picked_BMS).sum(-1)
        heat = sampling.choice_temperature * (1 - (step + 1) / sampling.steps)
        score_BM = sure_BM + heat * _gumbel(uniform_BM[..., -1])
        is_open_BM = open_BN.gather(1, places_BM)
        score_BM = score_BM.masked_fill(~is_open_BM, -math.inf)
        rank_BM = score_BM.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        kept_BM = (rank_BM < count_B1 - after_B1) & is_open_BM
        before_BMS = take(digits_BNS, places_BM)
        digits_BNS.scatter_(
            1,
            places_BM[..., None].expand_as(before_BMS),
            torch.where(kept_BM[..., None], picked_BMS, before_BMS),
        )
        open_BN.scatter_(1, places_BM, is_open_BM & ~kept_BM)
        progress.made((sum(counts) - sum(after)) * codes_per_place)
        counts = after
    return digits_BNS


def _log_probability(logits_K: Tensor, picked: Tensor) -> Tensor:
    return logits_K.gather(-1, picked[..., None])[..., 0] - logits_K.logsumexp(-1)


def _gumbel(uniform: Tensor) -> Tensor:
    return -(-uniform.clamp(min=1e-300).log()).log()
