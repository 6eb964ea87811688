"""Long video in two steps: one prior makes one latent frame in so many, another those between.

After TATS (https://arxiv.org/abs/2204.03638). Both priors stand on one tokenizer. The frames of the first are
the keys: latent frames 0, k, 2k, ... of a video. The second knows two of them, and what lies before the
first as far as its window reaches, and fills in the k - 1 frames between.

Shape legend: B batch; q codebooks, t h w the latent grid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.fingerprint import fingerprint
from zoo.sampling import Chance, Sampling

if TYPE_CHECKING:
    from zoo.assemblies.token_prior import TokenPrior

# Whole numbers that float64 holds exactly.
_SEEDS = 2**53


def check_between(sparse: TokenPrior, dense: TokenPrior | None) -> None:
    """Refuse a prior that cannot fill in what another leaves out, and one where nothing is left out.

    Args:
        sparse: Makes the keys; or every latent frame.
        dense: Is to fill in the others; None is nobody.

    Raises:
        ZooError: It says what does not fit.
    """
    every, name = sparse.every, sparse.title
    if dense is None:
        if every > 1:
            raise ZooError(
                f"{name} makes 1 of {every} latent frames (tokenizer.every), which are no video yet. A prior "
                "of the same tokenizer that fills gaps makes the others; give it: --between FOLDER, or "
                "between= in Python"
            )
        return
    other = dense.title
    if every == 1:
        raise ZooError(f"{name} makes every latent frame, so there is nothing for {other} to fill in between")
    if dense.generator.order != "any" or dense.every > 1 or set(dense.generator.conditions) - {"label"}:
        why = "makes codes in their order" if dense.every == 1 else f"makes 1 of {dense.every} latent frames"
        raise ZooError(
            f"{other} {why} and fills in nothing between those of {name}. A prior of any order does that: "
            "maskgit, with tokenizer.every at 1"
        )
    if fingerprint(sparse.tokenizer) != fingerprint(dense.tokenizer):
        raise ZooError(
            f"{other} stands on another tokenizer than {name}, or on one with other weights; train both on "
            "one: zoo train ... --init tokenizer=FOLDER"
        )
    clips = [(prior.frame_HW, prior.recipe.clip.fps) for prior in (sparse, dense)]
    if clips[0] != clips[1]:
        raise ZooError(
            f"{name} makes {_clip(*clips[0])} and {other} {_clip(*clips[1])}; both have to make the same"
        )
    window, stride = dense.generator.grid_thw[0], sparse.tokenizer.stride[0]
    if window <= every:
        raise ZooError(
            f"{other} sees {window} latent frames at once; from one of {name} to the next it takes "
            f"{every + 1}. Train it on clips of {1 + every * stride} frames or more (clip.num_frames)"
        )
    classes = [(prior.num_classes, prior.labels) for prior in (sparse, dense)]
    if sparse.num_classes and dense.num_classes and classes[0] != classes[1]:
        told = ["{} ({})".format(num, ", ".join(labels) or "no names") for num, labels in classes]
        raise ZooError(f"{name} knows the labels {told[0]} and {other} {told[1]}; they have to be the same")


def fill_between(
    keys: Iterator[Tensor],
    noise: dict[str, Tensor],
    sampling: Sampling,
    *,
    dense: TokenPrior,
    every: int,
    given_Bqthw: Tensor | None = None,
) -> Iterator[Tensor]:
    """Yield indices_Bqhw of one latent frame after the other, those of the keys as they are.

    Nothing but a window of the last frames is kept, so a video can be of any length.

    Args:
        keys: Codes (B, q, h, w) of the keys, from the first that is not given.
        noise: Of the prior that makes the keys; what is drawn here follows from its seeds, clip by clip.
        sampling: How codes are drawn.
        dense: Fills in the others.
        every: Latent frames from key to key.
        given_Bqthw: Codes of the first latent frames, which are not yielded.
    """
    chance = Chance(noise["seed"])
    told = dict[str, Tensor]()
    if not dense.num_classes:  # what leans on a label has none to lean on
        sampling = dataclasses.replace(sampling, guidance=1.0)
    else:
        drawn_B = (chance.uniform() * dense.num_classes).long()
        told["label"] = noise.get("label", drawn_B)
    window = dense.generator.grid_thw[0]
    num = 0 if given_Bqthw is None else given_Bqthw.shape[2]
    before_Bqthw = given_Bqthw
    for key_Bqhw in keys:
        key_Bq1hw = key_Bqhw[:, :, None]
        num_open = -num % every
        made_Bqthw = key_Bq1hw
        if num_open:
            assert before_Bqthw is not None
            shown_Bqthw = before_Bqthw[:, :, num_open + 1 - window :]
            gap_Bqthw = torch.zeros_like(key_Bq1hw).expand(-1, -1, num_open, -1, -1)
            row_Bqthw = torch.cat([shown_Bqthw, gap_Bqthw, key_Bq1hw], dim=2)
            known_Bqthw = torch.ones_like(row_Bqthw, dtype=torch.bool)
            known_Bqthw[:, :, -1 - num_open : -1] = False
            # Each gap has seeds of its own, or all would be filled by the same chance.
            told["seed"] = (chance.uniform() * _SEEDS).long()
            filled_Bqthw = dense.generator.fill(row_Bqthw, known_Bqthw, told, sampling)
            made_Bqthw = torch.cat([filled_Bqthw[:, :, -1 - num_open : -1], key_Bq1hw], dim=2)
        yield from made_Bqthw.unbind(2)
        num += made_Bqthw.shape[2]
        kept = [made_Bqthw] if before_Bqthw is None else [before_Bqthw, made_Bqthw]
        before_Bqthw = torch.cat(kept, dim=2)[:, :, -window:]


def _clip(size_HW: tuple[int, int], fps: float | None) -> str:
    rate = "any rate" if fps is None else f"{fps:g} frames a second"
    return f"frames of {size_HW[0]}x{size_HW[1]} at {rate}"
