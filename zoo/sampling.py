"""Drawing codes from a prior: what shapes the odds, and numbers by chance that do not depend on the batch.

Shape legend: B batch, N places in a row of tokens, K codes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from zoo.errors import ZooError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How codes are drawn from a prior's logits.

    Attributes:
        temperature: Divides the logits; 0, as anything below a millionth, takes the likeliest code.
        top_k: Keep only as many of the likeliest codes.
        top_p: Keep the fewest likeliest codes that have this much of the probability (nucleus,
            https://arxiv.org/abs/1904.09751).
        min_p: Keep codes at least this fraction as likely as the likeliest (https://arxiv.org/abs/2407.01082).
        guidance: Classifier-free guidance (https://arxiv.org/abs/2207.12598): 1 is the label as learnt, more
            leans on it, 0 ignores it.
        steps: Passes in which a prior of any order fills a window.
        choice_temperature: Chance in the choice of the codes that such a prior keeps at each pass, falling to
            0 (https://arxiv.org/abs/2202.04200).
        schedule: How many codes are still open after a share of the passes.

    Raises:
        ZooError: A value is outside its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    guidance: float = 1.0
    steps: int = 12
    choice_temperature: float = 4.5
    schedule: Literal["cosine", "linear", "square", "root"] = "cosine"

    def __post_init__(self) -> None:
        checks = {
            "temperature": (0 <= self.temperature < math.inf, "0 or more"),
            "top_k": (self.top_k is None or self.top_k >= 1, "1 or more"),
            "top_p": (self.top_p is None or 0 < self.top_p <= 1, "above 0, at most 1"),
            "min_p": (self.min_p is None or 0 <= self.min_p <= 1, "between 0 and 1"),
            "guidance": (0 <= self.guidance < math.inf, "0 or more"),
            "steps": (self.steps >= 1, "1 or more"),
            "choice_temperature": (0 <= self.choice_temperature < math.inf, "0 or more"),
            "schedule": (self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
        }
        for name, (good, wanted) in checks.items():
            if not good:
                raise ZooError(f"{name} is {getattr(self, name)!r}; it must be {wanted}")

    def open_share(self, done: float) -> float:
        """Return the share of the codes still open when this share of the passes is done, from 1 to 0."""
        return SCHEDULES[self.schedule](done)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: math.cos(done * math.pi / 2),
    "linear": lambda done: 1 - done,
    "square": lambda done: 1 - done**2,
    "root": lambda done: 1 - done**0.5,
}

_COLD = 1e-6
"""Temperatures below it would divide logits by nothing."""


class Chance:
    """Uniform numbers for each clip from a seed of its own, so that a clip is the same in any batch.

    Args:
        seed_B: int64 seed of each clip.
    """

    def __init__(self, seed_B: Tensor) -> None:
        self._device = seed_B.device
        self._sources = [torch.Generator("cpu").manual_seed(seed) for seed in seed_B.tolist()]

    def uniform(self, *shape: int) -> Tensor:
        """Draw the next numbers in [0, 1) of every clip, float64, as (B, *shape)."""
        uniform_B = torch.empty(len(self._sources), *shape, dtype=torch.float64, device="cpu")
        for uniform, source in zip(uniform_B, self._sources, strict=True):
            torch.rand(shape, generator=source, dtype=torch.float64, device="cpu", out=uniform)
        return uniform_B.to(self._device)


def draw_seeds(
    num: int, *, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> Tensor:
    """Draw an int64 seed for each of `num` clips; a larger draw begins as a smaller one."""
    if torch.device(device or "cpu").type == "meta":
        return torch.zeros(num, dtype=torch.int64, device="meta")
    source = "cpu" if generator is None else generator.device
    return torch.randint(2**63 - 1, (num,), generator=generator, device=source).to(device or "cpu")


def draw_noise(
    num: int,
    num_classes: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """Draw the noise of a prior: a seed for each clip, and a class where there are classes."""
    noise = {"seed": draw_seeds(num, generator=generator, device=device)}
    if num_classes:
        source = "cpu" if generator is None else generator.device
        label_B = torch.randint(num_classes, (num,), generator=generator, device=source)
        noise["label"] = label_B.to(device or "cpu")
    return noise


def guided(with_label: Tensor, without: Tensor, guidance: float) -> Tensor:
    """Move logits away from those without a label; a guidance of 1 leaves them as they are."""
    return without + guidance * (with_label - without)


def shaped(logits_K: Tensor, sampling: Sampling) -> Tensor:
    """Return the probabilities (..., K) float32 that logits (..., K) have after temperature and cuts."""
    logits_K = logits_K.float()
    if sampling.temperature < _COLD:
        likeliest_K = torch.nn.functional.one_hot(logits_K.argmax(-1), logits_K.shape[-1])
        return likeliest_K + 0 * logits_K.amax(-1, keepdim=True)  # not finite where that is not
    odds_K = (logits_K / sampling.temperature).softmax(-1)
    keep_K = torch.ones_like(odds_K, dtype=torch.bool)
    if sampling.top_k is not None and sampling.top_k < odds_K.shape[-1]:
        keep_K &= odds_K >= odds_K.topk(sampling.top_k, dim=-1).values[..., -1:]
    if sampling.min_p is not None:
        keep_K &= odds_K >= sampling.min_p * odds_K.amax(-1, keepdim=True)
    if sampling.top_p is not None and sampling.top_p < 1:
        sorted_K, order_K = odds_K.sort(-1, descending=True)
        before_K = sorted_K.cumsum(-1) - sorted_K
        keep_K &= torch.zeros_like(keep_K).scatter(-1, order_K, before_K < sampling.top_p)
    odds_K = odds_K * keep_K
    return odds_K / odds_K.sum(-1, keepdim=True)


def choose(odds_K: Tensor, uniform: Tensor) -> Tensor:
    """Draw codes from probabilities (..., K) with one uniform number (...) each, as int64 (...).

    A code of probability 0 is never drawn.

    Raises:
        ZooError: The probabilities are not finite; seen on the CPU only, as other devices are not waited for.
    """
    sums_K = odds_K.double().cumsum(-1)
    if sums_K.device.type == "cpu" and not bool(sums_K[..., -1].isfinite().all()):
        raise ZooError("the prior gives odds that are not finite; its training has diverged")
    place = torch.searchsorted(sums_K, (uniform.double() * sums_K[..., -1])[..., None], right=True)[..., 0]
    # Rounding can put a number at the very end; the last code that is possible is meant.
    last = odds_K.shape[-1] - 1 - (odds_K > 0).flip(-1).int().argmax(-1)
    return torch.minimum(place, last)
