"""The GPT prior against VideoGPT's own sampler, against memory, and against a bare loop in training.

    git clone https://github.com/wilson1yan/VideoGPT FOLDER
    python -m benchmarks.priors --peer videogpt=FOLDER

Everything is of the size that VideoGPT's code builds by default (width 576, 8 layers, 4 heads, 2048 codes;
33 M parameters), with random weights, on a grid of 4x16x16. Ways take turns in one process. Times are of the
processor and of the wall; on a busy machine only the first mean something, and ratios more than figures.

VideoGPT's sampler runs as published (`VideoGPT.sample`), but for the decoder after it and for ending early:
each of its tokens takes as long as any other, as it attends to the whole grid. Ours takes longer the more
there is before, so it is timed from the middle of the grid on, where a token takes as long as the mean.

The floor is the time in which the bytes that a token needs, those of all weights and of the keys and values
before it, are moved at the bandwidth of a large copy (read and written bytes), measured in the same rounds.

Shape legend: B batch, N places in order, K codes.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from benchmarks.measure import processor
from benchmarks.tokenizers import stand_in
from zoo.sampling import Sampling, choose, shaped
from zoo_priors.gpt.prior import GPTPrior

GRID = (4, 16, 16)
PEERS = ("videogpt",)
_COPY = 2**25
"""Numbers of a float32 copy: 128 MiB, more than a cache holds."""

Way = Callable[[], object]
Rounds = dict[str, list[tuple[float, float]]]
"""Seconds of the processor and of the wall, round by round, of each way."""


def take_turns(ways: dict[str, Way], rounds: int) -> Rounds:
    """Time the ways in turn, after each has run once."""
    for way in ways.values():
        way()
    times: Rounds = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            before = time.process_time(), time.perf_counter()
            way()
            times[name].append((time.process_time() - before[0], time.perf_counter() - before[1]))
    return times


def median(times: Rounds, name: str, clock: int) -> float:
    """Return the median seconds of a way; clock 0 is the processor's, 1 the wall's."""
    return statistics.median(one[clock] for one in times[name])


def ratio(times: Rounds, name: str, to: str, clock: int) -> float:
    """Return the median over rounds of how many times longer one way takes than another."""
    return statistics.median(a[clock] / b[clock] for a, b in zip(times[name], times[to], strict=True))


def ours(batch: int, num_tokens: int, dtype: torch.dtype | None) -> Way:
    """Return what draws so many tokens of each clip, from the middle of the grid on."""
    prior = GPTPrior(grid=list(GRID)).eval()
    frames = GRID[0] // 2
    given_Bqthw = torch.randint(prior.codebook_size, (batch, 1, frames, *GRID[1:]))
    uniform_NB1 = torch.rand(num_tokens, batch, 1, dtype=torch.float64)
    state: dict[str, Any] = {"left": 0}

    def run() -> None:
        if state["left"] < num_tokens:
            raise RuntimeError("no places left")
        state["left"] -= num_tokens
        for uniform_B1 in uniform_NB1:
            odds_B1K = shaped(state["stream"].group_logits(), Sampling())
            state["stream"].push_group(choose(odds_B1K, uniform_B1))

    def begin() -> None:
        state["stream"] = prior.stream(batch, dtype=dtype)
        state["stream"].take_frames(given_Bqthw)
        state["left"] = (GRID[0] - frames) * GRID[1] * GRID[2]

    begin()
    return run


def videogpt(folder: Path, batch: int, num_tokens: int) -> Way:
    """Return the same of VideoGPT (wilson1yan/VideoGPT): the first tokens of the grid."""

    class Module(nn.Module):
        def save_hyperparameters(self) -> None: ...

    for name in ("requests", "gdown", "skvideo", "skvideo.io"):
        stand_in(name)
    stand_in("pytorch_lightning", LightningModule=Module)
    package = types.ModuleType("videogpt")
    package.__path__ = [str(folder / "videogpt")]
    sys.modules["videogpt"] = package
    gpt, vqvae = (importlib.import_module(f"videogpt.{name}") for name in ("gpt", "vqvae"))
    sizes = argparse.Namespace(
        embedding_dim=256,
        n_codes=2048,
        n_hiddens=240,
        n_res_layers=4,
        downsample=(4, 4, 4),
        sequence_length=4 * GRID[0],
        resolution=4 * GRID[1],
    )
    tokenizer = vqvae.VQVAE(sizes)
    tokenizer.decode = lambda codes: codes
    vqvae.VQVAE.load_from_checkpoint = lambda path: tokenizer
    options = gpt.VideoGPT.add_model_specific_args(argparse.ArgumentParser(add_help=False)).parse_args([])
    options.vqvae, options.class_cond_dim = os.fspath(folder), None
    model = gpt.VideoGPT(options).eval()
    gpt.tqdm = lambda places: itertools.islice(places, num_tokens)
    return lambda: model.sample(batch)


def copy() -> Way:
    """Return a large copy."""
    source = torch.randn(_COPY)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def num_bytes(prior: GPTPrior, num_before: int, width: int) -> int:
    """Return how many bytes of weights, of `width` each, and of keys and values a token of one clip reads."""
    weights = sum(p.numel() for p in prior.parameters()) - prior.embed.weight.numel()
    dim = len(prior.start)
    return weights * width + 2 * len(prior.blocks) * num_before * dim * 4


def training(batch: int) -> dict[str, Way]:
    """Return a step of the prior's loss, and the same with nothing but the layers."""
    prior = GPTPrior(grid=[2, 8, 8]).train()
    optimizer = torch.optim.AdamW(prior.parameters(), lr=1e-5)
    indices_Bqthw = torch.randint(prior.codebook_size, (batch, 1, 2, 8, 8))
    rotation = prior.rotation
    assert rotation is not None
    tables = rotation.tables(0, 2, device=torch.device("cpu"), dtype=torch.float32)

    def bare_loss() -> Tensor:
        codes_BN = rearrange(indices_Bqthw, "b 1 t h w -> b (t h w)")
        x_BND = torch.cat([prior.start.expand(batch, 1, -1), prior.embed(codes_BN[:, :-1])], dim=1)
        x_BND = prior.dropout(x_BND)
        for block in prior.blocks:
            x_BND = block(x_BND, tables, None)
        logits_BNK = F.linear(prior.heads.norm(x_BND), prior.heads.weight_fqVD[0, 0])
        return F.cross_entropy(logits_BNK.flatten(0, 1), codes_BN.flatten())

    def step(loss: Callable[[], Tensor]) -> Way:
        def run() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return run

    return {"zoo": step(lambda: prior.loss(indices_Bqthw)), "bare loop": step(bare_loss)}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--peer", default=None, metavar="videogpt=FOLDER", help="a checkout of VideoGPT")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24, help="tokens of each clip in a round")
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    name, _, folder = (options.peer or "").partition("=")
    if options.peer and (name not in PEERS or not folder):
        parser.error(
            f"--peer {options.peer}: write NAME=FOLDER with a name of {', '.join(PEERS)} and a checkout"
        )
    if (options.rounds + 1) * options.tokens > GRID[0] * GRID[1] * GRID[2] // 2:
        parser.error("rounds + 1 times tokens is more than half the grid has; take fewer")
    torch.manual_seed(0)
    print(f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| tokens drawn | way | tokens/s (cpu) | tokens/s (wall) | times VideoGPT (cpu) | (wall) | meant |")
    print("|---|---|---:|---:|---:|---:|---:|")
    prior = GPTPrior(grid=list(GRID))
    num_before = GRID[0] * GRID[1] * GRID[2] // 2 + options.rounds * options.tokens // 2
    floors = []
    for batch in (8, 1):
        ways: dict[str, Way] = {
            "zoo gpt": ours(batch, options.tokens, None),
            "zoo gpt, bf16": ours(batch, options.tokens, torch.bfloat16),
            "copy": copy(),
        }
        if folder:
            ways["VideoGPT"] = videogpt(Path(folder), batch, options.tokens)
        times = take_turns(ways, options.rounds)
        for way in ways.keys() - {"copy"}:
            cells = [f"{batch * options.tokens / median(times, way, clock):.0f}" for clock in (0, 1)]
            if folder:
                cells += [f"{ratio(times, 'VideoGPT', way, clock):.2f}" for clock in (0, 1)]
            else:
                cells += ["", ""]
            meant = "3" if way == "zoo gpt" and batch == 8 else ""
            print(f"| batch {batch} | {way} | {' | '.join(cells)} | {meant} |", flush=True)
        if batch == 1:
            for way, width in (("zoo gpt", 4), ("zoo gpt, bf16", 2)):
                share = num_bytes(prior, num_before, width) * options.tokens / (2 * 4 * _COPY)
                floors.append((way, *(ratio(times, way, "copy", clock) / share for clock in (0, 1))))
            copied = 2 * 4 * _COPY / median(times, "copy", 0) / 1e9
            floors.append((f"(copy: {copied:.1f} GB/s read and written)", 1.0, 1.0))
    print("\n| batch 1 | times the memory floor (cpu) | (wall) | meant |\n|---|---:|---:|---:|")
    for way, cpu, wall in floors:
        print(f"| {way} | {cpu:.2f} | {wall:.2f} | {'at most 1.5' if way == 'zoo gpt' else ''} |")
    times = take_turns(training(4), options.rounds)
    print("\n| training, 4 clips of 2x8x8 | cpu ms | wall ms | times the bare loop (cpu) | (wall) | meant |")
    print("|---|---:|---:|---:|---:|---:|")
    for way in ("zoo", "bare loop"):
        cells = [f"{1e3 * median(times, way, clock):.0f}" for clock in (0, 1)]
        cells += [f"{ratio(times, way, 'bare loop', clock):.3f}" for clock in (0, 1)]
        print(f"| {way} | {' | '.join(cells)} | {'at most 1.1' if way == 'zoo' else ''} |")


if __name__ == "__main__":
    main()
