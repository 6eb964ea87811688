"""The EMA codebook: its update, its initialisation, its restarts, its gradient.

Shapes: B batch, D channels, t h w the latent grid; N vectors, K codes.
"""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from zoo.errors import PortError, RecipeError
from zoo_vqvae.vq_ema import EMACodebook


def latent(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(z_BDthw: Tensor) -> Tensor:
    return z_BDthw.movedim(1, -1).flatten(0, -2)


def started(codes: EMACodebook, count: float = 50.0) -> EMACodebook:
    """Mark as initialised, every code so much used that none is restarted soon."""
    codes.initialized.fill_(True)
    codes.N.fill_(count)
    codes.z_avg.copy_(codes.embeddings * count)
    return codes


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    num_codes=st.integers(2, 12),
    dim=st.integers(1, 5),
    decay=st.floats(0.5, 0.999),
    grid=st.tuples(*[st.integers(1, 3)] * 4),
)
def test_update_is_the_plain_formula(
    seed: int, num_codes: int, dim: int, decay: float, grid: tuple[int, ...]
) -> None:
    b, t, h, w = grid
    codes = started(EMACodebook(codebook_size=num_codes, latent_dim=dim, decay=decay, restart_below=0.0))
    codes.double()
    codes.embeddings.copy_(latent(seed, num_codes, dim))
    old_codes, old_N, old_sums = codes.embeddings.clone(), codes.N.clone(), codes.z_avg.clone()
    z = latent(seed + 1, b, dim, t, h, w).double()
    out = codes.train()(z)

    nearest = [min(range(num_codes), key=lambda k: float((old_codes[k] - v).square().sum())) for v in rows(z)]
    assert out.indices_Bqthw.flatten().tolist() == nearest
    for k in range(num_codes):
        mine = [v for v, i in zip(rows(z), nearest, strict=True) if i == k]
        old_N[k] = decay * old_N[k] + (1 - decay) * len(mine)
        old_sums[k] = decay * old_sums[k] + (1 - decay) * sum(mine, torch.zeros(dim))
    torch.testing.assert_close(codes.N, old_N)
    torch.testing.assert_close(codes.z_avg, old_sums)
    # The smoothing of 1e-7 in the divisor is below the tolerance.
    torch.testing.assert_close(codes.embeddings, old_sums / old_N[:, None], rtol=1e-5, atol=1e-7)

    quantized = old_codes[nearest]
    assert torch.equal(rows(out.z_BDthw), quantized)
    assert out.loss.item() == pytest.approx(0.25 * float((rows(z) - quantized).square().mean()), rel=1e-6)
    shares = torch.bincount(torch.tensor(nearest), minlength=num_codes) / len(nearest)
    entropy = -sum(p * math.log(p) for p in shares.tolist() if p)
    assert float(out.stats["perplexity"]) == pytest.approx(math.exp(entropy), rel=1e-4)
    assert float(out.stats["usage"]) == pytest.approx(len(set(nearest)) / num_codes)


def test_gradient_passes_straight_and_the_value_is_the_code() -> None:
    codes = started(EMACodebook(codebook_size=9, latent_dim=4, commitment=0.5)).eval()
    z = (latent(1, 2, 4, 2, 3, 2) * 1e3).requires_grad_()
    out = codes(z)
    assert torch.equal(out.z_BDthw, codes.lookup(out.indices_Bqthw))
    g = latent(2, *z.shape)
    (straight,) = torch.autograd.grad(out.z_BDthw, z, g, retain_graph=True)
    assert torch.equal(straight, g)
    (pull,) = torch.autograd.grad(out.loss, z)
    torch.testing.assert_close(pull, 0.5 * 2 * (z - out.z_BDthw).detach() / z.numel())
    assert not codes.embeddings.requires_grad


def test_nothing_moves_in_eval() -> None:
    codes = EMACodebook(codebook_size=9, latent_dim=4).eval()
    before, generator = copy.deepcopy(codes.state_dict()), torch.get_rng_state()
    z = latent(1, 2, 4, 2, 3, 2)
    kept = z.clone()
    codes(z)
    assert all(torch.equal(before[name], value) for name, value in codes.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert torch.equal(z, kept)


def test_first_training_batch_fills_the_codebook_once() -> None:
    codes = EMACodebook(codebook_size=5, latent_dim=4, restart_below=0.0)
    z = latent(1, 2, 4, 2, 3, 2) + 100
    out = codes.train()(z)
    drawn = rows(out.z_BDthw).unique(dim=0)
    assert all((rows(z) == code).all(dim=1).any() for code in drawn)  # codes are vectors of the batch
    assert bool(codes.initialized)

    # The flag is stored: a loaded codebook goes on instead of starting again.
    loaded = EMACodebook(codebook_size=5, latent_dim=4, restart_below=0.0)
    loaded.load_state_dict(codes.state_dict(), strict=True)
    loaded.train()(z - 200)
    assert (loaded.embeddings > 0).all()
    fresh = EMACodebook(codebook_size=5, latent_dim=4, restart_below=0.0)
    fresh.train()(z - 200)
    assert (fresh.embeddings < 0).all()


def test_fewer_vectors_than_codes_are_repeated_with_a_little_noise() -> None:
    torch.manual_seed(0)
    codes = EMACodebook(codebook_size=64, latent_dim=4, restart_below=0.0).train()
    z = latent(1, 1, 4, 1, 2, 2)
    codes._initialize(z.flatten(2))
    nearest = torch.cdist(codes.embeddings, rows(z)).min(dim=1)
    assert nearest.indices.bincount().tolist() == [16] * 4
    assert 0 < float(nearest.values.max()) < 0.05
    assert len(codes.embeddings.unique(dim=0)) == 64


def test_dead_codes_come_back_to_life() -> None:
    torch.manual_seed(0)
    codes = started(EMACodebook(codebook_size=8, latent_dim=2), count=2.0)
    codes.embeddings.copy_(torch.tensor([[0.0, 0.0]] + [[6.0, 6.0]] * 7))  # only code 0 is ever nearest
    codes.z_avg.copy_(codes.embeddings * 2)
    z = latent(3, 4, 2, 2, 4, 4)
    out = codes.train()(z)
    assert float(out.stats["usage"]) == 1 / 8
    assert float(out.stats["restarted"]) == 0
    codes.N[1:] = 0.5
    codes.z_avg[1:] = codes.embeddings[1:] * 0.5
    assert float(codes(z).stats["restarted"]) == 7
    assert all((rows(z) == code).all(dim=1).any() for code in codes.embeddings[1:])
    for _ in range(60):
        out = codes(z)
    assert float(out.stats["usage"]) == 1
    assert float(out.stats["restarted"]) == 0


@pytest.mark.parametrize("training", [False, True])
def test_autocast_changes_nothing(training: bool) -> None:
    codes = started(EMACodebook(codebook_size=33, latent_dim=16)).train(training)
    twin, z = copy.deepcopy(codes), latent(1, 2, 16, 2, 3, 2).bfloat16()
    expected = codes(z.float())
    with torch.autocast("cpu", torch.bfloat16):
        out = twin(z)
    assert torch.equal(out.indices_Bqthw, expected.indices_Bqthw)
    assert torch.equal(out.z_BDthw, expected.z_BDthw)
    assert torch.equal(out.loss, expected.loss)
    assert torch.equal(twin.embeddings, codes.embeddings)


def test_meta_device() -> None:
    with torch.device("meta"):
        codes, z = EMACodebook(), torch.empty(1, 256, 4, 32, 32)
        for mode in (False, True):
            out = codes.train(mode)(z)
            assert out.z_BDthw.shape == z.shape
            assert out.indices_Bqthw.shape == (1, 1, 4, 32, 32)
            assert out.stats.keys() == {"perplexity", "usage", "restarted"}


def test_bad_use_is_refused() -> None:
    for options in ({"codebook_size": 1}, {"latent_dim": 0}, {"decay": 1.0}, {"commitment": -0.1}):
        with pytest.raises(RecipeError, match=f"{next(iter(options))} "):
            EMACodebook(**options)
    codes = EMACodebook(codebook_size=4, latent_dim=3)
    with pytest.raises(PortError, match="latent_dim = 3"):
        codes(torch.zeros(1, 4, 1, 1, 1))
    with pytest.raises(PortError, match=r"takes \(B, 1, t, h, w\)"):
        codes.lookup(torch.zeros(1, 2, 1, 1, 1, dtype=torch.long))


def train_as(rank: int, folder: Path) -> None:
    """Be one process of two; what the codebook came to is stored in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.manual_seed(rank)  # other codes and other draws on each rank
    codes = EMACodebook(codebook_size=8, latent_dim=3).train()
    for step in range(3):
        codes(latent(10 * step + rank, 2, 3, 1, 2, 2))
    save_file(codes.state_dict(), folder / f"rank{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.slow
def test_codebook_is_the_same_on_every_rank(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert float(first["N"].sum()) == pytest.approx(8 * 0.99**3 + 16 * (1 - 0.99**3), rel=1e-5)


if __name__ == "__main__":
    train_as(int(sys.argv[1]), Path(sys.argv[2]))
