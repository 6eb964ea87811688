"""From a word, a path or an object to clips: `open_clips`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from zoo.data.clips import MAX_BAD, ClipDataset, FileClips, Source
from zoo.data.demo import demo_clips
from zoo.data.folders import FoundFile, canonical, files_of_split, find_files, is_video_name
from zoo.data.hub import Columns, Rows, choose_split, is_saved, load_datasets, open_hub, open_local
from zoo.data.moving_mnist import MovingMnist, load_digits
from zoo.data.reach import Reach
from zoo.data.stream import HELD_OUT_ROWS, ClipStream, head_of_stream
from zoo.errors import DataError
from zoo.recipes import Clip

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?")
_FORMS = (
    "a folder of videos, one video file, a folder that datasets.save_to_disk wrote, parquet, "
    "moving-mnist[:DIGITS.npz], demo, user/name on the Hugging Face Hub (stream:user/name reads without "
    "downloading)"
)


def open_clips(
    source: Any,
    *,
    clip: Clip,
    split: str | None = None,
    seed: int = 0,
    augment: Sequence[str] = (),
    cache_mb: float = 512,
    max_bad: float = MAX_BAD,
) -> ClipDataset | ClipStream:
    """Open a source of videos as clips.

    Args:
        source: A path or name: a folder of videos or images, one video, a folder that
            ``datasets.save_to_disk`` wrote, a parquet file or folder of them, ``user/name`` or
            ``user/name:config`` on the Hub, ``demo`` (the shipped clips), ``moving-mnist`` or
            ``moving-mnist:DIGITS``. ``stream:`` before a Hub name, saved folder or parquet reads it
            row by row. Or an object: `datasets.Dataset`, `IterableDataset` or a dict of them.
        clip: Size, length and rate of the clips.
        split: ``train`` gives clips drawn by chance, changing with the epoch; ``test`` and ``val``
            give the middle of each held-out video; None the middle of every video. Sources
            without splits hold out one video in ten (see `zoo.data.folders`).
        seed: With the epoch and the index it decides which clip is drawn.
        augment: Changes to training clips: ``flip`` mirrors half of them.
        cache_mb: Memory for small decoded videos, shared by a loader's workers.
        max_bad: Largest share of videos that may be unreadable.

    Returns:
        ClipDataset: Or a `ClipStream` for training on a source without length; `make_loader` takes
        both. Of a stream the first 32 rows serve for evaluation, and are left out of training where
        it has no splits.

    Raises:
        DataError: There is no such source, or it holds no videos.
    """
    facts: dict[str, Any] = {
        "clip": clip,
        "seed": seed,
        "augment": augment,
        "max_bad": max_bad,
        "random": split is not None and canonical(split) == "train",
    }
    if not isinstance(source, str | PathLike):
        name, reach = type(source).__name__, Reach.of_object()
        return _open_object(source, name=name, reach=reach, split=split, cache_mb=cache_mb, facts=facts)
    name = fspath(source)
    if name == "demo":
        return _open_files(find_files(demo_clips()), "demo", split=split, cache_mb=cache_mb, facts=facts)
    if name == "moving-mnist" or name.startswith("moving-mnist:"):
        digits = load_digits(name.partition(":")[2] or None)
        return MovingMnist(digits, description=f"{name}: made from {len(digits)} digits", **facts)
    streaming = name.startswith("stream:")
    path = Path(name.removeprefix("stream:")).expanduser()
    if path.is_dir() and not is_saved(path) and not _is_parquet_folder(path):
        if streaming:
            raise DataError(
                f"{name}: a folder of video files is read file by file anyway; leave `stream:` out"
            )
        return _open_files(find_files(path), name, split=split, cache_mb=cache_mb, facts=facts)
    if path.is_dir() or (path.is_file() and path.suffix.lower() == ".parquet"):
        loaded, reach = open_local(path, streaming=streaming), Reach.of_path(path)
        return _open_object(loaded, name=str(path), reach=reach, split=split, cache_mb=cache_mb, facts=facts)
    if path.exists():
        if not is_video_name(path.name) and not path.is_file():
            raise DataError(f"{path}: is not a regular file. Data can be: {_FORMS}")
        files = [FoundFile(path, path.name, label=None)]
        return _open_files(files, name, split=split, cache_mb=cache_mb, facts=facts)
    hub_name = name.removeprefix("stream:")
    if _HUB_ID.fullmatch(hub_name):
        loaded, reach = open_hub(hub_name, streaming=streaming), Reach.of_hub()
        return _open_object(loaded, name=hub_name, reach=reach, split=split, cache_mb=cache_mb, facts=facts)
    raise DataError(f"{name!r}: there is no such file or folder. Data can be: {_FORMS}")


def _is_parquet_folder(path: Path) -> bool:
    return next(path.rglob("*.parquet"), None) is not None and not find_files(path)


def _open_files(
    files: list[FoundFile], name: str, *, split: str | None, cache_mb: float, facts: dict[str, Any]
) -> ClipDataset:
    if not files:
        raise DataError(
            f"{name}: no videos or images in this folder, by their suffixes (.mp4, .webm, .gif, .png, ...)"
        )
    chosen, how = files_of_split(files, split, source=name)
    labels = sorted({file.label for file in files if file.label is not None})
    number = {label: at for at, label in enumerate(labels)}
    if not chosen:
        raise DataError(f"{name}: the split {split!r} has no videos ({how})")
    sources = [
        Source(file.relative, -1 if file.label is None else number[file.label], partial(str, file.path))
        for file in chosen
    ]
    description = f"{name}: {len(chosen)} of {len(files)} files ({how}), {len(labels)} labels"
    return FileClips(sources, labels=labels, description=description, cache_mb=cache_mb, **facts)


def _open_object(
    loaded: Any, *, name: str, reach: Reach, split: str | None, cache_mb: float, facts: dict[str, Any]
) -> ClipDataset | ClipStream:
    datasets = load_datasets()
    parts, still, how = choose_split(loaded, split)
    kinds = (datasets.Dataset, datasets.IterableDataset)
    if not parts or not all(isinstance(part, kinds) for part in parts):
        raise DataError(f"data of type {type(loaded).__name__}. Data can be: {_FORMS}, or a datasets object")
    try:
        columns = [Columns(part) for part in parts]
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    if any(isinstance(part, datasets.IterableDataset) for part in parts):
        held_out = still is not None
        return _open_stream(
            columns, name=name, reach=reach, held_out=held_out, cache_mb=cache_mb, facts=facts
        )
    how = how or (f"{still}, 1 row in 10 held out by the hash of its number" if still else "all rows")
    rows = Rows(columns, name=name, split=still, reach=reach)
    description = f"{name}: {len(rows)} rows ({how}), {len(rows.labels)} labels"
    return FileClips(rows, labels=rows.labels, description=description, cache_mb=cache_mb, **facts)


def _open_stream(
    columns: list[Columns],
    *,
    name: str,
    reach: Reach,
    held_out: bool,
    cache_mb: float,
    facts: dict[str, Any],
) -> ClipDataset | ClipStream:
    if facts["random"]:
        skip = HELD_OUT_ROWS if held_out else 0
        description = f"{name}: a stream" + (f", all but its first {skip} rows" if skip else "")
        stream = {key: value for key, value in facts.items() if key != "random"}
        return ClipStream(columns, name=name, reach=reach, description=description, skip_rows=skip, **stream)
    sources = head_of_stream(columns, name=name, reach=reach, num_rows=HELD_OUT_ROWS)
    description = f"{name}: the first {len(sources)} rows of a stream"
    return FileClips(sources, labels=columns[0].labels, description=description, cache_mb=cache_mb, **facts)
