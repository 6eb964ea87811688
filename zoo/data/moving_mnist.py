"""Moving MNIST made on the fly: two digits that bounce in a 64x64 picture.

The law of https://arxiv.org/abs/1502.04681: each 28x28 digit starts anywhere, moves at 3.6 pixels a
frame in a direction drawn evenly, bounces off the edges; where digits meet the brighter pixel wins.
Training draws from the first nine tenths of the digits, evaluation from the rest. Clip i of epoch e
depends on (seed, e, i) alone, so the data never repeat and need no disk.

Shape legend: N digits, T frames, H W pixels.
"""

from __future__ import annotations

import gzip
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from zoo.data.clips import ClipDataset, Taken
from zoo.data.sampling import Draw, scaled_size
from zoo.errors import DataError

_SIDE = 64
_SPEED = 3.6
_NUM_DIGITS = 2
_NUM_TRAIN, _NUM_TEST = 10_000, 1_000
_FPS = 10.0
_MAX_BYTES = 256 << 20
_UNREADABLE = (
    *(OSError, EOFError, zipfile.BadZipFile, zlib.error),
    *(ValueError, KeyError, NotImplementedError, MemoryError),
)
_HELP = (
    "Give the digits as moving-mnist:PATH or in the environment variable ZOO_MNIST. PATH is an .npz with "
    "`images` uint8 (N, 28, 28), or the MNIST file train-images-idx3-ubyte, gzipped or not"
)


def load_digits(path: str | os.PathLike[str] | None) -> NDArray[np.uint8]:
    """Read digits (N, 28, 28) uint8 from `path`, or from where ZOO_MNIST points.

    Raises:
        DataError: There is no file, or it holds no digits.
    """
    where = path or os.environ.get("ZOO_MNIST")
    if not where:
        raise DataError(f"moving-mnist needs MNIST digits. {_HELP}")
    file = Path(where).expanduser()
    if not file.is_file():
        raise DataError(f"moving-mnist: there is no file {file}. {_HELP}")
    try:
        digits = _read_npz(file) if zipfile.is_zipfile(file) else _read_idx(file)
    except _UNREADABLE as error:
        raise DataError(f"moving-mnist: {file} holds no digits ({error}). {_HELP}") from None
    if digits.dtype != np.uint8 or digits.ndim != 3 or len(digits) < 10 or max(digits.shape[1:]) > _SIDE:
        raise DataError(f"moving-mnist: {file} holds {digits.dtype} {digits.shape}. {_HELP}")
    return digits


def _read_npz(file: Path) -> NDArray[np.uint8]:
    with np.load(file, allow_pickle=False) as arrays:
        names = [name for name in ("images", "x_train", *arrays.files) if name in arrays.files]
        digits = arrays[names[0]]
        if not isinstance(digits, np.ndarray):
            raise ValueError(f"{names[0]} is no array")
        return digits


def _read_idx(file: Path) -> NDArray[np.uint8]:
    with file.open("rb") as stream:
        gzipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        data = (gzip.GzipFile(fileobj=stream) if gzipped else stream).read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES:,} bytes")
    if data[:4] != b"\x00\x00\x08\x03":
        raise ValueError("not an idx file of images")
    num, height, width = (int.from_bytes(data[at : at + 4], "big") for at in (4, 8, 12))
    if len(data) - 16 != num * height * width:
        raise ValueError("cut off, or longer than it says")
    return np.frombuffer(data, np.uint8, offset=16).reshape(num, height, width)


class MovingMnist(ClipDataset):
    """Clips of two bouncing digits; 10,000 an epoch for training, 1,000 for evaluation.

    Args:
        digits: (N, 28, 28) uint8.
        facts: The arguments of `zoo.data.clips.ClipDataset`.
    """

    def __init__(self, digits: NDArray[np.uint8], **facts: Any) -> None:
        super().__init__(labels=[], **facts)
        cut = len(digits) * 9 // 10
        self._digits = digits[:cut] if self.random else digits[cut:]

    def __len__(self) -> int:
        return _NUM_TRAIN if self.random else _NUM_TEST

    def _name(self, index: int) -> str:
        return f"moving-mnist/{index}"

    def _take(self, index: int, chance: Draw) -> tuple[Taken, str, int]:
        # The chance of one clip is turned into a stream of numbers; evaluation always sees the same clips.
        key = [int(part * 2**53) for part in chance] if self.random else [0, 0, 0, 0]
        frames = bounce(self._digits, np.random.default_rng([*key, index]), num_frames=self.clip.num_frames)
        size = scaled_size(_SIDE, _SIDE, clip=self.clip)
        if size != (_SIDE, _SIDE):
            x_T1HW = torch.from_numpy(frames)[:, None]
            frames = interpolate(x_T1HW, size, mode="bilinear", antialias=True)[:, 0].numpy()
        return Taken(list(np.repeat(frames[..., None], 3, axis=3)), 0.0), self._name(index), -1


def bounce(digits_NHW: NDArray[np.uint8], rng: np.random.Generator, *, num_frames: int) -> NDArray[np.uint8]:
    """Draw two digits and let them bounce. Returns (T, 64, 64) uint8."""
    frames = np.zeros((num_frames, _SIDE, _SIDE), np.uint8)
    height, width = digits_NHW.shape[1:]
    room = np.array([_SIDE - height, _SIDE - width], np.float64)
    for _ in range(_NUM_DIGITS):
        digit = digits_NHW[rng.integers(len(digits_NHW))]
        start = rng.random(2) * room
        angle = rng.random() * 2 * np.pi
        path = start + np.arange(num_frames)[:, None] * _SPEED * np.array([np.sin(angle), np.cos(angle)])
        # A ball between two walls is a straight line folded at the walls.
        folded = np.abs((path + room) % (2 * room) - room) if room.all() else np.zeros_like(path)
        for frame, (top, left) in zip(frames, np.rint(folded).astype(int), strict=True):
            window = frame[top : top + height, left : left + width]
            np.maximum(window, digit, out=window)
    return frames
