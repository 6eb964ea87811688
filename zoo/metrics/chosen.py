"""The clips of a data set that are measured: chosen evenly, each once, none standing in for another.

Shape legend: B clips, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

from torch import Tensor
from torch.utils.data import Dataset

from zoo.data import Batch, ClipDataset, make_loader
from zoo.data.crashes import AtWork
from zoo.errors import DataError, ZooError


class Stopped(Exception):
    """`evaluate` was told to stop."""


def evenly_spaced(length: int, num: int | None) -> list[int]:
    """Return the numbers of the clips to measure; all where `num` is None or more than there are."""
    if length < 1:
        raise ZooError("the data set holds no clip: nothing to measure. See `zoo data check PATH`")
    if num is not None and num < 1:
        raise ZooError(f"{num} clips were asked for; at least 1 is measured")
    num = length if num is None else min(num, length)
    return [index * length // num for index in range(num)]


class ChosenClips(Dataset[Any]):
    """Some clips of a data set, each marked where the data set gave another one in its place.

    Attributes:
        skipped: Reason by name of the clips chosen that could not be read.
    """

    epoch = 0

    def __init__(self, dataset: Dataset[Any], chosen: list[int]) -> None:
        self.description = str(getattr(dataset, "description", type(dataset).__name__))
        self.skipped: dict[str, str] = {}
        self._dataset = dataset
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        asked = self._chosen[key[1]]
        item = self._dataset[asked]
        if item["index"] == asked:
            return {**item, "skipped": []}
        return {**item, "index": -1, "skipped": item["skipped"][:1]}

    @property
    def at_work(self) -> AtWork | None:
        """Where the data set's own numbers of the clips that workers are reading are written down."""
        return self._dataset.at_work if isinstance(self._dataset, ClipDataset) else None

    @at_work.setter
    def at_work(self, at_work: AtWork | None) -> None:
        if isinstance(self._dataset, ClipDataset):
            self._dataset.at_work = at_work

    def note_crash(self, index: int, reason: str) -> None:
        """Have the data set never read its clip `index` again: the process that read it died."""
        if isinstance(self._dataset, ClipDataset):
            self._dataset.note_crash(index, reason)

    def note_skipped(self, skipped: list[tuple[str, str]]) -> None:
        """Take over what was skipped, here or in another process, and tell the data set."""
        self.skipped.update(skipped)
        if isinstance(self._dataset, ClipDataset):
            self._dataset.note_skipped(skipped)


def read_batches(
    clips: ChosenClips,
    *,
    batch_size: int,
    num_workers: int | None,
    progress: bool,
    stop: Callable[[], bool] | None,
) -> Iterator[Tensor]:
    """Yield the clips that were asked for, without those given in the place of others."""
    from tqdm import tqdm

    loader: Iterable[Batch] = make_loader(
        cast(ClipDataset, clips), batch_size=batch_size, num_workers=num_workers, shuffle=False
    )
    num = 0
    with tqdm(total=len(clips), desc="evaluating", unit="clip", disable=not progress, leave=False) as bar:
        for batch in loader:
            if stop is not None and stop():
                raise Stopped
            x_BCTHW = batch["x_BCTHW"][batch["index_B"] >= 0]
            bar.update(len(batch["index_B"]))
            num += len(x_BCTHW)
            if len(x_BCTHW):
                yield x_BCTHW
    if not num:
        reason = next(iter(clips.skipped.values()))
        raise DataError(f"none of the {len(clips)} clips to measure can be read. First: {reason}")
