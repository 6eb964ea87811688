"""The clips of a run: which are trained on, which are held out, and endless batches of the former.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import Dataset

from zoo.errors import DataError

if TYPE_CHECKING:
    from zoo.recipes import Recipe


class Clips:
    """Training and held-out clips, and what was skipped.

    Attributes:
        trained: Clips to train on.
        heldout: Clips never trained on; None when there are none.
    """

    def __init__(
        self,
        source: str,
        trained: Dataset[Any],
        heldout: Dataset[Any] | None,
        *,
        recipe: Recipe,
        num_workers: int | None,
    ) -> None:
        self.trained = trained
        self.heldout = heldout
        self._source = source
        self._train = recipe.train
        self._num_workers = num_workers
        self._skipped: dict[str, str] = {}

    def batches(self, start: int) -> Iterator[Tensor]:
        """Yield x_BCTHW in [-1, 1] without end, in an order that depends on the seed alone.

        Args:
            start: Number of the first batch, counted from the start of the run.
        """
        from zoo.data import make_loader

        position = start
        while True:
            loader = make_loader(
                self.trained,
                batch_size=self._train.batch_size,
                num_workers=self._num_workers,
                seed=self._train.seed,
                drop_last=True,
                start_step=position,
            )
            before = position
            for batch in loader:
                self._skipped.update(batch["skipped"])
                position += 1
                yield batch["x_BCTHW"]
            if position == before:
                raise DataError(
                    f"{self._source}: too few clips for one batch of {self._train.batch_size}; set "
                    "train.batch_size lower"
                )

    def skipped(self) -> list[list[str]]:
        """Sources that could not be read so far, with the reason."""
        for clips in (self.trained, self.heldout):
            self._skipped.update(getattr(clips, "skipped", ()))
        return [[source, reason] for source, reason in sorted(self._skipped.items())]

    def facts(self) -> dict[str, Any]:
        """What run.json says of the data."""
        return {
            "source": self._source,
            "description": str(getattr(self.trained, "description", type(self.trained).__name__)),
            "heldout": str(getattr(self.heldout, "description", None)) if self.heldout is not None else None,
            "clips": _length(self.trained),
            "heldout_clips": _length(self.heldout),
            "labels": list(getattr(self.trained, "labels", [])),
        }

    def close(self) -> None:
        """Let go of the loaders' processes."""


def open_data(data: Any, recipe: Recipe, *, num_workers: int | None) -> Clips:
    """Open a source of clips for a recipe: its training part, and its test part or what is held out.

    Raises:
        DataError: The source is not there or holds no usable clip.
    """
    raise NotImplementedError


def _length(clips: Dataset[Any] | None) -> int | None:
    return len(clips) if clips is not None and hasattr(clips, "__len__") else None
