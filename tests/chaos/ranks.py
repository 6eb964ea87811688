"""Several ranks, as `torchrun` starts them, against one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]


def launch(
    job: str, world: int, folder: Path, options: dict[str, Any] | None = None, *, timeout_s: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run a job of `chaos.rank_jobs` on so many ranks, or in one process without a launcher.

    Args:
        job: Name of the function.
        world: Number of ranks.
        folder: Where it writes.
        options: What it is told, as JSON.
        timeout_s: Seconds after which all of it is killed.
    """
    starter = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
    command = [sys.executable, *(starter if world > 1 else [])]
    command += ["-m", "chaos.rank_jobs", job, str(folder), json.dumps(options or {})]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def results(folder: Path) -> list[dict[str, Any]]:
    """Return what each rank of a job wrote down, in their order."""
    files = sorted(folder.glob("rank-*.json"), key=lambda path: int(path.stem.partition("-")[2]))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]
