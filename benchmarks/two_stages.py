"""What the two scripts on tokens and priors share: the commands of both stages in turn, and sheets of frames.

Shape legend: N clips, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.data import write_video


class Commands:
    """Runs `zoo` commands in a folder, each once: what is done is not done again.

    Args:
        folder: Where the commands write; `commands.json` in it keeps what each took.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._log = folder / "commands.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.done: dict[str, dict[str, Any]] = (
            json.loads(self._log.read_text(encoding="utf-8")) if self._log.exists() else {}
        )

    def zoo(self, *words: str | Path, goes_on: Path | None = None) -> str:
        """Run `zoo WORDS` on one thread and return what it printed; of an earlier run if it ended well.

        Args:
            *words: The command.
            goes_on: Folder of a training that may have been cut off, and is then resumed.

        Raises:
            SystemExit: It ended with an error.
        """
        line = shlex.join(["zoo", *map(str, words)])
        if line not in self.done:
            print(f"$ {line}", file=sys.stderr, flush=True)
            before = _used()
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            whole = [sys.executable, "-m", "zoo", *map(str, words)]
            if goes_on is not None and (goes_on / "checkpoint").is_dir():
                whole.append("--resume")
            ended = subprocess.run(whole, stdout=subprocess.PIPE, text=True, env=environment, check=False)
            if ended.returncode:
                raise SystemExit(f"{line}: ended with exit code {ended.returncode}")
            self.done[line] = {"cpu_s": round(_used() - before, 1), "printed": ended.stdout}
            self._log.write_text(json.dumps(self.done, indent=1) + "\n", encoding="utf-8")
        return str(self.done[line]["printed"])

    @property
    def cpu_minutes(self) -> float:
        """Processor time of all commands, in minutes."""
        return sum(float(one["cpu_s"]) for one in self.done.values()) / 60


def settings(**values: Any) -> list[str]:
    """Return options `--set field=value`, with `__` for a dot."""
    return [word for k, v in values.items() for word in ("--set", f"{k.replace('__', '.')}={v}")]


def train(
    out: Path,
    data: str,
    *,
    name: str,
    tokenizer: list[str],
    tokens: list[str],
    prior: list[str],
    both: list[str],
) -> Commands:
    """Train a tokenizer and vqvae-prior-video-tiny over it by the commands that a user would type.

    Args:
        out: Folder of tokenizer/, tokens/ and prior/.
        data: Source of clips.
        name: Recipe of the tokenizer.
        tokenizer: More options of the tokenizer's training.
        tokens: More options of `zoo tokenize`.
        prior: More options of the prior's training.
        both: More options of both trainings.

    Returns:
        The commands, with what each took.
    """
    commands, made, top = Commands(out), out / "tokenizer", out / "prior"
    first = (name, "--data", data, "--out", made)
    commands.zoo("train", *first, *both, *tokenizer, goes_on=made)
    commands.zoo("tokenize", made, "--data", data, "--out", out / "tokens", "--workers", "1", *tokens)
    second = ("vqvae-prior-video-tiny", "--data", out / "tokens", "--init", f"tokenizer={made}", "--out", top)
    commands.zoo("train", *second, *both, *settings(tokenizer=name), *prior, goes_on=top)
    return commands


def _used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def write_sheet(rows: list[Tensor], path: Path, *, gap: int = 2) -> None:
    """Write rows of frames, each x_CTHW in [-1, 1] from left to right, as a PNG."""
    parts = []
    for x_CTHW in rows:
        framed = torch.nn.functional.pad(x_CTHW, (0, gap, 0, gap), value=1.0)
        parts.append(framed.permute(2, 1, 3, 0).flatten(1, 2))
    width = max(part.shape[1] for part in parts)
    whole_HWC = torch.cat(
        [torch.nn.functional.pad(p, (0, 0, 0, width - p.shape[1]), value=1.0) for p in parts]
    )
    write_video(path, whole_HWC.permute(2, 0, 1)[:, None].clamp(-1, 1), fps=1, force=True)
