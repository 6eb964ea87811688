"""How attention of OmniTokenizer knows where a token is: rotation, a learned bias, a bias by distance.

Sources: https://arxiv.org/abs/2104.09864 (rotation), https://arxiv.org/abs/2111.09883 (learned bias),
https://arxiv.org/abs/2108.12409 (bias by distance)

Shapes: R rows that attend on their own, e heads, n = h * w places of a frame, c channels of a head,
L queries, S keys.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_BASE = 10_000.0
# CUDA kernels put the rows on a launch axis that ends at 65535 (pytorch issue 142228).
_MAX_ROWS = 32_768


def rotate_by_place(x_Renc: Tensor, height: int, width: int) -> Tensor:
    """Turn pairs of channels by angles that grow with the column (even pairs) and the row (odd pairs).

    The published code has columns and rows of square frames only; where it is defined, this equals it.

    Args:
        x_Renc: Queries or keys, float32 or wider, c a multiple of 4, n = height * width row by row.
        height: Rows of the frame.
        width: Columns of the frame.
    """
    c = x_Renc.shape[-1]
    steps = torch.arange(0, c, 4, device=x_Renc.device, dtype=x_Renc.dtype)
    speeds = 1.0 / _BASE ** (steps / c)
    place = torch.arange(height * width, device=x_Renc.device)
    angles = torch.stack(
        [torch.outer(place % width, speeds), torch.outer(place // width, speeds)], dim=-1
    ).flatten(1)
    cos, sin = angles.cos(), angles.sin()
    first, second = torch.unflatten(x_Renc, -1, (-1, 2)).unbind(-1)
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return turned.flatten(-2)


class PlaceBias(nn.Module):
    """Computes a bias for every pair of places in a frame by a small network of their distance.

    The network sees each distance once, not each pair: (2h - 1) * (2w - 1) evaluations instead of (h * w)^2.

    Args:
        dim: Width of the network.
        num_heads: Heads, each with a bias of its own.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.net = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(2, dim), nn.LeakyReLU(0.1)),
                nn.Sequential(nn.Linear(dim, dim), nn.LeakyReLU(0.1)),
                nn.Linear(dim, num_heads),
            ]
        )

    def forward(self, height: int, width: int) -> Tensor:
        """Return the bias (e, n, n) of queries (first) and keys of a frame."""
        weight = self.get_parameter("net.2.weight")
        rows = torch.arange(1 - height, height, device=weight.device)
        columns = torch.arange(1 - width, width, device=weight.device)
        steps = torch.cartesian_prod(rows, columns).to(weight.dtype)
        bias = steps.sign() * (steps.abs() + 1).log()
        for layer in self.net:
            bias = layer(bias)
        return bias[pair_index(height, width, height, width, device=weight.device)].permute(2, 0, 1)


def pair_index(
    height: int, width: int, most_rows: int, most_columns: int, *, device: torch.device | None = None
) -> Tensor:
    """Number the distance of every pair of places of a frame (or window), (n, n).

    Args:
        height: Rows there are.
        width: Columns there are.
        most_rows: Rows that the table of distances is made for; it has 2 * rows - 1 of them.
        most_columns: Columns that it is made for.
        device: Where to.
    """
    place = torch.arange(height * width, device=device)
    rows, columns = place // width, place % width
    row_steps = rows[:, None] - rows + most_rows - 1
    column_steps = columns[:, None] - columns + most_columns - 1
    return row_steps * (2 * most_columns - 1) + column_steps


def distance_bias(num: int, num_seen: int, num_heads: int, like: Tensor) -> Tensor:
    """Return minus the distance in time, scaled per head, and -inf where a key is later: (e, L, S).

    Args:
        num: L, the queries, which are the last L of the keys.
        num_seen: S, the keys.
        num_heads: e; head i is scaled by 2^(-8 (i + 1) / e) where e is a power of two.
        like: A tensor of the wanted kind.
    """
    key = torch.arange(num_seen, device=like.device)
    distance_LS = key[num_seen - num :, None] - key
    slopes = torch.tensor(_slopes(num_heads), device=like.device, dtype=like.dtype)
    bias = -distance_LS * slopes[:, None, None]
    return bias.masked_fill(distance_LS < 0, -math.inf)


def _slopes(num_heads: int) -> list[float]:
    def geometric(num: int) -> list[float]:
        return [2 ** (-8 * (i + 1) / num) for i in range(num)]

    power = 2 ** (num_heads.bit_length() - 1)
    return geometric(power) + geometric(2 * power)[::2][: num_heads - power]


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None = None, causal: bool = False, scale: float
) -> Tensor:
    """Attend within every row; (R, e, L, c), (R, e, S, c) -> (R, e, L, c).

    Args:
        q: Queries.
        k: Keys.
        v: Values.
        bias: Added to the scores, or None.
        causal: Queries are the last L of the keys and see none that is later; needs no bias.
        scale: Of the scores.
    """
    num, num_seen = q.shape[2], k.shape[2]
    if causal and num != num_seen:  # torch's own causal mask would start at the first key
        bias = torch.ones(num, num_seen, dtype=torch.bool, device=q.device).tril(num_seen - num)
        causal = False
    rows = zip(torch.split(q, _MAX_ROWS), torch.split(k, _MAX_ROWS), torch.split(v, _MAX_ROWS), strict=True)
    attended = [F.scaled_dot_product_attention(*row, bias, is_causal=causal, scale=scale) for row in rows]
    return attended[0] if len(attended) == 1 else torch.cat(attended)
