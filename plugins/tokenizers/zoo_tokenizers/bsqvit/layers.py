"""The transformer of BSQ-ViT and its learned positions.

Shapes: B batch, t frames, n = h * w tokens of a frame, N = t * n tokens, D channels, e heads, c = D / e.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.checks import require_positive
from zoo.errors import PortError, RecipeError
from zoo.streaming import all_so_far, num_before

_STD = 0.02


class FrameAttention(nn.Module):
    """Every token attends to all tokens of its own frame.

    Costs 4 * N * n * D floating-point operations: sixteen times as many for frames of twice the side.

    Args:
        dim: Channels.
        num_heads: Heads, a divisor of `dim`.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.in_proj_weight, std=_STD)

    def forward(self, x_BtnD: Tensor) -> Tensor:
        """Attend; the shape stays."""
        qkv = F.linear(x_BtnD, self.in_proj_weight, self.in_proj_bias)
        q, k, v = rearrange(qkv, "b t n (three e c) -> three b t e n c", three=3, e=self.num_heads)
        y: Tensor = self.out_proj(rearrange(self.attend(q, k, v), "b t e n c -> b t n (e c)"))
        return y

    def attend(self, q_Btenc: Tensor, k_Btenc: Tensor, v_Btenc: Tensor) -> Tensor:
        """Return for every query the mean of the values that it sees, weighed."""
        return F.scaled_dot_product_attention(q_Btenc, k_Btenc, v_Btenc)


class BlockCausalAttention(FrameAttention):
    """Every token attends to all tokens of its own frame and of the frames before it.

    Costs 2 * N * (N + n) * D floating-point operations: the past is seen without limit, so the work grows
    with the square of the clip's length, and what a stream keeps (keys and values) with its length.
    """

    def attend(self, q_Btenc: Tensor, k_Btenc: Tensor, v_Btenc: Tensor) -> Tensor:
        """Return for every query the mean of the values that it sees, weighed."""
        k = all_so_far(self, k_Btenc, dim=1, purpose="keys")
        v = all_so_far(self, v_Btenc, dim=1, purpose="values")
        k, v = (rearrange(each, "b t e n c -> b e (t n) c") for each in (k, v))
        num, n = q_Btenc.shape[1], q_Btenc.shape[3]
        past = k.shape[2] - num * n
        # A call per frame needs no mask, does half the work of one with a mask, and is what a stream does.
        frames = []
        for i in range(num):
            seen = past + (i + 1) * n
            frames.append(F.scaled_dot_product_attention(q_Btenc[:, i], k[:, :, :seen], v[:, :, :seen]))
        return torch.stack(frames, dim=1)


class TransformerBlock(nn.Module):
    """Adds attention, then a two-layer network, of the normalised input."""

    def __init__(self, attention: FrameAttention, dim: int, mlp_ratio: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim)
        self.attn = attention
        self.ln_2 = nn.LayerNorm(dim)
        self.mlp = nn.ModuleDict(
            {"c_fc": nn.Linear(dim, mlp_ratio * dim), "c_proj": nn.Linear(mlp_ratio * dim, dim)}
        )

    def forward(self, x_BtnD: Tensor) -> Tensor:
        """Refine; the shape stays."""
        x_BtnD = x_BtnD + self.attn(self.ln_1(x_BtnD))
        y: Tensor = x_BtnD + self.mlp["c_proj"](F.gelu(self.mlp["c_fc"](self.ln_2(x_BtnD))))
        return y


class Transformer(nn.Module):
    """Transformer blocks in a row, with small random weights and zero biases."""

    def __init__(
        self, kind: type[FrameAttention], dim: int, *, num_layers: int, num_heads: int, mlp_ratio: int
    ) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(
            TransformerBlock(kind(dim, num_heads), dim, mlp_ratio) for _ in range(num_layers)
        )
        self.apply(init_linear)

    def forward(self, x_BtnD: Tensor) -> Tensor:
        """Refine; the shape stays."""
        for block in self.resblocks:
            x_BtnD = block(x_BtnD)
        return x_BtnD


class Positioned(Protocol):
    """A part with learned positions: `positional_embedding` (n, D) of a frame, row by row, and of time."""

    size: tuple[int, int]
    patch_size: int
    positional_embedding: nn.Parameter


def add_place(part: Positioned, x_BtnD: Tensor, height: int, width: int) -> Tensor:
    """Add the learned position of every token in its frame.

    Args:
        part: Whose positions these are.
        x_BtnD: Tokens, row by row.
        height: Rows of tokens.
        width: Columns of tokens. For another grid than the learned one, positions are interpolated.
    """
    grid = part.size[0] // part.patch_size, part.size[1] // part.patch_size
    place_nD: Tensor = part.positional_embedding
    if (height, width) != grid:
        place_1Dhw = rearrange(place_nD, "(h w) d -> 1 d h w", h=grid[0])
        resized = F.interpolate(place_1Dhw, size=(height, width), mode="bilinear", align_corners=False)
        place_nD = rearrange(resized, "1 d h w -> (h w) d")
    return x_BtnD + place_nD.to(x_BtnD.dtype)


def add_time(part: nn.Module, time_TD: Tensor, x_BtnD: Tensor, name: str) -> Tensor:
    """Add the learned position of every frame in its clip; in a stream, counted from the stream's start.

    Raises:
        PortError: The clip, or the stream so far, is longer than there are positions.
    """
    num = x_BtnD.shape[1]
    before = num_before(part, num)
    longest = len(time_TD)
    if before + num > longest:
        so_far = f" after {before} of the same stream" if before else ""
        raise PortError(
            f"{name} got {num} frames{so_far}; it has learned positions for num_frames = {longest}. Cut the "
            f"video into clips of at most {longest} frames, each a stream of its own, or train with more "
            f"num_frames"
        )
    return x_BtnD + time_TD[before : before + num, None].to(x_BtnD.dtype)


def init_linear(module: nn.Module) -> None:
    """Give a linear layer small random weights and a zero bias; leave others alone."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Sizes(NamedTuple):
    """The options that all parts of the family share."""

    size: list[int]
    patch_size: int
    width: int
    num_layers: int
    num_heads: int
    mlp_ratio: int


def check_sizes(name: str, sizes: Sizes, num_frames: int | None, head_width: int) -> None:
    """Refuse sizes that no transformer can be built with; `num_frames` is None for images.

    Raises:
        RecipeError: An option is out of range.
    """
    size, patch_size, width, num_layers, num_heads, mlp_ratio = sizes
    require_positive(
        name,
        patch_size=patch_size,
        width=width,
        num_layers=num_layers,
        num_heads=num_heads,
        mlp_ratio=mlp_ratio,
        head_width=head_width,
        num_frames=1 if num_frames is None else num_frames,
    )
    if len(size) != 2 or min(size) < 1 or any(side % patch_size for side in size):
        raise RecipeError(
            f"{name}: size is {list(size)}; it must be [height, width] in multiples of patch_size "
            f"{patch_size}"
        )
    if width % num_heads:
        raise RecipeError(f"{name}: width {width} does not go in num_heads {num_heads} equal parts")
