"""Layers of VideoGPT's prior (https://arxiv.org/abs/2104.10157).

Shape legend: B batch, N places in raster order, n places at once, M places of the frames' features, D width,
H heads, d width of a head, C classes, t h w the latent grid.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from zoo_priors.videogpt.cache import LayerCache

Memory = tuple[Tensor, Tensor] | None
"""Keys and values of the features of given frames; None where none are given."""


def at_least_float32(x: Tensor) -> Tensor:
    """Widen half precision to float32 and leave the rest as it is."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


class Norm(nn.Module):
    """Layer norm in float32 whose gain and bias may depend on the class.

    The small number is added to one over the deviation, not to the variance.

    Args:
        dim: Width.
        num_classes: 0 for one gain and bias.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        shape = (num_classes, dim) if num_classes else (dim,)
        self.gain = nn.Parameter(torch.ones(shape))
        self.bias = nn.Parameter(torch.zeros(shape))
        if num_classes:
            # With classes `gain` is what is added to 1.
            bound = 1 / math.sqrt(num_classes)
            nn.init.constant_(self.gain, bound)
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x_BND: Tensor, label_B: Tensor | None) -> Tensor:
        gain: Tensor = self.gain
        bias: Tensor = self.bias
        if label_B is not None:
            gain = 1 + F.embedding(label_B, gain)[:, None]
            bias = F.embedding(label_B, bias)[:, None]
        wide_BND = at_least_float32(x_BND)
        centred_BND = wide_BND - wide_BND.mean(-1, keepdim=True)
        scale_BN1 = centred_BND.square().mean(-1, keepdim=True).rsqrt() + 1e-5
        return torch.addcmul(bias, centred_BND * scale_BN1, gain).type_as(x_BND)


class Positions(nn.Module):
    """Learned positions of a grid: the channels are shared out to its axes.

    Args:
        grid: Size of each axis.
        dim: Width, a multiple of the number of axes.
    """

    def __init__(self, grid: tuple[int, ...], dim: int) -> None:
        super().__init__()
        width = dim // len(grid)
        self.axes = nn.ParameterList(nn.Parameter(torch.randn(size, width) * 0.01) for size in grid)

    def forward(self, num_frames: int) -> Tensor:
        """Return the positions_ND of the first frames of the grid, in raster order."""
        t, h, w = self.axes
        sizes = {"t": num_frames, "h": len(h), "w": len(w)}
        rows = [
            repeat(t[:num_frames], "t d -> (t h w) d", **sizes),
            repeat(h, "h d -> (t h w) d", **sizes),
            repeat(w, "w d -> (t h w) d", **sizes),
        ]
        return torch.cat(rows, dim=-1)


class SelfAttention(nn.Module):
    """Attention to the places before and to the place itself, or to some of them.

    Args:
        dim: Width.
        num_heads: Heads.
        num_layers: Layers of the network; scales the starting weights.
        dropout: Of the attention weights.
    """

    def __init__(self, dim: int, num_heads: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = _linear(dim, 3 * dim, std=dim**-0.5, bias=False)
        self.out = _linear(dim, dim, std=(dim * num_layers) ** -0.5)

    def forward(self, x_BnD: Tensor, mask_NN: Tensor | None, cache: LayerCache | None) -> Tensor:
        """Attend from the places after those in the cache, and add them to it.

        Args:
            x_BnD: Places: one, or, with an empty cache or none, any number.
            mask_NN: True where a place sees another; None where it sees all before.
            cache: What was there before.
        """
        q, k, v = rearrange(self.qkv(x_BnD), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        n = x_BnD.shape[1]
        if cache is not None:
            k, v = cache.append(k, v)
        if mask_NN is not None:
            total = k.shape[2]
            mask_NN = mask_NN[total - n : total, :total]
        y_BHnd = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask_NN,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=mask_NN is None and n > 1,
        )
        y_BnD: Tensor = self.out(rearrange(y_BHnd, "b h n d -> b n (h d)"))
        return y_BnD


class CrossAttention(nn.Module):
    """Attention to the features of the frames that are given as pixels.

    Args:
        dim: Width.
        memory_dim: Width of the features.
        num_heads: Heads.
        num_layers: Layers of the network; scales the starting weights.
    """

    def __init__(self, dim: int, memory_dim: int, num_heads: int, num_layers: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.widths = [dim, memory_dim]
        self.q = _linear(dim, dim, std=dim**-0.5, bias=False)
        self.kv = _linear(memory_dim, dim + memory_dim, std=memory_dim**-0.5, bias=False)
        self.out = _linear(memory_dim, dim, std=(dim * num_layers) ** -0.5)

    def read(self, memory_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of the features, which are the same for all places."""
        k, v = self.kv(memory_BMD).split(self.widths, dim=-1)
        return self._heads(k), self._heads(v)

    def forward(self, x_BnD: Tensor, memory: tuple[Tensor, Tensor]) -> Tensor:
        y_BHnd = F.scaled_dot_product_attention(self._heads(self.q(x_BnD)), *memory)
        y_BnD: Tensor = self.out(rearrange(y_BHnd, "b h n d -> b n (h d)"))
        return y_BnD

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b n (h d) -> b h n d", h=self.num_heads)


class QuickGELU(nn.Module):
    """The approximation x * sigmoid(1.702 x) of GELU (https://arxiv.org/abs/1606.08415)."""

    def forward(self, x: Tensor) -> Tensor:
        # One function that is fused, and one tensor less to keep for its gradient.
        return F.silu(1.702 * x) * (1 / 1.702)


class Block(nn.Module):
    """A transformer layer: attention, attention to the frames where there are any, two linear layers.

    Args:
        dim: Width.
        num_heads: Heads.
        num_layers: Layers of the network; scales the starting weights.
        dropout: Of what each of the three adds.
        attention_dropout: Of the attention weights.
        num_classes: Classes that the norms depend on.
        memory_dim: Width of the features of given frames; 0 for none.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        num_layers: int,
        dropout: float,
        attention_dropout: float,
        num_classes: int,
        memory_dim: int,
    ) -> None:
        super().__init__()
        self.attention_norm = Norm(dim, num_classes)
        self.attention = SelfAttention(dim, num_heads, num_layers, attention_dropout)
        if memory_dim:
            self.cross_norm = Norm(dim, num_classes)
            self.cross = CrossAttention(dim, memory_dim, num_heads, num_layers)
        self.mlp_norm = Norm(dim, num_classes)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), QuickGELU(), nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x_BnD: Tensor,
        *,
        label_B: Tensor | None,
        memory: Memory,
        mask_NN: Tensor | None,
        cache: LayerCache | None,
    ) -> Tensor:
        h_BnD = self.attention(self.attention_norm(x_BnD, label_B), mask_NN, cache)
        x_BnD = x_BnD + self.dropout(h_BnD)
        if memory is not None:
            x_BnD = x_BnD + self.dropout(self.cross(self.cross_norm(x_BnD, label_B), memory))
        return x_BnD + self.dropout(self.mlp(self.mlp_norm(x_BnD, label_B)))


def _linear(in_dim: int, out_dim: int, *, std: float, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(in_dim, out_dim, bias=bias)
    nn.init.normal_(layer.weight, std=std)
    return layer
