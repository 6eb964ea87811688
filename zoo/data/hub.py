"""Hugging Face `datasets` as sources of video: saved folders, parquet, the Hub, objects.

Decoding is ours: video columns are cast to ``decode=False`` and give bytes or a path. A column counts
when it is a `Video` or `Image`, a struct of `bytes` and `path`, or binary; one called `video` comes
first. `label`: a `ClassLabel`, string or int column.

A row may name a file instead of holding one, within the bounds of `zoo.data.reach`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, overload

from zoo import plain_json
from zoo.data.clips import Source
from zoo.data.container import VideoSource, first_line, is_regular
from zoo.data.folders import SPLIT_NAMES, canonical, fallbacks, hold_out
from zoo.data.parquet import refuse_bombs
from zoo.data.reach import Reach
from zoo.errors import DataError
from zoo.files import lies_in, read_regular

_MAX_JSON_BYTES = 16 << 20


def load_datasets() -> ModuleType:
    """Import `datasets`, told not to use a torchcodec that cannot be imported.

    With a broken torchcodec installed even ``Video(decode=False)`` fails otherwise.
    """
    datasets = importlib.import_module("datasets")
    if getattr(datasets.config, "TORCHCODEC_AVAILABLE", False):
        try:
            importlib.import_module("torchcodec.decoders")
        except Exception:  # a missing FFmpeg shows as RuntimeError or OSError
            datasets.config.TORCHCODEC_AVAILABLE = False
    return datasets


def open_local(path: Path, *, streaming: bool) -> Any:
    """Load a folder that ``save_to_disk`` wrote, or parquet files.

    Raises:
        DataError: It cannot be loaded.
    """
    datasets = load_datasets()
    try:
        if is_saved(path):
            _check_saved(path)
            loaded = datasets.load_from_disk(str(path))
            if streaming:
                parts = loaded.items() if isinstance(loaded, dict) else [("train", loaded)]
                loaded = datasets.IterableDatasetDict({k: v.to_iterable_dataset() for k, v in parts})
            return loaded
        splits = parquet_files(path)
        refuse_bombs(file for files in splits.values() for file in files)
        return datasets.load_dataset("parquet", data_files=splits, streaming=streaming)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: `datasets` cannot load it ({first_line(error)})") from None


def is_saved(path: Path) -> bool:
    """Whether ``Dataset.save_to_disk`` wrote the folder."""
    return (path / "dataset_dict.json").is_file() or _is_table(path)


def _is_table(path: Path) -> bool:
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def _check_saved(path: Path) -> None:
    """Refuse a saved folder by which `datasets` would read files that lie elsewhere, or wait for a pipe.

    Raises:
        DataError: Names the file.
    """
    tables = [path]
    if not _is_table(path):
        _check_own(path, path / "dataset_dict.json")
        splits = _json(path / "dataset_dict.json").get("splits", [])
        tables = [path / str(split) for split in splits]
    for table in tables:
        for file in (table / "state.json", table / "dataset_info.json"):
            _check_own(path, file)
        for entry in _json(table / "state.json").get("_data_files", []):
            _check_own(path, table / str(entry["filename"]))


def _check_own(folder: Path, file: Path) -> None:
    if not lies_in(folder, file):
        raise DataError(f"{folder}: has {file} read, which lies outside of it and is not opened")
    if not is_regular(file):
        raise DataError(f"{folder}: has {file} read, which is no regular file")


def _json(path: Path) -> dict[str, Any]:
    found = plain_json.forgiving(read_regular(path, most=_MAX_JSON_BYTES))
    return found if isinstance(found, dict) else {}


def parquet_files(path: Path) -> dict[str, list[str]]:
    """Sort parquet files into splits by their names (``train-00000-of-00002.parquet``) or folders."""
    if path.is_file():
        return {"train": [str(path)]}
    files = sorted(path.rglob("*.parquet"))
    splits: dict[str, list[str]] = {}
    for file in files:
        words = [file.stem.split("-")[0].lower(), *(p.lower() for p in file.relative_to(path).parts[:-1])]
        name = next((n for n, names in SPLIT_NAMES.items() if any(w in names for w in words)), "all")
        splits.setdefault(name, []).append(str(file))
    if "train" not in splits or len(splits) == 1:
        return {"train": [str(file) for file in files]}
    splits.pop("all", None)
    return splits


def open_hub(name: str, *, streaming: bool) -> Any:
    """Load ``user/name`` or ``user/name:config`` from the Hub, or from its local cache.

    Raises:
        DataError: It cannot be loaded; says what to do without a network.
    """
    datasets = load_datasets()
    repository, _, config = name.partition(":")
    try:
        return datasets.load_dataset(repository, config or None, streaming=streaming)
    except Exception as error:
        raise DataError(
            f"{name!r} is no file or folder here, and the Hugging Face Hub does not give it as a data set "
            f"({first_line(error)}). Without a network, run `hf download {repository} --repo-type dataset "
            f"--local-dir DIR` where there is one and give DIR"
        ) from None


def choose_split(loaded: Any, split: str | None) -> tuple[list[Any], str | None, str]:
    """Choose the parts of a loaded object that make up `split`.

    Returns:
        The parts, the split that is still to be held out of them (None when they are it), and
        how it was chosen.
    """
    if not isinstance(loaded, dict):
        return [loaded], split and canonical(split), ""
    if split is None:
        return list(loaded.values()), None, "all splits"
    wanted = canonical(split)
    names = {
        kind: next((n for n in loaded if n.lower() in words), None) for kind, words in SPLIT_NAMES.items()
    }
    if names["train"] and (names["test"] or names["val"]):
        name = next(name for kind in fallbacks(wanted) if (name := names[kind]))
        return [loaded[name]], None, f"its split {name}"
    first = names["train"] or next(iter(loaded))
    return [loaded[first]], wanted, ""


class Columns:
    """Which columns of a dataset hold the video and the label.

    Args:
        data: A `datasets.Dataset` or `IterableDataset`.

    Attributes:
        data: The same, its video column no longer decoded by `datasets`.
        labels: Names of the labels, known beforehand for a `ClassLabel` only.

    Raises:
        DataError: No column holds videos.
    """

    def __init__(self, data: Any) -> None:
        datasets = load_datasets()
        features = data.features
        if features is None and hasattr(data, "_resolve_features"):
            data = data._resolve_features()
            features = data.features
        features = features or {}
        self.video = self._video_column(features)
        feature = features[self.video]
        if isinstance(feature, datasets.Video | datasets.Image):
            data = data.cast_column(self.video, type(feature)(decode=False))
        label = features.get("label")
        self.labels = list(label.names) if isinstance(label, datasets.ClassLabel) else []
        self.has_label = label is not None
        self.data = data

    @staticmethod
    def _video_column(features: Any) -> str:
        datasets = load_datasets()

        def holds(feature: Any) -> bool:
            if isinstance(feature, datasets.Video | datasets.Image):
                return True
            if isinstance(feature, dict):
                return "bytes" in feature
            return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")

        text = isinstance(features.get("video"), datasets.Value)
        names = [name for name, feature in features.items() if holds(feature) or (text and name == "video")]
        if not names:
            raise DataError(
                "no column holds videos: wanted a Video or Image feature, a struct of bytes and path, "
                "or binary; "
                f"got {', '.join(f'{name}: {feature}' for name, feature in features.items()) or 'no columns'}"
            )
        return "video" if "video" in names else names[0]


class Rows(Sequence[Source]):
    """The rows of datasets as sources, fetched when it is their turn.

    Args:
        parts: What `Columns` made of `datasets.Dataset` objects that share their columns.
        name: Name of the whole, for messages.
        split: Split to hold out of them, None for all rows.
        reach: What rows may name.
    """

    def __init__(self, parts: list[Columns], *, name: str, split: str | None, reach: Reach) -> None:
        self._parts = parts
        self._name = name
        self._reach = reach
        places = [(part, row) for part, columns in enumerate(parts) for row in range(len(columns.data))]
        if split is not None:
            names = [f"{part}/{row}" for part, row in places]
            places = [places[n] for n in hold_out(names, split, source=name)]
        self._places = places
        self.labels = parts[0].labels or self._collect_labels()
        self._number = {label: number for number, label in enumerate(self.labels)}

    def _collect_labels(self) -> list[str]:
        if not all(part.has_label for part in self._parts):
            return []
        seen: set[str] = set()
        for part in self._parts:
            seen.update(str(label) for label in part.data.unique("label") if label is not None)
        return sorted(seen)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Source: ...
    @overload
    def __getitem__(self, index: slice) -> list[Source]: ...
    def __getitem__(self, index: int | slice) -> Source | list[Source]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        part, row = self._places[index]
        columns = self._parts[part]
        name = f"{self._name}#{row}" if len(self._parts) == 1 else f"{self._name}#{part}.{row}"
        label = -1
        if columns.has_label:
            label = number_of(
                columns.data.select_columns("label")[row]["label"], columns.labels, self._number
            )

        def content() -> VideoSource:
            return self._reach.content(columns.data[row][columns.video])

        return Source(name, label, content)


def number_of(label: Any, class_names: list[str], numbers: dict[str, int]) -> int:
    """Index of a row's label, -1 for none."""
    if label is None:
        return -1
    if class_names and isinstance(label, int):
        return label
    return numbers.get(str(label), -1)
