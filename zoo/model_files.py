"""The weights files of a model folder: opened within the folder, read as what they were published as."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.errors import WeightsError
from zoo.files import lies_in
from zoo.safetensors_files import Place, SafetensorsFile


@contextlib.contextmanager
def open_files(folder: Path, digests: Mapping[str, Any]) -> Iterator[list[SafetensorsFile]]:
    """Open the weights files of a folder, their headers checked and their numbers not read yet.

    Args:
        folder: A model folder.
        digests: SHA-256 by the name of each file.

    Raises:
        WeightsError: A name leads out of the folder, a file is damaged, or two hold one tensor.
    """
    if not digests:
        raise WeightsError(f"{folder}: its config names no weights file")
    with contextlib.ExitStack() as stack:
        opened: list[SafetensorsFile] = []
        names: set[str] = set()
        for name in digests:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise WeightsError(f"{folder}: {name!r} is not the name of a safetensors file in the folder")
            file = stack.enter_context(SafetensorsFile(inside(folder, name)))
            if twice := names & file.places.keys():
                raise WeightsError(f"{file.path}: holds tensors that another file holds too: {min(twice)}")
            names |= file.places.keys()
            opened.append(file)
        yield opened


def inside(folder: Path, name: str) -> Path:
    """Return the path of a file of a folder; where a link leads to must lie in the folder, too.

    Raises:
        WeightsError: It leads out.
    """
    path = folder / name
    try:
        within = lies_in(folder, path)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read: {error}") from error
    if not within:
        raise WeightsError(f"{path}: a link that leads out of the folder; copy the file itself there")
    return path


def places_of(files: Sequence[SafetensorsFile]) -> dict[str, Place]:
    """Return where every tensor of several files lies, by name."""
    return {name: place for file in files for name, place in file.places.items()}


def read_verified(files: Sequence[SafetensorsFile], digests: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the tensors of files, and compare the hash of what was read.

    Raises:
        WeightsError: A file was changed.
    """
    tensors: dict[str, Tensor] = {}
    for file in files:
        shard, digest = file.read()
        compare_hash(file, digest, digests)
        tensors |= shard
    return tensors


def compare_hash(file: SafetensorsFile, found: str, digests: Mapping[str, Any]) -> None:
    """Refuse a file whose hash is not the one that its folder says.

    Raises:
        WeightsError: It is another.
    """
    if found != digests[file.path.name]:
        raise WeightsError(
            f"{file.path}: SHA-256 differs from the one in the config: the file was changed or damaged; "
            "fetch or save the model again"
        )


def not_finite(file: SafetensorsFile) -> Iterator[str]:
    """Yield the names of tensors with NaN or infinite values, reading in constant memory."""
    for name, place in file.places.items():
        has_them = place.dtype.is_floating_point and place.dtype.itemsize > 1
        finite = [not has_them or bool(torch.isfinite(piece).all()) for piece in file.pieces(name)]
        if not all(finite):
            yield name
