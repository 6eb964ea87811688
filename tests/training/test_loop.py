"""One step at a time: who is updated, with what, and what stops it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training.squares import GAN, VQGAN, VQVAE, Squares

import zoo
from zoo.assemblies import Gan
from zoo.data import make_loader
from zoo.errors import PortError, TrainingError
from zoo.recipes import Ema, Optimizer, Schedule
from zoo.training import loop
from zoo.training.checkpoint import load_checkpoint, save_checkpoint
from zoo.training.ema import MovingAverage
from zoo.training.finite import IN_A_ROW, NotFiniteError
from zoo.training.loop import discriminator_step, model_step, training_step
from zoo.training.made import Made
from zoo.training.optimizers import make_optimizer, make_schedule
from zoo.training.run import Labelled, Run, start
from zoo.training.snapshot import restore, take_snapshot


def batches() -> Iterator[Labelled]:
    return (Labelled(batch["x_BCTHW"]) for batch in make_loader(Squares(12), batch_size=4, num_workers=0))


def begin(recipe: dict[str, Any], **objective: Any) -> Run:
    recipe = copy.deepcopy(recipe)
    for term, value in objective.items():
        recipe["train"]["objective"][term] |= value
    return start(zoo.build(recipe, seed=0), torch.device("cpu"))


def weights(run: Run) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copies of the model's and of the discriminators' parameters."""
    mine: dict[str, Tensor] = {}
    theirs: dict[str, Tensor] = {}
    for name, parameter in run.model.named_parameters():
        (theirs if name.startswith("discriminator.") else mine)[name] = parameter.detach().clone()
    return mine, theirs


def matrices(named: dict[str, Tensor]) -> set[str]:
    """Names of all but biases: within the margin, hinge pulls equally up and down on the last one."""
    return {name for name, weight in named.items() if weight.ndim > 1}


def changed(a: dict[str, Tensor], b: dict[str, Tensor]) -> set[str]:
    return {name for name in a if not torch.equal(a[name], b[name])}


def test_a_vqvae_learns() -> None:
    recipe = copy.deepcopy(VQVAE)
    recipe["train"] |= {"steps": 40, "optimizer": {"use": "adam", "lr": 1e-2}}
    run = start(zoo.build(recipe, seed=0), torch.device("cpu"))
    data = batches()
    losses = [float(training_step(run, data)["loss"]) for _ in range(40)]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert run.step == run.batches == 40


def test_each_step_moves_its_own_player_only() -> None:
    run = begin(VQGAN, adversarial={"start_step": 0, "adaptive": False})
    x = next(batches())
    mine, theirs = weights(run)
    made, numbers = model_step(run, x)
    mine_after, theirs_after = weights(run)
    assert changed(mine, mine_after) == set(mine)
    assert not changed(theirs, theirs_after)
    assert all(p.grad is None for p in run.model.discriminator.parameters())
    assert all(p.requires_grad for p in run.model.discriminator.parameters())
    assert not made.x_BCTHW.requires_grad
    assert not made.seen_x_BCTHW.requires_grad
    discriminator_step(run, x, made)
    mine_last, theirs_last = weights(run)
    assert not changed(mine_after, mine_last)
    assert changed(theirs, theirs_last) >= matrices(theirs)
    weighted = numbers["reconstruction"] + numbers["quantizer"] + 0.5 * numbers["adversarial"]
    torch.testing.assert_close(numbers["loss"], weighted)


def test_discriminators_wait_for_their_start_and_then_take_their_steps_on_fresh_batches() -> None:
    run = begin(VQGAN)  # from step 2 on, 2 updates a step
    data = batches()
    for step in range(4):
        before = weights(run)[1]
        numbers = training_step(run, data)
        playing = step >= 2
        assert bool(changed(before, weights(run)[1])) == playing
        assert ("adversarial" in numbers) == ("discriminator_loss" in numbers) == playing
    assert run.batches == 2 + 2 * 2
    assert 0 < float(numbers["adaptive_weight"]) <= 1e4


def test_extra_turns_of_the_discriminators_do_not_teach_the_codebook() -> None:
    once = begin(VQGAN, adversarial={"start_step": 0, "discriminator_steps": 1})
    twice = begin(VQGAN, adversarial={"start_step": 0, "discriminator_steps": 3})
    for run in (once, twice):
        torch.manual_seed(0)
        training_step(run, batches())
    a, b = once.model.quantizer.state_dict(), twice.model.quantizer.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert all(module.training for module in twice.model.modules())


@pytest.mark.parametrize("loss", ["minimax", "non-saturating", "hinge", "least-squares"])
def test_a_gan_takes_both_steps_with_every_loss(loss: str) -> None:
    run = begin(GAN, adversarial={"loss": loss})
    before = weights(run)
    numbers = training_step(run, batches())
    after = weights(run)
    assert changed(before[1], after[1]) >= matrices(before[1])
    assert changed(before[0], after[0])
    assert all(math.isfinite(float(value)) for value in numbers.values())


def test_image_discriminators_see_one_drawn_frame_a_clip_the_same_of_real_and_made() -> None:
    run = begin(GAN)
    seen: list[Tensor] = []
    run.model.discriminator[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    number_BT = torch.arange(4.0).expand(8, 4) / 4
    x = number_BT[:, None, :, None, None].expand(8, 3, 4, 16, 16).contiguous()
    frames = []
    for step in range(6):
        run.step = step
        judge_negative(run, x)
        real, made = seen[-2:]
        assert real.shape == (8, 3, 16, 16)
        assert torch.equal(real, -made)
        frames.append(real[:, 0, 0, 0].tolist())
    assert {value for step in frames for value in step} == {0.0, 0.25, 0.5, 0.75}
    assert frames[0] != frames[1]
    run.step = 0
    judge_negative(run, x)
    assert seen[-2][:, 0, 0, 0].tolist() == frames[0]


@pytest.mark.parametrize("mixes", [False, True])
def test_real_and_made_clips_are_judged_in_one_pass_where_that_gives_the_same_scores(mixes: bool) -> None:
    run = begin(VQGAN, adversarial={"start_step": 0, "adaptive": False})
    batches_seen: list[int] = []
    judge = run.model.discriminator[0].eval()  # running statistics: a clip is judged alone
    judge.mixes_batch = mixes
    judge.register_forward_pre_hook(lambda _, inputs: batches_seen.append(len(inputs[0])))
    x = next(batches()).x_BCTHW
    judge_negative(run, x)
    assert batches_seen == ([4, 4] if mixes else [8])
    other = begin(VQGAN, adversarial={"start_step": 0, "adaptive": False})
    other.model.discriminator[0].eval()
    judge_negative(other, x)
    for mine, theirs in zip(judge.parameters(), other.model.discriminator[0].parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def judge_negative(run: Run, x: Tensor) -> None:
    """Let the discriminators learn to tell clips from their negative."""
    selection = run.model.select(len(x), x.shape[2], generator=run.generator("frames"))
    discriminator_step(run, Labelled(x), Made(-x, selection.of(-x), selection, None))


def test_a_loss_that_is_not_finite_stops_and_all_is_as_before_the_step() -> None:
    run = begin(VQVAE)
    data = batches()
    training_step(run, data)
    before = copy.deepcopy(run.model.state_dict())
    run.model.decoder.register_forward_hook(lambda module, _, x: x * math.nan)  # type: ignore[union-attr]
    with pytest.raises(TrainingError, match=r"step 2: the model's loss is nan .*reconstruction nan"):
        training_step(run, data)
    assert run.step == 1
    # The codebook and running statistics moved in the forward pass, before there was a loss to look at.
    assert not changed(before, run.model.state_dict())
    next(iter(run.model.decoder.parameters())).data[0] = math.inf  # type: ignore[union-attr]
    with pytest.raises(TrainingError, match=r"is not finite; no checkpoint was made of it"):
        take_snapshot(run)


def test_a_discriminator_loss_that_is_not_finite_stops_it_but_the_model_has_moved() -> None:
    run = begin(VQGAN, adversarial={"start_step": 0, "adaptive": False, "discriminator_steps": 1})
    data = batches()
    run.model.discriminator[0].register_forward_hook(
        lambda module, _, judged: (
            judged
            if not next(module.parameters()).requires_grad
            else judged._replace(logits=[logits * math.nan for logits in judged.logits])
        )
    )
    before = weights(run)
    with pytest.raises(TrainingError, match=r"discriminator's loss is nan .*the last checkpoint is whole"):
        training_step(run, data)
    after = weights(run)
    assert changed(before[0], after[0])
    assert not changed(before[1], after[1])


def test_a_gradient_that_is_not_finite_stops_before_a_weight_changes() -> None:
    run = begin(VQVAE)
    next(iter(run.model.decoder.parameters())).register_hook(lambda grad: grad * math.inf)  # type: ignore[union-attr]
    before = weights(run)[0]
    with pytest.raises(TrainingError, match="norm of the model's gradient"):
        training_step(run, batches())
    assert not changed(before, weights(run)[0])


def test_gradients_are_cut_to_the_norm_asked_for() -> None:
    recipe = copy.deepcopy(VQVAE)
    recipe["train"] |= {"clip_grad_norm": 1e-3, "optimizer": {"use": "momentum", "lr": 1.0, "betas": [0, 0]}}
    recipe["train"]["schedule"] = {"use": "constant"}
    run = start(zoo.build(recipe, seed=0), torch.device("cpu"))
    before = weights(run)[0]
    training_step(run, batches())
    after = weights(run)[0]
    moved = torch.stack([(after[name] - before[name]).norm() for name in before]).norm()
    assert float(moved) == pytest.approx(1e-3, rel=1e-3)


def test_moving_average_follows_its_formula_and_copies_buffers() -> None:
    model = zoo.build(VQGAN, seed=0)
    average = MovingAverage(model, Ema(decay=0.5, warmup=True))
    name, weight = next(iter(model.encoder.named_parameters(prefix="encoder")))  # type: ignore[operator]
    expected = weight.detach().clone()
    for n in range(12):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
            for buffer in model.buffers():
                buffer.copy_(buffer.logical_not() if buffer.dtype is torch.bool else buffer + 1)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * weight.detach()
        average.update(model)
    torch.testing.assert_close(average.tensors()[name], expected)
    for theirs, mine in zip(model.quantizer.buffers(), average.model.quantizer.buffers(), strict=True):  # type: ignore[union-attr]
        assert torch.equal(theirs, mine)
    assert average.model.discriminator is model.discriminator
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"use": "constant"}, [1.0] * 8),
        ({"use": "constant", "warmup_steps": 3}, [0.25, 0.5, 0.75] + [1.0] * 5),
        ({"use": "linear", "min_lr": 0.2}, [1 - 0.8 * n / 8 for n in range(8)]),
        (
            {"use": "cosine", "warmup_steps": 2},
            [1 / 3, 2 / 3] + [0.5 + 0.5 * math.cos(math.pi * n / 6) for n in range(6)],
        ),
    ],
)
def test_schedules(config: dict[str, Any], expected: list[float]) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(Schedule(**config), optimizer, peak_lr=1.0, steps=8)
    rates = []
    for step in range(8):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize("use", ["constant", "cosine", "linear"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_warm_up_longer_than_the_run_ends_at_the_peak_and_timm_says_nothing(
    use: Any, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make_schedule(Schedule(use=use, warmup_steps=100), optimizer, peak_lr=1.0, steps=steps)
    rates = []
    for step in range(steps):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([(step + 1) / steps for step in range(steps)])
    assert not caplog.records


def test_optimizer_decays_every_parameter_and_knows_its_name() -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = make_optimizer(Optimizer(use="lion", lr=1e-4, weight_decay=0.1), model.parameters())
    (group,) = optimizer.param_groups
    assert group["weight_decay"] == 0.1
    assert [p.shape for p in group["params"]] == [p.shape for p in model.parameters()]
    assert type(optimizer).__module__.startswith("timm")
    with pytest.raises(TrainingError, match="adamw"):
        make_optimizer(Optimizer(use="adamq"), model.parameters())
    with pytest.raises(TrainingError, match="second derivatives"):
        make_optimizer(Optimizer(use="adahessian"), model.parameters())


STABILISERS: dict[str, dict[str, Any]] = {
    "r1": {"r1": {"weight": 2.0, "every": 2}},
    "r2": {"r2": {"weight": 2.0}},
    "gradient_penalty": {"loss": "wasserstein", "gradient_penalty": {"weight": 3.0}},
    "lecam": {"lecam": {"weight": 0.1}},
    "feature_matching": {"feature_matching": {"weight": 1.0}},
    "path_length": {"path_length": {"every": 2}},
    "diffaugment": {"augment": {"use": "diffaugment"}},
    "ada": {"augment": {"use": "ada", "interval": 1, "adjust_clips": 50}},
    "relativistic": {"loss": "relativistic"},
    "spectral_norm": {"spectral_norm": True, "r1": {"weight": 2.0, "every": 2}},
}


@pytest.mark.parametrize("name", STABILISERS)
def test_a_gan_learns_with_each_stabiliser_and_goes_on_exactly(name: str, tmp_path: Path) -> None:
    recipe = copy.deepcopy(GAN)
    recipe["discriminator"] = recipe["discriminator"][:1]  # the others have no features
    recipe["train"]["objective"]["adversarial"] |= STABILISERS[name]
    whole = start(zoo.build(recipe, seed=0), torch.device("cpu"))
    data = batches()
    for _ in range(2):
        training_step(whole, data)
    cut = take_snapshot(whole)
    save_checkpoint(tmp_path / "checkpoint", cut)
    numbers = {}
    for _ in range(3):
        numbers |= training_step(whole, data)
    assert all(math.isfinite(float(value)) for value in numbers.values())
    if name in ("r1", "r2", "gradient_penalty", "lecam", "feature_matching", "path_length"):
        assert float(numbers[name]) > 0
    again = start(zoo.build(recipe, seed=1), torch.device("cpu"))
    restore(again, load_checkpoint(tmp_path / "checkpoint"))
    data = batches()
    for _ in range(again.batches):
        next(data)
    for _ in range(3):
        training_step(again, data)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key]), key
    for key, value in whole.keepers.state_dict().items():
        assert torch.equal(value, again.keepers.state_dict()[key]), key


def test_r1_is_half_its_weight_times_the_squared_gradient_of_the_real_clips() -> None:
    plain = begin(VQGAN, adversarial={"start_step": 0, "adaptive": False, "discriminator_steps": 1})
    held = begin(
        VQGAN,
        adversarial={"start_step": 0, "adaptive": False, "discriminator_steps": 1, "r1": {"weight": 10.0}},
    )
    x = next(batches()).x_BCTHW
    for run in (plain, held):
        run.model.discriminator.eval()  # running statistics: the gradient of a clip is its own
    wanted = 0.0
    real = x.clone().requires_grad_()
    selection = plain.model.select(len(x), x.shape[2], generator=plain.generator("frames"))
    for judged in plain.model.judge(selection.of(real), selection):
        score_B = torch.stack([logits.flatten(1).mean(1) for logits in judged.logits]).mean(0)
        (gradient,) = torch.autograd.grad(score_B.sum(), real, retain_graph=True)
        wanted += 5.0 * float(gradient.square().flatten(1).sum(1).mean())
    made = Made(-x, selection.of(-x), selection)
    numbers = discriminator_step(held, Labelled(x), made)
    assert float(numbers["r1"]) == pytest.approx(wanted, rel=1e-4)
    bare = discriminator_step(plain, Labelled(x), made)
    torch.testing.assert_close(numbers["discriminator_loss"], bare["discriminator_loss"])
    assert float(numbers["discriminator_grad_norm"]) != float(bare["discriminator_grad_norm"])


def test_path_lengths_are_measured_along_noise_and_not_from_kind_to_kind() -> None:
    run = begin(GAN, adversarial={"path_length": {"weight": 1.0, "every": 1}})
    assert isinstance(run.model, Gan)
    drawn = run.model.draw_noise(4)
    made = loop._make(run, run.laid_out(next(batches())))
    assert "category" in drawn
    assert [z.shape for z in made.latents] == [z.shape for name, z in drawn.items() if name != "category"]


@pytest.mark.parametrize("labels", [None, [0, 1, -1, 2], [0, 1, 2, 5]])
def test_clips_without_the_labels_that_parts_are_told_are_refused(labels: list[int] | None) -> None:
    label_B = None if labels is None else torch.tensor(labels)
    labelled = copy.deepcopy(VQGAN)
    labelled["train"]["objective"]["adversarial"] |= {"start_step": 0, "adaptive": False}
    small = {"base_channels": 4, "channel_multipliers": [1, 2]}
    told = {"use": "dvd-spatial", "num_classes": 3, "num_frames_drawn": 2, **small}
    labelled["discriminator"] = [told]
    run = begin(labelled)
    batch = next(batches())._replace(label_B=label_B)
    with pytest.raises(TrainingError, match=r"is told 3 labels, 0 to 2; the data has .*num_classes"):
        training_step(run, iter([batch] * 2))


@pytest.mark.parametrize(
    ("made", "read", "complaint"),
    [
        (3, [4], "makes clips of 3 labels but discriminator 'dvd-spatial' reads 4"),
        (0, [4], "makes clips of 0 labels but discriminator 'dvd-spatial' reads 4"),
        (3, [0, 0], "no discriminator reads them"),
        (3, [0, 3], ""),
        (0, [0], ""),
    ],
)
def test_players_have_the_same_labels(made: int, read: list[int], complaint: str) -> None:
    recipe = copy.deepcopy(GAN)
    recipe["generator"] |= {"num_categories": 3, "labelled": bool(made)}
    small = {"base_channels": 4, "channel_multipliers": [1, 2]}
    recipe["discriminator"] = [
        {"use": "dvd-spatial", "num_classes": num, "num_frames_drawn": 2, **small} for num in read
    ]
    if not complaint:
        zoo.build(recipe, device="meta")
        return
    with pytest.raises(PortError, match=complaint):
        zoo.build(recipe, device="meta")


def test_a_player_that_never_gets_finite_stops_the_run_though_the_other_does() -> None:
    recipe = copy.deepcopy(GAN)
    recipe["train"]["not_finite"] = "skip"
    run = start(zoo.build(recipe, seed=0), torch.device("cpu"))
    next(run.model.generator.parameters()).register_hook(lambda gradient: gradient * math.nan)
    data = batches()
    for _ in range(IN_A_ROW):
        training_step(run, data)
    with pytest.raises(NotFiniteError, match=f"{IN_A_ROW} updates in a row"):
        training_step(run, data)
    assert run.opponent is not None
    assert run.opponent.skipped == 0
