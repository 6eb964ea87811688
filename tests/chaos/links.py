"""Row 12: data that does not divide, a rank that dies, and a link that is cut between two machines.

The machines are network namespaces of this one, where root may make them (Linux).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chaos.experiment import Experiment, Outcome
from chaos.ranks import (
    TESTS,
    death_of_a_rank,
    environment,
    launch,
    results,
    rows_measured,
    run,
)

from zoo.training.checkpoint import load_checkpoint

ADDRESSES = ("10.213.7.1", "10.213.7.2")
TIMEOUT_S = 10.0


@dataclasses.dataclass
class Cut:
    """What came of a cut link.

    Attributes:
        seconds: From the cut until the last rank had given up.
        launchers_s: From the cut to the end of the launcher on each side, which torch brings; None where it
            was still there after two minutes and was killed.
        said: What each side said.
        step: Of the checkpoint that was left.
        ends_alike: Whether the run, started again on both machines, ended with the weights of one that
            nothing happened to.
    """

    seconds: float
    launchers_s: list[float | None]
    said: list[str]
    step: int
    ends_alike: bool = False


def can_make_namespaces() -> bool:
    """Whether network namespaces can be made here."""
    try:
        with two_machines("try"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def two_machines(name: str) -> Iterator[tuple[str, str]]:
    """Make two network namespaces that see each other over one link, and nothing else."""
    both = (f"zoo-{name}-{os.getpid()}-a", f"zoo-{name}-{os.getpid()}-b")
    with contextlib.ExitStack() as undo:
        for space in both:
            _ip("netns", "add", space)
            undo.callback(_ip, "netns", "delete", space)
        _ip("link", "add", "zoo0", "netns", both[0], "type", "veth", "peer", "name", "zoo0", "netns", both[1])
        for space, address in zip(both, ADDRESSES, strict=True):
            _ip("-n", space, "address", "add", f"{address}/30", "dev", "zoo0")
            _ip("-n", space, "link", "set", "lo", "up")
        link(both, up=True)
        yield both


def link(both: tuple[str, str], *, up: bool) -> None:
    """Plug the link in, or pull it out: nothing sent arrives, and nobody is told."""
    for space in both if up else both[1:]:
        _ip("-n", space, "link", "set", "zoo0", "up" if up else "down")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def cut_link(folder: Path, *, steps: int = 24) -> Cut:
    """Train on two machines, pull the link out in the middle, plug it in and start again."""
    options = {"steps": steps, "dies_at": None, "slow_s": 0.05, "timeout_s": TIMEOUT_S}
    state = folder / "run" / "checkpoint" / "state.json"
    folder.mkdir(parents=True, exist_ok=True)
    with two_machines("cut") as both, contextlib.ExitStack() as undo:
        nodes = [_start(both, n, folder, options) for n in (0, 1)]
        for node in nodes:
            undo.callback(node.kill)
        deadline = time.monotonic() + 120
        while not (state.exists() and _step(folder) >= steps // 4):
            assert time.monotonic() < deadline, _said(folder)
            assert [node.poll() for node in nodes] == [None, None], _said(folder)
            time.sleep(0.05)
        time.sleep(0.3)  # in the middle of a step, not of a save
        link(both, up=False)
        began, at = time.monotonic(), time.time()
        launchers_s = [_wait(node, began) for node in nodes]
        ends = [float((folder / f"ended-{n}-0").read_text(encoding="utf-8")) for n in (0, 1)]
        found = Cut(max(ends) - at, launchers_s, _said(folder), _step(folder))
        link(both, up=True)
        again = [_start(both, n, folder, options) for n in (0, 1)]
        for node in again:
            undo.callback(node.kill)
        codes = [node.wait(300) for node in again]
        found.ends_alike = codes == [0, 0] and _end_alike(folder, steps)
    return found


def _wait(node: subprocess.Popen[bytes], began: float) -> float | None:
    try:
        node.wait(max(0.0, began + 120 - time.monotonic()))
    except subprocess.TimeoutExpired:
        node.kill()
        node.wait()
        return None
    return time.monotonic() - began


def _end_alike(folder: Path, steps: int) -> bool:
    options = {"steps": steps, "dies_at": None, "slow_s": 0.0, "timeout_s": TIMEOUT_S}
    launch("one_dies", 2, folder / "undisturbed", options)
    ranks, undisturbed = results(folder), results(folder / "undisturbed")
    return len(ranks) == 2 and {one["sha256"] for one in ranks} == {undisturbed[0]["sha256"]}


def _start(
    both: tuple[str, str], number: int, folder: Path, options: dict[str, Any]
) -> subprocess.Popen[bytes]:
    command = ["ip", "netns", "exec", both[number], sys.executable, "-m", "torch.distributed.run"]
    command += ["--nnodes", "2", "--nproc-per-node", "1", "--local-addr", ADDRESSES[number]]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"{ADDRESSES[0]}:29500", "--rdzv-id", "zoo"]
    # Who hosts is found by its name elsewhere, which there is none of here.
    command += ["--rdzv-conf", f"is_host={1 - number},read_timeout={TIMEOUT_S:.0f}"]
    command += ["-m", "chaos.rank_jobs", "one_dies", str(folder), json.dumps(options)]
    with (folder / f"said-{number}").open("w", encoding="utf-8") as log:
        return subprocess.Popen(
            command, cwd=TESTS, env=environment() | {"GLOO_SOCKET_IFNAME": "zoo0"}, stdout=log, stderr=log
        )


def _step(folder: Path) -> int:
    return int(load_checkpoint(folder / "run" / "checkpoint").state["step"])


def _said(folder: Path) -> list[str]:
    return [(folder / f"said-{number}").read_text(encoding="utf-8") for number in (0, 1)]


def _uneven(folder: Path, quick: bool) -> Outcome:
    most = 5 if quick else 17
    wrong = []
    for world in (2, 3, 4):
        measured = rows_measured(folder / str(world), world=world, most=most)
        wrong += [f"{num} on {world} ranks: {of}" for num, of in measured.items() if num != of]
    stays_down = death_of_a_rank(folder / "down", restarts=0)
    goes_on = death_of_a_rank(folder / "up", restarts=1)
    ranks = goes_on["ranks"]
    whole = goes_on["exit"] == 0 and {one["step"] for one in ranks} == {30}
    run("one_dies", 2, folder / "whole", {"steps": 30, "dies_at": None, "slow_s": 0.0, "timeout_s": 10.0})
    same = whole and ranks[0]["sha256"] == results(folder / "whole")[0]["sha256"]
    pulled = cut_link(folder / "link") if can_make_namespaces() else None
    link = pulled is not None and pulled.seconds < 1.5 * TIMEOUT_S and pulled.ends_alike
    told = "two machines could not be made here"
    if pulled is not None:
        told = (
            f"the link between two machines (network namespaces) pulled out: both give up after "
            f"{pulled.seconds:.1f} s of --rank-timeout {TIMEOUT_S:.0f}, and started again "
            f"{'end with the same weights' if pulled.ends_alike else 'do not end alike'}"
        )
    return Outcome(
        f"1 to {most} rows on 2, 3, 4 ranks: {', '.join(wrong) or 'each measured once'}; rank 1 killed: the "
        f"other is out {stays_down['seconds']:.1f} s after the last checkpoint; started again by torchrun: "
        f"{'ends with the weights of a run that nothing happened to' if same else 'does not end alike'}; "
        f"{told}",
        met=not wrong and stays_down["seconds"] < 15 and stays_down["exit"] != 0 and same and link,
        note="torchrun's own process on the side that does not host the rendezvous waits for it for minutes",
    )


EXPERIMENTS = [
    Experiment(
        12,
        "Fewer rows than ranks, rows that do not divide; a rank is killed; the link of two machines is cut",
        "no hang, each row measured once; all down within 15 s, or the timeout for a link; started again, "
        "nothing lost",
        _uneven,
    ),
]
