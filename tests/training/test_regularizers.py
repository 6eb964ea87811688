"""Penalties against derivatives worked out by hand, and against finite differences of the discriminators."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.outputs import Judged
from zoo.training import regularizers
from zoo.training.regularizers import LecamMeans, PathLengthMean


class Quadratic(nn.Module):
    """Heads a * sum(x^2) with a map of as many equal scores as asked: its slope is 2 a x."""

    def __init__(self, factors: Sequence[float], scores: Sequence[int]) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.tensor(factors))
        self.scores = scores

    def forward(self, x: Tensor) -> Judged:
        energy_B = x.square().flatten(1).sum(1)
        heads = zip(self.factors, self.scores, strict=True)
        return Judged([(a * energy_B)[:, None].repeat(1, num) for a, num in heads], [])


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, 2, 4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_r1_is_the_squared_slope_of_each_judge_s_mean_score(x: Tensor) -> None:
    judges = [Quadratic([1.0, 3.0], [1, 7]), Quadratic([0.5], [4])]
    penalty = regularizers.gradient_penalty_r1([judge(x) for judge in judges], x)
    energy = x.detach().square().sum() / len(x)
    # Slopes 2 * (1 + 3) / 2 and 2 * 0.5 times x; judges add up and do not mix.
    torch.testing.assert_close(penalty, (4**2 + 1**2) * energy)
    penalty.backward()
    # d/da of (2 * mean(a) * |x|)^2 = 4 * 2 * mean(a) * (1 / 2) * |x|^2 for each of two heads.
    torch.testing.assert_close(judges[0].factors.grad, torch.full((2,), 4 * 2 * 2.0 / 2) * energy)
    torch.testing.assert_close(judges[1].factors.grad, torch.tensor([4 * 2 * 0.5]) * energy)


def test_wgan_penalty_is_zero_at_slope_one_and_grows_either_way(x: Tensor) -> None:
    length_B = x.detach().square().flatten(1).sum(1).sqrt()
    judge = Quadratic([0.25], [1])
    penalty = regularizers.gradient_penalty_wgan([judge(x)], x)
    torch.testing.assert_close(penalty, (0.5 * length_B - 1).square().mean())
    still = torch.zeros_like(x).requires_grad_()
    flat = regularizers.gradient_penalty_wgan([judge(still)], still)
    flat.backward()
    assert flat.item() == 1
    assert judge.factors.grad is not None
    assert torch.isfinite(judge.factors.grad).all()


@pytest.mark.parametrize("penalise", [regularizers.gradient_penalty_r1, regularizers.gradient_penalty_wgan])
def test_penalties_of_a_network_under_autocast_are_fp32_and_near_those_without(
    penalise: Callable[[Sequence[Judged], Tensor], Tensor], x: Tensor
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(2, 8, 3, padding=1), nn.SiLU(), nn.Conv3d(8, 1, 3, padding=1))
    results = []
    for autocast in (False, True):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            judged = Judged([net(x)], [])
            penalty = penalise([judged], x)
        penalty.backward()
        weight = net[0].weight
        assert isinstance(weight, Tensor)
        assert weight.grad is not None
        assert penalty.dtype is torch.float32
        results.append((penalty.detach(), weight.grad.clone()))
    (plain, plain_gradient), (mixed, mixed_gradient) = results
    torch.testing.assert_close(mixed, plain, rtol=0.05, atol=1e-6)
    torch.testing.assert_close(
        mixed_gradient, plain_gradient, rtol=0.1, atol=0.05 * float(plain_gradient.std())
    )


def test_clips_between_lie_on_the_line_of_their_own_pair_and_differ_in_place() -> None:
    real, made = (
        torch.zeros(4, 1, 2, 3, 3),
        torch.arange(1.0, 5)[:, None, None, None, None].expand(4, 1, 2, 3, 3),
    )
    between = regularizers.between(real, made, generator=torch.Generator().manual_seed(0))
    assert between.is_leaf
    assert between.requires_grad
    share = (between.detach() / made).flatten(1)
    assert torch.equal(share, share[:, :1].expand_as(share))
    assert share[:, 0].unique().numel() == 4
    assert 0 <= share.min() <= share.max() <= 1


def test_a_verdict_without_gradient_is_refused(x: Tensor) -> None:
    with torch.no_grad():
        judged = Judged([x.flatten(1).sum(1)], [])
    with pytest.raises(TrainingError, match="judged without gradient"):
        regularizers.gradient_penalty_r1([judged], x)


def test_lazy_penalties_count_as_often_as_plain_ones() -> None:
    assert [regularizers.due(4, update) for update in range(6)] == [4, 0, 0, 0, 4, 0]
    assert sum(regularizers.due(16, update) for update in range(160)) == 160


def verdict(*heads: float) -> Judged:
    return Judged([torch.tensor([[head - 1], [head + 1]], requires_grad=True) for head in heads], [])


def test_lecam_holds_scores_to_the_other_side_s_running_mean_by_head() -> None:
    lecam = LecamMeans(2, decay=0.75)
    # First: means are the batch's own. r - mean f is 2 +- 1 and mean r - f the same: 5 each, for each head.
    first = lecam([verdict(1.0, 11.0), verdict(0.0)], [verdict(-1.0, 9.0), verdict(0.0)])
    equal = 2 * 0.5  # where means agree, half the scores lie on the wrong side, by 1
    assert first.item() == pytest.approx(10 + equal)
    real = verdict(5.0, 11.0)
    second = lecam([real, verdict(0.0)], [verdict(-1.0, 9.0), verdict(0.0)])
    mean_real = 0.75 * 1 + 0.25 * 5  # 2
    # Head 0: r - mean f = 6 +- 1, mean r - f = 3 +- 1.
    head = (49 + 25) / 2 + (16 + 4) / 2
    assert float(lecam.real[0, 0]) == pytest.approx(mean_real)
    assert second.item() == pytest.approx((head + 10) / 2 + equal)
    second.backward()
    gradient = real.logits[0].grad
    assert gradient is not None
    torch.testing.assert_close(gradient, torch.tensor([[2 * 5.0], [2 * 7.0]]) / 2 / 2)

    again = LecamMeans(2, decay=0.75)
    again.load_state_dict(lecam.state_dict())
    inputs = [verdict(2.0, 1.0), verdict(1.0)], [verdict(0.0, 3.0), verdict(-2.0)]
    assert again(*inputs).item() == lecam(*inputs).item()


def test_path_length_is_that_of_a_linear_generator() -> None:
    """For x = A w the expected squared length is |A|_F^2 over the clip's size, whatever w is."""
    torch.manual_seed(0)
    size, num = (3, 2, 8, 8), 4000
    matrix = torch.randn(6, math.prod(size), dtype=torch.float32) / 4
    w = torch.randn(num, 6, requires_grad=True)
    path = PathLengthMean(decay=1.0)
    x_BCTHW = (w @ matrix).view(num, *size)
    penalty = path(x_BCTHW, [w], generator=torch.Generator().manual_seed(1))
    # With decay 1 the mean is the batch's own, and the penalty the variance of the lengths.
    expected = matrix.square().sum() / (2 * 8 * 8)
    torch.testing.assert_close(path.mean.square() + penalty, expected, rtol=0.02, atol=0)
    assert penalty.item() > 0


def test_path_length_averages_over_layers_moves_its_mean_and_reaches_the_generator() -> None:
    scale = nn.Parameter(torch.tensor(2.0))
    path = PathLengthMean(decay=0.01)
    w = torch.randn(5, 4, 3, requires_grad=True)  # four layers
    x_BCTHW = (scale * w.mean(1)).view(5, 3, 1, 1, 1)
    path(x_BCTHW, [w], generator=torch.Generator().manual_seed(1)).backward()
    noise = torch.randn(x_BCTHW.shape, generator=torch.Generator().manual_seed(1)).flatten(1)
    length_B = 2.0 / 4 * noise.norm(dim=1)  # each layer has a quarter of the slope, and their mean is taken
    assert float(path.mean) == pytest.approx(float(0.01 * length_B.mean()), rel=1e-5)
    assert scale.grad is not None
    slope = (2 * (length_B - path.mean) * length_B / 2.0).mean()
    torch.testing.assert_close(scale.grad, slope)
    assert set(path.state_dict()) == {"mean"}


def test_path_length_is_the_same_beside_rows_that_the_clip_does_not_depend_on() -> None:
    lengths = []
    for rows in (2, 7):
        w = torch.randn(5, rows, 3, requires_grad=True)
        path = PathLengthMean()
        path(w[:, :2].mean(1).view(5, 3, 1, 1, 1), [w], generator=torch.Generator().manual_seed(1))
        lengths.append(float(path.mean))
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-6)
