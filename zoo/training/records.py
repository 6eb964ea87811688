"""What a run writes down: metrics.jsonl, run.json, the card of its model and the command that goes on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from zoo import plain_json
from zoo.discovery import DISTRIBUTION
from zoo.errors import OutputExistsError, RecipeError, TrainingError
from zoo.files import named, new_file, remove_leftovers
from zoo.ranks import TIMEOUT_S, world_size
from zoo.recipe_files import parse_yaml
from zoo.training.checkpoint import remove_checkpoints

METRICS = "metrics.jsonl"
FACTS = "run.json"
_OURS = ("model", "samples", "tensorboard", METRICS, "report.html")
_FIRST = ("tokenizer", METRICS, ".run.tmp-*", ".metrics.tmp-*")


def refuse_existing_run(folder: Path, *, force: bool) -> None:
    """Refuse a folder that holds something, or, with `force`, something that is not a run.

    Raises:
        OutputExistsError: Says how to go on, start again or write elsewhere.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not force:
        raise OutputExistsError(
            f"{str(folder)!r} exists; --resume goes on from its checkpoint, --force starts again, --out DIR "
            "writes elsewhere (resume=True, force=True, out=... in Python)"
        )
    if not is_run(folder):
        raise OutputExistsError(
            f"{str(folder)!r} exists and is not the folder of a run (it has no {FACTS}), so it is not "
            "replaced even with --force; give another --out"
        )


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, be it of one that was killed while it wrote its first files."""
    if any((folder / run / FACTS).is_file() for run in (".", "tokenizer")):
        return True
    return folder.is_dir() and all(any(map(path.match, _FIRST)) for path in folder.rglob("*"))


def refuse_links(folder: Path) -> None:
    """Refuse a run's folder in which a link leads out of it: a run writes there, and removes what is old.

    Raises:
        TrainingError: Names the link.
    """
    inside = folder.resolve()
    for pattern in ("checkpoint*", "model", "samples", "samples/*", "tokenizer"):
        for path in folder.glob(pattern):
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                raise TrainingError(
                    f"{path} is a link to {os.readlink(path)!r}, out of the run's folder; put there what it "
                    "leads to, or remove it"
                )


def begin_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Remove what an earlier run wrote, and nothing else, from a folder, and write run.json of a new one.

    There is a run.json all the while, so that a folder whose run was killed here can still be replaced.
    """
    remove_checkpoints(folder / "checkpoint")
    for path in (folder / name for name in _OURS):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    write_facts(folder, facts)
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove what killed processes left in a run's folder of files that they were writing."""
    for name in ("model", METRICS, FACTS, "report.html"):
        remove_leftovers(folder / name)
    for leftover in (folder / "samples").glob("*/.*.tmp-*"):
        if not leftover.parent.is_symlink() and not leftover.parent.parent.is_symlink():
            leftover.unlink(missing_ok=True)


class Journal:
    """Appends to metrics.jsonl, one JSON object a line; nothing of it stays in memory.

    Args:
        folder: The run's folder.
        upto: Lines of later steps are dropped: a resumed run takes those steps again.
        writes: Whether the file is written; one of several ranks does.
    """

    def __init__(self, folder: Path, *, upto: int = 0, writes: bool = True) -> None:
        self._path = folder / METRICS
        self._writes = writes
        self.cut(upto)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Everything in the file, but for lines that are damaged."""
        lines: list[dict[str, Any]] = []
        if self._path.is_file():
            with self._path.open("rb") as file:
                for data in file:
                    if not data.endswith(b"\n"):
                        break  # cut short when the process was killed
                    with contextlib.suppress(ValueError):
                        line = plain_json.forgiving(data)
                        if isinstance(line, dict) and type(line.get("step")) is int:
                            lines.append(line)
        return lines

    def cut(self, step: int) -> None:
        """Drop the lines of later steps."""
        if not self._writes:
            return
        lines = [line for line in self.lines if line["step"] <= step] if step else []
        with new_file(self._path, force=True) as path:
            path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def add(self, step: int, kind: str, numbers: Mapping[str, float]) -> None:
        """Append one line: `step`, `kind` ("train" or "eval") and the numbers, null where not finite."""
        if not self._writes:
            return
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "kind": kind, **finite}) + "\n")
        except OSError as error:
            raise named(error, self._path) from None


class Window:
    """Means of the numbers since the last line of the journal."""

    def __init__(self, sums: Mapping[str, list[float]] | None = None) -> None:
        self.sums: dict[str, list[float]] = {name: list(pair) for name, pair in (sums or {}).items()}

    def add(self, numbers: Mapping[str, float]) -> None:
        """Count the numbers of one step; those of a skipped update that are not finite do not count."""
        for name, value in numbers.items():
            if not math.isfinite(value):
                continue
            pair = self.sums.setdefault(name, [0.0, 0])
            pair[0] += value
            pair[1] += 1

    def take(self) -> dict[str, float]:
        """Return the means and start anew."""
        means = {name: total / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means


def write_facts(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write run.json."""
    with new_file(folder / FACTS, force=True) as path:
        path.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


def versions() -> dict[str, str]:
    """Versions of Python and of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in (DISTRIBUTION, "torch", "timm", "datasets", "av"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def describe(device: torch.device) -> str:
    """Name a device in words."""
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    cores, threads = os.cpu_count(), torch.get_num_threads()
    return f"{device}: {platform.machine()}, {cores} cores, {threads} threads"


def train_command(
    name: object,
    data: object,
    folder: Path,
    *,
    steps: int | None = None,
    init: Mapping[str, str | Path] | None = None,
    num_workers: int | None = None,
    keep: int = 1,
    max_bad: float | None = None,
    device: object = None,
    callbacks: Sequence[Any] = (),
    fsdp: bool = False,
    timeout_s: float = TIMEOUT_S,
    overrides: Mapping[str, Any],
    resume: bool = False,
) -> str:
    """The command that repeats a run or goes on with it, or the Python call where it began with objects.

    A resumed run takes no `init`: its checkpoint has those weights already. One of several processes names
    as many as this machine has now; how machines find each other is for the user to say.
    """
    if not all(isinstance(item, str | Path) for item in (name, data, *callbacks)):
        return f"zoo.train(..., out={str(folder)!r}{', resume=True' if resume else ''})"
    words = ["zoo", "train", str(name), "--data", str(data), "--out", str(folder)]
    if fsdp or world_size() > 1:
        processes = os.environ.get("LOCAL_WORLD_SIZE", "2")
        words = ["torchrun", "--nproc-per-node", processes, "-m", *words, *(["--fsdp"] if fsdp else [])]
    if steps is not None:
        words += ["--steps", str(steps)]
    for part, source in {} if resume else dict(init or {}).items():
        words += ["--init", f"{part}={source}"]
    if num_workers is not None:
        words += ["--workers", str(num_workers)]
    if keep != 1:
        words += ["--keep", str(keep)]
    if max_bad is not None:
        words += ["--max-bad", str(max_bad)]
    if device is not None:
        words += ["--device", str(device)]
    if timeout_s != TIMEOUT_S:
        words += ["--rank-timeout", f"{timeout_s:g}"]
    for callback in callbacks:
        words += ["--callback", callback]
    for path, value in flat(overrides):
        words += ["--set", f"{path}={_as_yaml(value)}"]
    return shlex.join([*words, "--resume"] if resume else words)


def _as_yaml(value: Any) -> str:
    """Write a value so that ``--set`` reads the same: words as they are, unless they look like more."""
    if isinstance(value, str):
        with contextlib.suppress(RecipeError):
            if parse_yaml(value, "override")[0] == value:
                return value
    return json.dumps(value, default=str)


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted path, value) of nested mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def card(facts: Mapping[str, Any]) -> str:
    """The training section of a model's card, in Markdown."""
    data, evaluation = facts["data"], facts.get("evaluation")
    lines = [
        "## Training",
        "",
        f"- Data: {data['description']}",
        f"- Steps: {facts['step']:,} of {facts['steps']:,}, {facts['batch_size']} clips each",
        f"- Seed: {facts['seed']}",
        f"- On {facts['device']}, {facts['seconds'] / 3600:.2f} h",
    ]
    if evaluation:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in evaluation["values"].items())
        protocol = evaluation["protocol"]
        lines += ["", "## Figures", "", figures, ""]
        lines += [f"- {name}: {text}" for name, text in protocol.items()]
    return "\n".join(lines) + "\n"
