"""The contrastive loss against the public code's numbers, its memory, and a GAN that is trained with it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training.squares import GAN

import zoo
from zoo.errors import TrainingError
from zoo.outputs import Judged
from zoo.recipes import Contrastive
from zoo.training.checkpoint import load_checkpoint, save_checkpoint
from zoo.training.contrastive import ContrastiveMemory, MemoryQueue
from zoo.training.loop import discriminator_step, model_step, training_step
from zoo.training.run import Labelled, Run, start
from zoo.training.snapshot import restore, take_snapshot

WHERE = "train.objective.adversarial.contrastive"


def wave(num: int, pace: float) -> Tensor:
    return torch.sin(torch.arange(num * 4, dtype=torch.float64) * pace + pace).reshape(num, 4)


def memory_of(queue_size: int) -> MemoryQueue:
    network = nn.Linear(2, 4)
    network.projection_dim = 4  # type: ignore[assignment]
    config = Contrastive(queue_size=queue_size, momentum=0.75)
    return MemoryQueue(network, config, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_that_of_the_public_code() -> None:
    memory = memory_of(5)
    memory.real.copy_(wave(5, 1.3))
    memory.made.copy_(wave(5, 0.7))
    loss = memory("real", wave(3, 0.9), wave(3, 0.95)) + memory("made", wave(3, 0.4), wave(3, 0.35))
    # get_cntr_loss_cross_domain of models/D_img.py there, on these numbers in float64
    assert float(loss) == pytest.approx(1.4423004319012334, rel=1e-5)


def test_the_queue_keeps_the_newest_and_the_copy_follows() -> None:
    memory = memory_of(5)
    rows = torch.arange(24.0).reshape(6, 4)
    for start_at in (0, 2, 4):
        memory.remember(rows[start_at : start_at + 2], -rows[start_at : start_at + 2])
    assert torch.equal(memory.real, rows[[5, 1, 2, 3, 4]])
    assert torch.equal(memory.made, -memory.real)
    assert int(memory.place) == 1
    network = nn.Linear(2, 4)
    before = memory.network.weight.clone()
    memory.follow(network)
    torch.testing.assert_close(memory.network.weight, 0.75 * before + 0.25 * network.weight.detach())


def recipe(*, use: str = "mocogan-hd-cross-domain", **adversarial: Any) -> dict[str, Any]:
    made = copy.deepcopy(GAN)
    made["clip"] = {"num_frames": 4, "height": 32, "width": 32}
    made["generator"]["image_size"] = 32
    made["discriminator"] = [
        {"use": "mocogan-hd-video", "base_channels": 4, "view": "frames"},
        {"use": use, "image_size": 32, "base_channels": 2, "projection_dim": 8},
    ]
    made["train"]["objective"]["adversarial"] = {
        "loss": "hinge",
        "augment": {"use": "diffaugment"},
        "contrastive": {"match": 1.0, "queue_size": 6, "momentum": 0.5},
        **adversarial,
    }
    return made


def clips() -> Iterator[Labelled]:
    rng = torch.Generator().manual_seed(0)
    while True:
        yield Labelled(torch.rand(4, 3, 4, 32, 32, generator=rng) * 2 - 1)


def begin(**changes: Any) -> Run:
    return start(zoo.build(recipe(**changes), seed=0), torch.device("cpu"))


def test_a_run_with_the_queue_goes_on_exactly(tmp_path: Path) -> None:
    whole, data = begin(), clips()
    first = training_step(whole, data)
    assert {"contrastive", "match"} <= first.keys()
    assert -1 <= float(first["match"]) <= 1
    save_checkpoint(tmp_path / "checkpoint", take_snapshot(whole))
    for _ in range(2):
        training_step(whole, data)
    again, data = start(zoo.build(recipe(), seed=1), torch.device("cpu")), clips()
    restore(again, load_checkpoint(tmp_path / "checkpoint"))
    next(data)
    for _ in range(2):
        training_step(again, data)
    for mine, theirs in ((whole.model, again.model), (whole.keepers, again.keepers)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    memory = whole.keepers["contrastive"].memories["1"]
    assert int(memory.place) == 3 * 4 % 6
    projecting = whole.model.discriminator[1].proj2.parametrizations.weight.original
    assert not torch.equal(projecting, memory.network.proj2.parametrizations.weight.original)
    start_weights = zoo.build(recipe(), seed=0).discriminator[1].proj2.parametrizations.weight.original
    assert not torch.equal(projecting, start_weights)


def test_an_update_that_is_skipped_leaves_queue_and_copy_as_they_were() -> None:
    run = begin()
    run.train = run.train.model_copy(update={"not_finite": "skip"})
    training_step(run, clips())
    before = {name: value.clone() for name, value in run.keepers.state_dict().items()}
    batch = next(clips())
    made, _ = model_step(run, batch)
    run.buffers.remember()
    with torch.no_grad():
        bias = run.model.discriminator[1].linear.bias
        bias.fill_(float("nan"))
    discriminator_step(run, batch, made)
    assert run.troubles
    assert all(torch.equal(value, before[name]) for name, value in run.keepers.state_dict().items())


def test_real_to_a_cross_domain_discriminator_are_first_frames_of_made_clips() -> None:
    model = zoo.build(recipe(), seed=0).eval()
    shown: list[Tensor] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], judged: Judged) -> None:
        shown.append(inputs[0])

    model.discriminator[1].register_forward_hook(look)
    rng = torch.Generator().manual_seed(0)
    real, made = torch.rand(2, 5, 3, 4, 32, 32, generator=rng)
    selection = model.select(5, 4, generator=rng)
    frames_BK = selection.places[1]
    assert frames_BK is not None
    reals, _ = model.judge_both(real, made, selection)
    (images,) = shown
    assert torch.equal(images[:5], made[:, :, 0])
    assert torch.equal(images[5:], torch.stack([made[i, :, frames_BK[i, 1]] for i in range(5)]))
    apart = model.judge(real, selection, reference_x_BCTHW=made)
    torch.testing.assert_close(apart[1].logits[0], reals[1].logits[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"augment": None}, "without augmentation they are the same"),
        ({"contrastive": {"queue_size": 3}}, f"{WHERE}.queue_size is 3, less than a batch: set it to 4"),
        ({"use": "mocogan-hd-image"}, f"set {WHERE}.match: 0"),
        ({"augment": {"use": "diffaugment", "policy": ["speed"]}}, "at two speeds they are two frames"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=message):
        zoo.train(recipe(**changes), data="demo", steps=1, out=tmp_path / "run")


def test_a_match_that_begins_in_the_course_of_the_run_needs_a_reference_too() -> None:
    asked = recipe(use="mocogan-hd-image", contrastive={"match": 0, "queue_size": 6})
    asked["train"]["anneal"] = [{"number": "objective.adversarial.contrastive.match", "to": 1.0}]
    with pytest.raises(TrainingError, match=f"set {WHERE}.match: 0"):
        start(zoo.build(asked, seed=0), torch.device("cpu"))


def test_a_penalty_on_lines_to_real_clips_shows_a_cross_domain_discriminator_none() -> None:
    seen: list[list[Tensor]] = []
    for shift in (0.0, 0.5):
        run, shown = begin(gradient_penalty={"weight": 10}), list[Tensor]()
        run.model.discriminator[1].register_forward_pre_hook(lambda _, given, to=shown: to.append(given[0]))
        batch = next(clips())
        made, _ = model_step(run, batch)
        numbers = discriminator_step(run, Labelled(batch.x_BCTHW - shift), made)
        assert float(numbers["gradient_penalty"]) > 0
        seen.append(shown)
    assert len(seen[0]) == len(seen[1]) > 0
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))


def test_a_batch_larger_than_the_queue_leaves_its_newest() -> None:
    memory, rows = memory_of(4), torch.arange(24.0).reshape(6, 4)
    memory.remember(rows, -rows)
    assert torch.equal(memory.real, rows[2:])


def test_a_model_that_projects_nothing_or_holds_no_slope_says_what_to_set() -> None:
    model = zoo.build(GAN, seed=0)
    with pytest.raises(TrainingError, match="needs a discriminator that projects"):
        ContrastiveMemory(model, Contrastive(), generator=torch.Generator())
    run = begin(r1={"weight": 1.0})
    with pytest.raises(TrainingError, match=r"discriminator number 2 did not judge these clips.*r1: null"):
        training_step(run, clips())
