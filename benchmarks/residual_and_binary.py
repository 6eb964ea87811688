"""Speed of residual and of sign codes beside vector-quantize-pytorch, on the same codes and latents.

Run it as ``python -m benchmarks.residual_and_binary``; ``--help`` lists its options. Before a row is timed,
the peer's indices, and for LFQ its loss, are compared with ours. The peer's logarithm stops at 1e-5, so its
entropies lack what rarer codes add: the losses are compared to 2 in 1,000.

Shapes: B batch, D channels or bits, t h w the latent grid, N vectors, K codes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from benchmarks.measure import Run, Work, measure, table, version
from benchmarks.quantizers import imports, require_same, step, without_gradients

PEER = "vector-quantize-pytorch"
LEVELS, SIZE = 8, 1024


def latent(dim: int, num: int, device: torch.device, scale: float = 1.0) -> Tensor:
    """Return z_BDthw, one clip of that many vectors."""
    z = torch.randn(1, dim, num // 1024, 32, 32, generator=torch.Generator().manual_seed(0))
    return (scale * z).to(device)


def residual_works(dim: int, device: torch.device, with_peer: bool) -> list[Work]:
    """8 levels of 1,024 codes over 16,384 vectors: evaluation, and a training step with moving averages."""
    options = {
        "num_levels": LEVELS,
        "codebook_size": SIZE,
        "latent_dim": dim,
        "decay": 0.8,
        "commitment": 1.0,
    }
    options |= {"restart_below": 0.0, "quantizer_dropout": 0.0}
    ours: Any = zoo.build_part("quantizer", "rvq", **options).to(device)
    for number, level in enumerate(ours.residual.levels):
        codes_KD = torch.randn(SIZE, dim, generator=torch.Generator().manual_seed(number + 1)) * 0.8**number
        level.embeddings.copy_(codes_KD)
        level.z_avg.copy_(codes_KD)
        level.initialized.fill_(True)
    z = latent(dim, 16384, device)
    rows = z.flatten(2).transpose(1, 2).contiguous()
    expected = ours.eval()(z).indices_Bqthw
    looks: dict[str, Run] = {}
    steps: dict[str, Run] = {}
    # Training moves the codes; a second copy leaves those of the evaluation in place.
    trained: Any = zoo.build_part("quantizer", "rvq", **options).to(device)
    trained.load_state_dict(ours.state_dict())
    if with_peer:
        looked, stepped = (
            peer_residual(ours, dim).to(device).eval(),
            peer_residual(ours, dim).to(device).train(),
        )
        looks[PEER] = without_gradients(lambda: looked(rows))
        require_same(looks[PEER]()[1].permute(0, 2, 1), expected)
        steps[PEER] = step(
            stepped, rows.clone().requires_grad_(), lambda out: (out[0], out[2].mean(), out[1])
        )
    mine = step(trained.train(), z.clone().requires_grad_(), lambda o: (o.z_BDthw, o.loss, o.indices_Bqthw))
    if with_peer:
        require_same(steps[PEER]().permute(0, 2, 1), mine())
    name = f"RVQ {LEVELS} levels, 16384 x {dim}, K = {SIZE}"
    return [
        Work(f"{name}, eval", without_gradients(lambda: ours(z)), looks, 4.0),
        Work(f"{name}, train", mine, steps, 6.0),
    ]


def peer_residual(part: Any, dim: int) -> nn.Module:
    """Build the peer's residual codebooks on the codes of ours."""
    from vector_quantize_pytorch import ResidualVQ

    peer: Any = ResidualVQ(
        dim=dim,
        num_quantizers=LEVELS,
        codebook_size=SIZE,
        decay=0.8,
        commitment_weight=1.0,
        rotation_trick=False,
    )
    for layer, level in zip(peer.layers, part.residual.levels, strict=True):
        layer._codebook.embed[0].copy_(level.embeddings)
        layer._codebook.embed_avg[0].copy_(level.embeddings)
    assert isinstance(peer, nn.Module)
    return peer


def binary_works(bits: int, num: int, device: torch.device, with_peer: bool) -> list[Work]:
    """Forward pass in training, and with the backward pass, of LFQ with its entropy loss."""
    ours: Any = zoo.build_part("quantizer", "lfq", num_bits=bits, commitment=0.25).to(device).train()
    z = latent(bits, num, device, 0.02).requires_grad_()
    forwards: dict[str, Run] = {}
    steps: dict[str, Run] = {}
    if with_peer and bits <= 14:
        from vector_quantize_pytorch import LFQ

        peer: Any = LFQ(dim=bits, codebook_size=2**bits, entropy_loss_weight=0.1, commitment_loss_weight=0.25)
        peer = peer.to(device).train()
        rows = z.detach().flatten(2).transpose(1, 2).contiguous().requires_grad_()
        _, indices, loss = peer(rows)
        out = ours(z)
        require_same(indices, out.indices_Bqthw)
        torch.testing.assert_close(out.loss, loss, rtol=2e-3, atol=2e-3)
        forwards[PEER] = without_gradients(lambda: peer(rows))
        steps[PEER] = step(peer, rows, lambda out: (out[0], out[2], out[1]))
    factor = {10: 20.0, 14: 85.0}.get(bits, 1.0)
    name = f"LFQ {bits} bits, {num} tokens"
    limit = 256.0 if bits == 18 else None
    return [
        Work(f"{name}, forward", without_gradients(lambda: ours(z)), forwards, factor, limit),
        Work(
            f"{name}, with backward",
            step(ours, z, lambda o: (o.z_BDthw, o.loss, o.indices_Bqthw)),
            steps,
            factor,
            limit,
        ),
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.residual_and_binary", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each row (default 5)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--only", default="", help="measure rows whose name has this in it")
    parser.add_argument("--dim", type=int, default=128, help="channels of the residual codes (default 128)")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    with_peer = imports(PEER)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads of {cores} cores, {where}")
    print(f"{PEER} {version(PEER) if with_peer else 'left out'}")
    makers: list[Callable[[], list[Work]]] = [partial(residual_works, options.dim, device, with_peer)]
    for bits, num in ((10, 4096), (14, 4096), (18, 16384)):
        makers.append(partial(binary_works, bits, num, device, with_peer))
    for make in makers:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            works = [work for work in make() if options.only in work.name]
        rows = [(work, measure(work, rounds=options.rounds, device=device)) for work in works]
        if rows:
            print(table(rows), flush=True)


if __name__ == "__main__":
    main()
