"""Clips from a data set that is read row by row and has no length.

The order is ours and resumes exactly: rows are taken in blocks of 64, each block is shuffled by
(seed, epoch, block), and the stream starts again when it ends. A shuffle buffer would lose rows on
resume. Every row gives one clip an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import IterableDataset

from zoo.data.clips import ClipItem, Source, take_read
from zoo.data.container import Reader, first_line, reason_of
from zoo.data.hub import Columns, number_of
from zoo.data.reach import Reach
from zoo.data.sampling import check_clip, draw, finish
from zoo.errors import DataError
from zoo.recipes import Clip

BLOCK = 64
"""Rows that are shuffled together; as many undecoded videos are held in memory."""
HELD_OUT_ROWS = 32
"""Rows at the head of a stream without splits that are held out."""
_ENOUGH = 20

Job = Callable[[], ClipItem]


class _Row(NamedTuple):
    number: int
    content: Any
    label: int


class ClipStream(IterableDataset[ClipItem]):
    """Training clips of a stream, without end. `zoo.data.make_loader` makes batches of it.

    Attributes:
        clip: Size, length and rate of a clip.
        labels: Names of the labels, where a `ClassLabel` gives them.
        description: One line about what is in it, for people.
    """

    def __init__(
        self,
        columns: Sequence[Columns],
        *,
        name: str,
        reach: Reach,
        clip: Clip,
        description: str,
        skip_rows: int,
        seed: int,
        augment: Sequence[str],
        max_bad: float,
    ) -> None:
        check_clip(clip)
        self.clip = clip
        self.labels = columns[0].labels
        self.description = description
        self.seed = seed
        self.augment = tuple(augment)
        self.max_bad = max_bad
        self._columns = list(columns)
        self._name = name
        self._reach = reach
        self._skip_rows = skip_rows
        self._num_read = 0
        self._skipped: dict[str, str] = {}

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Bad rows met so far, each with its reason."""
        return sorted(self._skipped.items())

    def note_skipped(self, skipped: Iterable[tuple[str, str]]) -> None:
        """Add bad rows.

        Raises:
            DataError: More than `max_bad` of the rows read so far are bad.
        """
        self._skipped.update(skipped)
        if len(self._skipped) > self.max_bad * max(self._num_read, _ENOUGH):
            examples = "; ".join(reason for _, reason in self.skipped[:3])
            raise DataError(
                f"{len(self._skipped)} of the first {self._num_read} rows of {self.description} cannot "
                f"be used, more than the {100 * self.max_bad:g}% allowed by --max-bad. First: {examples}"
            )

    def __iter__(self) -> Iterator[ClipItem]:
        for job in self.jobs():
            item = job()
            self.note_skipped(item["skipped"])
            yield item

    def jobs(self, start: int = 0) -> Iterator[Job]:
        """Yield what makes clip `start`, `start` + 1, ...: rows are read here, decoded by the job.

        Jobs of one stream may run in several threads at once.
        """
        epoch, first = 0, start - start % BLOCK
        number = first
        while True:
            num_rows = first
            for block in self._blocks(first):
                order = np.random.default_rng([self.seed, epoch, num_rows // BLOCK, 0xB10C]).permutation(
                    len(block)
                )
                shuffled = [block[at] for at in order]
                num_rows += len(block)
                for at in range(len(block)):
                    if number >= start:
                        self._num_read += 1
                        yield self._job(shuffled, at, epoch)
                    number += 1
            if num_rows == first:
                num_rows = sum(len(block) for block in self._blocks(0))
                if not num_rows:
                    raise DataError(f"{self.description}: the stream holds no rows to train on")
                # The start lies in a later epoch, found by counting the rows of one.
                epoch = start // num_rows
                first = start % num_rows // BLOCK * BLOCK
                number = epoch * num_rows + first
                continue
            epoch, first = epoch + 1, 0

    def _job(self, block: list[_Row], at: int, epoch: int) -> Job:
        def run() -> ClipItem:
            skipped: list[tuple[str, str]] = []
            for row in block[at:] + block[:at]:
                name = f"{self._name}#{row.number}"
                chance = draw(self.seed, epoch, row.number)
                try:
                    with Reader(self._reach.content(row.content)) as reader:
                        taken, _ = take_read(reader, clip=self.clip, time=chance.time)
                except Exception as error:
                    skipped.append((name, f"{name}: {reason_of(error)}"))
                    continue
                x = finish(taken.frames, clip=self.clip, chance=chance, augment=self.augment)
                return ClipItem(
                    x_CTHW=x,
                    label=row.label,
                    source=name,
                    start_s=taken.start_s,
                    index=row.number,
                    skipped=skipped,
                )
            raise DataError(
                f"none of {len(block)} rows on end can be used ({self.description}). {skipped[0][1]}"
            )

        return run

    def _blocks(self, first: int) -> Iterator[list[_Row]]:
        rows = read_rows(self._columns, first=self._skip_rows + first)
        while block := list(islice(rows, BLOCK)):
            yield block


def read_rows(columns: Sequence[Columns], *, first: int) -> Iterator[_Row]:
    """Read rows of streams one after the other, from row `first` on.

    Raises:
        DataError: `datasets` cannot read on.
    """
    parts = [part.data for part in columns]
    rows: Iterator[Any] = (
        iter(parts[0].skip(first)) if len(parts) == 1 else islice(chain(*parts), first, None)
    )
    video, names = columns[0].video, columns[0].labels
    number_by_name = {name: number for number, name in enumerate(names)}
    number = first
    try:
        for number, row in enumerate(rows, start=first):
            yield _Row(number, row[video], number_of(row.get("label"), names, number_by_name))
    except Exception as error:
        raise DataError(f"the stream breaks off after row {number} ({first_line(error)})") from error


def head_of_stream(columns: Sequence[Columns], *, name: str, reach: Reach, num_rows: int) -> list[Source]:
    """Read the first rows of a stream into memory, to evaluate on."""
    rows = islice(read_rows(columns, first=0), num_rows)
    return [Source(f"{name}#{row.number}", row.label, partial(reach.content, row.content)) for row in rows]
