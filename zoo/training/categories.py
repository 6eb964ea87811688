"""The categories of MoCoGAN: discriminators name the kind of a clip, and its generator makes kinds they know.

In the authors' code discriminators learn that from labels of real clips (``use_categories``), as in
AC-GAN (https://arxiv.org/abs/1610.09585); in their paper (https://arxiv.org/abs/1707.04993) from what is
made, as in InfoGAN (https://arxiv.org/abs/1606.03657).

Shape legend: B clips, N categories.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import TrainingError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo.assemblies import Assembly
    from zoo.outputs import Judged
    from zoo.recipes import Categories

WHERE = "train.objective.adversarial.categories"


def categories_of(noise: Mapping[str, Tensor]) -> Tensor | None:
    """Return the int64 kind of each clip that noise is for; None where it has none."""
    if "label" in noise:
        return noise["label"]
    one_hot_BN = noise.get("category")
    return None if one_hot_BN is None or not one_hot_BN.shape[1] else one_hot_BN.argmax(1)


def check_categories(model: Assembly, config: Categories) -> None:
    """Refuse a model in which nothing names categories, or not those that clips are made of.

    Raises:
        TrainingError: It says what to set.
    """
    judges = [judge for judge in model.discriminator if getattr(judge, "num_categories", 0)]
    if not judges:
        raise TrainingError(
            f"{WHERE} needs a discriminator that names the kind of a clip, and {model.name!r} has none; use "
            f"mocogan-video with num_categories, or set {WHERE}: null"
        )
    generator: Any = getattr(model, "generator", None)
    made = getattr(generator, "num_categories", 0) or getattr(generator, "num_classes", 0)
    for judge in judges:
        if judge.num_categories != made:
            raise TrainingError(
                f"the generator of {model.name!r} makes {made} kinds of clip, and a discriminator names "
                f"{judge.num_categories}: set both to what the data has ({WHERE})"
            )
    if config.learn_from == "labels" and not getattr(generator, "num_classes", 0):
        raise TrainingError(
            f"{WHERE}.learn_from is labels, and the kinds that the generator of {model.name!r} makes are "
            f"none: set generator.labelled: true (mocogan), or learn_from: made, which needs no labels"
        )


def categories_term(model: Assembly, verdicts: list[Judged], kind_B: Tensor) -> Tensor:
    """Return the cross entropy of the kinds of clips, in nats, summed over the discriminators that name them.

    Args:
        model: The model.
        verdicts: Those of all discriminators on the clips.
        kind_B: int64 kind of each clip.

    Returns:
        Scalar.
    """
    terms = []
    for judge, judged in zip(model.discriminator, verdicts, strict=True):
        if getattr(judge, "num_categories", 0):
            named: Any = judge
            logits_BN = named.classify(judged.features)
            # Of an image discriminator every clip shows several frames.
            told_B = kind_B.repeat_interleave(len(logits_BN) // len(kind_B))
            terms.append(F.cross_entropy(logits_BN.float(), told_B))
    return torch.stack(terms).sum()
