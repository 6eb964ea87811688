"""Videos as files of tokens: written and read piece by piece, whole or refused.

A file is the magic bytes, a header (JSON) and pieces, each with the frames it stands for, its bytes and
their CRC-32; an end mark with the number of all frames closes it. Codes are packed with
ceil(log2(codebook_size)) bits each, numbers of a continuous latent are stored in half precision.

Shape legend: B batch (1 here), D latent channels, t h w the latent grid, q codebooks.
"""

from __future__ import annotations

import dataclasses
import json
import math
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.assemblies.padding import latent_size
from zoo.errors import DataError, WeightsError
from zoo.files import new_file
from zoo.fingerprint import fingerprint
from zoo.outputs import Tokens

if TYPE_CHECKING:
    from zoo.assemblies import Autoencoder

MAGIC = b"\x89ZOO\r\n\x1a\n"
VERSION = 1
_PIECE = struct.Struct("<III")  # frames, bytes, CRC-32 of the bytes
_END = 0xFFFF_FFFF
_LONGEST_HEADER = 1 << 20
_LARGEST_PIECE = 1 << 30


@dataclasses.dataclass(frozen=True)
class Header:
    """What a file of tokens says of itself.

    Attributes:
        model: Name of the model that made it.
        fingerprint: `zoo.fingerprint` of that model; no other can decode it.
        height: Of the frames, in pixels.
        width: Of the frames, in pixels.
        fps: Frames a second.
        overlap: Frames that neighbouring windows share; None for one stream.
        stride: (s_t, s_h, s_w) of the model.
        lead_frame: Whether the first frame of a stream, or of each window, is a latent frame of its own.
        channels: Codebooks; for a continuous latent its width.
        codebook_size: Codes in a codebook; 0 for a continuous latent.
    """

    model: str
    fingerprint: str
    height: int
    width: int
    fps: float
    overlap: int | None
    stride: tuple[int, int, int]
    lead_frame: bool
    channels: int
    codebook_size: int

    @property
    def bits(self) -> int:
        """Bits of a stored code or number."""
        return (self.codebook_size - 1).bit_length() if self.codebook_size else 16


def header_for(
    model: Autoencoder, *, size_HW: tuple[int, int], fps: float, overlap: int | None = None
) -> Header:
    """Describe the tokens that a model makes of a video."""
    quantizer = model.quantizer
    return Header(
        model=model.name,
        fingerprint=fingerprint(model),
        height=size_HW[0],
        width=size_HW[1],
        fps=fps,
        overlap=overlap,
        stride=model.stride,
        lead_frame=model.lead_frame,
        channels=quantizer.latent_dim if quantizer.continuous else quantizer.num_codebooks,
        codebook_size=quantizer.codebook_size,
    )


class TokenWriter:
    """Writes a file of tokens in constant memory. Use it as a context manager.

    The file appears under its name when the block ends well; after an error nothing is left.

    Attributes:
        num_frames: Frames written so far.
        num_bytes: Size of the file so far.

    Raises:
        OutputExistsError: The path exists and `force` is off.
    """

    def __init__(self, path: str | Path, header: Header, *, force: bool = False) -> None:
        self.header = header
        self.num_frames = 0
        self.num_bytes = 0
        self._context = new_file(Path(path), force=force)
        self._file: IO[bytes]

    def __enter__(self) -> Self:
        self._file = self._context.__enter__().open("wb")
        text = json.dumps({"version": VERSION, **dataclasses.asdict(self.header)}).encode()
        self._write(MAGIC + struct.pack("<I", len(text)) + text)
        return self

    def write(self, tokens: Tokens) -> None:
        """Add the tokens of the next piece, of a batch of one."""
        values = tokens.indices_Bqthw if self.header.codebook_size else tokens.z_BDthw
        assert values is not None
        payload = _pack(values[0], self.header)
        self._write(_PIECE.pack(tokens.size_THW[0], len(payload), zlib.crc32(payload)) + payload)
        self.num_frames += tokens.size_THW[0]

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with self._file:
                if kind is None:
                    self._write(_PIECE.pack(_END, 0, self.num_frames))
        except BaseException:
            self._context.__exit__(*sys.exc_info())
            raise
        self._context.__exit__(kind, error, trace)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.num_bytes += len(data)


class TokenReader:
    """Reads a file of tokens piece by piece.

    Attributes:
        header: What the file says of itself.

    Raises:
        DataError: The file is no such file, or its header is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = self.path.open("rb")
        try:
            self.header = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def check(self, model: Autoencoder) -> None:
        """Refuse a model whose tokens these are not.

        Raises:
            WeightsError: It is another model, or the same with other weights.
        """
        found = self.header
        size_HW = (found.height, found.width)
        wanted = header_for(model, size_HW=size_HW, fps=found.fps, overlap=found.overlap)
        if found.fingerprint != wanted.fingerprint:
            raise WeightsError(
                f"{self.path} was made by {found.model} with the parts and weights "
                f"{found.fingerprint[:12]}...; this is {model.name} with {wanted.fingerprint[:12]}..."
            )
        if dataclasses.replace(found, model=wanted.model) != wanted:
            raise DataError(f"{self.path} is damaged: its header is not what {model.name} writes ({found})")

    def __iter__(self) -> Iterator[Tokens]:
        """Yield the tokens of one piece after the other.

        Raises:
            DataError: The file is damaged or ends before its end mark.
        """
        header, frames = self.header, 0
        while True:
            num, size, checksum = _PIECE.unpack(self._read(_PIECE.size, frames))
            if num == _END:
                if checksum != frames or self._file.read(1):
                    raise DataError(f"{self.path} is damaged: its end says {checksum} frames, not {frames}")
                return
            lead_frame = header.lead_frame and (frames == 0 or header.overlap is not None)
            grid = latent_size((num, header.height, header.width), header.stride, lead_frame=lead_frame)
            wanted = -(-header.channels * math.prod(grid) * header.bits // 8)
            if num <= (header.overlap or 0) * (frames > 0) or size != wanted or size > _LARGEST_PIECE:
                raise DataError(f"{self.path} is damaged after {frames} frames: a piece of {size} bytes")
            payload = self._read(size, frames)
            if zlib.crc32(payload) != checksum:
                raise DataError(f"{self.path} is damaged after {frames} frames: its checksum is wrong")
            values = _unpack(payload, (header.channels, *grid), header)[None]
            size_THW = (num, header.height, header.width)
            frames += num
            if header.codebook_size:
                yield Tokens(None, values, size_THW)
            else:
                yield Tokens(values, None, size_THW)

    def _read(self, num: int, frames: int) -> bytes:
        data = self._file.read(num)
        if len(data) < num:
            raise DataError(f"{self.path} is cut off: it ends after {frames} frames, without its end mark")
        return data

    def _read_header(self) -> Header:
        if self._file.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{self.path} is not a file of tokens; zoo encode MODEL IN.mp4 OUT.zoo makes one")
        (size,) = struct.unpack("<I", self._read(4, 0))
        if size > _LONGEST_HEADER:
            raise DataError(f"{self.path} is damaged: a header of {size} bytes")
        try:
            fields: dict[str, Any] = json.loads(self._read(size, 0))
            version = fields.pop("version")
            header = Header(**fields | {"stride": tuple(fields["stride"])})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{self.path} is damaged: its header cannot be read ({error})") from None
        if version != VERSION:
            raise DataError(f"{self.path} is of version {version}; this zoo reads version {VERSION}")
        _check(self.path, header)
        return header


def _check(path: Path, header: Header) -> None:
    counts = (header.height, header.width, header.channels, *header.stride)
    good = all(type(n) is int and 0 < n < 1 << 20 for n in counts) and len(header.stride) == 3
    good &= isinstance(header.codebook_size, int) and 0 <= header.codebook_size < 1 << 62
    good &= header.codebook_size != 1 and isinstance(header.lead_frame, bool)
    good &= isinstance(header.fps, int | float) and header.fps > 0 and isinstance(header.fingerprint, str)
    good &= header.overlap is None or (isinstance(header.overlap, int) and header.overlap >= 0)
    if not good:
        raise DataError(f"{path} is damaged: its header makes no sense ({header})")


def _pack(values: Tensor, header: Header) -> bytes:
    if not header.codebook_size:
        return values.detach().half().cpu().contiguous().numpy().tobytes()
    codes: NDArray[np.uint64] = values.cpu().numpy().astype(np.uint64).reshape(-1, 1)
    bits = (codes >> np.arange(header.bits, dtype=np.uint64)) & np.uint64(1)
    return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()


def _unpack(payload: bytes, shape: tuple[int, ...], header: Header) -> Tensor:
    if not header.codebook_size:
        return torch.from_numpy(np.frombuffer(payload, np.float16).astype(np.float32).reshape(shape))
    num = math.prod(shape) * header.bits
    bits = np.unpackbits(np.frombuffer(payload, np.uint8), count=num, bitorder="little")
    powers = np.int64(1) << np.arange(header.bits, dtype=np.int64)
    codes = bits.reshape(-1, header.bits).astype(np.int64) @ powers
    if codes.max(initial=0) >= header.codebook_size:
        raise DataError(f"the file is damaged: code {codes.max()} of {header.codebook_size}")
    return torch.from_numpy(codes.reshape(shape))
