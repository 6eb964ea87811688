"""The transformer of the GPT prior, and the heads that make logits of what it gives.

Shape legend: B batch, N places in order, D width, H heads, d width of a head, q codebooks, f digits of a
code, n digits so far, V values of a digit.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo_priors.gpt.positions import rotate

Tables = tuple[Tensor, Tensor] | None
"""Cosines and sines for `rotate`; None where positions are learned."""


class Attention(nn.Module):
    """Attention to the places before and to the place itself.

    Args:
        dim: Width.
        num_heads: Heads.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def project(self, x_BND: Tensor, tables: Tables) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, (B, H, N, d) each, turned to where they are."""
        qkv = rearrange(self.qkv(x_BND), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        v_BHNd = qkv[2]
        if tables is None:
            return qkv[0], qkv[1], v_BHNd
        cos, sin = (table[:, None, None] for table in tables)
        q_BHNd, k_BHNd = rotate(qkv[:2], cos, sin).type_as(v_BHNd)
        return q_BHNd, k_BHNd, v_BHNd

    def forward(self, x_BND: Tensor, tables: Tables, mask_NN: Tensor | None) -> Tensor:
        q, k, v = self.project(x_BND, tables)
        y_BHNd = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_NN, is_causal=mask_NN is None)
        return self.out(y_BHNd.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and two linear layers, each after a norm and added to what came in.

    Args:
        dim: Width.
        num_heads: Heads.
        mlp_dim: Width between the two linear layers.
        dropout: Of what is added.
    """

    def __init__(self, dim: int, *, num_heads: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, mlp_dim)
        self.down = nn.Linear(mlp_dim, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor, tables: Tables, mask_NN: Tensor | None) -> Tensor:
        x_BND = x_BND + self.dropout(self.attention(self.attention_norm(x_BND), tables, mask_NN))
        return x_BND + self.dropout(self.down(F.gelu(self.up(self.mlp_norm(x_BND)))))


class Heads(nn.Module):
    """Logits of the digits of each codebook's code.

    Codebooks do not know of each other here. Digits do: the first is read from what the transformer gives;
    for each later one the vectors of the digits before it are added, and go through two linear layers.

    Args:
        dim: Width.
        num_codebooks: Codebooks.
        num_digits: Digits of a code.
        base: Values of a digit.
        mlp_dim: Width between the two linear layers.
    """

    def __init__(self, dim: int, *, num_codebooks: int, num_digits: int, base: int, mlp_dim: int) -> None:
        super().__init__()
        self.num_codebooks = num_codebooks
        self.base = base
        self.norm = nn.LayerNorm(dim)
        self.weight_fqVD = nn.Parameter(torch.empty(num_digits, num_codebooks, base, dim))
        if num_digits > 1:
            self.before = nn.Embedding((num_digits - 1) * num_codebooks * base, dim)
            self.mlp_norm = nn.LayerNorm(dim)
            self.up = nn.Linear(dim, mlp_dim)
            self.down = nn.Linear(mlp_dim, dim)
            self.digit_norm = nn.LayerNorm(dim)

    def later(self, h_D: Tensor, before_n: Tensor, codebook: int) -> Tensor:
        """Return logits (..., V) of the next digit of one codebook.

        Args:
            h_D: What the transformer gives, after `norm`.
            before_n: The digits before, at least one.
            codebook: Of which codebook.
        """
        n = before_n.shape[-1]
        rows = (torch.arange(n, device=before_n.device) * self.num_codebooks + codebook) * self.base
        u_D = h_D + self.before(before_n + rows).sum(-2)
        u_D = u_D + self.down(F.gelu(self.up(self.mlp_norm(u_D))))
        return F.linear(self.digit_norm(u_D), self.weight_fqVD[n, codebook])


def init_weights(module: nn.Module, num_layers: int) -> None:
    """Start a network as GPT-2: deviation 0.02, and less for what is added to the residual stream."""
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif "norm" in name:
            nn.init.ones_(parameter)
        elif name.endswith(("attention.out.weight", "down.weight")):
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * num_layers))
        else:
            nn.init.normal_(parameter, std=0.02)
