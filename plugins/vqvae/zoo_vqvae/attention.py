"""Self-attention along one axis of a video at a time, as in VideoGPT.

Shapes: B batch, D channels, t h w the latent grid, n heads, d channels of a head, R rows that
attend on their own, L positions along the axis.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.convolution import add

Axis = Literal["t", "h", "w"]

_ROWS: dict[Axis, str] = {"t": "(b h w) n t d", "h": "(b t w) n h d", "w": "(b t h) n w d"}

# CUDA kernels put the rows on a launch axis that ends at 65535 (pytorch issue 142228).
_MAX_ROWS = 32_768


def _attend(q_RnLd: Tensor, k_RnLd: Tensor, v_RnLd: Tensor) -> Tensor:
    if q_RnLd.shape[0] <= _MAX_ROWS:
        return F.scaled_dot_product_attention(q_RnLd, k_RnLd, v_RnLd)
    pieces = zip(*(torch.split(each, _MAX_ROWS) for each in (q_RnLd, k_RnLd, v_RnLd)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(q, k, v) for q, k, v in pieces])


class AxialAttention(nn.Module):
    """Lets every position attend to those that share its other two coordinates.

    Memory grows with the length of the one axis squared, not with that of the whole clip.

    Args:
        dim: Channels D, a multiple of `num_heads`.
        num_heads: Attention heads.
        axis: The axis attended along.
    """

    def __init__(self, dim: int, *, num_heads: int, axis: Axis) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.axis = axis
        self.w_qs = nn.Linear(dim, dim, bias=False)
        self.w_ks = nn.Linear(dim, dim, bias=False)
        self.w_vs = nn.Linear(dim, dim, bias=False)
        self.fc = nn.Linear(dim, dim)
        for linear in (self.w_qs, self.w_ks, self.w_vs, self.fc):
            nn.init.normal_(linear.weight, std=dim**-0.5)

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Attend; the shape stays."""
        rows = _ROWS[self.axis]
        # One product for all three reads the input once.
        weight = torch.cat([self.w_qs.weight, self.w_ks.weight, self.w_vs.weight])
        q, k, v = (
            rearrange(each, f"b t h w (n d) -> {rows}", n=self.num_heads)
            for each in F.linear(x_BthwD, weight).chunk(3, dim=-1)
        )
        b, t, h, w, _ = x_BthwD.shape
        out_BthwD: Tensor = self.fc(
            rearrange(_attend(q, k, v), f"{rows} -> b t h w (n d)", b=b, t=t, h=h, w=w)
        )
        return out_BthwD


class AxialBlock(nn.Module):
    """Sums the attention along width, height and time.

    Source: https://arxiv.org/abs/2104.10157
    """

    def __init__(self, dim: int, *, num_heads: int) -> None:
        super().__init__()
        self.attn_w = AxialAttention(dim, num_heads=num_heads, axis="w")
        self.attn_h = AxialAttention(dim, num_heads=num_heads, axis="h")
        self.attn_t = AxialAttention(dim, num_heads=num_heads, axis="t")

    def forward(self, x_BDthw: Tensor) -> Tensor:
        """Attend; the shape stays."""
        x_BthwD = rearrange(x_BDthw, "b d t h w -> b t h w d").contiguous()
        out_BthwD = add(add(self.attn_w(x_BthwD), self.attn_h(x_BthwD)), self.attn_t(x_BthwD))
        y_BDthw: Tensor = rearrange(out_BthwD, "b t h w d -> b d t h w").contiguous()
        return y_BDthw
