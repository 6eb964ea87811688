"""Speed of the codebooks beside vector-quantize-pytorch and diffusers, on the same codes and latents.

Run it as ``python -m benchmarks.quantizers``; ``--help`` lists its options. Peers are used where they
are installed (``pip install vector-quantize-pytorch diffusers``). Before a row is timed, every peer's
indices are compared with ours.

Shapes: B batch, D channels, t h w the latent grid, N vectors, K codes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import math
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
from zoo.torchvision_repair import repair_torchvision

GRID = (16, 32, 32)
DIM = 256
SIZES = (1024, 16384)
PEERS = {
    "vector-quantize-pytorch": "vector_quantize_pytorch",
    "diffusers": "diffusers.models.autoencoders.vq_model",
}


def latent(device: torch.device) -> Tensor:
    """Return z_BDthw, one clip of 16,384 vectors of 256 channels."""
    return torch.randn(1, DIM, *GRID, generator=torch.Generator().manual_seed(0)).to(device)


def peer_codebook(codes_KD: Tensor, **options: Any) -> nn.Module:
    """Build vector-quantize-pytorch's codebook on the given codes."""
    from vector_quantize_pytorch import VectorQuantize

    num_codes, dim = codes_KD.shape
    peer: Any = VectorQuantize(dim, num_codes, **({"rotation_trick": False} | options)).to(codes_KD.device)
    peer._codebook.embed.data[0].copy_(codes_KD)
    peer._codebook.embed_avg.data[0].copy_(codes_KD)
    assert isinstance(peer, nn.Module)
    return peer


def diffusers_codebook(codes_KD: Tensor) -> nn.Module:
    """Build diffusers' codebook on the given codes."""
    from diffusers.models.autoencoders.vq_model import VectorQuantizer

    peer: Any = VectorQuantizer(*codes_KD.shape, beta=0.25, legacy=False).to(codes_KD.device)
    peer.embedding.weight.data.copy_(codes_KD)
    assert isinstance(peer, nn.Module)
    return peer


def lookup_works(size: int, device: torch.device, peers: list[str], only: str) -> list[Work]:
    """Nearest codes of 16,384 vectors in evaluation, without gradients."""
    name = f"VQ look-up, {math.prod(GRID)} x {DIM}, K = {size}"
    if only not in name:
        return []
    z = latent(device)
    rows = z.flatten(2).transpose(1, 2).contiguous()
    image = z.flatten(3).contiguous()
    ours: Any = zoo.build_part("quantizer", "vq", codebook_size=size, latent_dim=DIM, kmeans_steps=0)
    ours = ours.to(device).eval()
    codes_KD = torch.randn(size, DIM, generator=torch.Generator().manual_seed(1)).to(device)
    ours.embeddings.data.copy_(codes_KD)
    expected = ours(z).indices_Bqthw.flatten()
    runs: dict[str, Run] = {}
    if "vector-quantize-pytorch" in peers:
        peer = peer_codebook(codes_KD).eval()
        runs["vector-quantize-pytorch"] = without_gradients(lambda: peer(rows))
        require_same(runs["vector-quantize-pytorch"]()[1], expected)
    if "diffusers" in peers:
        other = diffusers_codebook(codes_KD).eval()
        runs["diffusers"] = without_gradients(lambda: other(image))
        require_same(runs["diffusers"]()[2][2], expected)
    factor, limit = {1024: (2.0, 32.0), 16384: (1.6, 128.0)}[size]
    return [Work(name, without_gradients(lambda: ours(z)), runs, factor, limit)]


def training_works(size: int, device: torch.device, peers: list[str], only: str) -> list[Work]:
    """Forward and backward of a training step: codes by moving averages, by cosine, by gradients."""
    codes_KD = torch.randn(size, DIM, generator=torch.Generator().manual_seed(1)).to(device)
    factor, limit = {1024: (5.0, 128.0), 16384: (8.0, 160.0)}[size]
    works = []
    part: str
    options: dict[str, Any]
    peer_options: dict[str, Any]
    for part, options, peer_options, label in (
        ("vq-ema", {"decay": 0.8, "restart_below": 0.0}, {"decay": 0.8}, "with EMA"),
        (
            "vq-cosine",
            {"decay": 0.8, "restart_below": 0.0, "kmeans_steps": 0},
            {"decay": 0.8, "use_cosine_sim": True},
            "cosine, EMA",
        ),
        ("vq", {"kmeans_steps": 0}, {"learnable_codebook": True, "ema_update": False}, "by gradients"),
        (
            "vq-rotation",
            {"kmeans_steps": 0},
            {"learnable_codebook": True, "ema_update": False, "rotation_trick": True},
            "by gradients, rotated",
        ),
    ):
        name = f"{part} step ({label}), K = {size}"
        if only not in name:
            continue
        ours: Any = zoo.build_part("quantizer", part, codebook_size=size, latent_dim=DIM, **options)
        ours = ours.to(device).train()
        start_KD = nn.functional.normalize(codes_KD, dim=1) if part == "vq-cosine" else codes_KD
        ours.embeddings.data.copy_(start_KD)
        if "z_avg" in dict(ours.named_buffers()):
            ours.z_avg.copy_(start_KD)
            ours.N.fill_(1)
        ours.initialized.fill_(True)
        z = latent(device).requires_grad_()
        rows = z.detach().flatten(2).transpose(1, 2).contiguous().requires_grad_()
        mine = step(ours, z, lambda out: (out.z_BDthw, out.loss, out.indices_Bqthw))
        runs: dict[str, Run] = {}
        indices = mine()
        if "vector-quantize-pytorch" in peers:
            peer = peer_codebook(start_KD, **peer_options).train()
            runs["vector-quantize-pytorch"] = step(peer, rows, lambda out: (out[0], out[2], out[1]))
            require_same(runs["vector-quantize-pytorch"](), indices)
        works.append(Work(name, mine, runs, factor, limit))
    return works


def fsq_works(device: torch.device, peers: list[str], only: str) -> list[Work]:
    """65,536 vectors of 6 channels: forward pass, and with the backward pass."""
    name = "FSQ 65536 x 6"
    levels = [8, 8, 8, 5, 5, 5]
    ours: Any = zoo.build_part("quantizer", "fsq", levels=levels).to(device).train()
    z = torch.randn(1, 6, 64, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    rows = z.flatten(2).transpose(1, 2).contiguous().requires_grad_()
    z.requires_grad_()
    forwards: dict[str, Run] = {}
    steps: dict[str, Run] = {}
    if "vector-quantize-pytorch" in peers:
        from vector_quantize_pytorch import FSQ

        peer: Any = FSQ(levels).to(device).train()
        require_same(peer(rows)[1], ours(z).indices_Bqthw)
        forwards["vector-quantize-pytorch"] = without_gradients(lambda: peer(rows))
        steps["vector-quantize-pytorch"] = step(
            peer, rows, lambda out: (out[0], out[0].new_zeros(()), out[1])
        )
    mine = step(ours, z, lambda out: (out.z_BDthw, out.loss, out.indices_Bqthw))
    works = [
        Work(f"{name}, forward", without_gradients(lambda: ours(z)), forwards, 1.8),
        Work(f"{name}, with backward", mine, steps, 2.5),
    ]
    return [work for work in works if only in work.name]


def step(part: nn.Module, z: Tensor, take: Callable[[Any], tuple[Tensor, Tensor, Tensor]]) -> Run:
    """Return a function that trains one step without an optimiser, and gives the indices."""
    gradient = torch.ones_like(z)

    def run() -> Tensor:
        z.grad = None
        part.zero_grad(set_to_none=True)
        quantized, loss, indices = take(part(z))
        ends, gradients = [quantized], [gradient.view_as(quantized)]
        if loss.requires_grad:  # a quantizer without a codebook has none
            ends.append(loss)
            gradients.append(torch.ones_like(loss))
        torch.autograd.backward(ends, gradients)
        return indices

    return run


def without_gradients(run: Run) -> Run:
    """Return the function run under `torch.no_grad`."""
    return torch.no_grad()(run)


def require_same(theirs: Tensor, ours: Tensor) -> None:
    """Raise unless both chose the same codes, but for one in a thousand that rounding may decide."""
    different = int((theirs.flatten() != ours.flatten()).sum())
    if different * 1000 > ours.numel():
        raise SystemExit(f"{different} of {ours.numel()} indices differ: not the same work")


def imports(peer: str) -> bool:
    """Whether a peer can be imported; says why when it is installed and cannot."""
    try:
        importlib.import_module(PEERS[peer])
    except (ImportError, RuntimeError) as error:
        print(f"{peer} is left out: {error}")
        return False
    return True


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantizers", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each row (default 5)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--only", default="", help="measure rows whose name has this in it")
    parser.add_argument("--sizes", type=int, nargs="+", choices=SIZES, default=list(SIZES))
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    repair_torchvision()  # a torchvision that does not fit torch keeps diffusers from importing
    peers = [name for name in PEERS if imports(name)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads of {cores} cores, {where}")
    print(", ".join(f"{name} {version(name) if name in peers else 'left out'}" for name in PEERS))
    makers: list[Callable[[torch.device, list[str], str], list[Work]]]
    makers = [partial(make, size) for size in options.sizes for make in (lookup_works, training_works)]
    for maker in (*makers, fsq_works):
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            works = maker(device, peers, options.only)
        rows = [(work, measure(work, rounds=options.rounds, device=device)) for work in works]
        if rows:
            print(table(rows), flush=True)


if __name__ == "__main__":
    main()
