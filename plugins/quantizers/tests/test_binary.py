"""Sign codes: their numbers, exact entropies and their gradients against brute force, the sphere.

Shapes: N tokens, G groups of g bits; B batch, D bits, t h w the latent grid.
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
from zoo_quantizers import binary
from zoo_quantizers.binary import batch_entropy, sample_entropy
from zoo_quantizers.bsq import BSQ
from zoo_quantizers.identity import Identity
from zoo_quantizers.lfq import LFQ


def latent(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def all_codes(num_bits: int) -> Tensor:
    """Every code as a row of signs, by its number in binary."""
    return torch.tensor([[2.0 * int(bit) - 1 for bit in f"{k:0{num_bits}b}"] for k in range(2**num_bits)])


def entropies(logits_Ng: Tensor) -> tuple[Tensor, Tensor]:
    """Sample and batch entropy by the softmax over all codes, in double precision."""
    logits_Ng = logits_Ng.double()
    p_NK = (0.5 * logits_Ng @ all_codes(logits_Ng.shape[1]).double().t()).softmax(dim=1)

    def entropy(p: Tensor) -> Tensor:
        return -(p * p.clamp(min=1e-300).log()).sum(dim=-1)

    return entropy(p_NK).mean(), entropy(p_NK.mean(dim=0))


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    num_tokens=st.integers(1, 20),
    num_groups=st.integers(1, 3),
    num_bits=st.integers(1, 7),
    scale=st.sampled_from([0.01, 1.0, 30.0, 1000.0]),
    piece=st.sampled_from([3, 4096]),
)
def test_entropies_and_gradients_are_exact(
    seed: int, num_tokens: int, num_groups: int, num_bits: int, scale: float, piece: int
) -> None:
    logits = (scale * latent(seed, num_tokens, num_groups, num_bits)).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(binary, "_PIECE", piece)
        ours = torch.stack([sample_entropy(logits.flatten(1), dim=1), batch_entropy(logits)])
        gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in ours]
    by_group = [torch.stack(entropies(group)) for group in logits.unbind(dim=1)]
    brute = torch.stack(by_group).sum(dim=0)
    torch.testing.assert_close(ours.double(), brute, rtol=1e-5, atol=1e-5)
    for value, gradient in zip(brute, gradients, strict=True):
        (expected,) = torch.autograd.grad(value, logits, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_batch_entropy_of_eighteen_bits_is_that_of_independent_halves() -> None:
    # The tokens are all pairs of a set of first and a set of last halves, so the entropies add up.
    first, last = latent(0, 12, 9), latent(1, 10, 9)
    logits = torch.cat([first[:, None].expand(-1, 10, -1), last.expand(12, -1, -1)], dim=2).reshape(
        120, 1, 18
    )
    expected = entropies(first)[1] + entropies(last)[1]
    torch.testing.assert_close(batch_entropy(logits).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [LFQ, BSQ])
@pytest.mark.parametrize(("num_bits", "num_codebooks"), [(6, 1), (6, 2), (6, 3), (18, 2)])
def test_index_is_the_signs_in_binary(kind: Any, num_bits: int, num_codebooks: int) -> None:
    options = {"group_size": 3} if kind is BSQ else {}
    part = kind(num_bits=num_bits, num_codebooks=num_codebooks, **options).eval()
    z = latent(0, 2, num_bits, 2, 3, 2)
    z[0, :, 0, 0, 0] = 0.0
    out = part(z)
    size = 1.0 if kind is LFQ else num_bits**-0.5
    expected = torch.where(z > 0, size, -size)
    assert torch.equal(out.z_BDthw, expected)
    assert torch.equal(part.lookup(out.indices_Bqthw), out.z_BDthw)
    for place in ((0, 0, 0, 0), (1, 1, 2, 1)):
        signs = "".join("1" if value > 0 else "0" for value in z[place[0], :, *place[1:]])
        numbers = out.indices_Bqthw[place[0], :, *place[1:]].tolist()
        assert "".join(f"{number:0{num_bits // num_codebooks}b}" for number in numbers) == signs


def test_lfq_gradient_passes_straight_and_its_entropy_only_trains() -> None:
    z = latent(1, 2, 6, 1, 3, 2).requires_grad_()
    part = LFQ(num_bits=6, inverse_temperature=0.7, entropy_weight=0.3, diversity=0.5)
    out = part.train()(z)
    g = latent(2, *z.shape)
    assert torch.equal(torch.autograd.grad(out.z_BDthw, z, g, retain_graph=True)[0], g)
    per_sample, of_batch = entropies(4 * 0.7 * z.movedim(1, -1).flatten(0, -2))
    commitment = 0.25 * (z - out.z_BDthw.detach()).square().mean()
    expected = commitment + 0.3 * (per_sample - 0.5 * of_batch)
    torch.testing.assert_close(out.loss.double(), expected.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        out.stats["sample_entropy"].double(), per_sample.detach(), rtol=1e-5, atol=1e-6
    )
    torch.testing.assert_close(part.eval()(z).loss, commitment)


def test_bsq_works_on_the_sphere_and_bounds_the_entropy_by_groups() -> None:
    z = latent(1, 2, 6, 1, 3, 2).requires_grad_()
    options: dict[str, Any] = {"num_bits": 6, "inverse_temperature": 20.0}
    out = BSQ(**options, group_size=6).train()(z)
    assert torch.equal(BSQ(**options, group_size=6).train()(z * 7).indices_Bqthw, out.indices_Bqthw)
    torch.testing.assert_close(out.z_BDthw.norm(dim=1), torch.ones(2, 1, 3, 2))
    # The gradient is that of the unit vector, at a right angle to the latent.
    (gradient,) = torch.autograd.grad(out.z_BDthw, z, latent(2, *z.shape), retain_graph=True)
    torch.testing.assert_close((gradient * z).sum(dim=1), torch.zeros(2, 1, 3, 2), rtol=0, atol=1e-5)
    unit_Ng = torch.nn.functional.normalize(z, dim=1).movedim(1, -1).flatten(0, -2)
    per_sample, of_batch = entropies(80 / 6**0.5 * unit_Ng)
    torch.testing.assert_close(out.loss.double(), 0.1 * (per_sample - of_batch), rtol=1e-5, atol=1e-6)
    losses = [BSQ(**options, group_size=size).train()(z).loss.item() for size in (6, 3, 1)]
    assert losses == sorted(losses, reverse=True)  # the bound of the batch's entropy grows
    assert BSQ(**options, group_size=3).eval()(z).loss.item() == 0


@pytest.mark.parametrize("kind", [LFQ, BSQ])
def test_autocast_changes_nothing(kind: Any) -> None:
    part = kind(num_bits=6, **({"group_size": 3} if kind is BSQ else {})).train()
    z = latent(1, 2, 6, 2, 3, 2).bfloat16()
    expected = part(z.float())
    with torch.autocast("cpu", torch.bfloat16):
        out = copy.deepcopy(part)(z)
    assert torch.equal(out.z_BDthw, expected.z_BDthw)
    assert torch.equal(out.indices_Bqthw, expected.indices_Bqthw)
    assert torch.equal(out.loss, expected.loss)


def test_entropy_keeps_codes_in_use() -> None:
    torch.manual_seed(0)
    part = LFQ(num_bits=4, entropy_weight=1.0, inverse_temperature=1.0, commitment=0.25).train()
    z = (0.1 * latent(0, 1, 4, 1, 8, 8) + 1).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.05)
    before = float(part(z).stats["usage"])
    for _ in range(60):
        optimizer.zero_grad()
        out = part(z)
        out.loss.backward()
        optimizer.step()
    assert before == 1 / 16
    assert float(out.stats["usage"]) > 0.9
    assert float(out.stats["perplexity"]) > 12


def test_identity_is_no_bottleneck() -> None:
    z = latent(0, 2, 3, 1, 2, 2).requires_grad_()
    out = Identity(latent_dim=3)(z)
    assert torch.equal(out.z_BDthw, z)
    assert out.indices_Bqthw is None
    assert float(out.loss) == 0
    with pytest.raises(PortError, match="latent_dim = 4"):
        Identity(latent_dim=4)(z)


def test_bad_use_is_refused() -> None:
    with pytest.raises(RecipeError, match="num_bits is 0"):
        LFQ(num_bits=0)
    with pytest.raises(RecipeError, match="num_codebooks is 4"):
        LFQ(num_bits=18, num_codebooks=4)
    with pytest.raises(RecipeError, match="num_bits=36, num_codebooks=2"):
        BSQ(num_bits=36)
    with pytest.raises(RecipeError, match="group_size=9"):
        LFQ(num_bits=36, num_codebooks=2)
    with pytest.raises(RecipeError, match="group_size is 4"):
        BSQ(num_bits=18, group_size=4)
    with pytest.raises(RecipeError, match="entropy_weight is -1"):
        LFQ(entropy_weight=-1.0)
    part = LFQ(num_bits=6, num_codebooks=2)
    with pytest.raises(PortError, match="latent_dim = 6"):
        part(torch.zeros(1, 4, 1, 1, 1))
    with pytest.raises(PortError, match=r"takes \(B, 2, t, h, w\)"):
        part.lookup(torch.zeros(1, 1, 1, 1, 1, dtype=torch.long))


def train_as(rank: int, folder: Path) -> None:
    """Be one process of two, with half of the tokens; entropy and gradient are stored in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    logits = latent(0, 8, 1, 5).chunk(2)[rank].clone().requires_grad_()
    entropy = batch_entropy(logits)
    entropy.backward()
    assert logits.grad is not None
    save_file({"entropy": entropy.detach(), "gradient": logits.grad}, folder / f"rank{rank}.safetensors")
    dist.destroy_process_group()


@pytest.mark.slow
def test_entropy_is_over_the_tokens_of_all_ranks(tmp_path: Path) -> None:
    processes = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    found = [load_file(tmp_path / f"rank{rank}.safetensors") for rank in range(2)]
    logits = latent(0, 8, 1, 5).requires_grad_()
    entropy = batch_entropy(logits)
    entropy.backward()
    assert logits.grad is not None
    for rank, part in enumerate(logits.grad.chunk(2)):
        torch.testing.assert_close(found[rank]["entropy"], entropy.detach())
        # Data parallel training averages the gradients of two processes.
        torch.testing.assert_close(found[rank]["gradient"] / 2, part)


if __name__ == "__main__":
    train_as(int(sys.argv[1]), Path(sys.argv[2]))
