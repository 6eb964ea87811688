"""Distances between sets of features, beside numpy, closed forms and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import ZooError
from zoo.metrics.bootstrap import draws, interval, times_drawn
from zoo.metrics.distribution import FeatureSet
from zoo.metrics.frechet import GaussianStatistics, frechet_distance, frechet_of_features
from zoo.metrics.kernel import kernel_distance
from zoo.metrics.manifold import inside_manifolds


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def statistics(z_ND: Tensor, *, step: int = 7) -> GaussianStatistics:
    found = GaussianStatistics(z_ND.shape[1])
    for part in torch.split(z_ND, step):
        found.update(part)
    return found


def by_numpy(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    a, b = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    roots = np.sqrt(np.linalg.eigvals(a @ b).real.clip(0)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * roots)


def test_streamed_statistics_are_numpys_even_far_from_zero() -> None:
    z_ND = normal(0, 103, 6) * torch.logspace(-2, 2, 6, dtype=torch.float64) + 1e6
    for step in (1, 7, 103):
        found = statistics(z_ND, step=step)
        assert found.num == 103
        np.testing.assert_allclose(found.mean_D, z_ND.mean(0), rtol=1e-14)
        np.testing.assert_allclose(found.covariance_DD, np.cov(z_ND, rowvar=False), rtol=1e-7, atol=1e-9)


def test_a_feature_that_is_not_finite_is_refused_and_changes_nothing() -> None:
    found = statistics(normal(0, 5, 3))
    before = found.covariance_DD
    for bad in (torch.full((2, 3), math.nan), torch.zeros(2, 4)):
        with pytest.raises(ZooError, match=r"finite|shape"):
            found.update(bad)
    assert torch.equal(found.covariance_DD, before)
    with pytest.raises(ZooError, match="at least 2"):
        _ = statistics(normal(0, 1, 3)).covariance_DD


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 24), st.integers(0, 10**6))
def test_both_routes_are_one_and_numpys(num: int, other: int, features: int, seed: int) -> None:
    mix = normal(seed + 2, features, features)
    x, y = normal(seed, num, features), normal(seed + 1, other, features) @ mix + 0.3
    found = frechet_distance(statistics(x), statistics(y))
    scale = float(x.square().sum() / num + y.square().sum() / other)
    # Of singular covariances numpy's zero eigenvalues come out as rounding, and their roots add up.
    assert found == pytest.approx(by_numpy(x.numpy(), y.numpy()), rel=1e-6, abs=2e-6 * scale * features)
    assert frechet_of_features(x, y) == pytest.approx(found, rel=1e-6, abs=2e-6 * scale)
    assert frechet_distance(statistics(y), statistics(x)) == pytest.approx(found, rel=1e-6, abs=2e-6 * scale)
    assert frechet_distance(statistics(x), statistics(x)) == pytest.approx(0, abs=2e-6 * scale)


def test_the_closed_form_of_independent_features() -> None:
    x = normal(0, 400, 3)
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T  # exactly white
    y = x * torch.tensor([1.0, 2.0, 3.0]) + torch.tensor([0.0, 5.0, 0.0])
    assert frechet_distance(statistics(x), statistics(y)) == pytest.approx(25 + 1 + 4, rel=1e-10)


def test_kernel_distance_is_the_plain_double_sum_and_weights_are_copies_without_their_pairs() -> None:
    x, y = normal(0, 6, 4), normal(1, 5, 4) + 0.5

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / 4 + 1) ** 3)

    within = [
        sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1))
        for z in (x, y)
    ]
    cross = sum(k(a, b) for a in x for b in y) / 30
    assert float(kernel_distance(x, y)) == pytest.approx(within[0] + within[1] - 2 * cross, rel=1e-12)
    u, v = torch.tensor([[1.0, 1, 1, 1, 1, 1], [0, 2, 2, 0, 2, 0]]), torch.ones(2, 5)
    one, two = kernel_distance(x, y, weights_RN=u, weights_RM=v).tolist()
    assert one == pytest.approx(float(kernel_distance(x, y)), rel=1e-12)
    assert two == pytest.approx(float(kernel_distance(x[[1, 2, 4]], y)), rel=1e-12)


def test_kernel_distance_is_zero_on_average_and_the_same_in_rows_of_any_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    same = torch.stack([kernel_distance(normal(i, 30, 3), normal(1000 + i, 30, 3)) for i in range(200)])
    assert abs(float(same.mean())) < 3 * float(same.std()) / 200**0.5
    assert float(same.min()) < 0
    x, y = normal(0, 60, 3), normal(1, 50, 3) + 0.5
    weights = {
        "weights_RN": times_drawn(draws(60, 4, seed=0)),
        "weights_RM": times_drawn(draws(50, 4, seed=1)),
    }
    whole, replicates = kernel_distance(x, y), kernel_distance(x, y, **weights)
    monkeypatch.setattr("zoo.metrics.kernel.ROWS_AT_ONCE", 7)
    torch.testing.assert_close(kernel_distance(x, y), whole, rtol=1e-12, atol=0)
    torch.testing.assert_close(kernel_distance(x, y, **weights), replicates, rtol=1e-12, atol=0)


def test_few_clips_against_many_have_a_kernel_distance_and_an_interval() -> None:
    x, y = normal(0, 4, 3), normal(1, 2500, 3)
    u, v = times_drawn(draws(4, 100, seed=0)), times_drawn(draws(2500, 100, seed=1))
    found = kernel_distance(x, y, weights_RN=u, weights_RM=v)
    assert int(found.isfinite().sum()) > 90
    assert interval(float(kernel_distance(x, y)), found, seed=0, over="clips") is not None


def test_there_is_no_interval_where_most_replicates_have_no_figure() -> None:
    replicates = torch.tensor([1.0, math.nan, math.nan])
    assert interval(1.0, replicates, seed=0, over="clips") is None
    assert interval(1.0, replicates[1:], seed=0, over="clips") is None


def test_precision_and_recall_are_those_of_plain_loops_and_tell_collapse_from_nonsense() -> None:
    real, fake = normal(0, 30, 2), 0.7 * normal(1, 25, 2) + 0.4

    def share(asked: Tensor, other: Tensor) -> float:
        radii = [sorted(math.dist(a, b) for b in other.tolist())[3] for a in other.tolist()]
        inside = [
            any(math.dist(z, c) <= r for c, r in zip(other.tolist(), radii, strict=True))
            for z in asked.tolist()
        ]
        return sum(inside) / len(inside)

    found = inside_manifolds(real, fake)
    assert float(found.fake_M.double().mean()) == pytest.approx(share(fake, real))
    assert float(found.real_N.double().mean()) == pytest.approx(share(real, fake))
    collapsed = inside_manifolds(real, real[:1] + 1e-3 * normal(2, 20, 2))
    assert bool(collapsed.fake_M.all())
    assert float(collapsed.real_N.double().mean()) < 0.1
    nonsense = inside_manifolds(real, fake + 100)
    assert not bool(nonsense.fake_M.any())
    assert not bool(nonsense.real_N.any())
    with pytest.raises(ZooError, match="more than 3 clips"):
        inside_manifolds(real[:3], fake)


def test_the_interval_of_a_mean_is_that_of_theory_and_its_centre_is_the_figure() -> None:
    x = normal(0, 400)
    rows = draws(400, 2000, seed=1)
    found = interval(float(x.mean()), x[rows].mean(1) + 5.0, seed=1, over="clips")  # a bias is taken out
    assert found is not None
    half = 1.96 * float(x.std()) / 20
    assert found["high"] - float(x.mean()) == pytest.approx(half, rel=0.1)
    assert float(x.mean()) - found["low"] == pytest.approx(half, rel=0.1)
    assert (found["level"], found["replicates"]) == (0.95, 2000)
    assert torch.equal(times_drawn(rows)[0], torch.bincount(rows[0], minlength=400).double())


def test_the_memory_of_a_side_is_bounded_and_what_is_kept_is_a_fair_sample() -> None:
    side = FeatureSet(1, seed=0, keep=200)
    z_N1 = torch.arange(5000.0)[:, None]
    for part in torch.split(z_N1, 64):
        side.update(part)
    assert side.kept_ND.shape == (200, 1)
    assert len(set(side.kept_ND.flatten().tolist())) == 200
    assert float(side.kept_ND.mean()) == pytest.approx(2500, abs=4 * 1443 / 200**0.5)
    assert side.gaussian.num == 5000
    assert float(side.gaussian.mean_D) == pytest.approx(2499.5)
