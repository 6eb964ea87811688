"""Equality with vector-quantize-pytorch 1.32.0 over five training steps, held as numbers it gave.

`golden_residual_binary.json` has, per part, the loss and the indices of each step and what was learned
after it. Its BSQ is LFQ(spherical=True): the entropy over all codes, and a commitment averaged over the
channels where ours is summed. Its gradient of a residual output is left out: it counts every level.

Shapes: B batch, D channels, t h w the latent grid.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo_quantizers.bsq import BSQ
from zoo_quantizers.grouped_rvq import GroupedResidualVQ
from zoo_quantizers.lfq import LFQ
from zoo_quantizers.residual import ResidualCodes
from zoo_quantizers.rvq import ResidualVQ

GOLDEN = json.loads((Path(__file__).parent / "golden_residual_binary.json").read_text())
LATENT = (2, 4, 1, 4, 4)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ["rvq", "grouped-rvq"])
def test_residual_codebooks_take_the_peers_five_steps(name: str) -> None:
    golden = GOLDEN[name]
    options: dict[str, Any] = {"codebook_size": 5, "latent_dim": 4, "decay": 0.8, "commitment": 1.0}
    options |= {"restart_below": 0.0, "quantizer_dropout": 0.0}
    part: Any
    if name == "rvq":
        part = ResidualVQ(num_levels=3, **options)
        groups: list[ResidualCodes] = [part.residual]
    else:
        part = GroupedResidualVQ(num_groups=2, num_levels=2, **options)
        groups = list(part.groups)
    levels: list[Any] = [level for group in groups for level in group.levels]
    for g, group in enumerate(groups):
        for number, level in enumerate(group.levels):
            codes_KD = normal(10 * g + number, 5, 4 // len(groups)) / (number + 1)
            state = {"embeddings": codes_KD, "z_avg": codes_KD, "initialized": torch.tensor(True)}
            level.load_state_dict(level.state_dict() | state)
    part.train()
    for step in range(5):
        z = normal(100 + step, *LATENT).requires_grad_()
        out = part(z)
        assert out.indices_Bqthw.flatten().tolist() == golden["indices"][step]
        assert out.loss.item() == pytest.approx(golden["losses"][step], rel=1e-5)
    (gradient,) = torch.autograd.grad(out.loss, z)
    torch.testing.assert_close(gradient.flatten(), torch.tensor(golden["gradient"]), rtol=1e-5, atol=1e-7)
    for level, codebook in zip(levels, golden["codebooks"], strict=True):
        torch.testing.assert_close(level.embeddings.flatten(), torch.tensor(codebook), rtol=1e-5, atol=1e-6)
    output = part.eval()(normal(99, *LATENT)).z_BDthw.flatten()
    torch.testing.assert_close(output, torch.tensor(golden["output"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["lfq", "bsq"])
def test_signs_take_the_peers_five_steps(name: str) -> None:
    golden = GOLDEN[name]
    options: dict[str, Any] = {"num_bits": 4, "entropy_weight": 0.1, "inverse_temperature": 1.0}
    part: Any = LFQ(commitment=0.25, **options)
    if name == "bsq":
        part = BSQ(commitment=0.25 / 4, group_size=4, **options)
    part.train()
    weight = normal(3, 4, 4).requires_grad_()
    optimizer = torch.optim.SGD([weight], lr=0.1)
    for step in range(5):
        out = part(0.3 * torch.einsum("bithw,ij->bjthw", normal(100 + step, *LATENT), weight))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        assert out.indices_Bqthw.flatten().tolist() == golden["indices"][step]
        assert out.loss.item() == pytest.approx(golden["losses"][step], rel=1e-5, abs=1e-6)
    assert out.stats["sample_entropy"].item() == pytest.approx(golden["entropies"][0], rel=1e-5)
    torch.testing.assert_close(
        weight.detach().flatten(), torch.tensor(golden["weight"]), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(
        out.z_BDthw.detach().flatten(), torch.tensor(golden["output"]), rtol=1e-5, atol=1e-6
    )
