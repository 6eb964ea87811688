"""Reading safetensors files from strangers: the header is checked to the end before a number is read.

What the reference library refuses is refused here, and beyond that keys that stand twice, fields that the
format does not have, and headers of more than `MAX_HEADER_BYTES`. Numbers are read, not mapped into memory:
a file that is cut short while it is in use gives an error, where a mapped one ends the process.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from zoo import plain_json
from zoo.errors import WeightsError

MAX_HEADER_BYTES = 2 << 20
"""Longest header that is read, some 20,000 tensors."""

_MAX_AXES = 64
_MAX_NUM = 1 << 62
_CHUNK = 8 << 20
_DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64",
}  # fmt: skip
_FOREIGN = {
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    b"\x80": "a Python pickle, which may run code",
    b"version https://git-lfs": "a Git LFS pointer: the weights themselves were not fetched",
    b"<": "an HTML or XML page",
    b"\x89HDF": "an HDF5 file",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies: its bytes begin at `start` of the file and end before `end`."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


class SafetensorsFile:
    """An open file with a sound header. Use it as a context manager.

    Attributes:
        places: Every tensor by name, in the order of the file.

    Raises:
        WeightsError: It is not there, something else, or damaged.
    """

    places: dict[str, Place]

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise WeightsError(f"{path}: not a regular file")
            self._file = path.open("rb")
        except FileNotFoundError:
            raise WeightsError(f"{path}: there is no such file") from None
        except (OSError, ValueError) as error:
            if isinstance(error, WeightsError):
                raise
            raise WeightsError(f"{path}: cannot be read: {error}") from error
        try:
            self._open()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        head = self._file.read(8)
        peek = head + self._file.read(248)
        for magic, what in _FOREIGN.items():
            if peek.startswith(magic) and peek[8:9] != b"{":
                raise WeightsError(f"{self.path}: is {what}; it is not safetensors and is not read")
        try:
            if len(head) < 8:
                raise ValueError("it is too short")
            (length,) = struct.unpack("<Q", head)
            if length > size - 8:
                raise ValueError(f"its header would have {length:,} bytes, which is more than there are")
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"its header has {length:,} bytes; at most {MAX_HEADER_BYTES:,} are read")
            self._file.seek(8)
            header = self._file.read(length)
            if header[:1] != b"{":
                raise ValueError("its header does not begin with {")
            self.places = dict(_places(plain_json.loads(header), 8 + length, size))
        except ValueError as error:
            raise WeightsError(
                f"{self.path}: not a whole safetensors file ({size:,} bytes): {error}"
            ) from error
        self._header = head + header

    def tensor(self, name: str) -> Tensor:
        """Read one tensor.

        Raises:
            WeightsError: The file has become shorter, holds truth values other than 0 and 1, or there is no
                memory for it.
        """
        place = self.places[name]
        self._file.seek(place.start)
        return self._read(name, place)

    def pieces(self, name: str) -> Iterator[Tensor]:
        """Read one tensor, some megabytes of its numbers after the other.

        Raises:
            WeightsError: As `tensor`.
        """
        place = self.places[name]
        for start in range(place.start, place.end, _CHUNK):
            self._file.seek(start)
            yield self._read(name, Place(place.dtype, (-1,), start, min(start + _CHUNK, place.end)))

    def read(self) -> tuple[dict[str, Tensor], str]:
        """Read all tensors; return them and the SHA-256 of the file, of the very bytes that were read.

        Raises:
            WeightsError: As `tensor`.
        """
        digest = hashlib.sha256(self._header)
        self._file.seek(len(self._header))
        tensors = {}
        for name, place in self.places.items():  # in the order of the file, without holes
            tensors[name] = self._read(name, place, digest)
        return tensors, digest.hexdigest()

    def sha256(self) -> str:
        """Return the SHA-256 of the file without keeping anything of it."""
        self._file.seek(0)
        return hashlib.file_digest(self._file, "sha256").hexdigest()

    def _read(self, name: str, place: Place, digest: Any = None) -> Tensor:
        size = place.end - place.start
        try:
            flat = torch.empty(size, dtype=torch.uint8)
        except (MemoryError, RuntimeError) as error:
            raise WeightsError(f"{self.path}: there is no memory for {name!r} of {size:,} bytes") from error
        view = memoryview(flat.numpy())  # type: ignore[arg-type]
        done = 0
        while done < len(view):
            part = view[done : done + _CHUNK]
            num = self._file.readinto(part)
            if not num:
                raise WeightsError(
                    f"{self.path}: ends within {name!r}: it was cut short while it was being read"
                )
            if digest is not None:
                digest.update(part[:num])
            done += num
        if place.dtype == torch.bool and flat.numel() and int(flat.max()) > 1:
            raise WeightsError(f"{self.path}: {name!r} holds truth values that are neither 0 nor 1")
        return flat.view(place.dtype).reshape(place.shape)

    def close(self) -> None:
        """Close the file; tensors that were read stay."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _places(header: Any, begin: int, size: int) -> Iterator[tuple[str, Place]]:
    """Yield the tensors of a header in the order of the file.

    Raises:
        ValueError: Fields are missing, foreign or of another type, or the tensors do not lie side by side
            from the first byte to the last.
    """
    facts = header.pop("__metadata__", {})
    if not isinstance(facts, dict) or not all(isinstance(fact, str) for fact in facts.values()):
        raise ValueError("its __metadata__ is not a mapping of texts")
    found = [(name, _place(name, entry, begin)) for name, entry in header.items()]
    found.sort(key=lambda item: (item[1].start, item[1].end))
    at = begin
    for name, place in found:
        if place.start != at:
            problem = "overlaps the tensor before it" if place.start < at else "leaves a hole before it"
            raise ValueError(f"{name[:200]!r} {problem}")
        at = place.end
    if at != size:
        more = "fewer" if at > size else "more"
        raise ValueError(f"its tensors end at byte {at:,}, and the file has {more}")
    yield from found


def _place(name: str, entry: Any, begin: int) -> Place:
    label = repr(name[:200])
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{label} has not just a dtype, a shape and data_offsets")
    dtype = getattr(torch, _DTYPES.get(str(entry["dtype"]), ""), None)
    if not isinstance(entry["dtype"], str) or dtype is None:
        raise ValueError(f"{label} has the dtype {str(entry['dtype'])[:40]!r}, which is not read")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers, most in ((shape, _MAX_AXES), (offsets, 2)):
        whole = isinstance(numbers, list) and all(type(n) is int and 0 <= n < _MAX_NUM for n in numbers)
        if not whole or len(numbers) > most:
            raise ValueError(
                f"{label} has a shape or data_offsets that are no numbers from 0 on, or too many"
            )
    if len(offsets) != 2 or offsets[1] < offsets[0]:
        raise ValueError(f"{label} has data_offsets {offsets}; they are a beginning and an end")
    if math.prod(n for n in shape if n) >= _MAX_NUM:
        raise ValueError(f"{label} has a shape of too many numbers")
    if math.prod(shape) * dtype.itemsize != offsets[1] - offsets[0]:
        raise ValueError(
            f"{label} is {entry['dtype']} {shape}, which are not {offsets[1] - offsets[0]:,} bytes"
        )
    return Place(dtype, tuple(shape), begin + offsets[0], begin + offsets[1])
