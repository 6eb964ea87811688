"""Row 3: every row is trained on once an epoch, however often the run was cut."""

from __future__ import annotations

import dataclasses
import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from chaos.experiment import Experiment, Outcome
from chaos.ranks import results, run
from PIL import Image
from training.squares import CLIP, Squares

from zoo.data import ClipDataset, ClipStream, make_loader, open_clips
from zoo.data.clips import Taken
from zoo.data.sampling import Draw

STREAM = CLIP.model_copy(update={"num_frames": 1, "height": 8, "width": 8})


@dataclasses.dataclass
class Ledger:
    """What became of the rows of one or more epochs.

    Attributes:
        rows: Rows that had to be seen.
        lost: Those that were not.
        twice: Times that one was seen once too often.
    """

    rows: int
    lost: int
    twice: int


def ledger(keys: Iterable[int], *, rows: int, epochs: int = 1) -> Ledger:
    """Count what was seen.

    Args:
        keys: The row of every clip that was trained on, over all ranks of all parts of a run: whole epochs.
            Their order does not matter within an epoch; the ranks' shares of a batch may come one after the
            other.
        rows: Rows in an epoch, numbered from 0.
        epochs: Epochs that were trained.
    """
    seen = list(keys)
    lost = twice = 0
    for epoch in range(epochs):
        part = seen[epoch * rows : (epoch + 1) * rows if epoch < epochs - 1 else None]
        counts = Counter(part)
        lost += sum(row not in counts for row in range(rows))
        twice += sum(counts.values()) - len(counts.keys() & range(rows))
    return Ledger(rows * epochs, lost, twice)


def keys_seen(
    make: Callable[[], ClipDataset | ClipStream],
    *,
    batches: int,
    cuts: Sequence[int],
    workers: int,
    batch_size: int,
    seed: int = 0,
) -> list[int]:
    """Read batches as a run does that is cut and goes on; return the row of every clip.

    Args:
        make: Opens the data, anew for each part of the run.
        batches: Batches in all.
        cuts: After how many the run is cut; what its workers have read ahead is thrown away.
        workers: Processes (threads for a stream) that read.
        batch_size: Clips in a batch.
        seed: Of the order.
    """
    keys: list[int] = []
    for first, last in itertools.pairwise([0, *cuts, batches]):
        loader = make_loader(make(), batch_size=batch_size, num_workers=workers, seed=seed, start_step=first)
        for batch in itertools.islice(loader, last - first):
            keys += batch["index_B"].tolist()
    return keys


class Rows(Squares):
    """As many rows as one wants, each a picture that costs nothing."""

    frame = np.zeros((CLIP.height, CLIP.width, 3), np.uint8)

    def _take(self, index: int, chance: Draw) -> tuple[Taken, str, int]:
        return Taken([self.frame] * CLIP.num_frames, 0.0), self._name(index), -1


def stream_of(rows: int) -> Callable[[], ClipStream]:
    """Return what opens a stream of pictures in eight shards."""
    import datasets

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    data = datasets.Dataset.from_dict(
        {"image": [{"bytes": buffer.getvalue(), "path": None}] * rows},
        features=datasets.Features({"image": datasets.Image(decode=False)}),
    )

    def make() -> ClipStream:
        parts: Any = datasets.IterableDatasetDict(
            {name: data.to_iterable_dataset(num_shards=8) for name in ("train", "test")}
        )
        stream = open_clips(parts, clip=STREAM, split="train", seed=1)
        assert isinstance(stream, ClipStream)
        return stream

    return make


def measure(rows: int, workers: int, *, stream: bool, batch_size: int = 16, epochs: int = 2) -> Ledger:
    """Cut a run of some epochs at three places, within epochs, and count its rows."""
    batches = rows * epochs // batch_size
    assert batches * batch_size == rows * epochs
    cuts = [batches // 7, batches // 2 + 3, batches - batches // 5]
    make: Callable[[], ClipDataset | ClipStream] = stream_of(rows) if stream else lambda: Rows(rows)
    keys = keys_seen(make, batches=batches, cuts=cuts, workers=workers, batch_size=batch_size, seed=1)
    return ledger(keys, rows=rows, epochs=epochs)


def over_ranks(folder: Path, rows: int, worlds: Sequence[int], *, batch_size: int = 40) -> Ledger:
    """Train for one epoch in as many parts as there are numbers of ranks, in processes of their own.

    Args:
        folder: The run's.
        rows: Rows.
        worlds: How many ranks there are in each part of the run.
        batch_size: Clips in a batch of all ranks.
    """
    steps = rows // batch_size
    assert steps * batch_size == rows
    keys: list[int] = []
    for part, world in enumerate(worlds):
        options = {"rows": rows, "batch_size": batch_size, "part": part}
        run("trained_on", world, folder, options | {"steps": steps * (part + 1) // len(worlds)})
        shares = results(folder / f"part-{part}")
        assert len(shares) == world
        keys += itertools.chain(*shares)
    return ledger(keys, rows=rows)


def _run(folder: Path, quick: bool) -> Outcome:
    rows, found = (1_000 if quick else 10_000), []
    for worlds in ((2,) * 4, (4,) * 4, (1, 2, 4, 2)):
        found.append(over_ranks(folder / "-".join(map(str, worlds)), rows, worlds))
        print(f"ranks {worlds}: {found[-1]}", flush=True)
    for stream, workers in itertools.product((False, True), (0, 2, 4)):
        found.append(measure(rows, workers, stream=stream, epochs=1 if stream else 2))
        print(f"{'stream' if stream else 'map-style'}, {workers} workers: {found[-1]}", flush=True)
    lost, twice = sum(one.lost for one in found), sum(one.twice for one in found)
    return Outcome(
        f"{lost} rows lost, {twice} twice, of {sum(one.rows for one in found):,} (map-style over two epochs, "
        "a stream of eight shards over one, each with 0, 2 and 4 workers and 3 resumes; and training for one "
        "epoch with 3 resumes on 2 ranks, on 4, and on 1, then 2, then 4, then 2)",
        lost == twice == 0,
    )


EXPERIMENTS = [
    Experiment(
        3,
        "a ledger of 10,000 rows, shuffled, 3 resumes, 0, 2 and 4 workers, 1, 2 and 4 ranks",
        "0 rows lost, 0 twice",
        _run,
    )
]
