"""The bidirectional transformer of MAGVIT's prior: BERT with norms after the sums and tied embeddings.

Sources: https://arxiv.org/abs/1810.04805, https://arxiv.org/abs/2212.05199

Shape legend: B batch, N places in the row of tokens, M the places asked for, S streams of codes at a
place, D channels, K codes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

_EPS = 1e-12
_INIT_STD = 0.02


class Attention(nn.Module):
    """Lets every place look at all others."""

    def __init__(self, dim: int, *, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor, asking_BMD: Tensor | None = None) -> Tensor:
        """Attend to x_BND; only the places in `asking_BMD` ask, where given."""
        if asking_BMD is None:
            q, k, v = self.qkv(x_BND).chunk(3, dim=-1)
        else:
            dim = x_BND.shape[-1]
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(asking_BMD, weight[:dim], bias[:dim])
            k, v = F.linear(x_BND, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        q, k, v = (rearrange(y, "b n (h d) -> b h n d", h=self.num_heads) for y in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout if self.training else 0.0)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))


class Block(nn.Module):
    """Attention and a two-layer network, each added to what it reads and then normalised."""

    def __init__(
        self, dim: int, *, num_heads: int, mlp_dim: int, dropout: float, attention_dropout: float
    ) -> None:
        super().__init__()
        self.attention = Attention(dim, num_heads=num_heads, dropout=attention_dropout)
        self.attention_norm = nn.LayerNorm(dim, eps=_EPS)
        self.mlp_in = nn.Linear(dim, mlp_dim)
        self.mlp_out = nn.Linear(mlp_dim, dim)
        self.mlp_norm = nn.LayerNorm(dim, eps=_EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BND: Tensor, places_BM: Tensor | None = None) -> Tensor:
        """Refine all places, or only those of these numbers: (B, M, D) then."""
        asking = None if places_BM is None else take(x_BND, places_BM)
        y = self.attention(x_BND, asking)
        x = self.attention_norm(self.dropout(y) + (x_BND if asking is None else asking))
        y = self.mlp_out(F.gelu(self.mlp_in(x), approximate="tanh"))
        return self.mlp_norm(self.dropout(y) + x)


class Bert(nn.Module):
    """Gives the odds of the codes at every place from all places.

    The rows of the embedding are the codes, stream after stream, and then other tokens; the rows of the codes
    are the weights of the last layer too. The bias has entries for the other tokens, as published, which
    no loss reaches.

    Args:
        num_streams: Codes at one place.
        codes_per_stream: Codes that a stream has.
        num_other: Tokens other than codes: classes and special ones.
        num_prefix: Tokens before the first place.
        num_places: Places, each of `num_streams` codes.
    """

    def __init__(
        self,
        *,
        num_streams: int,
        codes_per_stream: int,
        num_other: int,
        num_prefix: int,
        num_places: int,
        dim: int,
        num_layers: int,
        num_heads: int,
        mlp_dim: int,
        dropout: float,
        attention_dropout: float,
    ) -> None:
        super().__init__()
        self.num_streams = num_streams
        self.num_codes = num_streams * codes_per_stream
        self.num_prefix = num_prefix
        self.embedding = _embedding(self.num_codes + num_other, dim)
        self.position = _embedding(num_prefix + num_places, dim)
        self.embedding_norm = nn.LayerNorm(dim, eps=_EPS)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                num_heads=num_heads,
                mlp_dim=mlp_dim,
                dropout=dropout,
                attention_dropout=attention_dropout,
            )
            for _ in range(num_layers)
        )
        self.head = nn.Linear(dim, dim)
        self.head_norm = nn.LayerNorm(dim, eps=_EPS)
        self.head_bias = nn.Parameter(torch.zeros(self.num_codes + num_other))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=_INIT_STD, a=-2 * _INIT_STD, b=2 * _INIT_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(
        self,
        rows_BNS: Tensor,
        hidden_BN: Tensor,
        prefix_BP: Tensor,
        mask_row: int,
        *,
        places_BM: Tensor | None = None,
    ) -> Tensor:
        """Give the logits of the codes.

        Args:
            rows_BNS: Row of the embedding for each code; anything in range where it is hidden.
            hidden_BN: Places that show the mask token instead of the codes.
            prefix_BP: Rows of the tokens before the first place.
            mask_row: Row of the mask token.
            places_BM: Numbers of the places to give logits for; None is all in their order.

        Returns:
            Logits (B, M, S, K), of the codes of each stream only.
        """
        codes_BND = (
            self.embedding(rows_BNS).sum(2) if self.num_streams > 1 else self.embedding(rows_BNS[..., 0])
        )
        tokens_BND = torch.where(hidden_BN[..., None], self.embedding.weight[mask_row], codes_BND)
        x = torch.cat((self.embedding(prefix_BP), tokens_BND), 1) + self.position.weight
        x = self.dropout(self.embedding_norm(x))
        *blocks, last = self.blocks
        for block in blocks:
            x = block(x)
        x = last(x, None if places_BM is None else places_BM + self.num_prefix)
        if places_BM is None:
            x = x[:, self.num_prefix :]
        x = self.head_norm(F.gelu(self.head(x), approximate="tanh"))
        logits = F.linear(x, self.embedding.weight[: self.num_codes], self.head_bias[: self.num_codes])
        return rearrange(logits, "b m (s k) -> b m s k", s=self.num_streams)


def _embedding(num: int, dim: int) -> nn.Embedding:
    # The constructor's own start imports a compiler on the meta device, which takes seconds.
    return nn.Embedding(num, dim, _weight=torch.empty(num, dim))


def take(x_BND: Tensor, places_BM: Tensor) -> Tensor:
    """Take the channels at these places of each row, as (B, M, D)."""
    return x_BND.gather(1, places_BM[..., None].expand(-1, -1, x_BND.shape[-1]))
