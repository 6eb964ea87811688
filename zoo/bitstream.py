"""Videos as files of tokens: written and read piece by piece, whole or refused.

A file is the magic bytes, a header and pieces: each the frames it stands for, its size, a CRC-32 of the
header and of it, and its bytes. An end mark with the number of all frames closes it. How codes become bytes
is up to the coder that the header names: packed with ceil(log2(codebook_size)) bits each, or entropy coded
(see `zoo.entropy`). Numbers of a continuous latent are stored in half precision. Files of version 1 are read,
too, which have packed codes only and a CRC-32 of a piece's bytes alone.

Shape legend: B batch (1 here), D latent channels, t h w the latent grid, q codebooks.
"""

from __future__ import annotations

import dataclasses
import math
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray

from zoo.assemblies.padding import latent_size
from zoo.entropy import Coder, PriorCoder, StaticCoder
from zoo.errors import DataError, WeightsError, ZooError
from zoo.files import new_file
from zoo.fingerprint import prior_fingerprint
from zoo.outputs import Tokens
from zoo.token_header import LONGEST_HEADER, Header, header_for, pack_header, unpack_header

if TYPE_CHECKING:
    from zoo.assemblies import Autoencoder, TokenPrior

MAGIC = b"\x89ZOO\r\n\x1a\n"
_PIECE = struct.Struct("<III")  # frames, bytes, `_checksum`
_END = 0xFFFF_FFFF
_LARGEST_PIECE = 1 << 30
# Entropy-coded bytes may stand for any number of codes; these bound the memory and time of a piece.
_MOST_CODES = {"static": 1 << 24, "prior": 1 << 16}
_MOST_LATENT_FRAMES = 1 << 12
_MOST_PIXELS = 1 << 28


class TokenWriter:
    """Writes a file of tokens in constant memory. Use it as a context manager.

    The file appears under its name when the block ends well; after an error nothing is left.

    Args:
        path: Where it is written.
        header: As `zoo.token_header.header_for` gives it.
        force: Replace a file that is there.
        prior: The one that the header is for.

    Attributes:
        num_frames: Frames written so far.
        num_bytes: Size of the file so far.
        num_header_bytes: Of these, all that is not codes: what the file says of itself and of its pieces.
        num_packed_bytes: What the same file would take with a fixed number of bits for each code.

    Raises:
        OutputExistsError: The path exists and `force` is off.
    """

    def __init__(
        self, path: str | Path, header: Header, *, force: bool = False, prior: TokenPrior | None = None
    ) -> None:
        self.header = header
        self.num_frames = 0
        self.num_bytes = 0
        self.num_header_bytes = 0
        self.num_packed_bytes = 0
        self._coder = _coder(header, prior) if header.codebook_size else None
        self._context = new_file(Path(path), force=force)
        self._file: IO[bytes]

    def __enter__(self) -> Self:
        self._file = self._context.__enter__().open("wb")
        text = pack_header(self.header)
        self._seed = zlib.crc32(text)
        self._write(MAGIC + struct.pack("<I", len(text)) + text)
        return self

    def write(self, tokens: Tokens) -> None:
        """Add the tokens of the next piece, of a batch of one.

        Raises:
            DataError: A piece is too large for a coder.
        """
        values = tokens.indices_Bqthw if self.header.codebook_size else tokens.z_BDthw
        assert values is not None
        if not _fits(self.header, values[0].shape, tokens.size_THW):
            raise DataError(
                f"a piece of {tokens.size_THW[0]} frames has {values.numel()} codes, too many for the coder "
                f"{self.header.coder} to take at once: use --coder packed"
            )
        if self._coder is None:
            payload = values[0].detach().half().cpu().contiguous().numpy().tobytes()
        else:
            payload = self._coder.encode(values[0].cpu().numpy().astype(np.int64))
        fields = (tokens.size_THW[0], len(payload))
        self._write(_PIECE.pack(*fields, _checksum(self._seed, *fields, payload)), payload)
        self.num_packed_bytes += -(-values.numel() * self.header.bits // 8)
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

    def _write(self, data: bytes, payload: bytes = b"") -> None:
        self._file.write(data + payload)
        self.num_bytes += len(data) + len(payload)
        self.num_packed_bytes += len(data)
        self.num_header_bytes += len(data)


class TokenReader:
    """Reads a file of tokens piece by piece.

    Attributes:
        header: What the file says of itself.

    Raises:
        DataError: The file is no such file, or its header is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._prior: TokenPrior | None = None
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

    def check(self, model: Autoencoder, prior: TokenPrior | None = None) -> None:
        """Refuse a model whose tokens these are not, and a prior that did not give their odds.

        Raises:
            WeightsError: It is another one, or the same with other weights.
            ZooError: A prior is needed, or not.
        """
        found = self.header
        size_HW = (found.height, found.width)
        if found.coder == "prior" and prior is None:
            raise ZooError(
                f"{self.path} was made with the prior {found.prior_name}; give the same one: --prior FOLDER"
            )
        if found.coder != "prior" and prior is not None:
            raise ZooError(f"{self.path} was made without a prior ({found.coder}): leave --prior out")
        if prior is not None and (given := prior_fingerprint(prior)) != found.prior:
            raise WeightsError(
                f"{self.path} was made with the prior {found.prior_name} of the options and weights "
                f"{str(found.prior)[:12]}...; this is {prior.name} with {given[:12]}..."
            )
        self._prior = prior
        wanted = header_for(
            model, size_HW=size_HW, fps=found.fps, overlap=found.overlap, coder=found.coder, prior=prior
        )
        if found.fingerprint != wanted.fingerprint:
            raise WeightsError(
                f"{self.path} was made by {found.model} with the parts and weights "
                f"{found.fingerprint[:12]}...; this is {model.name} with {wanted.fingerprint[:12]}..."
            )
        if dataclasses.replace(found, model=wanted.model, prior_name=wanted.prior_name) != wanted:
            raise DataError(f"{self.path} is damaged: its header is not what {model.name} writes ({found})")

    def __iter__(self) -> Iterator[Tokens]:
        """Yield the tokens of one piece after the other.

        Raises:
            DataError: The file is damaged or ends before its end mark.
            ZooError: The file needs a prior, and none was given to `check`.
        """
        header, frames = self.header, 0
        if header.coder == "prior" and self._prior is None:
            raise ZooError(f"{self.path} was made with the prior {header.prior_name}; give it to `check`")
        coder = _coder(header, self._prior) if header.codebook_size else None
        while True:
            num, size, checksum = _PIECE.unpack(self._read(_PIECE.size, frames))
            if num == _END:
                if size or checksum != frames or self._file.read(1):
                    raise DataError(f"{self.path} is damaged: its end says {checksum} frames, not {frames}")
                return
            lead_frame = header.lead_frame and (frames == 0 or header.overlap is not None)
            grid = latent_size((num, header.height, header.width), header.stride, lead_frame=lead_frame)
            shape, size_THW = (header.channels, *grid), (num, header.height, header.width)
            good = num > (header.overlap or 0) * (frames > 0) and size <= _LARGEST_PIECE
            if header.coder == "packed":
                good &= size == -(-math.prod(shape) * header.bits // 8)
            if not good or not _fits(header, shape, size_THW):
                raise DataError(f"{self.path} is damaged after {frames} frames: a piece of {size} bytes")
            payload = self._read(size, frames)
            if _checksum(self._seed, num, size, payload) != checksum:
                raise DataError(f"{self.path} is damaged after {frames} frames: its checksum is wrong")
            if coder is None:
                numbers = np.frombuffer(payload, np.float16).astype(np.float32).reshape(shape)
                yield Tokens(torch.from_numpy(numbers)[None], None, size_THW)
            else:
                try:
                    codes_qthw = coder.decode(payload, shape)
                except DataError as error:
                    raise DataError(f"{self.path} cannot be read after {frames} frames: {error}") from None
                yield Tokens(None, torch.from_numpy(codes_qthw)[None], size_THW)
            frames += num

    def _read(self, num: int, frames: int) -> bytes:
        data = self._file.read(num)
        if len(data) < num:
            raise DataError(f"{self.path} is cut off: it ends after {frames} frames, without its end mark")
        return data

    def _read_header(self) -> Header:
        if self._file.read(len(MAGIC)) != MAGIC:
            raise DataError(f"{self.path} is not a file of tokens; zoo encode MODEL IN.mp4 OUT.zoo makes one")
        (size,) = struct.unpack("<I", self._read(4, 0))
        if size > LONGEST_HEADER:
            raise DataError(f"{self.path} is damaged: a header of {size} bytes")
        text = self._read(size, 0)
        version, header = unpack_header(self.path, text)
        self._seed = zlib.crc32(text) if version > 1 else None
        return header


def _coder(header: Header, prior: TokenPrior | None) -> Coder:
    if header.coder == "static":
        return StaticCoder(header.codebook_size, header.channels, header.factors)
    if header.coder == "prior":
        assert prior is not None
        return PriorCoder(prior, restart=header.overlap is not None)
    return _Packed(header)


def _fits(header: Header, shape: Sequence[int], size_THW: tuple[int, int, int]) -> bool:
    if header.coder == "packed":  # as many bytes as codes have to be there
        return True
    good = math.prod(shape) <= _MOST_CODES[header.coder] and shape[1] <= _MOST_LATENT_FRAMES
    return good and math.prod(size_THW) <= _MOST_PIXELS


def _checksum(seed: int | None, num: int, size: int, payload: bytes) -> int:
    """Return the CRC-32 of a piece after that of the header; without one that of the bytes alone."""
    return zlib.crc32(payload, 0 if seed is None else zlib.crc32(struct.pack("<II", num, size), seed))


class _Packed:
    """Codes of a fixed number of bits each."""

    def __init__(self, header: Header) -> None:
        self._bits = header.bits
        self._codebook_size = header.codebook_size

    def encode(self, codes_qthw: NDArray[np.int64]) -> bytes:
        codes = codes_qthw.astype(np.uint64).reshape(-1, 1)
        bits = (codes >> np.arange(self._bits, dtype=np.uint64)) & np.uint64(1)
        return np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()

    def decode(self, payload: bytes, shape_qthw: tuple[int, int, int, int]) -> NDArray[np.int64]:
        num = math.prod(shape_qthw) * self._bits
        bits = np.unpackbits(np.frombuffer(payload, np.uint8), count=num, bitorder="little")
        powers = np.int64(1) << np.arange(self._bits, dtype=np.int64)
        codes: NDArray[np.int64] = bits.reshape(-1, self._bits).astype(np.int64) @ powers
        if codes.max(initial=0) >= self._codebook_size:
            raise DataError(f"code {codes.max()} of {self._codebook_size}")
        return codes.reshape(shape_qthw)
