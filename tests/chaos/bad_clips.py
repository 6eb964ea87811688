"""Row 7: clips that cannot be read, and decoders that crash."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import random
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chaos.children import TINY_RUN, write_clips
from chaos.experiment import Experiment, Outcome
from torch.utils.data import get_worker_info
from training.squares import Squares

import zoo
from zoo.data.clips import Taken
from zoo.data.sampling import Draw
from zoo.errors import DataError

BATCH = 50


def write_many(folder: Path, num: int, *, share: float, odd: Path | None) -> set[str]:
    """Write videos of which a share cannot be read; return the names of those.

    Args:
        folder: Where they go, with a few to test on.
        num: Videos to train on.
        share: How many of them are bad.
        odd: Folder of files found in the wild that hold no frame, if it is there.
    """
    write_clips(folder, train=20, test=3)
    good = sorted((folder / "train").iterdir())
    bad = [b"", b"<html>404</html>" * 50, *_cuts(good[0].read_bytes()), *_hopeless(odd)]
    chance = random.Random(num)
    names = [f"clip {number:05d}.mp4" for number in range(num)]
    chosen = set(chance.sample(names, round(share * num)))
    for number, name in enumerate(names):
        path = folder / "train" / name
        if name in chosen:
            path.write_bytes(bad[number % len(bad)])
        else:
            shutil.copyfile(good[number % len(good)], path)
    for path in good:
        path.unlink()
    return {f"train/{name}" for name in chosen}


def _cuts(video: bytes) -> list[bytes]:
    """Cut a video off before its first picture: within the header, and right behind it."""
    at = video.index(b"mdat")
    return [video[:20], video[: at // 2], video[:at], video[: at + 4]]


def _hopeless(odd: Path | None) -> list[bytes]:
    if odd is None or not (odd / "MANIFEST.csv").is_file():
        return []
    with (odd / "MANIFEST.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    none = {"", "0"}
    return [
        (odd / row["file"]).read_bytes()
        for row in rows
        if row["frames_decoded"] in none and row["frames_skipping_errors"] in none
    ]


def train_on(data: Any, out: Path, *, steps: int, **options: Any) -> dict[str, Any]:
    """Train a tiny model and return what run.json says in the end."""
    zoo.train(
        TINY_RUN,
        data=data,
        out=out,
        steps=steps,
        progress=False,
        device="cpu",
        train={"log_every": 1, **options.pop("train", {})},
        **options,
    )
    return facts_of(out)


def facts_of(out: Path) -> dict[str, Any]:
    """Return what run.json says."""
    facts: dict[str, Any] = json.loads((out / "run.json").read_text())
    return facts


class Crashing(Squares):
    """Some of the clips take the process that reads them with them, where it is a worker.

    Args:
        num_clips: Clips in all.
        fatal: Signal that each of them dies of, by its number.
        refused: Raise for them instead, as for a file that cannot be read.
    """

    def __init__(self, num_clips: int, fatal: dict[int, signal.Signals], *, refused: bool = False) -> None:
        super().__init__(num_clips)
        self.fatal, self.refused = fatal, refused

    def _take(self, index: int, chance: Draw) -> tuple[Taken, str, int]:
        if index in self.fatal:
            if self.refused:
                raise DataError("no")
            assert get_worker_info() is not None
            if self.fatal[index] == signal.SIGSEGV:
                ctypes.string_at(0)  # what a decoder does that follows a pointer out of a damaged file
            os.kill(os.getpid(), self.fatal[index])
        return super()._take(index, chance)


def crash(folder: Path, signals: Sequence[signal.Signals], *, num_clips: int = 40) -> list[str]:
    """Train on clips whose decoder crashes, one for each signal; return what is not as it should be."""
    chosen = random.Random(len(signals)).sample(range(num_clips), len(signals))
    fatal = dict(zip(chosen, signals, strict=True))
    steps = 2 * num_clips // 4
    facts = train_on(Crashing(num_clips, fatal), folder / "crashing", steps=steps, num_workers=2)
    expected = train_on(
        Crashing(num_clips, fatal, refused=True), folder / "refused", steps=steps, num_workers=0
    )
    troubles = []
    if facts["status"] != "finished" or facts["step"] != steps:
        troubles.append(f"{facts['status']} at step {facts['step']}")
    if [name for name, _ in facts["skipped"]] != [name for name, _ in expected["skipped"]]:
        troubles.append(f"skipped {facts['skipped']}")
    if not all("the process that read it died" in why for _, why in facts["skipped"]):
        troubles.append("does not say that the reader died")
    if _losses(folder / "crashing") != _losses(folder / "refused"):
        troubles.append("the other clips are not those of a run that refuses the file")
    return troubles


def _losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def shared_odd() -> Path | None:
    """Return the folder of odd files beside the project, if it is there."""
    named = os.environ.get("ZOO_TEST_DATA")
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = (Path(named) if named else beside) / "odd"
    return folder if folder.is_dir() else None


def _run(folder: Path, quick: bool) -> Outcome:
    num, odd = (200 if quick else 2000), shared_odd()
    bad = write_many(folder / "clips", num, share=0.05, odd=odd)
    facts = train_on(
        str(folder / "clips"),
        folder / "run",
        steps=num // BATCH,
        num_workers=2,
        train={"batch_size": BATCH},
    )
    listed = {name for name, _ in facts["skipped"]}
    died = sum("died" in why for _, why in facts["skipped"])
    why = ""
    try:
        train_on(
            str(folder / "clips"),
            folder / "strict",
            steps=num // BATCH,
            num_workers=2,
            max_bad=0.03,
            train={"batch_size": BATCH},
        )
    except DataError as error:
        why = str(error)
    stopped = "more than the 3% allowed" in why
    fatal = [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL, signal.SIGBUS]
    troubles = crash(folder, fatal[:1] if quick else fatal)
    fine = facts["status"] == "finished" and listed == bad and not died and stopped and not troubles
    return Outcome(
        f"{len(bad)} bad of {num} clips: the run ends ({facts['status']}), {len(listed & bad)} of them in "
        f"the report and {len(listed - bad)} others, {died} workers died; with --max-bad 0.03 it "
        f"{'stops and says why' if stopped else 'does NOT stop'}; {len(fatal)} clips whose decoder crashes: "
        f"{'; '.join(troubles) or 'each costs itself, and the rest is bit-equal to a run that refuses them'}",
        fine,
        "" if odd is not None else "without the files from the wild, which are not here",
    )


EXPERIMENTS = [
    Experiment(
        7,
        "corrupt clips, 5 % of 2,000; a decoder that crashes in native code",
        "the run ends, the exact list is in the report, no worker dies; above --max-bad it stops and says "
        "why; a crash costs one clip",
        _run,
    )
]
