"""Files that torch wrote, as places of tensors: zip archives, TorchScript and the format before 1.6.

The pickles in them are read by `zoo.converting.pickles`, which runs nothing; ``torch.load`` and
``torch.jit.load`` are not used.
"""

from __future__ import annotations

import dataclasses
import io
import re
import struct
import zipfile
from typing import Any, BinaryIO

import torch
from torch import Tensor

from zoo.converting.pickles import MAX_PICKLE_BYTES, Global, Inert, is_plain_key, read_pickle
from zoo.errors import WeightsError

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_MAX_RECORDS = 1 << 16
_MAX_DIRECTORY_BYTES = 64 * _MAX_RECORDS
_MAX_COPIED = 1 << 20
_MAX_AXES = 64
_MAX_NUM = 1 << 62
_MAX_REPEATS = 1 << 24
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_KEY = re.compile(r"[\w.-]+")
_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ComplexDoubleStorage": torch.complex128,
    "ComplexFloatStorage": torch.complex64,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
    "UntypedStorage": torch.uint8,
}
_DTYPES = {
    str(value).removeprefix("torch."): value
    for value in vars(torch).values()
    if isinstance(value, torch.dtype)
}


@dataclasses.dataclass(eq=False, frozen=True, slots=True)
class StorageRef:
    """A run of numbers somewhere in a file: `offset` and `num` count numbers of `dtype`."""

    key: str
    dtype: torch.dtype
    offset: int
    num: int


@dataclasses.dataclass(eq=False, frozen=True, slots=True)
class TensorRef:
    """A tensor that has not been read: where its numbers lie and how they are laid out."""

    storage: StorageRef
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class TorchFile:
    """A file of torch's, its pickle read and its tensors not yet.

    Attributes:
        kind: What it is, in words.
        root: What the pickle holds: plain values, `Inert` objects and `TensorRef`.
    """

    kind: str
    root: Any

    def __init__(self) -> None:
        self._loaded: dict[str, Tensor] = {}

    def tensor(self, ref: TensorRef) -> Tensor:
        """Read a tensor; those that share numbers in the file share memory.

        Raises:
            WeightsError: The file ends before it does, or its layout reaches out of its storage.
        """
        storage, size = ref.storage, ref.storage.dtype.itemsize
        if storage.key not in self._loaded:
            self._loaded[storage.key] = self._read(storage.key)
        raw = self._loaded[storage.key]
        start, end = storage.offset * size, (storage.offset + storage.num) * size
        if end > len(raw):
            raise WeightsError(
                f"damaged or cut short: storage {storage.key!r} holds {len(raw):,} bytes of {end:,}; "
                f"{len(self._loaded) - 1} storages before it were read"
            )
        flat = raw[start : start + storage.num * size // ref.dtype.itemsize * ref.dtype.itemsize]
        return _typed(flat, ref.dtype).as_strided(
            ref.shape, ref.stride, start // ref.dtype.itemsize + ref.offset
        )

    def _read(self, key: str) -> Tensor:
        """Return the bytes of a storage."""
        raise NotImplementedError


def _typed(flat: Tensor, dtype: torch.dtype) -> Tensor:
    if flat.storage_offset() % dtype.itemsize:
        raise WeightsError("damaged: a tensor begins within a number")
    return flat.view(dtype)


class _ShortReads:
    """A file as `zipfile` reads it, which takes the list of records in one read, and that one is limited."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if size > _MAX_DIRECTORY_BYTES:
            raise WeightsError(f"a zip archive whose list of records has {size:,} bytes; weights have fewer")
        return self._file.read(size)


class ZipFile(TorchFile):
    """A zip archive as ``torch.save`` and ``torch.jit.save`` write: a pickle, and a record for each storage.

    Records lie in the file as they are: a compressed one, which could unfold to any size, is refused, and
    so are names that lead out of the archive, which is never unpacked.
    """

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._size = file.seek(0, io.SEEK_END)
        self._spent = 0
        try:
            records = zipfile.ZipFile(_ShortReads(file)).infolist()
        except WeightsError:
            raise
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error) as error:
            raise WeightsError(
                f"not a whole zip archive ({self._size:,} bytes, the list at its end is missing or damaged: "
                f"{error}); fetch it again"
            ) from error
        if len(records) > _MAX_RECORDS:
            raise WeightsError(f"a zip archive of {len(records):,} records; weights have fewer")
        self._records: dict[str, zipfile.ZipInfo] = {}
        for record in records:
            name = record.filename
            if name.startswith("/") or "\\" in name or ".." in name.split("/") or name in self._records:
                raise WeightsError(f"a zip archive with a record {name!r}: it leads out or is there twice")
            self._records[name] = record
        pickles = [name for name in self._records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise WeightsError(
                f"a zip archive with {len(pickles)} records */data.pkl, where weights have one; "
                f"it holds {', '.join(list(self._records)[:4]) or 'nothing'}"
            )
        self._folder = pickles[0].removesuffix("data.pkl")
        if f"{self._folder}byteorder" in self._records:
            order = bytes(self._bytes(f"{self._folder}byteorder", most=16)).strip()
            if order != b"little":
                raise WeightsError(f"numbers of byte order {order!r}; only little is read")
        self.kind = "TorchScript" if f"{self._folder}constants.pkl" in self._records else "torch zip archive"
        self.root = read_pickle(
            io.BytesIO(self._bytes(pickles[0], most=MAX_PICKLE_BYTES)),
            call=Rebuilder(),
            persistent=storage_ref,
        )

    def _read(self, key: str) -> Tensor:
        return _buffer(self._bytes(f"{self._folder}data/{key}"))

    def _bytes(self, name: str, most: int | None = None) -> bytearray:
        record = self._records.get(name)
        if record is None:
            raise WeightsError(f"damaged: the archive has no record {name!r}")
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise WeightsError(f"record {name!r} is compressed, which torch never does; it is not read")
        if record.flag_bits & 1:
            raise WeightsError(f"record {name!r} is encrypted; it is not read")
        if not 0 <= record.header_offset < self._size:
            raise WeightsError(f"damaged: record {name!r} is not where the archive says")
        self._spent += record.file_size
        if self._spent > self._size or (most is not None and record.file_size > most):
            raise WeightsError(f"record {name!r} says it has {record.file_size:,} bytes; that is too many")
        # zipfile would compare checksums too, which torch can be told not to write.
        self._file.seek(record.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or header[:4] != b"PK\x03\x04":
            raise WeightsError(f"damaged: record {name!r} is not where the archive says")
        *_, name_size, extra_size = _LOCAL_HEADER.unpack(header)
        self._file.seek(name_size + extra_size, io.SEEK_CUR)
        return _exactly(self._file, record.file_size, f"record {name!r}")


class OldFile(TorchFile):
    """A file of ``torch.save`` before version 1.6: pickles one after another, then the storages."""

    kind = "torch file of the old format"

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        total = file.seek(0, io.SEEK_END)
        file.seek(0)

        def part() -> Any:
            return read_pickle(file, call=Rebuilder(), persistent=seen)

        refs: dict[str, StorageRef] = {}

        def seen(pid: Any) -> Any:
            ref = storage_ref(pid)
            if isinstance(ref, StorageRef):
                refs[ref.key] = ref
            return ref

        if part() != _MAGIC:
            raise WeightsError("a Python pickle that torch.save did not write; it is not read")
        if part() != _PROTOCOL:
            raise WeightsError("a torch file of an unknown version; it is not read")
        system = part()
        if isinstance(system, dict) and system.get("little_endian") is False:
            raise WeightsError("numbers of big byte order; only little is read")
        self.root = part()
        keys = part()
        if not isinstance(keys, list) or any(not isinstance(key, str) or key not in refs for key in keys):
            raise WeightsError("damaged: the list of storages does not belong to the pickle")
        for i, key in enumerate(keys):
            where = f"storage {key!r}, number {i + 1} of {len(keys)},"
            (num,) = struct.unpack("<q", _exactly(file, 8, where))
            size = num * refs[key].dtype.itemsize
            if num < 0 or size > total - file.tell():
                raise WeightsError(
                    f"damaged or cut short: {where} needs {size:,} bytes and {total - file.tell():,} are left"
                )
            self._loaded[key] = _buffer(_exactly(file, size, where))

    def _read(self, key: str) -> Tensor:
        raise WeightsError(f"damaged: storage {key!r} is not in the file")


def _exactly(file: BinaryIO, size: int, what: str) -> bytearray:
    start, total = file.tell(), file.seek(0, io.SEEK_END)
    file.seek(start)
    found = max(0, min(size, total - start))
    buffer = bytearray(found)
    if found < size or file.readinto(buffer) != size:  # type: ignore[attr-defined]
        raise WeightsError(f"damaged or cut short: {what} holds {found:,} of {size:,} bytes; fetch it again")
    return buffer


def _buffer(data: bytearray) -> Tensor:
    return torch.frombuffer(data, dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


def storage_ref(pid: Any) -> Any:
    """Turn a persistent id of torch's into a `StorageRef`; of a class (in pickled modules) into its name.

    Raises:
        WeightsError: It is neither.
    """
    match pid:
        case ("module", Global() as cls, *_):
            return cls
        case ("storage", Global() as cls, str() as key, _, int() as num, *rest):
            dtype = _STORAGES.get(cls.name) if cls.module.split(".")[0] == "torch" else None
            if dtype is None:
                return Inert(cls, (key, num))
            if not _KEY.fullmatch(key) or len(key) > 80 or not 0 <= num <= _MAX_NUM:
                raise WeightsError(f"damaged: a storage of name {key[:80]!r} and {num} numbers")
            match rest:
                case [(str(), int() as offset, int() as size)] if offset >= 0 and size >= 0:
                    # A view of a storage: its own key says nothing, the numbers lie under `key`.
                    return StorageRef(key, dtype, offset, size)
            return StorageRef(key, dtype, 0, num)
        case _:
            raise WeightsError("the pickle refers to something outside of it that is no storage of torch's")


class Rebuilder:
    """Makes what torch's own pickles ask for, of plain values; anything else stays an `Inert`.

    One list may be asked for again and again, so what is copied is counted over the whole pickle.
    """

    def __init__(self) -> None:
        self._copied = 0

    def __call__(self, called: Global, args: tuple[Any, ...]) -> Any:
        """Make one thing.

        Raises:
            WeightsError: A tensor reaches out of its storage, or too much is copied.
        """
        match called, args:
            case ("collections", "OrderedDict"), ():
                return {}
            case ("collections", "OrderedDict"), (list() as pairs,):
                self._copies(len(pairs))
                return {
                    key: value
                    for key, value in map(_pair, pairs)
                    if isinstance(key, str | int) and is_plain_key(key)
                }
            case ("torch", "Size"), (tuple() | list() as shape,) if len(shape) <= _MAX_AXES:
                self._copies(len(shape))
                return tuple(shape)
            case (
                ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2"),
                (StorageRef() as s, n, shape, stride, *_),
            ):
                return _tensor(s, s.dtype, n, shape, stride)
            case (
                ("torch._utils", "_rebuild_tensor_v3"),
                (StorageRef() as s, n, shape, stride, _, _, Global() as dtype, *_),
            ):
                kind = _DTYPES.get(dtype.name) if dtype.module == "torch" else None
                return Inert(called, args) if kind is None else _tensor(s, kind, n, shape, stride)
            case (
                (
                    "torch._utils" | "torch.nn.parameter",
                    "_rebuild_parameter" | "_rebuild_parameter_with_state" | "Parameter",
                ),
                (TensorRef() as tensor, *_),
            ):
                return tensor
            case (
                ("torch._tensor", "_rebuild_from_type_v2"),
                (Global() as inner, _, tuple() as inner_args, _),
            ):
                return Inert(called, args) if inner == called else self(inner, inner_args)
            case ("torch.jit._pickle", _), (value, *_):
                return value
        return Inert(called, args)

    def _copies(self, num: int) -> None:
        self._copied += num
        if self._copied > _MAX_COPIED:
            raise WeightsError(f"the pickle has more than {_MAX_COPIED:,} values copied; weights have fewer")


def _pair(value: Any) -> tuple[Any, Any]:
    return (value[0], value[1]) if isinstance(value, list | tuple) and len(value) == 2 else (None, None)


def _tensor(storage: StorageRef, dtype: torch.dtype, offset: Any, shape: Any, stride: Any) -> TensorRef:
    """Return a tensor after checking that its layout stays within its storage.

    Raises:
        WeightsError: It does not.
    """
    layout = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride)
    if (
        not layout
        or len(shape) > _MAX_AXES
        or not all(type(n) is int and 0 <= n <= _MAX_NUM for n in (offset, *shape, *stride))
    ):
        raise WeightsError("damaged: a tensor whose offset, shape or strides are no numbers from 0 on")
    num = 1
    for length in shape:
        num *= length
    last = offset + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    available = storage.num * storage.dtype.itemsize // dtype.itemsize
    if num and last >= available:
        raise WeightsError(
            f"damaged: a tensor of shape {shape}, strides {stride} and offset {offset} reaches out of its "
            f"{available:,} numbers"
        )
    if num > max(available, _MAX_REPEATS):
        raise WeightsError(f"a tensor of shape {shape} repeats its {available:,} numbers too often")
    return TensorRef(storage, dtype, offset, shape, stride)
