"""`gumbel` and `ibq` against their formulas with the whole N x K softmax.

Shapes: B batch, D channels, t h w the latent grid, N vectors, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import RecipeError
from zoo.outputs import Quantized
from zoo_quantizers import recompute
from zoo_quantizers.gumbel import GumbelVQ
from zoo_quantizers.ibq import IBQ

N, K, D = 2 * 12, 7, 5


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(z_BDthw: Tensor) -> Tensor:
    return z_BDthw.flatten(2).transpose(1, 2).reshape(-1, z_BDthw.shape[1])


Formula = Callable[[Tensor], tuple[Tensor, Tensor]]


def assert_same(part: nn.Module, formula: Formula) -> Quantized:
    """Compare output, loss and all gradients of a training step with a formula of z_ND."""
    z = normal(0, 2, D, 1, 3, 4).requires_grad_()
    direction = normal(1, N, D)
    torch.manual_seed(0)
    out: Quantized = part.train()(z)
    ((rows(out.z_BDthw) * direction).sum() + out.loss).backward()
    got = [z.grad, *(p.grad for p in part.parameters())]
    z.grad = None
    part.zero_grad()
    torch.manual_seed(0)
    expected_ND, loss = formula(rows(z))
    ((expected_ND * direction).sum() + loss).backward()
    torch.testing.assert_close(rows(out.z_BDthw), expected_ND, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.loss, loss, rtol=1e-5, atol=1e-6)
    for mine, other in zip(got, [z.grad, *(p.grad for p in part.parameters())], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    return out


@pytest.mark.parametrize("hard", [True, False])
def test_gumbel_is_torchs_gumbel_softmax_and_the_kl(hard: bool) -> None:
    part = GumbelVQ(codebook_size=K, latent_dim=D, straight_through=hard, kl_weight=0.3, temperature=0.7)

    def formula(z_ND: Tensor) -> tuple[Tensor, Tensor]:
        logits_NK = part.logits(z_ND)
        drawn_NK = F.gumbel_softmax(logits_NK, tau=0.7, hard=hard)
        kl_N = math.log(K) - torch.distributions.Categorical(logits=logits_NK).entropy()
        return drawn_NK @ part.embeddings, 0.3 * kl_N.mean()

    out = assert_same(part, formula)
    if hard:
        assert torch.equal(out.z_BDthw, part.lookup(out.indices_Bqthw))


def test_gumbel_in_evaluation_takes_the_greatest_logit() -> None:
    part, z = GumbelVQ(codebook_size=K, latent_dim=D).eval(), normal(0, 2, D, 1, 3, 4)
    out = part(z)
    assert torch.equal(out.indices_Bqthw.flatten(), part.logits(rows(z)).argmax(dim=1))
    assert torch.equal(out.z_BDthw, part.lookup(out.indices_Bqthw))


def test_gumbel_temperature_falls_along_a_cosine_and_is_stored() -> None:
    options = {"codebook_size": K, "latent_dim": D, "anneal_steps": 4, "min_temperature": 0.5}
    part, z = GumbelVQ(**options).train(), normal(0, 1, D, 1, 1, 2)
    seen = [float(part(z).stats["temperature"]) for _ in range(3)]
    part.eval()(z)
    resumed = GumbelVQ(**options)
    resumed.load_state_dict(part.state_dict())
    seen += [float(resumed(z).stats["temperature"]) for _ in range(3)]
    wanted = [0.5 + 0.25 * (1 + math.cos(math.pi * min(step / 4, 1))) for step in range(6)]
    assert seen == pytest.approx(wanted)


@pytest.mark.parametrize("entropy_weight", [0.0, 0.05])
def test_ibq_is_the_published_formula(entropy_weight: float) -> None:
    part = IBQ(codebook_size=K, latent_dim=D, entropy_weight=entropy_weight, entropy_temperature=0.5)

    def formula(z_ND: Tensor) -> tuple[Tensor, Tensor]:
        codes_KD = part.embeddings
        logits_NK = z_ND @ codes_KD.t()
        soft_NK = logits_NK.softmax(dim=1)
        hard_NK = F.one_hot(soft_NK.argmax(dim=1), K).float()
        out_ND, code_ND = (hard_NK - soft_NK.detach() + soft_NK) @ codes_KD, hard_NK @ codes_KD
        loss = F.mse_loss(out_ND, z_ND) + F.mse_loss(z_ND, code_ND.detach())
        loss = loss + 0.25 * F.mse_loss(code_ND, z_ND.detach())
        p_NK = (logits_NK / 0.5).softmax(dim=1)
        mean_K = p_NK.mean(dim=0)
        entropy = -(p_NK * p_NK.log()).sum(dim=1).mean() + (mean_K * (mean_K + 1e-5).log()).sum()
        return out_ND, loss + entropy_weight * entropy

    out = assert_same(part, formula)
    assert torch.equal(out.z_BDthw, part.lookup(out.indices_Bqthw))
    assert torch.equal(part.eval()(normal(0, 2, D, 1, 3, 4)).indices_Bqthw, out.indices_Bqthw)


@pytest.mark.parametrize("part", [GumbelVQ, IBQ])
def test_pieces_change_nothing(part: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    module = part(codebook_size=K, latent_dim=D).train()
    results = []
    for most in (2**20, 5 * K):
        monkeypatch.setattr(recompute, "_MAX_SCORES", most)
        module.zero_grad()
        torch.manual_seed(0)
        out = module(normal(0, 2, D, 1, 3, 4))
        (out.z_BDthw.square().sum() + out.loss).backward()
        results.append([out.z_BDthw, out.loss, *(p.grad for p in module.parameters())])
    if part is IBQ:  # the draws of gumbel come in another order
        for whole, cut in zip(*results, strict=True):
            torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(results[0][1], results[1][1])


def test_bad_options_are_refused() -> None:
    for part, options in (
        (GumbelVQ, {"temperature": 0.0}),
        (GumbelVQ, {"min_temperature": -1.0}),
        (GumbelVQ, {"kl_weight": -1.0}),
        (IBQ, {"entropy_temperature": 0.0}),
        (IBQ, {"commitment": float("nan")}),
    ):
        with pytest.raises(RecipeError, match=f"{next(iter(options))} "):
            part(**options)
