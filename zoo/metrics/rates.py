"""A model as a codec: bits and pictures of the files it writes, beside H.264 and H.265 at the same bits.

Shape legend: B batch (1 here), C colour channels, T H W frames and pixels, 3 RGB.
"""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from zoo.bitstream import TokenReader, TokenWriter
from zoo.data import to_float, to_grey, to_uint8
from zoo.errors import DataError, ZooError
from zoo.metrics.chosen import ChosenClips, evenly_spaced, read_batches
from zoo.metrics.evaluation import model_name, state_sha256
from zoo.metrics.pictures import UNITS, Pictures, picture_protocols
from zoo.metrics.protocol import RealClips, shared_protocol
from zoo.metrics.video_codecs import CODECS, MOST_CRF, PRESET, VideoCodec, at_bits, decode, encode
from zoo.token_header import header_for
from zoo.windows import decode_video, encode_video, streams

if TYPE_CHECKING:
    from zoo.assemblies import Autoencoder, TokenPrior

AROUND = (-12.0, -6.0, 6.0, 12.0)
"""Other points of a codec's curve: how much coarser than the one at the model's bits, in rate factor."""

_SAME = 0.01
"""Points whose bits differ by less than this share are one."""


class _File(NamedTuple):
    y_CTHW: Tensor
    num_bytes: int
    header_bytes: int
    packed_bytes: int


class _Point:
    """Sums over clips of one way of coding them."""

    def __init__(self) -> None:
        self._sums: defaultdict[str, float] = defaultdict(float)
        self._num = 0

    def add(self, pixels: int, bits: int, **figures: float) -> None:
        self._num += 1
        self._sums["bits_per_pixel"] += bits / pixels
        for name, value in figures.items():
            self._sums[name] += value

    def means(self) -> dict[str, float]:
        return {name: total / self._num for name, total in self._sums.items()}


def rate_distortion(
    model: Autoencoder,
    dataset: Dataset[Any],
    *,
    coder: str | None = None,
    prior: TokenPrior | None = None,
    num_clips: int | None = None,
    num_workers: int | None = None,
    progress: bool = False,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Return bits per pixel, PSNR, SSIM and LPIPS of a model's files and of H.264 and H.265 beside them.

    Every clip is written to a file as by ``zoo encode``, read back and decoded; its bits are those of the
    whole file. Then x264 and x265 encode the same clip at the rate factor whose bits are the nearest to
    those, and at some around it. Clips are rounded to 8 bits before and after. One is in memory at a time.

    Args:
        model: An autoencoder.
        dataset: Clips as `zoo.data.open_clips` gives them.
        coder: As for `zoo.token_header.header_for`.
        prior: As there.
        num_clips: Clips measured, evenly spaced over the data set; all when left out.
        num_workers: Processes that decode clips; chosen by `zoo.data.make_loader` when left out.
        progress: Show a bar on standard error.
        stop: Asked before every clip whether to stop.

    Returns:
        ``values`` and ``protocols`` of the model's files, as of `zoo.metrics.evaluate`; ``codecs`` (name ->
        the point at the model's bits: figures, the mean ``crf``, and how many clips it could not go as low
        for); ``curves`` (name -> points by rising bits per pixel); ``left_out``; ``protocol`` in words.

    Raises:
        ZooError: The model is no autoencoder, the data set is empty, or the coder or prior does not fit.
        DataError: None of the clips can be read.
    """
    if not hasattr(model, "encode") or not hasattr(model, "decode"):
        raise ZooError(f"{model_name(model)} does not encode: only an autoencoder is a codec")
    chosen = evenly_spaced(len(dataset), num_clips)  # type: ignore[arg-type]
    read, real = ChosenClips(dataset, chosen), RealClips()
    fps = getattr(getattr(dataset, "clip", None), "fps", None) or model.recipe.clip.playback_fps
    left_out = {c.name: f"this PyAV has no {c.encoder}" for c in CODECS if not c.is_there}
    own, header_bits, packed_bits = _Point(), 0.0, 0.0
    points: dict[str, dict[float, _Point]] = {}
    too_large: defaultdict[str, int] = defaultdict(int)
    meter: Pictures | None = None
    size: tuple[int, ...] = ()
    was_training = model.training
    model.eval()
    try:
        batches = read_batches(read, batch_size=1, num_workers=num_workers, progress=progress, stop=stop)
        for x_BCTHW in batches:
            real.update(x_BCTHW)
            frames_THW3 = _eight_bits(x_BCTHW[0])
            size, pixels = tuple(x_BCTHW.shape[1:]), frames_THW3[..., 0].size
            x_BCTHW = _clips(frames_THW3, size[0])
            meter = meter or Pictures(list(UNITS), x_BCTHW)
            file = _through_file(model, frames_THW3, fps=fps, coder=coder, prior=prior)
            decoded_BCTHW = _clips(_eight_bits(file.y_CTHW), size[0])
            own.add(pixels, 8 * file.num_bytes, **meter.sums(x_BCTHW, decoded_BCTHW))
            header_bits += 8 * file.header_bytes / pixels
            packed_bits += 8 * file.packed_bytes / pixels
            for codec in CODECS:
                if codec.name in left_out:
                    continue
                try:
                    coded = list(_around(codec, frames_THW3, 8 * file.num_bytes, fps=fps))
                except DataError as error:
                    left_out[codec.name] = str(error)
                    points.pop(codec.name, None)
                    continue
                too_large[codec.name] += coded[0][2] > 8 * file.num_bytes and coded[0][1] == MOST_CRF
                of_codec = points.setdefault(codec.name, {offset: _Point() for offset in (0.0, *AROUND)})
                for offset, crf, bits, decoded_THW3 in coded:
                    figures = meter.sums(x_BCTHW, _clips(decoded_THW3, size[0]))
                    of_codec[offset].add(pixels, bits, crf=crf, **figures)
    finally:
        model.train(was_training)
    assert meter is not None
    num = real.num
    values = own.means()
    shared = shared_protocol(dataset, real, size_CTHW=size, num_fake=num, seed=0)
    coder = header_for(model, size_HW=(size[2], size[3]), fps=fps, coder=coder, prior=prior).coder
    told = f"the whole file of zoo encode, coder {coder}, one file a clip"
    pictures = picture_protocols() | {"bits_per_pixel": {"estimator": told}}
    codecs = {
        name: of_codec[0.0].means() | {"clips_above_the_bits": too_large[name]}
        for name, of_codec in points.items()
    }
    curves = {name: _curve([p.means() for p in of_codec.values()]) for name, of_codec in points.items()}
    return {
        "assembly": "codec",
        "values": values,
        "intervals": {},
        "protocols": {name: {**shared, **pictures[name]} for name in values},
        "header_bits_per_pixel": header_bits / num,
        "packed_bits_per_pixel": packed_bits / num,
        "codecs": codecs,
        "curves": {model_name(model): [values], **curves},
        "left_out": {**meter.left_out, **left_out},
        "protocol": {
            "model": model_name(model),
            "state_sha256": state_sha256(model),
            "data": read.description,
            "num_clips": num,
            "skipped": [reason for _, reason in sorted(read.skipped.items())],
            "of_clips": len(dataset),  # type: ignore[arg-type]
            "clip": f"{size[1]} frames of {size[2]}x{size[3]} pixels, {size[0]} channels, {fps:g} a second, "
            "8 bits",
            "bits": told,
            "codecs": (
                f"x264 and x265 of PyAV, preset {PRESET}, yuv420p, BT.709, one thread, all else by default; "
                "bits of the stream without container and notes. For each clip the rate factor (CRF) is "
                "the one whose bits are the nearest to the model's file; the curve has those of "
                f"{', '.join(f'{offset:+g}' for offset in AROUND)} around it"
            ),
        },
    }


def _through_file(
    model: Autoencoder,
    frames_THW3: NDArray[np.uint8],
    *,
    fps: float,
    coder: str | None,
    prior: TokenPrior | None,
) -> _File:
    height, width = frames_THW3.shape[1:3]
    overlap = None if streams(model) else 0
    header = header_for(model, size_HW=(height, width), fps=fps, overlap=overlap, coder=coder, prior=prior)
    x_CTHW = to_float(torch.from_numpy(frames_THW3))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.zoo"
        with TokenWriter(path, header, prior=prior) as writer:
            for tokens in encode_video(model, x_CTHW.unbind(1)):
                writer.write(tokens)
        with TokenReader(path) as reader:
            reader.check(model, prior)
            y_CTHW = torch.cat(list(decode_video(model, reader)), 1)
        return _File(y_CTHW, path.stat().st_size, writer.num_header_bytes, writer.num_packed_bytes)


def _around(
    codec: VideoCodec, frames_THW3: NDArray[np.uint8], bits: int, *, fps: float
) -> Iterator[tuple[float, float, int, NDArray[np.uint8]]]:
    """Encode a clip at the model's bits, and around them; yields offset, rate factor, bits and frames."""
    height, width = frames_THW3.shape[1:3]
    nearest = at_bits(codec, frames_THW3, bits, fps=fps)
    for offset in (0.0, *AROUND):
        coded = nearest
        if offset:
            crf = min(max(nearest.crf + offset, 0.0), MOST_CRF)
            coded = encode(codec, frames_THW3, fps=fps, crf=crf)
        yield offset, coded.crf, coded.bits, decode(codec, coded, (height, width))


def _curve(points: list[dict[str, float]]) -> list[dict[str, float]]:
    """Order points by their bits; of those that an end of the encoder's range brings together one is left."""
    kept: list[dict[str, float]] = []
    for point in points:  # the one at the model's bits comes first, and stays
        bits = point["bits_per_pixel"]
        if all(abs(math.log(bits / other["bits_per_pixel"])) > _SAME for other in kept):
            kept.append(point)
    return sorted(kept, key=lambda point: point["bits_per_pixel"])


def _eight_bits(x_CTHW: Tensor) -> NDArray[np.uint8]:
    if x_CTHW.shape[0] not in (1, 3):
        raise ZooError(f"clips of {x_CTHW.shape[0]} channels are no video; grey and RGB ones are")
    return to_uint8(x_CTHW.expand(3, -1, -1, -1)).numpy()


def _clips(frames_THW3: NDArray[np.uint8], channels: int) -> Tensor:
    x_CTHW = to_float(torch.from_numpy(np.ascontiguousarray(frames_THW3)))
    return (to_grey(x_CTHW) if channels == 1 else x_CTHW)[None]
