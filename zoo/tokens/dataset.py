"""Windows of tokens to train a prior on: item i of epoch e depends on the seed, e and i, and nothing else.

Where a window may begin (`starts`):

- ``begin``: where its stream began. The first latent frame of a tokenizer with a lead frame stands for one
  frame alone and looks like no other; a prior that generates from nothing must begin with it, so it has to
  see it at the beginning, always.
- ``any``: at any latent frame. The right thing for a tokenizer whose latent frames are all alike.
- ``auto``: ``begin`` with a lead frame and ``any`` without.

Of clips that went in as windows, ``begin`` means where one of these began, and ``any`` anywhere that no seam
between two of them is crossed, where a window is short enough for that.

Latent frames at a clip's end which only repeated frames fill up are left out where there are enough others.

Shape legend: t h w the latent grid, q codebooks.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from zoo.data.sampling import draw
from zoo.errors import DataError, WeightsError, ZooError
from zoo.outputs import Tokens
from zoo.tokens.metadata import FILE, SHARDS, Metadata, TokenizerFacts, latent_frames, read_metadata
from zoo.tokens.shards import Shard, read_shard

if TYPE_CHECKING:
    from zoo.assemblies import Autoencoder

Starts = Literal["auto", "begin", "any"]


class TokenItem(TypedDict):
    """One window."""

    indices_qthw: Tensor
    """int64 code numbers."""
    label: int
    """Index into the data set's `labels`, -1 when there is none."""
    source: str
    """Name of the file or row."""
    start: int
    """Latent frame of its clip that the window begins with."""
    index: int
    """Which clip it is of."""


class TokenClips(Dataset[TokenItem]):
    """Windows of a folder of tokens, one for every clip and epoch, all codes in memory.

    Args:
        folder: What `zoo.tokens.tokenize` wrote.
        grid: (t, h, w) of a window; h and w are those of the tokens. The latent grid of the recipe's clip
            when left out.
        split: ``train`` gives windows drawn by chance, any other split the middle one of each clip.
        starts: Where windows begin; see the head of this file.
        every: A window is made of one latent frame in so many of a longer run of them.
        seed: With the epoch and the index it decides which window is drawn.

    Attributes:
        metadata: What the folder says of itself.
        labels: Names of the labels; an item's `label` is an index into them.
        grid: (t, h, w) of a window.
        starts: ``begin`` or ``any``.
        epoch: Which windows ``dataset[i]`` gives; see `set_epoch`. ``dataset[epoch, i]`` names both.
        random: Whether windows are drawn by chance.
        too_short: Names of clips with fewer latent frames than a window, which are left out.
        description: One line about what is in it, for people.

    Raises:
        DataError: It is no such folder, is not complete or damaged, has no such split or no clip long enough.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        grid: Sequence[int] | None = None,
        split: str = "train",
        starts: Starts = "auto",
        every: int = 1,
        seed: int = 0,
    ) -> None:
        self.folder = Path(folder)
        self.metadata = _complete(self.folder)
        self.labels = list(self.metadata.class_names)
        if every < 1:
            raise DataError(f"every is {every}; it must be at least 1")
        self.every = every
        self.grid = self._grid(grid)
        self.starts = self._starts(starts)
        self.random = split == "train"
        self.seed = seed
        self.epoch = 0
        self.too_short: list[str] = []
        self._shards = self._read(split)
        self._rows = self._usable()
        self.description = (
            f"{self.folder}: {len(self._rows)} clips of {split}, tokens of {self.metadata.tokenizer.name}, "
            f"windows of {'x'.join(map(str, self.grid))} from {self.starts} start"
            + (f", 1 of {every} latent frames" if every > 1 else "")
        )

    def _grid(self, grid: Sequence[int] | None) -> tuple[int, int, int]:
        h, w = self.metadata.grid
        if grid is None:
            there = latent_frames(self.metadata.tokenizer, self.metadata.clip.min_frames)
            grid = (1 + (there - 1) // self.every, h, w)
        if len(grid) != 3 or grid[0] < 1 or tuple(grid[1:]) != (h, w):
            raise DataError(
                f"{self.folder} holds latent frames of {h}x{w}; a window is (t, {h}, {w}), got {tuple(grid)}"
            )
        return grid[0], h, w

    def _starts(self, starts: Starts) -> Literal["begin", "any"]:
        if starts not in ("auto", "begin", "any"):
            raise DataError(f"starts is {starts!r}; windows start at: auto, begin, any")
        if starts == "auto":
            return "begin" if self.metadata.tokenizer.lead_frame else "any"
        return starts

    def _read(self, split: str) -> list[Shard]:
        facts, tokenizer = self.metadata.splits.get(split), self.metadata.tokenizer
        if facts is None:
            raise DataError(f"{self.folder} has no split {split!r}; it has {', '.join(self.metadata.splits)}")
        cell = (self.metadata.grid[0], self.metadata.grid[1], tokenizer.num_codebooks)
        shards = [
            read_shard(
                self.folder / SHARDS / f"{split}-{number:05d}-of-{facts.shards:05d}.parquet",
                codebook_size=tokenizer.codebook_size,
                cell=cell,
            )
            for number in range(facts.shards)
        ]
        assert self.metadata.result is not None
        rows, told = sum(len(shard.sources) for shard in shards), self.metadata.result[split].rows
        if rows != told:
            raise DataError(f"{self.folder} is damaged: {rows} rows of {split}, {FILE} says {told}")
        return shards

    def _usable(self) -> list[tuple[int, int]]:
        usable, longest, wanted = list[tuple[int, int]](), 0, self._span
        for number, shard in enumerate(self._shards):
            for row, (t, *_) in enumerate(shard.shapes.tolist()):
                longest = max(longest, t)
                if t >= wanted:
                    usable.append((number, row))
                else:
                    self.too_short.append(shard.sources[row])
        if not usable:
            raise DataError(
                f"{self.folder}: no clip has {wanted} latent frames; the longest has {longest}. Ask for "
                "shorter windows"
            )
        return usable

    @property
    def _span(self) -> int:
        """Latent frames from the first of a window to its last."""
        return (self.grid[0] - 1) * self.every + 1

    def check(self, model: Autoencoder) -> None:
        """Refuse a model whose tokens these are not.

        Raises:
            WeightsError: It is another model, or the same with other weights.
        """
        from zoo.fingerprint import fingerprint

        made, this = self.metadata.tokenizer, fingerprint(model)
        if made.fingerprint != this:
            raise WeightsError(
                f"{self.folder} holds tokens of {made.name} with the parts and weights "
                f"{made.fingerprint[:12]}...; this is {model.name} with {this[:12]}.... Tokenise the videos "
                "with this model: zoo tokenize MODEL --data X --out DIR"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose which windows ``dataset[i]`` gives."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._rows)

    def window(self, epoch: int, index: int) -> tuple[NDArray[Any], int]:
        """Return indices_thwq of a window without copying them, and the latent frame that it begins with."""
        number, row = self._rows[index]
        shard = self._shards[number]
        allowed = self._allowed(shard, row)
        chance = draw(self.seed, epoch, index).time if self.random else 0.5
        start = allowed[int(chance * len(allowed))]
        return shard.row(row)[start : start + self._span : self.every], start

    def _allowed(self, shard: Shard, row: int) -> Sequence[int]:
        tokenizer, span, there = self.metadata.tokenizer, self._span, int(shard.shapes[row, 0])
        full = full_frames(tokenizer, int(shard.num_frames[row] - shard.num_held[row]))
        return window_starts(tokenizer, full if full >= span else there, span, self.starts)

    def __getitem__(self, key: int | tuple[int, int]) -> TokenItem:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        if not -len(self) <= index < len(self):
            raise IndexError(f"clip {index} of {len(self)}")
        index %= len(self)
        indices_thwq, start = self.window(epoch, index)
        return TokenItem(
            indices_qthw=torch.from_numpy(indices_thwq.astype(np.int64)).permute(3, 0, 1, 2).contiguous(),
            label=self.label(index),
            source=self.source(index),
            start=start,
            index=index,
        )

    def label(self, index: int) -> int:
        """Return the label of a clip, -1 where it has none."""
        number, row = self._rows[index]
        return int(self._shards[number].labels[row])

    def source(self, index: int) -> str:
        """Return the name of a clip's file or row."""
        number, row = self._rows[index]
        return self._shards[number].sources[row]

    def whole(self, index: int) -> Tokens:
        """Return all tokens of a clip, to decode: ``model.decode(dataset.whole(0))``.

        Raises:
            ZooError: The clip went in as windows, which have to be decoded one by one.
        """
        number, row = self._rows[index]
        shard, tokenizer, clip = self._shards[number], self.metadata.tokenizer, self.metadata.clip
        num_frames = int(shard.num_frames[row])
        if tokenizer.window is not None and num_frames > tokenizer.window:
            raise ZooError(
                f"{shard.sources[row]} went in as windows of {tokenizer.window} frames; decode windows of "
                f"{latent_frames(tokenizer, tokenizer.window)} latent frames each, not the whole"
            )
        indices_thwq = torch.from_numpy(shard.row(row).astype(np.int64))
        return Tokens(None, indices_thwq.permute(3, 0, 1, 2)[None], (num_frames, clip.height, clip.width))


def full_frames(tokenizer: TokenizerFacts, num_frames: int) -> int:
    """Return how many latent frames of a clip go before the first that only repeated frames fill up."""
    whole, rest = divmod(num_frames, tokenizer.window) if tokenizer.window else (0, num_frames)
    lead = int(tokenizer.lead_frame)
    full = lead + (rest - lead) // tokenizer.stride[0] if rest else 0
    return full + (whole * latent_frames(tokenizer, tokenizer.window) if tokenizer.window else 0)


def window_starts(
    tokenizer: TokenizerFacts, there: int, wanted: int, starts: Literal["begin", "any"]
) -> Sequence[int]:
    """Return where among the first `there` latent frames a window of `wanted` may begin; never nowhere."""
    last = there - wanted
    if tokenizer.window is None:
        return range(1) if starts == "begin" else range(last + 1)
    period = latent_frames(tokenizer, tokenizer.window)
    room = period - wanted if starts == "any" else 0
    return [at for at in range(last + 1) if at % period <= max(room, 0)]


def _complete(folder: Path) -> Metadata:
    metadata = read_metadata(folder)
    if metadata is None:
        raise DataError(
            f"{folder} is no folder of tokens; zoo tokenize MODEL --data X --out {folder} makes one"
        )
    if metadata.result is None or metadata.result.keys() != metadata.splits.keys():
        raise DataError(f"{folder} is not complete; type the zoo tokenize command again and it goes on")
    return metadata
