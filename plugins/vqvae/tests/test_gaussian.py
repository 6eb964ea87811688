"""The Gaussian bottleneck: moments, sampling, KL."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from zoo.errors import PortError, RecipeError
from zoo_vqvae.gaussian import GaussianBottleneck


def test_kl_is_that_of_torch_and_eval_takes_the_mean() -> None:
    torch.manual_seed(0)
    bottleneck = GaussianBottleneck(latent_dim=4, kl_weight=0.01)
    z = torch.randn(2, 4, 2, 3, 2)
    mean, logvar = bottleneck.moments(z).chunk(2, dim=1)
    kl = kl_divergence(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(dim=1).mean()
    state = torch.get_rng_state()
    out = bottleneck.eval()(z)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(out.z_BDthw, mean)
    assert out.indices_Bqthw is None
    torch.testing.assert_close(out.stats["kl"], kl.detach())
    torch.testing.assert_close(out.loss, 0.01 * kl)
    assert not out.stats["kl"].requires_grad


def test_training_samples_the_gaussian_and_both_moments_learn() -> None:
    torch.manual_seed(0)
    bottleneck = GaussianBottleneck(latent_dim=2, kl_weight=0.0).train()
    with torch.no_grad():
        bottleneck.moments.weight.zero_()
        bottleneck.moments.bias.copy_(torch.tensor([3.0, -1.0, 0.0, -2.0]))
    sample = bottleneck(torch.zeros(1, 2, 20, 40, 40)).z_BDthw[0].flatten(1)
    assert sample.mean(dim=1).tolist() == pytest.approx([3, -1], abs=0.03)
    assert sample.log().isnan().any()  # a sample, not the mean
    assert sample.var(dim=1).log().tolist() == pytest.approx([0, -2], abs=0.05)
    bottleneck(torch.randn(1, 2, 2, 2, 2)).z_BDthw.square().sum().backward()
    assert (bottleneck.moments.bias.grad != 0).all()


def test_extreme_log_variance_is_clamped() -> None:
    bottleneck = GaussianBottleneck(latent_dim=1).train()
    with torch.no_grad():
        bottleneck.moments.bias.copy_(torch.tensor([0.0, 1e4]))
    out = bottleneck(torch.zeros(1, 1, 1, 2, 2))
    assert out.z_BDthw.isfinite().all()
    assert float(out.stats["kl"]) == pytest.approx(0.5 * (torch.tensor(20.0).exp().item() - 21), rel=1e-5)


def test_autocast_and_meta() -> None:
    bottleneck, z = GaussianBottleneck(latent_dim=4).eval(), torch.randn(1, 4, 2, 2, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = bottleneck(z)
    assert torch.equal(out.z_BDthw, bottleneck(z.float()).z_BDthw)
    assert bottleneck.bfloat16()(z).z_BDthw.dtype == torch.bfloat16
    with torch.device("meta"):
        assert GaussianBottleneck()(torch.empty(2, 16, 1, 3, 2)).z_BDthw.shape == (2, 16, 1, 3, 2)


def test_bad_use_is_refused() -> None:
    with pytest.raises(RecipeError, match="latent_dim is 0"):
        GaussianBottleneck(latent_dim=0)
    with pytest.raises(RecipeError, match=r"kl_weight -1\.0"):
        GaussianBottleneck(kl_weight=-1.0)
    with pytest.raises(PortError, match="latent_dim = 16"):
        GaussianBottleneck()(torch.zeros(1, 4, 1, 1, 1))
