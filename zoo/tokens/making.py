"""Makes shards, in this process or in several: what is in one does not depend on how many there are.

Every process computes on one processor thread, since a sum split among threads is rounded differently and
a code on the edge would flip. A process that loses its parent ends at once.

Shape legend: B batch (1 here), t h w the latent grid, q codebooks.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.errors import DataError, ZooError
from zoo.recipes import Clip
from zoo.tokens.clips import WholeClip, WholeClips
from zoo.tokens.metadata import Settings
from zoo.tokens.shards import Row, write_shard
from zoo.windows import encode_video

if TYPE_CHECKING:
    from zoo.assemblies import Autoencoder

Told = Callable[[int], None]
"""Called after each clip with the number of its frames, 0 for one that was left out."""


@dataclass(frozen=True)
class Job:
    """A shard to make: clips `first` to `last` - 1 of a split."""

    path: Path
    split: str
    first: int
    last: int


@dataclass(frozen=True)
class Task:
    """What all shards share, so that another process can make some of them."""

    model: str
    """Folder of the model."""
    device: str
    data: Any
    clip: Clip
    """Size and rate of the clips, from the recipe."""
    num_clips: int | None
    settings: Settings

    def open(self, split: str) -> WholeClips:
        """Open the clips of a split."""
        return WholeClips(
            self.data,
            clip=self.clip,
            split=split,
            num_clips=self.num_clips,
            max_frames=self.settings.clip.max_frames,
        )


class _Maker:
    """Makes one shard after the other with a model that is loaded once."""

    def __init__(self, task: Task, model: Autoencoder) -> None:
        self._task = task
        self._model = model
        self._opened: dict[str, WholeClips] = {}

    def make(self, job: Job, told: Told) -> None:
        """Make a shard.

        Raises:
            ZooError: The model refuses the clips.
            OSError: The shard cannot be written.
        """
        if job.split not in self._opened:
            self._opened[job.split] = self._task.open(job.split)
        clips, settings = self._opened[job.split], self._task.settings
        names = clips.labels
        rows, skipped = list[Row](), list[tuple[str, str]]()
        for index in range(job.first, job.last):
            clip = None
            try:
                clip = clips.open(index)
                indices_thwq = _encode(self._model, clip, min_frames=settings.clip.min_frames)
            except DataError as error:
                skipped.append((clips.name(index), str(error)))
                told(0)
                continue
            # A split may number its labels otherwise than the whole.
            label = settings.class_names.index(names[clip.label]) if 0 <= clip.label < len(names) else -1
            rows.append(Row(indices_thwq, label, clip.source, clip.num_frames, clip.num_held, clip.fps))
            told(clip.num_frames)
        write_shard(
            job.path,
            rows,
            settings=settings.id(),
            skipped=skipped,
            codebook_size=settings.tokenizer.codebook_size,
            class_names=settings.class_names,
            size_HW=(settings.clip.height, settings.clip.width),
        )


def _encode(model: Autoencoder, clip: WholeClip, *, min_frames: int) -> NDArray[Any]:
    """Encode a whole clip and return indices_thwq."""
    pieces = []
    for tokens in encode_video(model, clip.filled(min_frames)):
        assert tokens.indices_Bqthw is not None
        pieces.append(tokens.indices_Bqthw[0].permute(1, 2, 3, 0).cpu().numpy())
    return np.concatenate(pieces)


def make_shards(
    task: Task, jobs: Sequence[Job], *, workers: int, told: Told, model: Autoencoder | None = None
) -> None:
    """Make shards.

    Args:
        task: What they share.
        jobs: Which.
        workers: Processes that make them; with 1 they are made in this one, by `model`.
        told: See `Told`; called in this process.
        model: On its device, in evaluation mode.

    Raises:
        ZooError: A shard cannot be made, or a process was killed.
    """
    if min(workers, len(jobs)) > 1:
        _make_apart(task, jobs, min(workers, len(jobs)), told)
        return
    assert model is not None
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        maker = _Maker(task, model)
        for job in jobs:
            maker.make(job, told)
    finally:
        torch.set_num_threads(num_threads)


def _make_apart(task: Task, jobs: Sequence[Job], workers: int, told: Told) -> None:
    # Not forked: neither a CUDA context nor the threads of torch survive it.
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(jobs))
    ends: dict[Any, Any] = {}
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(task, theirs), daemon=True)
            process.start()
            theirs.close()
            ends[ours] = process
        for end in ends:
            end.send(waiting.pop())
        busy = list(ends)
        while busy:
            for end in wait(busy):
                assert isinstance(end, Connection)
                try:
                    what, value = end.recv()
                except (EOFError, ConnectionResetError):
                    ends[end].join()
                    raise ZooError(
                        f"a process that tokenises ended with {ends[end].exitcode} (-9: killed, as when "
                        "memory runs out). The shards that are done stay; type the same command again to go "
                        "on, with fewer --workers where memory was short"
                    ) from None
                if what == "clip":
                    told(value)
                elif what == "failed":
                    raise value
                elif waiting:
                    end.send(waiting.pop())
                else:
                    end.close()
                    busy.remove(end)
    finally:
        for process in ends.values():
            process.terminate()
        for process in ends.values():
            process.join()


def _work(task: Task, end: Connection) -> None:
    """Make the shards that the parent names, until it has no more."""
    import zoo
    from zoo.fingerprint import fingerprint

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    try:
        model: Any = zoo.load(task.model, device=task.device)
        if fingerprint(model) != task.settings.tokenizer.fingerprint:
            raise ZooError(f"{task.model} has changed since this began; is it still being trained?")
        maker = _Maker(task, model)
        while True:
            maker.make(end.recv(), lambda frames: end.send(("clip", frames)))
            end.send(("done", None))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except ZooError as error:
        end.send(("failed", ZooError(str(error))))
    except OSError as error:
        end.send(("failed", OSError(error.errno, error.strerror, error.filename)))
    except Exception:
        end.send(("failed", RuntimeError(f"a process that tokenises broke:\n{traceback.format_exc()}")))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
