"""MoCoGAN's categories: discriminators learn to name kinds of clips, and its generator to make them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from training.squares import GAN

import zoo
from zoo.errors import TrainingError
from zoo.training.loop import training_step
from zoo.training.run import Labelled, Run, start

NUM = 3
NUM_FRAMES, SIZE = 10, 16


def recipe(*, labelled: bool = True, named: int = NUM, **term: Any) -> dict[str, Any]:
    made = copy.deepcopy(GAN)
    made["clip"] = {"num_frames": NUM_FRAMES, "height": SIZE, "width": SIZE}
    made["generator"] |= {"num_categories": NUM, "labelled": labelled, "base_channels": 8}
    made["discriminator"] = [
        {"use": "mocogan-video", "image_size": SIZE, "base_channels": 4, "num_categories": named},
        {"use": "mocogan-image", "image_size": SIZE, "base_channels": 4},
    ]
    made["train"] |= {"optimizer": {"use": "adam", "lr": 2e-3, "betas": [0.5, 0.9]}, "batch_size": 6}
    made["train"]["objective"]["adversarial"] = {"loss": "non-saturating", "categories": term}
    return made


def coloured(*, told: bool = True) -> Iterator[Labelled]:
    """Clips of one colour, red, green or blue by their label, and noise."""
    rng = torch.Generator().manual_seed(0)
    while True:
        label_B = torch.randint(NUM, (6,), generator=rng)
        x_BCTHW = torch.full((6, 3, NUM_FRAMES, SIZE, SIZE), -0.8)
        x_BCTHW[torch.arange(6), label_B] = 0.8
        x_BCTHW += 0.1 * torch.randn(x_BCTHW.shape, generator=rng)
        yield Labelled(x_BCTHW, label_B if told else None)


def trained(steps: int, *, told: bool = True, **changes: Any) -> tuple[Run, dict[str, list[float]]]:
    run, batches = start(zoo.build(recipe(**changes), seed=0), torch.device("cpu")), coloured(told=told)
    steps_taken = [training_step(run, batches) for _ in range(steps)]
    return run, {name: [float(one[name]) for one in steps_taken] for name in ("categories", "naming")}


def test_kinds_are_the_labels_and_a_label_asks_for_its_kind() -> None:
    run, numbers = trained(160, weight=5.0)
    for name in numbers:
        assert numbers[name][0] == pytest.approx(
            5.0 * math.log(NUM) if name == "naming" else math.log(NUM), rel=0.5
        )
        assert sum(numbers[name][-10:]) / 10 < 0.3
    model, judge = run.model.eval(), run.model.discriminator[0].train()
    x_BCTHW = torch.cat([model.sample(8, label=label, seed=1) for label in range(NUM)])  # type: ignore[operator]
    named_B = judge.classify(judge(x_BCTHW).features).argmax(1)  # type: ignore[operator]
    assert float((named_B == torch.arange(NUM).repeat_interleave(8)).float().mean()) > 0.7


def test_without_labels_they_learn_kinds_from_what_is_made() -> None:
    run, numbers = trained(80, told=False, labelled=False, learn_from="made")
    assert sum(numbers["categories"][-10:]) / 10 < 0.3
    noise = run.model.draw_noise(NUM, num_frames=NUM_FRAMES)  # type: ignore[operator]
    same = {name: value[:1].expand_as(value) for name, value in noise.items()}
    with torch.no_grad():
        x_NCTHW = run.model.eval()(same | {"category": torch.eye(NUM)})
    assert all(float((x_NCTHW[i] - x_NCTHW[i - 1]).abs().mean()) > 0.05 for i in range(NUM))


def test_a_batch_in_parts_has_the_terms_of_the_whole() -> None:
    found = []
    for accumulate in (1, 3):
        changed = recipe()
        for judge in changed["discriminator"]:
            judge["noise_sigma"] = 0.0
        changed["train"]["accumulate"] = accumulate
        run = start(zoo.build(changed, seed=0), torch.device("cpu"))
        for module in run.model.modules():  # batch norm alone tells parts from wholes
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()
                module.train = lambda mode=True, module=module: module  # type: ignore[assignment, misc]
        found.append(training_step(run, coloured()))
    for name in ("categories", "naming"):
        assert float(found[0][name]) == pytest.approx(float(found[1][name]), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"named": 0}, "needs a discriminator that names"),
        ({"named": 4}, "makes 3 kinds of clip, and a discriminator names 4"),
        ({"labelled": False}, "learn_from: made, which needs no labels"),
    ],
)
def test_what_does_not_fit_says_what_to_set(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TrainingError, match=complaint):
        start(zoo.build(recipe(**changes), seed=0), torch.device("cpu"))
