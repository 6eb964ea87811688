"""Residual codebooks: prefixes, quantizer dropout, filling, revival, gradient, and equality across processes.

Shapes: B batch, D channels, t h w the latent grid, q levels; N vectors, K codes.
"""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.errors import PortError, RecipeError
from zoo_quantizers.grouped_rvq import GroupedResidualVQ
from zoo_quantizers.rvq import ResidualVQ

SMALL: dict[str, Any] = {"codebook_size": 16, "latent_dim": 4}


def latent(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def trained(part: Any, steps: int = 4) -> Any:
    """Train for some steps on latents of one kind."""
    torch.manual_seed(0)
    part.train()
    for step in range(steps):
        part(latent(step, 4, part.latent_dim, 2, 6, 6))
    return part.eval()


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    num_levels=st.integers(1, 4),
    grid=st.tuples(*[st.integers(1, 3)] * 4),
)
def test_each_level_takes_the_nearest_code_of_what_is_left(
    seed: int, num_levels: int, grid: tuple[int, ...]
) -> None:
    b, t, h, w = grid
    part = trained(ResidualVQ(num_levels=num_levels, **SMALL), 1)
    z = latent(seed, b, 4, t, h, w)
    out = part(z)
    rest, total = z.movedim(1, -1), torch.zeros_like(z).movedim(1, -1)
    residuals = []
    for number, level in enumerate(part.residual.levels):
        nearest = torch.cdist(rest.flatten(0, -2).double(), level.embeddings.double()).argmin(dim=1)
        assert torch.equal(out.indices_Bqthw[:, number].flatten(), nearest)
        codes = level.embeddings[nearest].view(rest.shape)
        rest, total = rest - codes, total + codes
        residuals.append(rest.square().mean())
        prefix = part.lookup(out.indices_Bqthw[:, : number + 1])
        torch.testing.assert_close(prefix.movedim(1, -1), total)
    assert torch.equal(part.lookup(out.indices_Bqthw), out.z_BDthw)
    torch.testing.assert_close(out.loss, 0.25 * torch.stack(residuals).mean())


@pytest.mark.parametrize("kind", [ResidualVQ, GroupedResidualVQ])
def test_every_further_level_helps(kind: Any) -> None:
    part = trained(kind(num_levels=4, **SMALL), 20)
    z = latent(77, 4, 4, 2, 6, 6)
    indices = part(z).indices_Bqthw
    step = part.num_codebooks // 4
    errors = [
        float((part.lookup(indices[:, :q]) - z).square().mean()) for q in range(step, 4 * step + 1, step)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.5 * errors[0]


def test_groups_are_residual_quantizers_of_their_channels() -> None:
    part = trained(GroupedResidualVQ(num_groups=2, num_levels=3, **SMALL))
    z = latent(5, 2, 4, 2, 3, 2)
    out = part(z)
    for number, group in enumerate(part.groups):
        alone = ResidualVQ(num_levels=3, codebook_size=16, latent_dim=2).eval()
        alone.residual.load_state_dict(group.state_dict())
        expected = alone(z[:, 2 * number : 2 * number + 2])
        assert torch.equal(out.indices_Bqthw[:, number::2], expected.indices_Bqthw)
        assert torch.equal(out.z_BDthw[:, 2 * number : 2 * number + 2], expected.z_BDthw)
    coarse = part.lookup(out.indices_Bqthw[:, :1])
    assert torch.equal(coarse[:, 2:], torch.zeros(2, 2, 2, 3, 2))
    assert bool(coarse[:, :2].any())


@pytest.mark.parametrize("kind", [ResidualVQ, GroupedResidualVQ])
def test_quantizer_dropout_uses_a_prefix_and_trains_only_that(kind: Any) -> None:
    part = trained(kind(num_levels=4, quantizer_dropout=1.0, restart_below=0.0, **SMALL))
    per_level = part.num_codebooks // 4
    part.train()
    before = copy.deepcopy(part)
    z = latent(3, 6, 4, 1, 4, 4).requires_grad_()
    out = part(z)
    depths, squares = [], []
    for clip in range(6):
        prefixes = [before.lookup(out.indices_Bqthw[[clip], : q * per_level])[0] for q in range(1, 5)]
        depths.append(
            [torch.allclose(out.z_BDthw[clip], prefix, atol=1e-6) for prefix in prefixes].index(True) + 1
        )
        squares += [(z[clip] - prefix).square().mean() for prefix in prefixes[: depths[-1]]]
    assert len(set(depths)) > 1
    expected = 0.25 * torch.stack(squares).mean()
    torch.testing.assert_close(out.loss, expected)
    (gradient,), (wanted,) = torch.autograd.grad(out.loss, z), torch.autograd.grad(expected, z)
    torch.testing.assert_close(gradient, wanted)
    groups = [part.residual] if kind is ResidualVQ else part.groups
    for group in groups:
        for number, level in enumerate(group.levels):
            # Counts hold what the level was given: 144 a step of 4 clips, then 16 a clip that used it.
            users = sum(depth > number for depth in depths)
            old = 0.99 * next(
                other.N.sum()
                for theirs in ([before.residual] if kind is ResidualVQ else before.groups)
                for other in [theirs.levels[number]]
            )
            assert float(level.N.sum()) == pytest.approx(float(old) + 0.01 * 16 * users, rel=0.2)
    assert part.eval()(z).z_BDthw.equal(part.lookup(part(z).indices_Bqthw))


def test_first_batch_fills_every_level_once() -> None:
    part = ResidualVQ(num_levels=2, kmeans_steps=0, restart_below=0.0, **SMALL)
    z = latent(1, 2, 4, 2, 4, 4) + 100
    part.train()(z)
    assert all(bool(level.initialized) for level in part.residual.levels)
    assert float(part.residual.levels[0].embeddings.mean()) == pytest.approx(100, abs=2)
    assert float(part.residual.levels[1].embeddings.abs().max()) < 10
    loaded = ResidualVQ(num_levels=2, kmeans_steps=0, restart_below=0.0, **SMALL)
    loaded.load_state_dict(part.state_dict(), strict=True)
    loaded.train()(z - 200)
    assert float(loaded.residual.levels[0].embeddings.max()) > 0  # a loaded codebook goes on


def test_dead_codes_come_back_and_have_to_be_used_to_stay() -> None:
    part = trained(ResidualVQ(num_levels=2, decay=0.5, restart_below=1.0, **SMALL))
    level = part.residual.levels[0]
    level.embeddings[3:], level.z_avg[3:], level.N[3:] = 50.0, 50.0 * 0.1, 0.1
    z = latent(9, 4, 4, 2, 6, 6)
    out = part.train()(z)
    assert float(out.stats["restarted"]) >= 13
    assert float(level.embeddings.abs().max()) < 10
    assert int((level.N == 1).sum()) >= 13
    for _ in range(10):
        out = part(z)
    assert float(out.stats["usage"]) > 0.9


def test_gradient_passes_straight_and_nothing_moves_in_eval() -> None:
    part = trained(ResidualVQ(num_levels=3, **SMALL))
    before, generator = copy.deepcopy(part.state_dict()), torch.get_rng_state()
    z = latent(1, 2, 4, 2, 3, 2).requires_grad_()
    out = part(z)
    g = latent(2, *z.shape)
    assert torch.equal(torch.autograd.grad(out.z_BDthw, z, g)[0], g)
    assert all(torch.equal(before[name], value) for name, value in part.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())


@pytest.mark.parametrize("training", [False, True])
def test_autocast_changes_nothing(training: bool) -> None:
    part = trained(ResidualVQ(num_levels=3, quantizer_dropout=0.0, restart_below=0.0, **SMALL)).train(
        training
    )
    twin, z = copy.deepcopy(part), latent(1, 2, 4, 2, 3, 2).bfloat16()
    expected = part(z.float())
    with torch.autocast("cpu", torch.bfloat16):
        out = twin(z)
    assert torch.equal(out.indices_Bqthw, expected.indices_Bqthw)
    assert torch.equal(out.z_BDthw, expected.z_BDthw)
    assert all(torch.equal(part.state_dict()[name], value) for name, value in twin.state_dict().items())


@pytest.mark.parametrize("kind", [ResidualVQ, GroupedResidualVQ])
def test_bad_use_is_refused(kind: Any) -> None:
    for options in ({"num_levels": 0}, {"decay": 1.0}, {"commitment": -0.1}, {"quantizer_dropout": 1.5}):
        with pytest.raises(RecipeError, match=f"{next(iter(options))} is"):
            kind(**options)
    part = kind(num_levels=2, **SMALL)
    with pytest.raises(PortError, match="latent_dim = 4"):
        part(torch.zeros(1, 3, 1, 1, 1))
    for num in (0, part.num_codebooks + 1):
        with pytest.raises(PortError, match=f"q from 1 to {part.num_codebooks}"):
            part.lookup(torch.zeros(1, num, 1, 1, 1, dtype=torch.long))
    with pytest.raises(RecipeError, match="num_groups is 3"):
        GroupedResidualVQ(num_groups=3, latent_dim=4)


def train_as(rank: int, folder: Path) -> None:
    """Be one process of two; what the codebooks came to is stored in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(rank)  # other codes, draws and depths on each rank
    part = ResidualVQ(num_levels=3, codebook_size=8, latent_dim=3, quantizer_dropout=1.0).train()
    for step in range(4):
        part(latent(10 * step + rank, 1, 3, 1, 4, 4))
    save_file(part.state_dict(), folder / f"rank{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.slow
def test_codebooks_are_the_same_on_every_rank(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


if __name__ == "__main__":
    train_as(int(sys.argv[1]), Path(sys.argv[2]))
