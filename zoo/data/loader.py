"""Batches of clips: batch s depends on the seed and s, whatever the number of workers.

Shape legend: B batch, C colours, T frames, H W pixels.
"""

from __future__ import annotations

import atexit
import copy
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, partial
from itertools import count, islice
from multiprocessing.sharedctypes import RawValue
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from zoo.data.clips import ClipDataset, ClipItem
from zoo.data.container import first_line
from zoo.data.crashes import AtWork, start_quietly
from zoo.data.stream import ClipStream, Job
from zoo.errors import DataError

_PREFETCH = 4
WHOLE = slice(None)
_UNEXPLAINED = 3
"""Workers that may die between two clips before the loader gives up."""
Key = tuple[int, int]


class Batch(TypedDict):
    """Clips that go through a model together."""

    x_BCTHW: Tensor
    """float32 in [-1, 1]."""
    label_B: Tensor
    """int64, -1 where there is no label."""
    index_B: Tensor
    """int64, which source each clip is of."""
    sources: list[str]
    """Name of each clip's file or row."""
    start_s: list[float]
    """Time of each clip's first frame in its file."""
    skipped: list[tuple[str, str]]
    """Bad sources met on the way: (source, reason)."""


class ClipLoader:
    """Iterate over batches; each pass starts at `start_step`. Made by `make_loader`."""

    def __init__(
        self,
        dataset: ClipDataset | ClipStream,
        *,
        batch_size: int,
        num_workers: int,
        order: Order | None,
        start_step: int,
        part: slice,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.start_step = start_step
        self.part = part
        self._order = order

    def __iter__(self) -> Iterator[Batch]:
        if isinstance(self.dataset, ClipStream):
            jobs = self.dataset.jobs(self.start_step * self.batch_size)
            own = range(self.batch_size)[self.part]
            jobs = (job for place, job in enumerate(jobs) if place % self.batch_size in own)
            batches = _stream_batches(jobs, len(own), self.num_workers)
        else:
            assert self._order is not None
            batches = _worker_batches(self.dataset, self._order, self.num_workers)
        for batch in batches:
            self.dataset.note_skipped(batch["skipped"])
            yield batch


def make_loader(
    dataset: ClipDataset | ClipStream,
    *,
    batch_size: int,
    num_workers: int | None = None,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = False,
    start_step: int = 0,
    part: slice = WHOLE,
) -> ClipLoader:
    """Make batches of a data set.

    Shuffled, the batches are endless and always full: a seeded permutation of each epoch, one after
    the other, cut into batches; batch s holds places s * batch_size and on. So it resumes at any
    step without replaying, and a data set smaller than a batch fills one from several epochs. Not
    shuffled, it is one pass in order.

    Args:
        dataset: What `zoo.data.open_clips` gave. A stream has its own order and is always endless.
        batch_size: Clips in a batch.
        num_workers: Processes (threads for a stream) that decode; one for each of the first two
            cores when left out, 0 decodes in this process.
        seed: Decides the order of every epoch.
        shuffle: Endless seeded order for training, or one pass for evaluation.
        drop_last: Leave the last batch of a pass out when it is not full.
        start_step: Number of the first batch.
        part: Which clips of each batch to make; the others are left to other ranks.

    Raises:
        DataError: A number is out of range, the data set is empty; while iterating, when too many
            sources are bad.
    """
    if batch_size < 1 or start_step < 0 or seed < 0 or (num_workers or 0) < 0:
        raise DataError(
            f"batch_size {batch_size} must be at least 1; num_workers {num_workers}, seed {seed} and "
            f"start_step {start_step} at least 0"
        )
    workers = min(2, os.cpu_count() or 1) if num_workers is None else num_workers
    order = None
    if not isinstance(dataset, ClipStream):
        if not len(dataset):
            raise DataError(f"there are no clips to make batches of: {dataset.description}")
        order = Order(
            len(dataset),
            epoch=None if shuffle else dataset.epoch,
            batch_size=batch_size,
            seed=seed,
            drop_last=drop_last,
            start_step=start_step,
            part=part,
        )
    return ClipLoader(
        dataset, batch_size=batch_size, num_workers=workers, order=order, start_step=start_step, part=part
    )


class Order(Sampler[list[Key]]):
    """The (epoch, index) of every clip of every batch.

    Args:
        num_clips: Clips in an epoch.
        epoch: The one epoch that is passed through in order; None for all of them, shuffled.
        batch_size: Clips in a batch.
        seed: Seed of the permutations.
        drop_last: Leave out a last batch that is not full.
        start_step: Number of the first batch.
        part: Which clips of each batch are wanted.
    """

    def __init__(
        self,
        num_clips: int,
        *,
        epoch: int | None,
        batch_size: int,
        seed: int,
        drop_last: bool,
        start_step: int,
        part: slice = WHOLE,
    ) -> None:
        self.num_clips = num_clips
        self.epoch = epoch
        self.batch_size = batch_size
        self.seed = seed
        self.drop_last = drop_last
        self.start_step = start_step
        self.part = part

    def __iter__(self) -> Iterator[list[Key]]:
        places = self._places(self.start_step * self.batch_size)
        while batch := list(islice(places, self.batch_size)):
            if len(batch) == self.batch_size or not self.drop_last:
                yield batch[self.part]

    def _places(self, start: int) -> Iterator[Key]:
        if self.epoch is not None:
            yield from ((self.epoch, index) for index in range(start, self.num_clips))
            return
        first_epoch, skip = divmod(start, self.num_clips)
        for epoch in count(first_epoch):
            order = np.random.default_rng([self.seed, epoch, 0x0DE5]).permutation(self.num_clips)
            yield from ((epoch, int(index)) for index in order[skip:])
            skip = 0


class _BatchMaker(Dataset["Batch | DataError"]):
    """Makes whole batches in the worker; an error travels as a value, since workers would wrap it."""

    def __init__(self, dataset: ClipDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, keys: list[Key]) -> Batch | DataError:
        try:
            return stack([self._dataset[key] for key in keys])
        except DataError as error:
            return error


def stack(items: Sequence[ClipItem]) -> Batch:
    """Stack clips into a batch."""
    return Batch(
        x_BCTHW=torch.stack([item["x_CTHW"] for item in items]),
        label_B=torch.tensor([item["label"] for item in items]),
        index_B=torch.tensor([item["index"] for item in items]),
        sources=[item["source"] for item in items],
        start_s=[item["start_s"] for item in items],
        skipped=sorted({pair for item in items for pair in item["skipped"]}),
    )


def _as_it_is(value: Any) -> Any:
    return value


@cache
def _exiting() -> Any:
    """A flag that this process shares with its workers, set once it exits."""
    flag = RawValue("b", 0)
    atexit.register(setattr, flag, "value", 1)
    return flag


def outlive_signals(exiting: Any, worker: int) -> None:
    """Have a worker ignore Ctrl-C, SIGTERM and SIGUSR1, which reach the whole group; the parent decides.

    A worker ends when its loader does or its parent is gone. `exiting` is set once the parent exits: then
    `multiprocessing` sends SIGTERM to workers that are left and waits for them.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0) if exiting.value else None)


def _worker_batches(dataset: ClipDataset, order: Order, num_workers: int) -> Iterator[Batch]:
    """Make the batches of an order; a clip whose decoder ends a worker is a bad source from then on."""
    dataset.at_work = at_work = AtWork(num_workers) if num_workers else None
    done, unexplained = 0, 0
    while True:
        rest = copy.copy(order)
        rest.start_step += done
        batches = start_quietly(_loader(dataset, rest, num_workers))
        try:
            for batch in batches:
                if isinstance(batch, DataError):
                    raise batch
                yield batch
                done += 1
            return
        except (RuntimeError, OSError, EOFError) as error:  # the last: it died while its batch was taken
            left = at_work.left_by_the_dead() if at_work is not None else None
            unexplained += not left
            if left is None or unexplained > _UNEXPLAINED:
                raise
            for index in left:
                dataset.note_crash(index, first_line(error))
        del batches  # and with it the workers that are left


def _loader(dataset: ClipDataset, order: Order, num_workers: int) -> DataLoader[Any]:
    return DataLoader(
        _BatchMaker(dataset),
        batch_size=None,
        sampler=order,
        collate_fn=_as_it_is,
        num_workers=num_workers,
        prefetch_factor=_PREFETCH if num_workers else None,
        # Without one of its own, a loader draws from the global generator and changes a seeded run.
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=partial(outlive_signals, _exiting()) if num_workers else None,
    )


def _stream_batches(jobs: Iterator[Job], batch_size: int, num_workers: int) -> Iterator[Batch]:
    if not num_workers:
        while items := [job() for job in islice(jobs, batch_size)]:
            yield stack(items)
        return
    # Threads, not processes: `datasets` would share a stream's shards out among processes by itself,
    # which changes the order; FFmpeg decodes without holding the interpreter's lock.
    pool = ThreadPoolExecutor(num_workers)
    try:
        waiting: deque[Future[ClipItem]] = deque()
        while True:
            waiting.extend(_submit(pool, jobs, _PREFETCH * batch_size - len(waiting)))
            if not waiting:
                return
            yield stack([waiting.popleft().result() for _ in range(min(batch_size, len(waiting)))])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _submit(pool: ThreadPoolExecutor, jobs: Iterator[Job], num: int) -> Iterator[Future[ClipItem]]:
    return (pool.submit(job) for job in islice(jobs, num))
