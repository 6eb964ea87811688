"""Resampling of clips by a 3x3 matrix each, low-passed by a wavelet as in ADA, differentiable twice.

The clip is padded by reflection, doubled in size by the orthogonal wavelet sym6, sampled bilinearly at the
places the matrix says, and halved by the same wavelet run backwards: without a change of place that is the
identity (https://arxiv.org/abs/2006.06676, appendix B).

All of it is linear in the clip, and all but the sampling goes axis by axis: padding with doubling, and
halving, are a matrix an axis. Without a turn other than by quarters the sampling is too, so that a product
of two small matrices is the whole change.

Shape legend: B batch, C colour channels (with their frames, in a clip of its own), T H W frames and pixels,
U V rows and columns of the part of the doubled clip that is sampled, Y X rows and columns sampled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

# Low-pass of Daubechies' least asymmetric wavelet with six vanishing moments, sum sqrt(2).
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633,
    0.4910559419267466, 0.787641141030194, 0.3379294217276218, -0.07263752278646252,
    -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
_TAPS = len(SYM6)
_REACH = _TAPS // 4 * 2  # pixels on each side that the two passes of the filter reach into
_STILL = 1e-9  # a matrix element below this moves nothing: cos(90 degrees) is not quite 0


def warp(x_BCTHW: Tensor, inverse_B33: Tensor) -> Tensor:
    """Resample every frame of a clip at the places its matrix says.

    Clips whose matrix is the identity are returned as they are.

    Args:
        x_BCTHW: Clips, fp32 or fp64.
        inverse_B33: Maps a pixel of the result to its source, (x, y, 1) from the frame's centre. No gradient
            flows to it. Its place is the CPU, where it is read.

    Returns:
        x_BCTHW of the same size.
    """
    inverse_B33 = inverse_B33.detach().cpu().double()
    eye = torch.eye(3, dtype=torch.float64)
    changed = [i for i, matrix_33 in enumerate(inverse_B33) if not torch.equal(matrix_33, eye)]
    if not changed:
        return x_BCTHW
    height, width = x_BCTHW.shape[3:]
    margins_x, margins_y = _margins(inverse_B33, height, width)
    rows, columns = _Axis.of(height, *margins_y), _Axis.of(width, *margins_x)
    moves = {i: _move(inverse_B33[i], rows, columns, x_BCTHW) for i in changed}
    moved: Tensor = _Warp.apply(x_BCTHW, moves, False)  # type: ignore[no-untyped-call]
    return moved


@dataclass(frozen=True)
class _Axis:
    """What happens along an axis before and after sampling, float64 on the CPU.

    Attributes:
        size: Pixels.
        before: Padding by reflection, then doubling: (doubled, size).
        after: Halving: (size, sampled).
        at: Pixels that are sampled, from the frame's centre: (sampled,).
        origin: Where the frame's centre lies in the doubled axis, with the half pixel that the wavelet adds.
    """

    size: int
    before: Tensor
    after: Tensor
    at: Tensor
    origin: int

    @classmethod
    def of(cls, size: int, left: int, right: int) -> _Axis:
        """Return an axis of `size` pixels padded by `left` and `right`."""
        taps = torch.tensor(SYM6, dtype=torch.float64) / sum(SYM6)
        padded = torch.arange(size + left + right)
        source = (size - 1) - ((size - 1) - (padded - left).abs()).abs()
        # Room on both sides for what the filter puts beyond the ends, cut off below.
        spill = _TAPS // 2 - 1
        before = torch.zeros(2 * len(padded) + 2 * spill, size, dtype=torch.float64)
        places = 2 * padded[:, None] + torch.arange(_TAPS)
        before.index_put_((places, source[:, None]), 2 * taps.expand_as(places), accumulate=True)
        num = 2 * size + _TAPS - 2
        after = torch.zeros(size, num, dtype=torch.float64)
        after.scatter_(1, 2 * torch.arange(size)[:, None] + torch.arange(_TAPS), taps.expand(size, _TAPS))
        at = (torch.arange(num, dtype=torch.float64) - (size + _REACH - 2)) / 2
        return cls(size, before[spill:-spill], after, at, 2 * left + size - 1)


@dataclass(frozen=True)
class _Straight:
    """A change that goes axis by axis, after rows and columns have changed places where `swapped`."""

    rows: Tensor
    columns: Tensor
    swapped: bool

    def move(self, x_HWC: Tensor) -> Tensor:
        """Return the changed clip."""
        return _multiply(self.rows, self.columns, x_HWC.transpose(0, 1) if self.swapped else x_HWC)

    def move_back(self, y_HWC: Tensor) -> Tensor:
        """Return the transpose of `move`."""
        x_HWC = _multiply(self.rows.T, self.columns.T, y_HWC)
        return x_HWC.transpose(0, 1) if self.swapped else x_HWC


@dataclass(frozen=True)
class _Turned:
    """Any other change: `before`, bilinear sampling with zeros outside, and `after`, each (rows, columns).

    Pixel (y, x) is sampled at row row_Y[y] + row_X[x], column column_Y[y] + column_X[x].
    """

    before: tuple[Tensor, Tensor]
    after: tuple[Tensor, Tensor]
    row_Y: Tensor
    row_X: Tensor
    column_Y: Tensor
    column_X: Tensor

    def move(self, x_HWC: Tensor) -> Tensor:
        """Return the changed clip."""
        x_UVC = _multiply(*self.before, x_HWC)
        index_YX4, weight_YX4 = self._bilinear()
        sampled = F.embedding_bag(
            index_YX4.flatten(0, 1),
            x_UVC.flatten(0, 1),
            mode="sum",
            per_sample_weights=weight_YX4.flatten(0, 1),
        )
        return _multiply(*self.after, sampled.reshape(*index_YX4.shape[:2], -1))

    def move_back(self, y_HWC: Tensor) -> Tensor:
        """Return the transpose of `move`."""
        (rows, columns), (rows_before, columns_before) = self.after, self.before
        y_YXC = _multiply(rows.T, columns.T, y_HWC)
        index_YX4, weight_YX4 = self._bilinear()
        # Gathering by target adds in the same order always, as scattering on a GPU would not.
        index, order = index_YX4.flatten().sort(stable=True)
        size_UV = (len(rows_before), len(columns_before))
        first = torch.searchsorted(
            index, torch.arange(math.prod(size_UV), dtype=index.dtype, device=index.device)
        )
        spread = F.embedding_bag(
            order // 4, y_YXC.flatten(0, 1), first, mode="sum", per_sample_weights=weight_YX4.flatten()[order]
        )
        return _multiply(rows_before.T, columns_before.T, spread.reshape(*size_UV, -1))

    def _bilinear(self) -> tuple[Tensor, Tensor]:
        """Return the four neighbours (int32, of U x V flattened) of each sampled place, and their weights."""
        num_U, num_V = (len(matrix) for matrix in self.before)
        row_YX, column_YX = self.row_Y[:, None] + self.row_X, self.column_Y[:, None] + self.column_X
        indices, weights = [], []
        rows = [_neighbour(row_YX, step, num_U) for step in (0, 1)]
        columns = [_neighbour(column_YX, step, num_V) for step in (0, 1)]
        for row, row_weight in rows:
            for column, column_weight in columns:
                indices.append(row * num_V + column)
                weights.append(row_weight * column_weight)
        return torch.stack(indices, -1), torch.stack(weights, -1)


_Moves = dict[int, _Straight | _Turned]
"""What is done to the clips that change, by their place in the batch."""


class _Warp(torch.autograd.Function):
    """Move clips, or `back` the transpose of that, which is the other's gradient: as often as asked."""

    @staticmethod
    def forward(ctx: Any, x_BCTHW: Tensor, moves: _Moves, back: bool) -> Tensor:
        ctx.moves, ctx.back = moves, back
        out_BCTHW = x_BCTHW.clone(memory_format=torch.contiguous_format)
        # A gradient taken under autocast would otherwise be moved in half precision.
        with torch.autocast(x_BCTHW.device.type, enabled=False):
            for i, move in moves.items():
                x_HWC = rearrange(x_BCTHW[i], "c t h w -> h w (c t)").contiguous()
                y_HWC = move.move_back(x_HWC) if back else move.move(x_HWC)
                out_BCTHW[i] = rearrange(y_HWC, "h w (c t) -> c t h w", c=x_BCTHW.shape[1])
        return out_BCTHW

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        moved: Tensor = _Warp.apply(gradient, ctx.moves, not ctx.back)  # type: ignore[no-untyped-call]
        return moved, None, None


def _multiply(rows: Tensor, columns: Tensor, x_HWC: Tensor) -> Tensor:
    """Return rows @ x @ columns.T for every channel."""
    x = (rows @ x_HWC.flatten(1)).reshape(-1, *x_HWC.shape[1:])
    return columns @ x


def _neighbour(place: Tensor, step: int, num: int) -> tuple[Tensor, Tensor]:
    """Return the index (int32) at or after `place` on an axis of `num` and its weight, 0 outside."""
    index = place.floor() + step
    weight = (1 - (place - index).abs()) * ((index >= 0) & (index < num))
    return index.clamp(0, num - 1).int(), weight


def _move(matrix_33: Tensor, rows: _Axis, columns: _Axis, like: Tensor) -> _Straight | _Turned:
    """Return the change of this matrix for clips of this type and device."""
    (xx, xy, x0), (yx, yy, y0) = matrix_33[:2].tolist()
    if max(abs(xy), abs(yx)) < _STILL:
        along_y, along_x = _straight(rows, rows, yy, y0), _straight(columns, columns, xx, x0)
        return _Straight(along_y.to(like), along_x.to(like), swapped=False)
    if max(abs(xx), abs(yy)) < _STILL:
        along_y, along_x = _straight(columns, rows, xy, x0), _straight(rows, columns, yx, y0)
        return _Straight(along_y.to(like), along_x.to(like), swapped=True)
    before, places = [], []
    for source, by_y, by_x, constant in ((rows, yy, yx, y0), (columns, xy, xx, x0)):
        place_Y, place_X = 2 * (by_y * rows.at + constant) + source.origin, 2 * by_x * columns.at
        # Only what is sampled is doubled.
        last = len(source.before) - 1
        lowest = math.floor(float(place_Y.min() + place_X.min()))
        highest = math.floor(float(place_Y.max() + place_X.max())) + 1
        start, end = min(max(lowest, 0), last), min(max(highest, 0), last)
        before.append(source.before[start : end + 1].to(like))
        places += [(place_Y - start).to(like), place_X.to(like)]
    return _Turned((before[0], before[1]), (rows.after.to(like), columns.after.to(like)), *places)


def _straight(source: _Axis, result: _Axis, slope: float, constant: float) -> Tensor:
    """Return the whole change along an axis, (pixels of the result, pixels of the source)."""
    places = 2 * (slope * result.at + constant) + source.origin
    bilinear = (1 - (places[:, None] - torch.arange(len(source.before))).abs()).clamp(min=0)
    return result.after @ bilinear @ source.before


def _margins(inverse_B33: Tensor, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return how far corners and filter reach beyond each edge; a reflection ends at size - 1.

    The farthest of the batch counts, as published: what lies beyond is black.
    """
    half = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=torch.float64)
    signs = torch.tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=torch.float64)
    corners_3N = torch.cat([signs * half, torch.ones(4, 1, dtype=torch.float64)], 1).T
    reached_B2N = (inverse_B33 @ corners_3N)[:, :2]
    margins = []
    for axis, size in enumerate((width, height)):
        lowest, highest = float(reached_B2N[:, axis].min()), float(reached_B2N[:, axis].max())
        pair = [math.ceil(reach + _REACH - (size - 1) / 2 - 1e-6) for reach in (-lowest, highest)]
        margins.append((min(max(pair[0], 0), size - 1), min(max(pair[1], 0), size - 1)))
    return margins[0], margins[1]
