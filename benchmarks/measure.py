"""Time and peak memory of several ways to do the same work, interleaved in one process."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20
Run = Callable[[], Any]


@dataclasses.dataclass(frozen=True)
class Work:
    """One row: our way, others' ways, and how much faster and leaner ours is meant to be.

    Attributes:
        name: What is done, with its size.
        ours: Does it once.
        peers: Others' ways by the name of their package; any may be missing.
        factor: Our time is meant to be that many times less than the fastest peer's.
        max_extra_mib: Memory ours may take beyond what was there before, its result included.
    """

    name: str
    ours: Run
    peers: dict[str, Run]
    factor: float
    max_extra_mib: float | None = None


@dataclasses.dataclass(frozen=True)
class Timing:
    """The rounds of one way, in milliseconds, and its peak memory in MiB."""

    name: str
    rounds_ms: list[float]
    extra_mib: float

    @property
    def median_ms(self) -> float:
        return statistics.median(self.rounds_ms)


def measure(
    work: Work, *, rounds: int, device: torch.device, clock: Callable[[], float] = time.perf_counter
) -> list[Timing]:
    """Run every way to warm up and to measure memory, then in turn for so many rounds; ours first.

    Args:
        work: What is done.
        rounds: How often each way is timed.
        device: Where it is done.
        clock: What time is read from, in seconds; `time.process_time` counts that of the processor, which
            other programs on a busy machine disturb less.
    """
    runs = {"zoo": work.ours} | work.peers
    extra = {name: extra_mib(run, device) for name, run in runs.items()}
    times_ms: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = clock()
            run()
            _wait(device)
            times_ms[name].append(1e3 * (clock() - start))
    return [Timing(name, times_ms[name], extra[name]) for name in runs]


def processor() -> str:
    """Return the processor's name, as far as it has one."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def ratio(ours: Timing, peer: Timing) -> float:
    """Return the median over rounds of the peer's time divided by ours."""
    return statistics.median(p / o for p, o in zip(peer.rounds_ms, ours.rounds_ms, strict=True))


def extra_mib(run: Run, device: torch.device) -> float:
    """Return the most memory that torch held at once during a run beyond what it held before, in MiB."""
    if device.type == "cuda":
        run()
        _wait(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        _wait(device)
        return (torch.cuda.max_memory_allocated(device) - before) / MIB
    run()
    # The CPU's allocator keeps no count; the profiler sees every allocation and release.
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        run()
    results: Any = profiler.profiler.kineto_results
    events = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    live = peak = 0
    for _, num_bytes in events:
        live += num_bytes
        peak = max(peak, live)
    return peak / MIB


def table(rows: list[tuple[Work, list[Timing]]]) -> str:
    """Return a Markdown table of the rows, one line for each way."""
    lines = [
        "| work | way | median ms | peak extra MiB | times ours | meant |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for work, (ours, *peers) in rows:
        limit = "" if work.max_extra_mib is None else f"under {work.max_extra_mib:.0f} MiB"
        lines.append(f"| {work.name} | zoo | {ours.median_ms:.1f} | {ours.extra_mib:.0f} | 1 | {limit} |")
        for peer in peers:
            lines.append(
                f"| | {peer.name} | {peer.median_ms:.1f} | {peer.extra_mib:.0f} | {ratio(ours, peer):.2f} "
                f"| {work.factor:g} |"
            )
    return "\n".join(lines)


def version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
