"""What a run is fed: clips or tokens to train on, in endless batches, and clips that are held out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.assemblies import TokenPrior
from zoo.errors import DataError
from zoo.ranks import share
from zoo.training.run import Labelled

if TYPE_CHECKING:
    from zoo.assemblies import Assembly
    from zoo.data import ClipDataset, ClipStream
    from zoo.recipes import Recipe, Train
    from zoo.tokens import TokenClips


class Clips:
    """Training and held-out clips, and what was skipped.

    Attributes:
        trained: Clips to train on.
        heldout: Clips never trained on; None when there are none.
        why_not: Why there are none.
    """

    def __init__(
        self,
        source: str,
        trained: ClipDataset | ClipStream,
        heldout: ClipDataset | None,
        why_not: str = "",
        *,
        train: Train,
        num_workers: int | None,
    ) -> None:
        self.trained = trained
        self.heldout = heldout
        self.why_not = why_not
        self._source = source
        self._train = train
        self._num_workers = num_workers

    def batches(self, start: int) -> Iterator[Labelled]:
        """Yield batches without end, in an order that depends on the seed alone.

        Args:
            start: Number of the first batch, counted from the start of the run.
        """
        from zoo.data import make_loader

        loader = make_loader(
            self.trained,
            batch_size=self._train.batch_size,
            num_workers=self._num_workers,
            seed=self._train.seed,
            start_step=start,
            part=share(self._train.batch_size),
        )
        return (Labelled(batch["x_BCTHW"], batch["label_B"]) for batch in loader)

    def skipped(self) -> list[list[str]]:
        """Sources that could not be read so far, with the reason."""
        found = dict(self.trained.skipped)
        if self.heldout is not None:
            found |= dict(self.heldout.skipped)
        return [[source, reason] for source, reason in sorted(found.items())]

    def facts(self) -> dict[str, Any]:
        """What run.json says of the data."""
        return {
            "source": self._source,
            "description": self.trained.description,
            "heldout": self.why_not if self.heldout is None else self.heldout.description,
            "clips": _length(self.trained),
            "heldout_clips": _length(self.heldout),
            "labels": self.trained.labels,
        }


class TokenData:
    """Tokens to train a prior on; attributes and methods as those of `Clips`. Nothing is held out to measure.

    Args:
        tokens: Windows of tokens.
        train: The recipe's training section.
    """

    heldout = None
    why_not = "these are tokens, and what samples look like is measured on clips: zoo eval RUN --data CLIPS"

    def __init__(self, tokens: TokenClips, *, train: Train) -> None:
        self.trained = tokens
        self._train = train

    def check(self, model: Assembly) -> None:
        """Refuse tokens of another tokenizer than the prior's.

        Raises:
            WeightsError: They are.
        """
        assert isinstance(model, TokenPrior)
        self.trained.check(model.tokenizer)

    def batches(self, start: int) -> Iterator[Labelled]:
        from zoo.tokens import iter_batches

        train = self._train
        batches = iter_batches(
            self.trained,
            batch_size=train.batch_size,
            seed=train.seed,
            start_step=start,
            part=share(train.batch_size),
        )
        return (Labelled(batch["indices_Bqthw"], batch["label_B"]) for batch in batches)

    def skipped(self) -> list[list[str]]:
        return [[source, "shorter than a window"] for source in self.trained.too_short]

    def facts(self) -> dict[str, Any]:
        return {
            "source": str(self.trained.folder),
            "description": self.trained.description,
            "heldout": self.why_not,
            "clips": len(self.trained),
            "heldout_clips": None,
            "labels": self.trained.labels,
        }


def is_token_folder(data: Any) -> bool:
    """Return whether a source is a folder that `zoo tokenize` made."""
    from zoo.tokens.metadata import FILE

    return isinstance(data, str | os.PathLike) and (Path(data) / FILE).is_file()


def open_tokens(folder: str | os.PathLike[str], recipe: Recipe, model: Assembly) -> TokenData:
    """Open a folder of tokens for a prior.

    Raises:
        DataError: The model is no prior, or the folder is damaged or of another grid.
    """
    from zoo.tokens import TokenClips

    if not isinstance(model, TokenPrior):
        raise DataError(f"{folder} holds tokens, which train a prior; {model.name} learns from clips")
    stage = recipe.tokenizer
    tokens = TokenClips(
        folder,
        grid=model.generator.grid_thw,
        starts=stage.starts if stage is not None else "auto",
        every=model.every,
        seed=recipe.train.seed,
    )
    return TokenData(tokens, train=recipe.train)


def open_data(data: Any, recipe: Recipe, *, num_workers: int | None, max_bad: float | None = None) -> Clips:
    """Open a source of clips for a recipe: its training part, and its test part or what is held out.

    Args:
        data: As for `zoo.data.open_clips`; or clips that are open already: a data set to train on, or a
            mapping of "train" and "test" to one each.
        recipe: Size of the clips, seed, batch size and augmentation.
        num_workers: Processes that decode clips; chosen by the loader when left out.
        max_bad: Largest share of sources that may be bad; as the clips have it when left out.

    Raises:
        DataError: The source is not there or holds no usable clip.
    """
    if max_bad is not None and not 0 <= max_bad <= 1:
        raise DataError(f"max_bad is {max_bad}; it is a share, from 0 (none may be bad) to 1")
    clips = _open(data, recipe, num_workers=num_workers)
    for part in (clips.trained, clips.heldout):
        if part is not None and max_bad is not None:
            part.max_bad = max_bad
    return clips


def _open(data: Any, recipe: Recipe, *, num_workers: int | None) -> Clips:
    from zoo.data import ClipDataset, ClipStream, open_clips

    train, open_kinds = recipe.train, (ClipDataset, ClipStream)
    if isinstance(data, open_kinds):
        data = {"train": data}
    if isinstance(data, Mapping) and isinstance(data.get("train"), open_kinds):
        trained, heldout, why_not = (
            data["train"],
            data.get("test"),
            "nothing is held out: no clips were given to measure on",
        )
        return Clips(trained.description, trained, heldout, why_not, train=train, num_workers=num_workers)
    trained = open_clips(data, clip=recipe.clip, split="train", seed=train.seed, augment=train.augment)
    heldout, why_not = None, ""
    try:
        found = open_clips(data, clip=recipe.clip, split="test", seed=train.seed)
        assert isinstance(found, ClipDataset)  # of a stream, too, the head is held out as a data set
        heldout = found
    except DataError as error:
        why_not = f"nothing is held out: {error}"
    source = str(data) if isinstance(data, str | os.PathLike) else type(data).__name__
    return Clips(source, trained, heldout, why_not, train=train, num_workers=num_workers)


def _length(clips: ClipDataset | ClipStream | None) -> int | None:
    from zoo.data import ClipDataset

    return len(clips) if isinstance(clips, ClipDataset) else None
