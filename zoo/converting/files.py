"""One foreign weights file of any kind, as names to tensors. Nothing in it is executed."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import torch
from torch import Tensor

from zoo.converting.names import name_tensors
from zoo.converting.torch_files import OldFile, ZipFile
from zoo.errors import WeightsError
from zoo.files import sha256
from zoo.safetensors_files import SafetensorsFile

_NOT_READ = {
    b"version https://git-lfs": "a Git LFS pointer: the weights themselves were not fetched",
    b"<": "an HTML or XML page: the download gave a page in place of the file",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"BZh": "compressed by bzip2; unpack it first",
}


@dataclasses.dataclass(frozen=True)
class ForeignFile:
    """What a foreign file holds.

    Attributes:
        path: The file.
        kind: What it is, in words.
        sha256: Of the file, in hexadecimal.
        num_bytes: Its size.
        tensors: Names to tensors, on the CPU.
        aside: Keys of a checkpoint that were not read, such as ``optimizer_states``.
    """

    path: Path
    kind: str
    sha256: str
    num_bytes: int
    tensors: dict[str, Tensor] = dataclasses.field(repr=False)
    aside: tuple[str, ...] = ()


def read_file(path: str | Path) -> ForeignFile:
    """Read the tensors of a weights file: safetensors, ``.pt``, ``.pth``, ``.ckpt``, TorchScript.

    What it is follows from its first bytes, not from its name.

    Raises:
        WeightsError: It is none of these, damaged, cut short, or holds no tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: {'not a regular file' if path.exists() else 'there is no such file'}")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(512)
    aside: list[str] = []
    try:
        if _is_safetensors(head, size):
            kind, tensors = "safetensors", _read_safetensors(path)
        elif head[:4] == b"PK\x03\x04" or head[:1] == b"\x80":
            with path.open("rb") as file:
                opened = ZipFile(file) if head[:2] == b"PK" else OldFile(file)
                refs, aside = name_tensors(opened.root)
                kind, tensors = opened.kind, {name: opened.tensor(ref) for name, ref in refs.items()}
        else:
            raise WeightsError(_complaint(head, size))
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error
    return ForeignFile(path, kind, sha256(path), size, tensors, tuple(aside))


def merge(files: list[ForeignFile]) -> dict[str, Tensor]:
    """Put the tensors of several files together: an encoder's and a decoder's, or shards.

    Where two files hold different tensors under one name, all names of each file get its stem in front.

    Raises:
        WeightsError: The stems are the same too.
    """
    merged: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in file.tensors.items():
            other = merged.setdefault(name, tensor)
            if other is not tensor and not _equal(other, tensor):
                break
        else:
            continue
        stems = [item.path.stem for item in files]
        if len(set(stems)) < len(stems):
            raise WeightsError(f"two files hold different tensors called {name!r}, and have one name too")
        return {f"{file.path.stem}.{name}": value for file in files for name, value in file.tensors.items()}
    return merged


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))


def _is_safetensors(head: bytes, size: int) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with SafetensorsFile(path) as file:
            tensors, _ = file.read()
    except WeightsError as error:
        raise WeightsError(f"{str(error).removeprefix(f'{path}: ')}; fetch it again") from error
    if not tensors:
        raise WeightsError("no tensors in it")
    return tensors


def _complaint(head: bytes, size: int) -> str:
    if not size:
        return "it is empty; fetch it again"
    for magic, what in _NOT_READ.items():
        if head.startswith(magic):
            return f"is {what}"
    if head[257:262] == b"ustar":
        return "a tar archive (torch before 0.1.10, or not unpacked yet); it is not read"
    return (
        "neither safetensors nor a file of torch.save or torch.jit.save, or its beginning is damaged "
        f"({size:,} bytes, the first are {head[:8]!r})"
    )
