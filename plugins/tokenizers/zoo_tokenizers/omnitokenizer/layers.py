"""Transformer layers of OmniTokenizer: depthwise convolution, attention in a frame, a window or over time.

Tokens keep the layout x_BthwD throughout. Names in the state dict are the published ones, in which a layer's
members are numbers: 0 the convolution, 1 the attention, 3 the gated network.

Source: https://arxiv.org/abs/2406.09399

Shapes: B batch, t h w the grid, D channels, R rows that attend on their own, n tokens of a row, e heads,
c channels of a head.
"""

from __future__ import annotations

import abc
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.precision import at_least_fp32
from zoo.streaming import all_so_far, lead_in
from zoo_tokenizers.omnitokenizer.positions import (
    PlaceBias,
    attend,
    distance_bias,
    pair_index,
    rotate_by_place,
)

# Names of a layer's members, as published.
_CONVOLUTION, _ATTENTION, _GATED = "0", "1", "3"
# Queries and keys have length 1 (times a learned scale), so scores need a factor to be able to differ.
_SCALE = 8.0


class Norm(nn.Module):
    """Layer norm with a learned scale; its shift is stored, as published, and never learned."""

    beta: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))
        self.register_buffer("beta", torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return F.layer_norm(x, self.gamma.shape, self.gamma, self.beta)


class CausalPEG(nn.Module):
    """Convolves every channel on its own, 3x3 in the frame and over two frames before; tells places apart."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dsconv = nn.Conv3d(dim, dim, 3, groups=dim)

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Convolve; zeros stand before the first frame and around every frame."""
        padded = lead_in(self, x_BthwD, 2, dim=1)
        y = F.conv3d(
            rearrange(padded, "b t h w d -> b d t h w"),
            self.dsconv.weight,
            self.dsconv.bias,
            padding=(0, 1, 1),
            groups=self.dsconv.groups,
        )
        return rearrange(y, "b d t h w -> b t h w d")


class ScrambledPEG(CausalPEG):
    """Does what the published code does between frames: convolves over axes that are not those of the clip.

    There the tokens, which lie in the order h, w, t, are read as if they lay in the order t, h, w. The
    neighbours that the convolution sees then are mostly the frames before *and after* at the same pixel: it
    looks ahead in time, and what it does depends on the clip's length. One frame alone is read rightly.
    """

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Convolve over the axes as they are misread."""
        _, t, h, w, _ = x_BthwD.shape
        flat = rearrange(x_BthwD, "b t h w d -> b (h w t) d")
        y = super().forward(rearrange(flat, "b (t h w) d -> b t h w d", t=t, h=h, w=w))
        return rearrange(y.flatten(1, 3), "b (h w t) d -> b t h w d", t=t, h=h, w=w)


class _Attention(nn.Module, abc.ABC):
    """Attention of cosine similarity, along some of the axes; keys and values come before the norm."""

    rows: str

    def __init__(self, dim: int, *, num_heads: int, head_dim: int) -> None:
        super().__init__()
        inner_dim = num_heads * head_dim
        self.num_heads = num_heads
        self.norm = Norm(dim)
        self.to_q = nn.Linear(dim, inner_dim, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner_dim, bias=False)
        self.q_scale = nn.Parameter(torch.ones(head_dim))
        self.k_scale = nn.Parameter(torch.ones(head_dim))
        self.to_out = nn.Linear(inner_dim, dim, bias=False)

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Attend; the shape stays."""
        b, t, h, w, _ = x_BthwD.shape
        x_RnD = rearrange(x_BthwD, f"b t h w d -> {self.rows} d")
        key_value = self.to_kv(x_RnD).chunk(2, dim=-1)
        q, k, v = (
            rearrange(each, "r n (e c) -> r e n c", e=self.num_heads)
            for each in (self.to_q(self.norm(x_RnD)), *key_value)
        )
        q, k = self.place(at_least_fp32(q), h, w), self.place(at_least_fp32(k), h, w)
        q = (F.normalize(q, dim=-1) * self.q_scale).to(v.dtype)
        k = (F.normalize(k, dim=-1) * self.k_scale).to(v.dtype)
        y_RnD = self.to_out(rearrange(self.look(q, k, v, h, w), "r e n c -> r n (e c)"))
        return rearrange(y_RnD, f"{self.rows} d -> b t h w d", b=b, t=t, h=h, w=w)

    @abc.abstractmethod
    def place(self, x_Renc: Tensor, height: int, width: int) -> Tensor:
        """Return queries or keys that tell where they are."""

    @abc.abstractmethod
    def look(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        """Attend."""


class FrameAttention(_Attention):
    """Every token attends to its whole frame.

    Costs 4 * t * (h * w)^2 * e * c floating-point operations: sixteen times as many for frames of twice the
    side.

    Args:
        dim: Channels D.
        num_heads: Heads e.
        head_dim: Channels c of a head, a multiple of 4 for "rope".
        positions: "rope" rotates by place, "bias" adds a learned bias, "none" leaves it to `CausalPEG`.
    """

    rows = "(b t) (h w)"

    def __init__(self, dim: int, *, num_heads: int, head_dim: int, positions: str) -> None:
        super().__init__(dim, num_heads=num_heads, head_dim=head_dim)
        self.is_rotated = positions == "rope"
        self.spatial_rel_pos_bias = PlaceBias(dim, num_heads) if positions == "bias" else None

    def place(self, x_Renc: Tensor, height: int, width: int) -> Tensor:
        """Rotate, if anything."""
        return rotate_by_place(x_Renc, height, width) if self.is_rotated else x_Renc

    def look(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        """Attend within frames."""
        bias = None
        if self.spatial_rel_pos_bias is not None:
            bias = self.spatial_rel_pos_bias(height, width).to(q.dtype)
        return attend(q, k, v, bias=bias, scale=_SCALE)


class TimeAttention(_Attention):
    """Every token attends to the tokens at its place in its own and all earlier frames.

    Costs 4 * h * w * t^2 * e * c floating-point operations, and what a stream keeps (keys and values) grows
    with its length: 2 * e * c numbers for every token that has come by.

    Args:
        dim: Channels D.
        num_heads: Heads e.
        head_dim: Channels c of a head.
        is_nearer_stronger: Lower the scores of earlier frames by their distance.
    """

    rows = "(b h w) t"

    def __init__(self, dim: int, *, num_heads: int, head_dim: int, is_nearer_stronger: bool) -> None:
        super().__init__(dim, num_heads=num_heads, head_dim=head_dim)
        self.is_nearer_stronger = is_nearer_stronger

    def place(self, x_Renc: Tensor, height: int, width: int) -> Tensor:
        """Leave it as it is: time shows in the bias only, if at all."""
        return x_Renc

    def look(self, q: Tensor, k: Tensor, v: Tensor, height: int, width: int) -> Tensor:
        """Attend to the past."""
        k = all_so_far(self, k, dim=2, purpose="keys")
        v = all_so_far(self, v, dim=2, purpose="values")
        if not self.is_nearer_stronger:
            return attend(q, k, v, causal=True, scale=_SCALE)
        return attend(
            q, k, v, bias=distance_bias(q.shape[2], k.shape[2], self.num_heads, like=q), scale=_SCALE
        )


class WindowAttention(nn.Module):
    """Every token attends to its window of a frame, with a learned bias for every distance.

    Windows are laid out from the top left. Where they do not divide the frame, those at the bottom and the
    right are cut by its edge: they hold fewer tokens, nothing is padded, and distances keep their biases.

    Args:
        dim: Channels D, a multiple of `num_heads`.
        num_heads: Heads.
        window_size: Side of a window in tokens.
    """

    def __init__(self, dim: int, *, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.norm = Norm(dim)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Attend; the shape stays."""
        qkv = self.qkv(self.norm(x_BthwD))
        size = self.window_size
        bands = []
        for band in _cut(qkv, size, dim=2):
            blocks = [self._attend(block) for block in _cut(band, size, dim=3)]
            bands.append(torch.cat(blocks, dim=3))
        y: Tensor = self.proj(torch.cat(bands, dim=2))
        return y

    def _attend(self, qkv_BthwD: Tensor) -> Tensor:
        """Attend within windows that divide what they are laid over."""
        b, t, h, w, _ = qkv_BthwD.shape
        rows, columns = min(h, self.window_size), min(w, self.window_size)
        sizes = {"b": b, "t": t, "y": rows, "x": columns, "i": h // rows, "j": w // columns}
        q, k, v = rearrange(
            qkv_BthwD,
            "b t (i y) (j x) (s e c) -> s (b t i j) e (y x) c",
            s=3,
            e=self.num_heads,
            y=rows,
            x=columns,
        )
        table = self.relative_position_bias_table
        index = pair_index(rows, columns, self.window_size, self.window_size, device=table.device)
        bias = table[index].permute(2, 0, 1).to(q.dtype)
        y = attend(q, k, v, bias=bias, scale=q.shape[-1] ** -0.5)
        return rearrange(y, "(b t i j) e (y x) c -> b t (i y) (j x) (e c)", **sizes)


def _cut(x: Tensor, size: int, *, dim: int) -> Sequence[Tensor]:
    """Cut what whole windows cover along an axis from what is left, and leave out what is empty."""
    whole = x.shape[dim] // size * size
    pieces = torch.tensor_split(x, [whole], dim=dim)
    return [piece for piece in pieces if piece.shape[dim]]


class _Gate(nn.Module):
    """Multiplies the first half of the channels by the GELU of the second."""

    def forward(self, x: Tensor) -> Tensor:
        values, gates = x.chunk(2, dim=-1)
        return F.gelu(gates) * values


def feed_forward(dim: int) -> nn.Sequential:
    """Build the gated network of a layer, 8/3 times as wide inside (https://arxiv.org/abs/2002.05202)."""
    inner_dim = dim * 8 // 3
    return nn.Sequential(
        OrderedDict(
            [
                ("0", nn.LayerNorm(dim)),
                ("1", nn.Linear(dim, 2 * inner_dim, bias=False)),
                ("gate", _Gate()),
                ("4", nn.Linear(inner_dim, dim, bias=False)),
            ]
        )
    )


class Transformer(nn.Module):
    """Adds, layer by layer, a convolution, attention and a gated network to the tokens; ends in a norm.

    Args:
        dim: Channels D.
        attentions: What makes the attention of each layer.
        peg: The convolution of each layer; layers of windows have none.
    """

    def __init__(
        self,
        dim: int,
        attentions: Sequence[Callable[[], nn.Module]],
        *,
        peg: type[CausalPEG],
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for make in attentions:
            attention = make()
            members: dict[str, nn.Module] = {_ATTENTION: attention, _GATED: feed_forward(dim)}
            if not isinstance(attention, WindowAttention):
                members[_CONVOLUTION] = peg(dim)
            self.layers.append(nn.ModuleDict(members))
        self.norm_out = Norm(dim)

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Refine; the shape stays."""
        x = x_BthwD
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            for member in (_CONVOLUTION, _ATTENTION, _GATED):
                if member in layer:
                    x = layer[member](x) + x
        y: Tensor = self.norm_out(x)
        return y
