"""Find the videos in a folder, their splits and their labels.

- Any names, any nesting; files are known by their suffix, hidden ones are left out, and the order
  is that of their paths. Images count as videos of one frame.
- Splits: top folders train (training) and test (testing) or val (valid, validation, eval). Where
  there are none, the files whose path hashes into the lowest tenth are held out: the same ones on every
  machine, and adding files moves none. Where that leaves a side empty, which happens in small folders,
  the file with the lowest hash is held out or that with the highest is not, and added files can move it.
  Of a lone file nothing can be held out.
- Labels: the column `label` of a metadata.csv (its `file_name` is relative to its folder), else the
  folder a file lies in, numbered in alphabetical order over all splits.
"""

from __future__ import annotations

import csv
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from zoo.data.container import is_regular
from zoo.errors import DataError

# fmt: off
VIDEO_SUFFIXES = frozenset((
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".ts", ".mts", ".m2ts", ".flv",
    ".f4v", ".wmv", ".asf", ".ogv", ".ogg", ".3gp", ".3g2", ".gif", ".mxf", ".vob", ".divx", ".h264", ".hevc",
    ".y4m", ".apng",
))
# fmt: on
IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"))
SPLIT_NAMES = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "val": ("val", "valid", "validation", "eval", "dev"),
}
HELD_OUT = 0.1
"""Share of a source without splits that is held out."""


@dataclass(frozen=True)
class FoundFile:
    """A video file: where it is, its path below the folder given, its label or None."""

    path: Path
    relative: str
    label: str | None


def is_video_name(name: str) -> bool:
    """Whether a file of this name is taken for a video or an image."""
    suffix = os.path.splitext(name)[1].lower()
    return not name.startswith(".") and (suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES)


def find_files(root: Path) -> list[FoundFile]:
    """List the video files below `root` with their labels, in the order of their paths.

    Files named like videos that are no regular files (a folder, a pipe) are listed too, so that
    they are counted as bad rather than passed over; folders are walked into instead.
    """
    found: list[tuple[str, Path]] = []
    tables: list[Path] = []
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            path = Path(folder, name)
            if is_video_name(name):
                found.append((path.relative_to(root).as_posix(), path))
            elif name == "metadata.csv" and is_regular(path):
                tables.append(path)
    listed = _labels_from(tables)
    files = []
    for relative, path in sorted(found):
        label = listed.get(os.path.normpath(path)) if listed else _folder_label(relative)
        files.append(FoundFile(path, relative, label))
    return files


def _folder_label(relative: str) -> str | None:
    parts = relative.split("/")[:-1]
    if parts and split_of(relative):
        parts = parts[1:]
    return parts[-1] if parts else None


def _labels_from(tables: list[Path]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for table in tables:
        try:
            with table.open(newline="", encoding="utf-8-sig") as file:
                for row in csv.DictReader(file):
                    if row.get("label") and row.get("file_name"):
                        labels[os.path.normpath(table.parent / str(row["file_name"]))] = str(row["label"])
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{table}: not a readable CSV ({error})") from None
    return labels


def split_of(relative: str) -> str | None:
    """Split that the top folder of a path names, or None."""
    head, _, rest = relative.partition("/")
    return next((name for name, words in SPLIT_NAMES.items() if rest and head.lower() in words), None)


def canonical(split: str) -> str:
    """The split that a word means: train, test or val.

    Raises:
        DataError: The word names none.
    """
    for name, words in SPLIT_NAMES.items():
        if split.lower() in words:
            return name
    raise DataError(f"unknown split {split!r}; there are train, test, val, or None for everything")


def fallbacks(split: str) -> tuple[str, ...]:
    """Splits that serve for `split`, best first: a test set stands in for a missing val set."""
    return {"train": ("train",), "test": ("test", "val"), "val": ("val", "test")}[split]


def _fraction(name: str) -> float:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def hold_out(names: list[str], split: str, *, source: str) -> list[int]:
    """Numbers of the names that belong to `split` where the source, so called, has no splits of its own.

    Raises:
        DataError: A held-out split of fewer than two videos is asked for.
    """
    if len(names) < 2:
        if names and split != "train":
            raise DataError(f"{source}: one video: nothing can be held out")
        return list(range(len(names)))
    fractions = [_fraction(name) for name in names]
    least = min(range(len(names)), key=fractions.__getitem__)
    held = {number for number, fraction in enumerate(fractions) if fraction < HELD_OUT} | {least}
    if len(held) == len(names):
        held.remove(max(held, key=fractions.__getitem__))
    return [number for number in range(len(names)) if (number in held) == (split != "train")]


def files_of_split(files: list[FoundFile], split: str | None, *, source: str) -> tuple[list[FoundFile], str]:
    """Choose the files of a split, and say how it was chosen.

    Raises:
        DataError: As `hold_out`.
    """
    if split is None:
        return files, "all files"
    wanted = canonical(split)
    by_folder = [split_of(file.relative) for file in files]
    if "train" in by_folder and ("test" in by_folder or "val" in by_folder):
        name = next((name for name in fallbacks(wanted) if name in by_folder), wanted)
        return [file for file, of in zip(files, by_folder, strict=True) if of == name], f"its folder {name}"
    names = [file.relative for file in files]
    chosen = [files[number] for number in hold_out(names, wanted, source=source)]
    if len(files) == 1:
        return chosen, "its only file; nothing can be held out"
    return chosen, f"{wanted}, 1 file in 10 held out by the hash of its path"
