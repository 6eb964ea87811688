"""Loss terms against their formulas and their derivatives worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import zoo
from zoo.errors import TrainingError
from zoo.outputs import Judged
from zoo.recipes import Perceptual, Recipe, Reconstruction
from zoo.training import objectives
from zoo.training.objectives import GAMES

SCORES = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=8)


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


# name -> (d loss_D / d real, d loss_D / d fake, d loss_G / d fake), each per score before the mean.
DERIVATIVES: dict[str, Any] = {
    "minimax": (lambda r: sigmoid(r) - 1, lambda f: sigmoid(f), lambda f: -sigmoid(f)),
    "non-saturating": (lambda r: sigmoid(r) - 1, lambda f: sigmoid(f), lambda f: sigmoid(f) - 1),
    "hinge": (lambda r: -(r < 1).double(), lambda f: (f > -1).double(), lambda f: -torch.ones_like(f)),
    "least-squares": (lambda r: r - 1, lambda f: f, lambda f: f - 1),
    "wasserstein": (lambda r: -torch.ones_like(r), torch.ones_like, lambda f: -torch.ones_like(f)),
}


@pytest.mark.parametrize("name", [name for name in GAMES if not GAMES[name].paired])
@settings(deadline=None)
@given(real=SCORES, fake=SCORES)
def test_gradients_of_a_game_are_those_worked_out_by_hand(
    name: str, real: list[float], fake: list[float]
) -> None:
    game, (by_real, by_fake, by_made) = GAMES[name], DERIVATIVES[name]
    r, f, made = tensor(real), tensor(fake), tensor(fake)
    game.discriminator_loss(r, f).backward()
    game.generator_loss(made, None).backward()
    for score, derivative in ((r, by_real), (f, by_fake), (made, by_made)):
        torch.testing.assert_close(score.grad, derivative(score.detach()) / score.numel())


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(*[st.floats(-30, 30, width=32)] * 2), min_size=1, max_size=8))
def test_gradients_of_the_relativistic_game_are_those_of_each_pair(pairs: list[tuple[float, float]]) -> None:
    game = GAMES["relativistic"]
    reals, fakes = ([pair[side] for pair in pairs] for side in (0, 1))
    r, f, made = tensor(reals), tensor(fakes), tensor(fakes)
    game.discriminator_loss(r, f).backward()
    game.generator_loss(made, r.detach()).backward()
    lost = sigmoid(f - r).detach() / len(pairs)
    torch.testing.assert_close(r.grad, -lost)
    torch.testing.assert_close(f.grad, lost)
    torch.testing.assert_close(made.grad, -sigmoid(r - f).detach() / len(pairs))


def test_a_relativistic_generator_needs_a_real_score_for_each_made_one() -> None:
    game, weights = GAMES["relativistic"], [2.0]
    fake = torch.tensor([1.0, -1.0], requires_grad=True)
    real = torch.tensor([0.5, 3.0], requires_grad=True)
    term = objectives.generator_term(game, [Judged([fake], [])], weights, [Judged([real], [])])
    expected = 2 * (torch.log1p(torch.exp(torch.tensor([-0.5, 4.0])))).mean()
    torch.testing.assert_close(term, expected)
    term.backward()
    assert real.grad is None
    with pytest.raises(TrainingError, match="pass reals="):
        objectives.generator_term(game, [Judged([fake], [])], weights)
    # One real score would broadcast over both made ones and pair them wrongly.
    with pytest.raises(TrainingError, match="as many real as made"):
        objectives.generator_term(game, [Judged([fake], [])], weights, [Judged([real[:1]], [])])
    with pytest.raises(TrainingError, match="as many real as made"):
        objectives.discriminator_term(game, [Judged([real[:1]], [])], [Judged([fake], [])])


def test_feature_matching_compares_clips_of_a_pair_and_means_of_strangers() -> None:
    real = Judged([], [torch.tensor([[0.0], [4.0]]), torch.zeros(2, 3)])
    made = torch.tensor([[4.0], [0.0]], requires_grad=True)
    fake = Judged([], [made, torch.ones(2, 3, requires_grad=True)])
    paired = objectives.feature_matching_term([real], [fake], [0.5], paired=True)
    assert paired.item() == 0.5 * (4 + 1) / 2
    # Of unrelated clips the first layer's means agree, though no clip is like its neighbour.
    strangers = objectives.feature_matching_term([real], [fake], [0.5], paired=False)
    assert strangers.item() == 0.5 * (0 + 1) / 2
    with pytest.raises(TrainingError, match="number 1 returns no features"):
        objectives.feature_matching_term([Judged([], [])], [Judged([], [])], [1.0], paired=True)


@settings(deadline=None)
@given(real=SCORES, fake=SCORES)
def test_bce_is_minus_the_value_function(real: list[float], fake: list[float]) -> None:
    r, f = tensor(real), tensor(fake)
    value = torch.log(sigmoid(r)).mean() + torch.log(sigmoid(-f)).mean()
    torch.testing.assert_close(objectives.bce_discriminator_loss(r, f), -value, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(
        objectives.minimax_generator_loss(f), torch.log(sigmoid(-f)).mean(), rtol=1e-6, atol=1e-9
    )


@settings(deadline=None)
@given(fake=SCORES)
def test_non_saturating_is_minimax_with_the_score_taken_off(fake: list[float]) -> None:
    """-log D = log(1 - D) - score: the same sign of pull, but of slope D - 1 rather than -D."""
    f = tensor(fake)
    difference = objectives.non_saturating_generator_loss(f) - objectives.minimax_generator_loss(f)
    # softplus(-f) + softplus(f) = f + 2 softplus(-f)
    torch.testing.assert_close(difference, (f + 2 * torch.nn.functional.softplus(-f)).mean())


def test_minimax_saturates_where_the_discriminator_wins_and_the_other_does_not() -> None:
    pulls = {}
    for name in ("minimax", "non-saturating"):
        f = tensor([-10.0])
        GAMES[name].generator_loss(f, None).backward()
        assert f.grad is not None
        pulls[name] = float(f.grad)
    assert -1e-4 < pulls["minimax"] < 0
    assert pulls["non-saturating"] < -0.999


@pytest.mark.parametrize("name", GAMES)
def test_losses_stay_finite_at_extreme_scores(name: str) -> None:
    scores = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(GAMES[name].generator_loss(scores, scores.flip(0)))
    assert torch.isfinite(GAMES[name].discriminator_loss(scores, scores))


def test_heads_count_alike_and_discriminators_by_their_weight() -> None:
    small, large = torch.tensor([1.0, 3.0]), torch.full((2, 50), 6.0)
    verdicts = [Judged([small, large], []), Judged([small], [])]
    loss = objectives.generator_term(GAMES["hinge"], verdicts, [0.5, 2.0])
    assert float(loss) == pytest.approx(0.5 * -(2.0 + 6.0) / 2 + 2.0 * -2.0)
    opposing = objectives.discriminator_term(GAMES["least-squares"], verdicts, verdicts)
    squares = [((x - 1).square().mean() + x.square().mean()) / 2 for x in (small, large)]
    assert float(opposing) == pytest.approx(float((squares[0] + squares[1]) / 2 + squares[0]))


def test_adaptive_weight_is_the_ratio_of_the_gradients_at_the_last_layer() -> None:
    torch.manual_seed(0)
    last, judge = nn.Linear(3, 2), nn.Linear(2, 1)
    x, target = torch.randn(5, 3), torch.randn(5, 2)
    made = last(x)
    reference, adversarial = (made - target).square().mean(), -judge(made).mean()
    weight = objectives.adaptive_weight(reference, adversarial, last.weight)
    # d/dW mean((xW' + b - t)^2) = 2 (made - t)' x / (5 * 2);  d/dW -mean(v made' + c) = -v' mean(x)
    by_reference = 2 * (made - target).T @ x / made.numel()
    by_adversarial = -judge.weight.T @ x.mean(0, keepdim=True)
    expected = by_reference.norm() / (by_adversarial.norm() + 1e-4)
    torch.testing.assert_close(weight, expected.detach())
    assert not weight.requires_grad
    assert last.weight.grad is None
    (reference + weight * adversarial).backward()  # both graphs are still there


def test_adaptive_weight_is_cut_at_ten_thousand() -> None:
    w = nn.Parameter(torch.ones(1))
    assert float(objectives.adaptive_weight(1e9 * w.sum(), 1e-9 * w.sum(), w)) == 1e4


@pytest.mark.parametrize(("loss", "expected"), [("l1", 0.5), ("mse", 0.25)])
def test_reconstruction_is_a_mean_in_fp32(loss: str, expected: float) -> None:
    made = torch.full((1, 3, 2, 4, 4), 0.5, dtype=torch.bfloat16)
    term = objectives.reconstruction_term(Reconstruction(loss=loss), made, torch.zeros_like(made))  # type: ignore[arg-type]
    assert term.dtype is torch.float32
    assert float(term) == expected


class FrameNumber(nn.Module):
    """A distance that tells which frames it was shown."""

    seen: Tensor

    def forward(self, x_NCHW: Tensor, y_NCHW: Tensor) -> Tensor:
        assert torch.equal(x_NCHW, y_NCHW + 100)
        self.seen = y_NCHW.mean((1, 2, 3))
        return self.seen


def test_perceptual_term_draws_different_frames_of_each_clip_and_pairs_them_rightly() -> None:
    number_BT = torch.arange(12.0).view(2, 6)
    x = number_BT[:, None, :, None, None].expand(2, 3, 6, 4, 4)
    lpips = FrameNumber()
    term = Perceptual(num_frames=4)
    objectives.perceptual_term(term, lpips, x + 100, x, generator=torch.Generator().manual_seed(1))
    first, second = lpips.seen.tolist()[:4], lpips.seen.tolist()[4:]
    assert len(set(first)) == len(set(second)) == 4
    assert set(first) <= set(range(6))
    assert set(second) <= set(range(6, 12))
    objectives.perceptual_term(Perceptual(), lpips, x + 100, x, generator=torch.Generator())
    assert lpips.seen.tolist() == list(range(12))


def recipe(assembly: str, objective: dict[str, Any], **more: Any) -> Recipe:
    return Recipe.model_validate(
        {"summary": "For tests.", "assembly": assembly, "train": {"objective": objective}, **more}
    )


@pytest.mark.parametrize(
    ("assembly", "objective", "discriminator", "hint"),
    [
        ("autoencoder", {}, [], "no objective"),
        ("autoencoder", {"quantizer": {}}, [], "no objective"),
        ("autoencoder", {"reconstruction": {}, "adversarial": {}}, [], "no discriminator"),
        ("autoencoder", {"reconstruction": {}}, ["patch3d"], "never learn"),
        ("gan", {"reconstruction": {}, "adversarial": {}}, ["patch3d"], "reconstructs nothing"),
        ("gan", {"adversarial": {"adaptive": True}}, ["patch3d"], "adaptive: false"),
        ("gan", {"adversarial": {"start_step": 5}}, ["patch3d"], "start_step: 0"),
        (
            "gan",
            {"adversarial": {"loss": "relativistic", "augment": {"use": "ada"}}},
            ["patch3d"],
            "zero is not where a discriminator is undecided",
        ),
        (
            "gan",
            {"adversarial": {"augment": {"use": "ada", "geometric": False, "color": False}}},
            ["patch3d"],
            "nothing to do; set its geometric or color",
        ),
        (
            "gan",
            {"adversarial": {"augment": {"use": "diffaugment", "policy": []}}},
            ["patch3d"],
            "nothing to do; set its policy",
        ),
        (
            "autoencoder",
            {"reconstruction": {}, "adversarial": {"path_length": {}}},
            ["patch3d"],
            "path_length: null",
        ),
    ],
)
def test_an_objective_that_cannot_train_is_refused_with_what_to_set(
    assembly: str, objective: dict[str, Any], discriminator: list[str], hint: str
) -> None:
    with pytest.raises(TrainingError, match=hint):
        objectives.check_objective("x", recipe(assembly, objective, discriminator=discriminator))


@pytest.mark.parametrize(
    "adversarial",
    [
        {"loss": "wasserstein", "gradient_penalty": {}},
        {"loss": "relativistic", "r1": {"weight": 1.0}, "r2": {"weight": 1.0}},
        {"loss": "hinge", "augment": {"use": "ada", "interval": 8}, "lecam": {"weight": 0.1}},
        {"loss": "relativistic", "augment": {"use": "diffaugment", "policy": ["translation"]}},
    ],
)
def test_stabilisers_that_suit_the_game_are_accepted(adversarial: dict[str, Any]) -> None:
    objectives.check_objective("x", recipe("gan", {"adversarial": adversarial}, discriminator=["patch3d"]))


@pytest.mark.parametrize(
    ("discriminator", "more", "held"),
    [
        ({"use": "patch3d", "num_layers": 2}, {}, False),
        ({"use": "patch3d", "num_layers": 2}, {"spectral_norm": True}, True),
        ({"use": "patch3d", "num_layers": 2}, {"gradient_penalty": {}}, True),
        ({"use": "dvd-temporal", "base_channels": 2, "channel_multipliers": [2, 4, 8]}, {}, True),
    ],
)
def test_the_wasserstein_game_needs_what_holds_slopes(
    discriminator: dict[str, Any], more: dict[str, Any], held: bool
) -> None:
    objective = {"adversarial": {"loss": "wasserstein", "r1": None, **more}}
    model = zoo.build("gan-video-tiny", seed=0, discriminator=[discriminator], train={"objective": objective})
    adversarial = model.recipe.train.objective.adversarial
    assert adversarial is not None
    if held:
        objectives.check_slopes(model, adversarial)
        return
    with pytest.raises(TrainingError, match=r"gradient_penalty: \{weight: 10\}"):
        objectives.check_slopes(model, adversarial)


def test_colours_of_clips_that_have_none_are_refused() -> None:
    objective = {"adversarial": {"augment": {"use": "diffaugment"}}}
    asked = recipe("gan", objective, discriminator=["patch3d"], clip={"channels": 2})
    with pytest.raises(TrainingError, match="clips of 1, 3 or 4"):
        objectives.check_objective("x", asked)


@pytest.mark.parametrize(
    ("clip", "fits"),
    [({"height": 30}, False), ({"channels": 2}, False), ({"height": 31, "width": 31, "channels": 1}, True)],
)
def test_a_perceptual_term_that_the_clips_do_not_suit_is_refused(clip: dict[str, int], fits: bool) -> None:
    asked = recipe("autoencoder", {"reconstruction": {}, "perceptual": {}}, clip=clip)
    if fits:
        objectives.check_objective("x", asked)
        return
    with pytest.raises(TrainingError, match="grey or RGB frames of at least 31x31"):
        objectives.check_objective("x", asked)
