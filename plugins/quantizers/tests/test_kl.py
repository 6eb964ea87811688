"""The Gaussian bottleneck of latent diffusion: its numbers, its sampling, its two moments.

Shapes: B batch, D latent channels, t h w the latent grid.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from zoo.errors import PortError, RecipeError
from zoo_quantizers.kl import KL

GOLDEN_KL = 68.86477661132812
GOLDEN_SAMPLE = [-3.017137050628662, 0.43343186378479004, 2.0858354568481445]


def moments(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_numbers_of_latent_diffusion_and_vidtok() -> None:
    """Given by `DiagonalGaussianDistribution` and the loss of both public programs, for these moments."""
    parameters = torch.linspace(-3.0, 3.0, 2 * 6 * 8).sin().mul(2.5).view(2, 6, 2, 2, 2)
    torch.manual_seed(11)
    out = KL(latent_dim=3, kl_weight=1e-6).train()(parameters)
    assert out.stats["kl"].item() == pytest.approx(GOLDEN_KL, rel=1e-6)
    assert out.loss.item() == pytest.approx(1e-6 * GOLDEN_KL, rel=1e-6)
    torch.testing.assert_close(out.z_BDthw[1, :, 1, 0, 1], torch.tensor(GOLDEN_SAMPLE), rtol=1e-6, atol=1e-6)


def test_kl_is_that_of_torch_and_eval_takes_the_mean() -> None:
    parameters = moments(0, 2, 8, 2, 3, 2)
    mean, logvar = parameters.chunk(2, dim=1)
    kl = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(dim=(1, 2, 3, 4)).mean()
    state = torch.get_rng_state()
    out = KL(latent_dim=4, kl_weight=0.01).eval()(parameters)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(out.z_BDthw, mean)
    assert out.indices_Bqthw is None
    torch.testing.assert_close(out.stats["kl"], kl)
    torch.testing.assert_close(out.loss, 0.01 * kl)


def test_training_samples_the_gaussian_and_both_moments_learn() -> None:
    torch.manual_seed(0)
    values = torch.tensor([3.0, -1.0, 0.0, -2.0]).view(1, 4, 1, 1, 1)
    parameters = values.repeat(1, 1, 20, 40, 40).requires_grad_()
    out = KL(latent_dim=2).train()(parameters)
    sample = out.z_BDthw[0].flatten(1)
    assert sample.mean(dim=1).tolist() == pytest.approx([3, -1], abs=0.03)
    assert sample.var(dim=1).log().tolist() == pytest.approx([0, -2], abs=0.05)
    sample.square().sum().backward()
    assert parameters.grad is not None
    assert (parameters.grad != 0).all()


def test_log_variance_is_clamped_on_both_sides() -> None:
    parameters = torch.tensor([0.0, 0.0, 1e4, -1e4]).view(1, 4, 1, 1, 1)
    out = KL(latent_dim=2).train()(parameters)
    assert out.z_BDthw.isfinite().all()
    high, low = (0.5 * (torch.tensor(v).exp().item() - 1 - v) for v in (20.0, -30.0))
    assert out.stats["kl"].item() == pytest.approx(high + low, rel=1e-6)


def test_precision_meta_and_copies() -> None:
    part, parameters = KL(latent_dim=4).eval(), moments(1, 1, 8, 2, 2, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = part(parameters)
    assert torch.equal(out.z_BDthw, part(parameters.float()).z_BDthw)
    assert copy.deepcopy(part).bfloat16()(parameters).z_BDthw.dtype == torch.bfloat16
    assert part.state_dict() == {}
    with torch.device("meta"):
        assert KL()(torch.empty(2, 8, 1, 3, 2)).z_BDthw.shape == (2, 4, 1, 3, 2)


def test_bad_use_is_refused() -> None:
    with pytest.raises(RecipeError, match="latent_dim is 0"):
        KL(latent_dim=0)
    with pytest.raises(RecipeError, match=r"kl_weight is -1\.0"):
        KL(kl_weight=-1.0)
    with pytest.raises(PortError, match=r"2 \* latent_dim = 8"):
        KL()(torch.zeros(1, 4, 1, 1, 1))
