"""Parquet files of tokens: one row a clip, typed for Hugging Face, with what was left out in the footer.

A shard appears under its name when it is whole and on disk; whether it is there says whether its clips are
done. Codes are stored byte plane by byte plane and compressed: close to their entropy for every size of
codebook, where Parquet's dictionary takes up to twice as much.

Shape legend: t h w the latent grid, q codebooks.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from zoo.data.container import first_line
from zoo.data.hub import load_datasets
from zoo.errors import DataError
from zoo.files import new_file

_KEY = b"zoo"
_LEAF = "indices.list.element"


class Row(NamedTuple):
    """The tokens of a clip, and what it was.

    Attributes:
        indices_thwq: Code numbers.
        label: Index into the class names, -1 for none.
        source: Name of the file or row.
        num_frames: Frames that the tokens stand for, from the first on.
        num_held: How many of them, at the end, hold the video's last frame because it is short.
        fps: Frames a second.
    """

    indices_thwq: NDArray[Any]
    label: int
    source: str
    num_frames: int
    num_held: int
    fps: float


@dataclass(frozen=True)
class Footer:
    """What a finished shard says of itself."""

    settings: str
    """Id of the settings that it was made with."""
    rows: int
    frames: int
    tokens: int
    skipped: list[list[str]]
    """Clips that cannot be read: [source, reason]."""


def dtype_of(codebook_size: int) -> str:
    """Return the smallest type that holds every code."""
    for name in ("uint8", "uint16", "uint32"):
        if codebook_size - 1 <= np.iinfo(name).max:
            return name
    return "int64"


def write_shard(
    path: Path,
    rows: Sequence[Row],
    *,
    settings: str,
    skipped: Sequence[Sequence[str]],
    codebook_size: int,
    class_names: Sequence[str],
    size_HW: tuple[int, int],
) -> None:
    """Write a shard aside, sync it to disk and put it in place of what is there."""
    pa, pq = _arrow()
    datasets = load_datasets()
    dtype = dtype_of(codebook_size)
    columns: dict[str, Any] = {
        "indices": datasets.Sequence(datasets.Value(dtype)),
        "shape": datasets.Sequence(datasets.Value("int32"), length=4),
        "label": datasets.ClassLabel(names=list(class_names)) if class_names else datasets.Value("int64"),
        "source": datasets.Value("string"),
        "start_frame": datasets.Value("int64"),
        "num_frames": datasets.Value("int64"),
        "num_held": datasets.Value("int64"),
        "fps": datasets.Value("float64"),
        "height": datasets.Value("int32"),
        "width": datasets.Value("int32"),
    }
    schema = datasets.Features(columns).arrow_schema
    flat = [row.indices_thwq.astype(dtype).reshape(-1) for row in rows]
    offsets = np.cumsum([0, *(len(codes) for codes in flat)])
    if offsets[-1] >= 1 << 31:
        raise DataError(f"{path.name}: more than 2^31 tokens in one shard; use smaller ones (--shard-clips)")
    values: dict[str, Any] = {
        "indices": pa.ListArray.from_arrays(
            pa.array(offsets, pa.int32()), pa.array(np.concatenate([np.empty(0, dtype), *flat]))
        ),
        "shape": [list(row.indices_thwq.shape) for row in rows],
        "label": [row.label if row.label >= 0 else None for row in rows],
        "source": [row.source for row in rows],
        "start_frame": [0] * len(rows),
        "num_frames": [row.num_frames for row in rows],
        "num_held": [row.num_held for row in rows],
        "fps": [row.fps for row in rows],
        "height": [size_HW[0]] * len(rows),
        "width": [size_HW[1]] * len(rows),
    }
    arrays = [
        made if isinstance(made := values[field.name], pa.Array) else pa.array(made, field.type)
        for field in schema
    ]
    footer = {
        "settings": settings,
        "rows": len(rows),
        "frames": sum(row.num_frames for row in rows),
        "tokens": int(offsets[-1]),
        "skipped": [list(pair) for pair in skipped],
    }
    schema = schema.with_metadata({**(schema.metadata or {}), _KEY: json.dumps(footer).encode()})
    table = pa.Table.from_arrays([a.cast(f.type) for a, f in zip(arrays, schema, strict=True)], schema=schema)
    with (
        new_file(path, force=True) as temporary,
        pq.ParquetWriter(
            temporary,
            schema,
            compression="zstd",
            use_dictionary=["label", "source", "fps", "height", "width"],
            column_encoding={_LEAF: "BYTE_STREAM_SPLIT"},
        ) as writer,
    ):
        if rows:  # `datasets` cannot read a row group without rows
            writer.write_table(table)


def read_footer(path: Path) -> Footer | None:
    """Return what a shard says of itself; None where there is none, or it is not whole or not ours."""
    pa, pq = _arrow()
    try:
        metadata = pq.read_schema(path).metadata or {}
        return Footer(**json.loads(metadata[_KEY]))
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


@dataclass(frozen=True)
class Shard:
    """The rows of a shard, in memory.

    Attributes:
        codes: All codes, one row after the other.
        offsets: Where each row begins in them, and where the last ends.
        shapes: (t, h, w, q) of each row.
        labels: -1 where a row has none.
        sources: Name of each row's file.
        num_frames: Frames of each row.
        num_held: Frames at the end of each row that hold the last one.
        fps: Frames a second of each row.
    """

    codes: NDArray[Any]
    offsets: NDArray[np.int64]
    shapes: NDArray[np.int64]
    labels: NDArray[np.int64]
    sources: list[str]
    num_frames: NDArray[np.int64]
    num_held: NDArray[np.int64]
    fps: NDArray[np.float64]

    def row(self, number: int) -> NDArray[Any]:
        """Return indices_thwq of a row, without copying them."""
        return self.codes[self.offsets[number] : self.offsets[number + 1]].reshape(self.shapes[number])


def read_shard(path: Path, *, codebook_size: int, cell: tuple[int, int, int]) -> Shard:
    """Read a shard.

    Args:
        path: The file.
        codebook_size: Codes that there are.
        cell: (h, w, q) that every row must have.

    Raises:
        DataError: It is missing or damaged, or holds codes or grids that the tokenizer does not make.
    """
    pa, pq = _arrow()
    names = ["indices", "shape", "label", "source", "num_frames", "num_held", "fps"]
    try:
        table = pq.ParquetFile(path).read(columns=names).combine_chunks()
        column = {name: _one(table.column(name)) for name in names}
        shard = Shard(
            codes=column["indices"].values.to_numpy(zero_copy_only=False),
            offsets=column["indices"].offsets.to_numpy().astype(np.int64),
            shapes=column["shape"].flatten().to_numpy(zero_copy_only=False).astype(np.int64).reshape(-1, 4),
            labels=column["label"].fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64),
            sources=column["source"].to_pylist(),
            num_frames=column["num_frames"].to_numpy().astype(np.int64),
            num_held=column["num_held"].to_numpy().astype(np.int64),
            fps=column["fps"].to_numpy().astype(np.float64),
        )
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is missing or damaged ({first_line(error)})") from None
    lengths = np.diff(shard.offsets)
    fits = len(shard.shapes) == len(lengths) and all(
        min(shape) > 0 and tuple(shape[1:]) == cell and math.prod(shape) == length
        for shape, length in zip(shard.shapes.tolist(), lengths.tolist(), strict=True)
    )
    if not fits:
        raise DataError(f"{path} is damaged: the shape of a row is not that of its codes, or not t x {cell}")
    if len(shard.codes) and not 0 <= int(shard.codes.min()) <= int(shard.codes.max()) < codebook_size:
        raise DataError(f"{path} is damaged: code {shard.codes.max()} of {codebook_size}")
    return shard


def _arrow() -> tuple[Any, Any]:
    return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")


def _one(column: Any) -> Any:
    """Return a column of a table as a single array."""
    pa, _ = _arrow()
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
