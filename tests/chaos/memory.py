"""A batch that there is no memory for: real allocations that fail, and parts of the batch instead."""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from chaos.experiment import Experiment, Outcome
from chaos.ranks import TESTS, environment, results, run

import zoo
from zoo.training.loop import training_step
from zoo.training.run import Labelled, start

BATCH = 32
STEPS = 2


def train(limit: int | None) -> dict[str, Any]:
    """Train with so many bytes of address space beyond what the process has; return what came of it."""
    torch.set_num_threads(1)
    changes = {"batch_size": BATCH, "optimizer": {"use": "sgd", "lr": 1e-2, "betas": [0.9, 0.99]}}
    model = zoo.build(
        "zoo-causal-video-tiny", seed=0, train={**changes, "objective": {"perceptual": None}, "ema": None}
    )
    run, rng = start(model, torch.device("cpu")), torch.Generator().manual_seed(0)
    batches = (Labelled(torch.rand(BATCH, 3, 16, 64, 64, generator=rng) * 2 - 1) for _ in itertools.count())
    before = _address_space("VmSize")
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_AS, (before + limit, resource.RLIM_INFINITY))
    numbers = [training_step(run, batches) for _ in range(STEPS)]
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return {
        "needed": _address_space("VmPeak") - before,
        "parts": run.accumulate,
        "numbers": [[float(one["loss"]), float(one["grad_norm"])] for one in numbers],
        "said": run.notices,
    }


def with_less_memory(share: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train in a process of its own as it is, and in another with a share of the memory that took."""
    free = _child(None)
    return free, _child(int(share * free["needed"]))


def _child(limit: int | None) -> dict[str, Any]:
    command = [sys.executable, "-m", "chaos.memory", json.dumps(limit)]
    ended = subprocess.run(
        command, cwd=TESTS, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    if ended.returncode:
        raise RuntimeError(ended.stderr[-2000:])
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def on_one_rank(folder: Path) -> list[str]:
    """Let memory run out on rank 1 of two; return the cases in which they did not do what they should.

    Both take smaller parts and end with the same weights, as long as it runs out before they exchange
    something in that pass. After that, they end and say what to set.
    """
    run("crowded", 2, folder, {})
    first, second = results(folder)
    wrong = [case for case in ("before", "without") if first[case] != second[case] or first[case][0] != 2]
    advice = "the other ranks wait for this one", "set train.accumulate=2, a smaller train.batch_size"
    if not (isinstance(first["after"], str) and all(words in second["after"] for words in advice)):
        wrong.append("after")
    return wrong


def _address_space(name: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name}")


def _less_memory(folder: Path, quick: bool) -> Outcome:
    wrong = on_one_rank(folder)
    free, tight = with_less_memory(0.85)
    worst = max(
        abs(a - b) / abs(a)
        for x, y in zip(free["numbers"], tight["numbers"], strict=True)
        for a, b in zip(x, y, strict=True)
    )
    return Outcome(
        f"a step of {BATCH} clips takes {free['needed'] / 2**20:.0f} MB; with 85 % of that it goes through "
        f"in {tight['parts']} parts; losses and gradient norms differ by {worst:.1e}; where it runs out on "
        f"one of two ranks, {', '.join(wrong) or 'both take smaller parts and have the same weights'}",
        met=tight["parts"] > 1 and worst <= 1e-5 and not wrong,
        note="where it runs out after ranks have exchanged something in that pass, they end and say what to "
        "set; terms of whole batches (adaptive, LeCam, path length) cannot be cut and say so; "
        "batch norm and codebooks that learn in the forward pass see a part at a time",
    )


EXPERIMENTS = [
    Experiment(
        8,
        "No memory for the batch: allocations fail in the middle of a step",
        "smaller parts on all ranks, the same effective batch within 1e-5",
        _less_memory,
    )
]

if __name__ == "__main__":
    print(json.dumps(train(json.loads(sys.argv[1]))))
