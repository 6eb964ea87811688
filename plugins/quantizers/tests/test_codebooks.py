"""Filling, reviving and reading the codebooks of `vq`, `vq-rotation`, `vq-cosine` and `simvq`."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from zoo.errors import PortError, RecipeError
from zoo_quantizers.simvq import SimVQ
from zoo_quantizers.vq import VQ
from zoo_quantizers.vq_cosine import CosineVQ
from zoo_quantizers.vq_rotation import RotationVQ

PARTS = [VQ, RotationVQ, CosineVQ, SimVQ]
FILLED = [VQ, RotationVQ, CosineVQ]


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("part", [VQ, SimVQ])
def test_loss_and_gradients_are_the_papers(part: type[nn.Module]) -> None:
    codes, z = part(codebook_size=9, latent_dim=4, commitment=0.5).eval(), normal(1, 2, 4, 2, 3, 2)
    z.requires_grad_()
    out = codes(z)
    table_KD = codes.embeddings if part is VQ else codes.projection(codes.frozen)
    code = F.embedding(out.indices_Bqthw[:, 0], table_KD).movedim(-1, 1)
    loss = F.mse_loss(code, z.detach()) + 0.5 * F.mse_loss(z, code.detach())
    torch.testing.assert_close(out.loss, loss)
    of = [z, *codes.parameters()]
    for mine, other in zip(torch.autograd.grad(out.loss, of), torch.autograd.grad(loss, of), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)
    g = normal(2, *z.shape)
    assert torch.equal(torch.autograd.grad(codes(z).z_BDthw, z, g)[0], g)


def test_rotated_gradient_keeps_its_angle_to_the_code() -> None:
    codes, z = RotationVQ(codebook_size=9, latent_dim=4), normal(1, 1, 4, 2, 3, 2).requires_grad_()
    codes.embeddings.data.copy_(normal(3, 9, 4))
    out, g = codes.eval()(z), normal(2, 1, 4, 2, 3, 2)
    (turned,) = torch.autograd.grad(out.z_BDthw, z, g)
    ratio = out.z_BDthw.norm(dim=1) / z.norm(dim=1)
    torch.testing.assert_close(turned.norm(dim=1), g.norm(dim=1) * ratio)
    torch.testing.assert_close(
        F.cosine_similarity(turned, z.detach(), dim=1), F.cosine_similarity(g, out.z_BDthw, dim=1)
    )
    # Turning back what was turned forth: the gradient along the code is the gradient along the latent.
    (along,) = torch.autograd.grad(codes(z).z_BDthw, z, F.normalize(out.z_BDthw, dim=1).detach())
    torch.testing.assert_close(along, F.normalize(z.detach(), dim=1) * ratio[:, None])


def test_cosine_works_on_the_unit_sphere_and_gives_its_gradient_back_through_the_scaling() -> None:
    codes, z = CosineVQ(codebook_size=9, latent_dim=4).eval(), normal(1, 2, 4, 2, 3, 2).requires_grad_()
    out = codes(z)
    torch.testing.assert_close(out.z_BDthw.norm(dim=1), torch.ones(2, 2, 3, 2))
    assert torch.equal(codes(7 * z).indices_Bqthw, out.indices_Bqthw)
    similarity = torch.einsum("bdthw,kd->bkthw", z, codes.embeddings)
    assert torch.equal(similarity.argmax(dim=1, keepdim=True), out.indices_Bqthw)
    g = normal(2, *z.shape)
    (gradient,) = torch.autograd.grad(out.z_BDthw, z, g)
    (expected,) = torch.autograd.grad(F.normalize(z, dim=1), z, g)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("part", FILLED)
def test_first_training_batch_fills_the_codebook_once(part: type[nn.Module]) -> None:
    torch.manual_seed(0)
    centres = torch.tensor([[5.0, 0.0, 0.0], [0.0, 5.0, 0.0], [0.0, 0.0, 5.0], [-5.0, -5.0, 0.0]])
    z = centres[torch.arange(64) % 4].t().view(1, 3, 4, 4, 4) + 0.01 * normal(0, 1, 3, 4, 4, 4)
    fresh = part(codebook_size=8, latent_dim=3)
    assert not fresh.initialized
    for codes in (fresh, copy.deepcopy(fresh)):
        out = codes.train()(z)
        target = F.normalize(z, dim=1) if part is CosineVQ else z
        assert float((out.z_BDthw - target).abs().max()) < 0.1
        assert bool(codes.initialized)
    # The flag is stored: a loaded codebook goes on instead of starting again.
    loaded = part(codebook_size=8, latent_dim=3, restart_below=0.0)
    loaded.load_state_dict(codes.state_dict())
    before = loaded.embeddings.detach().clone()
    loaded.train()(z + 100)
    assert float((loaded.embeddings.detach() - before).abs().max()) < 1
    unfilled = part(codebook_size=8, latent_dim=3, kmeans_steps=0, restart_below=0.0, decay=0.0)
    assert bool(unfilled.initialized)


@pytest.mark.parametrize("part", FILLED)
def test_dead_codes_come_back_to_life(part: type[nn.Module]) -> None:
    torch.manual_seed(0)
    codes = part(codebook_size=8, latent_dim=2, kmeans_steps=0, restart_below=1.0, decay=0.9).train()
    codes.embeddings.data.copy_(torch.tensor([[1.0, 0.0]] + [[-1.0, 0.0]] * 7))
    z = normal(3, 4, 2, 2, 4, 4).abs()  # only code 0 is ever nearest
    assert float(codes(z).stats["usage"]) == 1 / 8
    assert codes.N[0] > 1
    assert (codes.N[1:] == 1.0).all()
    assert (codes.embeddings[1:].detach() > 0).all()  # vectors of the batch now
    usage = [float(codes(z).stats["usage"]) for _ in range(30)]
    assert max(usage) == 1
    never = part(codebook_size=8, latent_dim=2, kmeans_steps=0, restart_below=0.0).train()
    never.embeddings.data.copy_(torch.tensor([[1.0, 0.0]] + [[-1.0, 0.0]] * 7))
    assert float(sum(never(z).stats["restarted"] for _ in range(200))) == 0


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("part", PARTS)
def test_autocast_changes_nothing(part: type[nn.Module], training: bool) -> None:
    codes = part(codebook_size=33, latent_dim=16).train(training)
    twin, z = copy.deepcopy(codes), normal(1, 2, 16, 2, 3, 2).bfloat16()
    torch.manual_seed(0)
    expected = codes(z.float())
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        out = twin(z)
    assert torch.equal(out.indices_Bqthw, expected.indices_Bqthw)
    assert torch.equal(out.z_BDthw, expected.z_BDthw)
    assert torch.equal(out.loss, expected.loss)
    assert all(map(torch.equal, twin.state_dict().values(), codes.state_dict().values()))


@pytest.mark.parametrize("part", PARTS)
def test_bf16_weights_give_bf16_codes(part: type[nn.Module]) -> None:
    codes, z = part(codebook_size=9, latent_dim=4).bfloat16().eval(), normal(1, 2, 4, 2, 3, 2).bfloat16()
    z.requires_grad_()
    out = codes(z)
    assert out.z_BDthw.dtype == torch.bfloat16
    assert torch.equal(out.z_BDthw, codes.lookup(out.indices_Bqthw))
    (out.z_BDthw.float().sum() + out.loss).backward()
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())


@pytest.mark.parametrize("part", PARTS)
def test_bad_use_is_refused(part: type[nn.Module]) -> None:
    for options in ({"codebook_size": 1}, {"latent_dim": 0}, {"commitment": -0.1}):
        with pytest.raises(RecipeError, match=f"{next(iter(options))} "):
            part(**options)
    codes = part(codebook_size=4, latent_dim=3)
    with pytest.raises(PortError, match="latent_dim = 3"):
        codes(torch.zeros(1, 4, 1, 1, 1))
    with pytest.raises(PortError, match=r"takes \(B, 1, t, h, w\)"):
        codes.lookup(torch.zeros(1, 2, 1, 1, 1, dtype=torch.long))


def train_as(rank: int, folder: Path) -> None:
    """Be one process of two; what the codebooks came to is stored in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for number, part in enumerate(FILLED):
        torch.manual_seed(rank)  # other draws on each rank
        codes = part(codebook_size=8, latent_dim=3, restart_below=1.0).train()
        for step in range(3):
            codes(normal(10 * step + rank, 2, 3, 1, 2, 2))
        save_file(codes.state_dict(), folder / f"{number}_rank{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.slow
def test_codebook_is_the_same_on_every_rank(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    for number in range(len(FILLED)):
        first, second = (load_file(tmp_path / f"{number}_rank{rank}.safetensors") for rank in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)


if __name__ == "__main__":
    train_as(int(sys.argv[1]), Path(sys.argv[2]))
