"""Take a video of any length and size through an autoencoder, in constant memory.

A causal model gets the video as one stream, without a seam in time. Any other gets windows as long as its
clips that overlap; where two meet, the later one is faded in frame by frame. Large frames may be cut into
tiles that overlap and fade into each other alike; every tile is a stream, or a row of windows, of its own.

Shape legend: B batch, C colour channels, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice, pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data import to_grey
from zoo.errors import ZooError
from zoo.outputs import Tokens

if TYPE_CHECKING:
    from zoo.assemblies import Autoencoder

_Pass = Callable[[Tensor | None], tuple[Tensor | None, list[Tokens]]]


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
            when left out. A causal model has no windows and takes none.
        tile: Largest side of a frame's tiles in pixels; whole frames when left out.
        tile_overlap: Pixels that neighbouring tiles share; a quarter of `tile` when left out.

    Yields:
        Window: Together they hold every frame once, in order; the last may be shorter.

    Raises:
        ZooError: A number does not fit.
    """
    num = model.recipe.clip.num_frames
    if model.causal:
        if overlap:
            raise ZooError(f"{model.name} is causal and takes the video as one stream: there is no overlap")
        return _streamed(model, _clips(model, frames, _piece_sizes(model, num)), tile, tile_overlap)
    overlap = num // 4 if overlap is None else overlap
    if not 0 <= overlap <= num // 2:
        raise ZooError(f"overlap is {overlap}; it goes from 0 to {num // 2}: windows have {num} frames")
    return _windowed(model, _clips(model, frames, _repeat(num, num - overlap)), overlap, tile, tile_overlap)


def _piece_sizes(model: Autoencoder, num: int) -> Iterator[int]:
    lead, s_t = int(model.lead_frame), model.stride[0]
    later = max(1, (num - lead) // s_t) * s_t
    return _repeat(lead + later, later)


def _repeat(first: int, later: int) -> Iterator[int]:
    yield first
    while True:
        yield later


def _clips(model: Autoencoder, frames: Iterable[Tensor], sizes: Iterator[int]) -> Iterator[Tensor]:
    """Stack frames to x_CTHW of the sizes asked for."""
    frames = iter(frames)
    size_HW: tuple[int, ...] | None = None
    while clip := list(islice(frames, next(sizes))):
        size_HW = size_HW or tuple(clip[0].shape[1:])
        x_CTHW = torch.stack([_scaled(x_CHW, size_HW) for x_CHW in clip], dim=1)
        yield to_grey(x_CTHW) if model.recipe.clip.channels == 1 else x_CTHW


def _scaled(x_CHW: Tensor, size: tuple[int, ...]) -> Tensor:
    if x_CHW.shape[1:] == size:
        return x_CHW
    return F.interpolate(x_CHW[None], size, mode="bilinear", antialias=True)[0]


def _streamed(
    model: Autoencoder, clips: Iterator[Tensor], tile: int | None, tile_overlap: int | None
) -> Iterator[Window]:
    tiles: _Tiles | None = None
    for x_CTHW, is_last in _mark_last(clips):
        tiles = tiles or _Tiles(model, x_CTHW, tile, tile_overlap, passes=lambda: _stream(model))
        y_CTHW, tokens, seam = tiles.run(x_CTHW, is_last=is_last)
        yield Window(x_CTHW, y_CTHW, tokens, seam)


def _mark_last(clips: Iterator[Tensor]) -> Iterator[tuple[Tensor, bool]]:
    before: Tensor | None = None
    for clip in clips:
        if before is not None:
            yield before, False
        before = clip
    if before is not None:
        yield before, True


def _windowed(
    model: Autoencoder, clips: Iterator[Tensor], overlap: int, tile: int | None, tile_overlap: int | None
) -> Iterator[Window]:
    tiles: _Tiles | None = None
    x_held = y_held = None  # the frames that the next window sees again
    fade_T = _fade(overlap)[:, None, None]
    for x_CTHW, is_last in _mark_last(clips):
        tiles = tiles or _Tiles(model, x_CTHW, tile, tile_overlap, passes=lambda: _whole(model))
        if x_held is not None:
            x_CTHW = torch.cat([x_held, x_CTHW], 1)
        y_CTHW, tokens, seam = tiles.run(x_CTHW, is_last=False)
        if y_held is not None and overlap:
            met = y_CTHW[:, :overlap]
            seam = (seam[0] + float((met - y_held).square().sum()), seam[1] + met.numel())
            y_CTHW = torch.cat([y_held * (1 - fade_T) + met * fade_T, y_CTHW[:, overlap:]], 1)
        num = x_CTHW.shape[1] - (0 if is_last else overlap)
        x_held, y_held = x_CTHW[:, num:], y_CTHW[:, num:]
        yield Window(x_CTHW[:, :num], y_CTHW[:, :num], tokens, seam)


def _fade(num: int) -> Tensor:
    """Weights of what comes in, over `num` shared frames or pixels, between 0 and 1."""
    return torch.arange(1, num + 1) / (num + 1)


@torch.no_grad()
def _decoded(model: Autoencoder, x_BCTHW: Tensor) -> tuple[Tensor, Tokens]:
    tokens = model.encode(x_BCTHW)
    return model.decode(tokens), tokens


def _whole(model: Autoencoder) -> _Pass:
    def run(x_BCTHW: Tensor | None) -> tuple[Tensor | None, list[Tokens]]:
        if x_BCTHW is None:
            return None, []
        y_BCTHW, tokens = _decoded(model, x_BCTHW)
        return y_BCTHW, [tokens]

    return run


def _stream(model: Autoencoder) -> _Pass:
    encoder, decoder = model.stream_encoder(), model.stream_decoder()

    def run(x_BCTHW: Tensor | None) -> tuple[Tensor | None, list[Tokens]]:
        tokens = encoder.flush() if x_BCTHW is None else encoder.push(x_BCTHW)
        return (None, []) if tokens is None else (decoder.push(tokens), [tokens])

    return run


class _Tiles:
    """Passes over the tiles of a video's frames, which fade into each other where they overlap."""

    def __init__(
        self,
        model: Autoencoder,
        x_CTHW: Tensor,
        tile: int | None,
        overlap: int | None,
        *,
        passes: Callable[[], _Pass],
    ) -> None:
        height, width = x_CTHW.shape[2:]
        tile = max(height, width) if tile is None else tile
        overlap = tile // 4 if overlap is None else overlap
        _, s_h, s_w = model.stride
        if tile < max(s_h, s_w) or not 0 <= overlap < tile:
            raise ZooError(
                f"tiles of {tile} pixels with {overlap} shared do not work: a tile has at least "
                f"{max(s_h, s_w)} pixels a side with this model, and shares less than that it is"
            )
        rows, columns = _spans(height, tile, overlap, s_h), _spans(width, tile, overlap, s_w)
        self._spans = [(row, column) for row in rows for column in columns]
        self._weights_HW = [
            _weights(row, rows)[:, None] * _weights(column, columns) for row, column in self._spans
        ]
        self._passes = [passes() for _ in self._spans]
        self._device = model.last_layer.device

    def run(self, x_CTHW: Tensor, *, is_last: bool) -> tuple[Tensor, list[Tokens], tuple[float, int]]:
        """Return what comes out for all frames that went in, its tokens and the seam (see `Window`)."""
        y_CTHW, weight_HW = torch.zeros_like(x_CTHW), torch.zeros(x_CTHW.shape[2:])
        all_tokens: list[Tokens] = []
        squares, shared = 0.0, 0
        for (row, column), tile_HW, run in zip(self._spans, self._weights_HW, self._passes, strict=True):
            pieces = [run(x_CTHW[None, :, :, slice(*row), slice(*column)].to(self._device))]
            pieces += [run(None)] if is_last else []
            made = [y[0].float().cpu() for y, _ in pieces if y is not None]
            y_tile = torch.cat(made, 1).clamp(-1, 1)
            all_tokens += [tokens for _, some in pieces for tokens in some]
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
