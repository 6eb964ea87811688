"""Take a video of any length and size through an autoencoder, piece by piece.

A causal model gets the video as one stream, without a seam in time. One that looks ahead, or whose streams
end, gets windows as long as its clips, which overlap; where two meet, the later one is faded in frame by
frame. Large frames may be cut into tiles that overlap and fade into each other alike; every tile is a stream,
or a row of windows, of its own.

Shape legend: B batch, C colour channels, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data import to_grey
from zoo.errors import ZooError
from zoo.outputs import Tokens

if TYPE_CHECKING:
    from zoo.assemblies import Autoencoder

_Item = TypeVar("_Item")


class Window(NamedTuple):
    """Frames that went through the model.

    Attributes:
        x_CTHW: What went in, in [-1, 1], on the CPU.
        y_CTHW: What came out, clamped to [-1, 1], on the CPU.
        tokens: What was made since the window before, of a batch of one: of one piece of a stream, or of each
            tile.
        seam: Sum of squares of the difference between what two windows or tiles say of the values that they
            share, and the number of these.
    """

    x_CTHW: Tensor
    y_CTHW: Tensor
    tokens: list[Tokens]
    seam: tuple[float, int]


def reconstruct_video(
    model: Autoencoder,
    frames: Iterable[Tensor],
    *,
    overlap: int | None = None,
    tile: int | None = None,
    tile_overlap: int | None = None,
) -> Iterator[Window]:
    """Encode and decode frames one after the other.

    Args:
        model: In evaluation mode.
        frames: RGB frames x_CHW in [-1, 1]. One of another size than the first is scaled to it; a model of
            one channel gets them grey.
        overlap: Frames that neighbouring windows share, for a model that looks ahead; a quarter of its clips
            when left out. A causal model whose streams have no end takes none.
        tile: Largest side of a frame's tiles in pixels; whole frames when left out.
        tile_overlap: Pixels that neighbouring tiles share; a quarter of `tile` when left out.

    Yields:
        Window: Together they hold every frame once, in order; the last may be shorter.

    Raises:
        ZooError: A number does not fit.
    """
    overlap = window_overlap(model, overlap)
    fader, tiles = _Fader(overlap), None
    for x_CTHW, is_last in _pieces(model, frames, overlap):
        tiles = tiles or _Tiles(model, x_CTHW, tile, tile_overlap)
        y_CTHW, tokens, seam = tiles.run(x_CTHW, is_last=is_last)
        y_CTHW, met = fader.add(y_CTHW, is_last=is_last)
        x_CTHW = x_CTHW[:, : y_CTHW.shape[1]]
        yield Window(x_CTHW, y_CTHW, tokens, (seam[0] + met[0], seam[1] + met[1]))


def encode_video(model: Autoencoder, frames: Iterable[Tensor], *, overlap: int = 0) -> Iterator[Tokens]:
    """Encode frames one after the other; each piece's or window's tokens come as soon as they are known.

    Args:
        model: In evaluation mode.
        frames: As for `reconstruct_video`.
        overlap: Frames that neighbouring windows share, for a model that looks ahead.
    """
    run = _encode(model)
    for x_CTHW, is_last in _pieces(model, frames, window_overlap(model, overlap)):
        yield from run(x_CTHW[None].to(model.last_layer.device))
        if is_last:
            yield from run(None)


def decode_video(model: Autoencoder, pieces: Iterable[Tokens], *, overlap: int = 0) -> Iterator[Tensor]:
    """Decode what `encode_video` gave with the same overlap; yields x_CTHW in [-1, 1] on the CPU."""
    run, fader = _decode(model), _Fader(window_overlap(model, overlap))
    for tokens, is_last in _mark_last(pieces):
        x_CTHW = run(tokens.to(model.last_layer.device))[0].float().clamp(-1, 1).cpu()
        yield fader.add(x_CTHW, is_last=is_last)[0]


def streams(model: Autoencoder) -> bool:
    """Return whether a video of any length goes through a model as one stream."""
    return model.causal and model.max_frames is None


def window_overlap(model: Autoencoder, overlap: int | None) -> int:
    """Return how many frames the windows of a model share: a quarter of them when not given, 0 in a stream.

    Raises:
        ZooError: The model is causal and has no windows, or they are too short.
    """
    num = model.recipe.clip.num_frames
    if streams(model):
        if overlap:
            raise ZooError(f"{model.name} is causal and takes the video as one stream: there is no overlap")
        return 0
    overlap = num // 4 if overlap is None else overlap
    if not 0 <= overlap <= num // 2:
        raise ZooError(f"overlap is {overlap}; it goes from 0 to {num // 2}: windows have {num} frames")
    return overlap


def _pieces(model: Autoencoder, frames: Iterable[Tensor], overlap: int) -> Iterator[tuple[Tensor, bool]]:
    """Stack frames to pieces x_CTHW of a stream, or windows; say of each whether it is the last."""
    num, s_t = model.recipe.clip.num_frames, model.stride[0]
    lead = int(model.lead_frame)
    later = max(1, (num - lead) // s_t) * s_t if streams(model) else num - overlap
    first = lead + later if streams(model) else num
    held: Tensor | None = None
    for x_CTHW, is_last in _mark_last(_stacked(frames, first, later)):
        if model.recipe.clip.channels == 1:
            x_CTHW = to_grey(x_CTHW)
        if held is not None:
            x_CTHW = torch.cat([held, x_CTHW], 1)
        yield x_CTHW, is_last
        held = x_CTHW[:, x_CTHW.shape[1] - overlap :] if overlap else None


def _stacked(frames: Iterable[Tensor], first: int, later: int) -> Iterator[Tensor]:
    frames = iter(frames)
    size_HW: tuple[int, ...] | None = None
    num = first
    while clip := list(islice(frames, num)):
        size_HW = size_HW or tuple(clip[0].shape[1:])
        yield torch.stack([_scaled(x_CHW, size_HW) for x_CHW in clip], dim=1)
        num = later


def _scaled(x_CHW: Tensor, size: tuple[int, ...]) -> Tensor:
    if x_CHW.shape[1:] == size:
        return x_CHW
    return F.interpolate(x_CHW[None], size, mode="bilinear", antialias=True)[0]


def _mark_last(items: Iterable[_Item]) -> Iterator[tuple[_Item, bool]]:
    before: list[_Item] = []
    for item in items:
        if before:
            yield before.pop(), False
        before.append(item)
    if before:
        yield before.pop(), True


def _encode(model: Autoencoder) -> Callable[[Tensor | None], list[Tokens]]:
    """Return what encodes one piece after the other, and the end when it gets None."""
    if not streams(model):
        return torch.no_grad()(lambda x_BCTHW: [] if x_BCTHW is None else [model.encode(x_BCTHW)])
    stream = model.stream_encoder()

    def run(x_BCTHW: Tensor | None) -> list[Tokens]:
        tokens = stream.flush() if x_BCTHW is None else stream.push(x_BCTHW)
        return [] if tokens is None else [tokens]

    return run


def _decode(model: Autoencoder) -> Callable[[Tokens], Tensor]:
    return model.stream_decoder().push if streams(model) else torch.no_grad()(model.decode)


class _Fader:
    """Puts windows one after the other; where two overlap the later one fades in frame by frame."""

    def __init__(self, overlap: int) -> None:
        self._overlap = overlap
        self._held: Tensor | None = None

    def add(self, y_CTHW: Tensor, *, is_last: bool) -> tuple[Tensor, tuple[float, int]]:
        """Return the frames that are settled now, and the seam (see `Window`) with the window before."""
        seam = (0.0, 0)
        if self._held is not None:
            met = y_CTHW[:, : self._overlap]
            seam = (float((met - self._held).square().sum()), met.numel())
            faded = torch.lerp(self._held, met, _fade(self._overlap)[:, None, None].expand_as(met))
            y_CTHW = torch.cat([faded, y_CTHW[:, self._overlap :]], 1)
        num = y_CTHW.shape[1] - (0 if is_last else self._overlap)
        self._held = y_CTHW[:, num:] if self._overlap else None
        return y_CTHW[:, :num], seam


def _fade(num: int) -> Tensor:
    """Weights of what comes in, over `num` shared frames or pixels, between 0 and 1."""
    return torch.arange(1, num + 1) / (num + 1)


class _Tiles:
    """Passes over the tiles of a video's frames, which fade into each other where they overlap."""

    def __init__(
        self,
        model: Autoencoder,
        x_CTHW: Tensor,
        tile: int | None,
        overlap: int | None,
    ) -> None:
        height, width = x_CTHW.shape[2:]
        _, s_h, s_w = model.stride
        if tile is None:
            tile, overlap = max(height, width, s_h, s_w), 0
        overlap = tile // 4 if overlap is None else overlap
        if overlap < 0 or tile - overlap < max(s_h, s_w):
            raise ZooError(
                f"tiles of {tile} pixels with {overlap} shared do not work: what is not shared must be at "
                f"least the model's stride of {max(s_h, s_w)}; try a tile of {2 * max(s_h, s_w)} or more"
            )
        rows, columns = _spans(height, tile, overlap, s_h), _spans(width, tile, overlap, s_w)
        self._spans = [(row, column) for row in rows for column in columns]
        self._weights_HW = [
            _weights(row, rows)[:, None] * _weights(column, columns) for row, column in self._spans
        ]
        self._passes = [(_encode(model), _decode(model)) for _ in self._spans]
        self._device = model.last_layer.device

    def run(self, x_CTHW: Tensor, *, is_last: bool) -> tuple[Tensor, list[Tokens], tuple[float, int]]:
        """Return what comes out for all frames that went in, its tokens and the seam (see `Window`)."""
        y_CTHW, weight_HW = torch.zeros_like(x_CTHW), torch.zeros(x_CTHW.shape[2:])
        all_tokens: list[Tokens] = []
        squares, shared = 0.0, 0
        for (row, column), tile_HW, (encode, decode) in zip(
            self._spans, self._weights_HW, self._passes, strict=True
        ):
            tokens = encode(x_CTHW[None, :, :, slice(*row), slice(*column)].to(self._device))
            tokens += encode(None) if is_last else []
            y_tile = torch.cat([decode(piece)[0] for piece in tokens], 1).float().clamp(-1, 1).cpu()
            all_tokens += tokens
            so_far, weight = y_CTHW[:, :, slice(*row), slice(*column)], weight_HW[slice(*row), slice(*column)]
            met = weight > 0
            if met.any():
                difference = (so_far[..., met] / weight[met] - y_tile[..., met]).square()
                squares, shared = squares + float(difference.sum()), shared + difference.numel()
            so_far += y_tile * tile_HW
            weight += tile_HW
        return y_CTHW / weight_HW, all_tokens, (squares, shared)


def _spans(size: int, tile: int, overlap: int, stride: int) -> list[tuple[int, int]]:
    """Cut an axis into spans of at most `tile` that share at least `overlap`, starting at whole strides."""
    step = max(stride, (tile - overlap) // stride * stride)
    starts = [0]
    while starts[-1] + tile < size:
        starts.append(starts[-1] + step)
    return [(start, min(start + tile, size)) for start in starts]


def _weights(span: tuple[int, int], spans: list[tuple[int, int]]) -> Tensor:
    """Weights along a span that fade in where the one before ends late, and out alike."""
    weights = torch.ones(span[1] - span[0])
    for before, after in pairwise(spans):
        fade = _fade(before[1] - after[0])
        if span == after and len(fade):
            weights[: len(fade)] *= fade
        if span == before and len(fade):
            weights[-len(fade) :] *= 1 - fade
    return weights
