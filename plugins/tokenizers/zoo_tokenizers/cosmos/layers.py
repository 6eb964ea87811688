"""Convolutions, attention and resampling of the Cosmos tokenizer, frame by frame.

Modules here keep frames before channels, so that what happens inside a frame is a 2D operation on
B * t frames and what happens between frames is a matrix product; PyTorch's 3D convolutions are slower
at both. Weights are stored as the published 3D kernels.

Shapes: B batch, t h w the grid, D channels, x_BtDhw the layout of every module, (bt) frames of a batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.convolution import add, doubled_conv2d, silu
from zoo.streaming import all_so_far, is_first_piece, lead_in

# CUDA kernels put the rows on a launch axis that ends at 65535 (pytorch issue 142228).
_MAX_ROWS = 32_768


class SpatialConv(nn.Module):
    """Convolves every frame on its own.

    With stride 2 the zeros that the kernel needs are put below and to the right only, as published.

    Args:
        in_dim: Channels in.
        out_dim: Channels out.
        kernel_size: 1 or 3.
        stride: 1 or 2.
    """

    def __init__(self, in_dim: int, out_dim: int, *, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_dim, out_dim, (1, kernel_size, kernel_size))
        self.stride = stride
        self.padding = kernel_size // 2 if stride == 1 else 0

    def forward(self, x_BtDhw: Tensor) -> Tensor:
        """Convolve; the sides are divided by the stride."""
        frames = x_BtDhw.flatten(0, 1)
        if self.stride == 2:
            frames = F.pad(frames, (0, 1, 0, 1))
        weight = self.conv3d.weight.squeeze(2)
        y = F.conv2d(frames, weight, self.conv3d.bias, stride=self.stride, padding=self.padding)
        return torch.unflatten(y, 0, x_BtDhw.shape[:2])


class TemporalConv(nn.Module):
    """Convolves every pixel over a frame and the two before it; the first frame is repeated in front.

    Args:
        in_dim: Channels in.
        out_dim: Channels out.
        stride: 1, or 2 to turn 1 + 2k frames into 1 + k.
    """

    def __init__(self, in_dim: int, out_dim: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_dim, out_dim, (3, 1, 1))
        self.stride = stride

    def forward(self, x_BtDhw: Tensor) -> Tensor:
        """Convolve; t -> 1 + (t - 1) / stride."""
        b, _, _, h, w = x_BtDhw.shape
        padded = lead_in(self, x_BtDhw, 2, dim=1, pad="repeat", stride=self.stride).flatten(3)
        num_out = 1 + (padded.shape[1] - 3) // self.stride
        span = (num_out - 1) * self.stride + 1
        weight_kOD = self.conv3d.weight.flatten(2).permute(2, 0, 1).contiguous()
        bias = self.conv3d.bias
        assert bias is not None
        y = bias[:, None]
        for k in range(3):
            tap = padded[:, k : k + span : self.stride].flatten(0, 1)
            y = torch.baddbmm(y, weight_kOD[k].expand(b * num_out, -1, -1), tap)
        return y.view(b, num_out, -1, h, w)


class FrameNorm(nn.Module):
    """Normalises every frame over its channels and pixels, so that no frame sees another."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, dim, eps=1e-6)

    def forward(self, x_BtDhw: Tensor) -> Tensor:
        """Normalise; the shape stays."""
        y: Tensor = self.norm(x_BtDhw.flatten(0, 1))
        return torch.unflatten(y, 0, x_BtDhw.shape[:2])


def factorised_conv(in_dim: int, out_dim: int) -> nn.Sequential:
    """Build a convolution inside frames, then one between them."""
    return nn.Sequential(SpatialConv(in_dim, out_dim), TemporalConv(out_dim, out_dim))


class ResidualBlock(nn.Module):
    """Adds two normalised, factorised convolutions to its input."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm1 = FrameNorm(in_dim)
        self.conv1 = factorised_conv(in_dim, out_dim)
        self.norm2 = FrameNorm(out_dim)
        self.conv2 = factorised_conv(out_dim, out_dim)
        self.nin_shortcut = (
            nn.Identity() if in_dim == out_dim else SpatialConv(in_dim, out_dim, kernel_size=1)
        )

    def forward(self, x_BtDhw: Tensor) -> Tensor:
        """Refine; D -> out_dim."""
        h = self.conv1(silu(self.norm1(x_BtDhw)))
        h = self.conv2(silu(self.norm2(h)))
        return add(h, self.nin_shortcut(x_BtDhw))


class _Attention(nn.Module):
    """Single-headed attention over rows of positions, added to its input."""

    rows: str
    is_causal: bool

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = FrameNorm(dim)
        self.q = SpatialConv(dim, dim, kernel_size=1)
        self.k = SpatialConv(dim, dim, kernel_size=1)
        self.v = SpatialConv(dim, dim, kernel_size=1)
        self.proj_out = SpatialConv(dim, dim, kernel_size=1)

    def forward(self, x_BtDhw: Tensor) -> Tensor:
        """Attend; the shape stays."""
        b, t, _, h, w = x_BtDhw.shape
        normed = self.norm(x_BtDhw)
        q, k, v = (rearrange(conv(normed), f"b t d h w -> {self.rows}") for conv in (self.q, self.k, self.v))
        if self.is_causal:
            k = all_so_far(self, k, dim=2, purpose="keys")
            v = all_so_far(self, v, dim=2, purpose="values")
        attended = _attend(q, k, v, is_causal=self.is_causal)
        y = self.proj_out(rearrange(attended, f"{self.rows} -> b t d h w", b=b, t=t, h=h, w=w))
        return add(y, x_BtDhw)


class SpatialAttention(_Attention):
    """Every pixel of a frame attends to all pixels of that frame.

    Costs 4 * t * (h * w)^2 * D floating-point operations: sixteen times as many for frames of twice the side.
    """

    rows = "(b t) 1 (h w) d"
    is_causal = False


class TemporalAttention(_Attention):
    """Every pixel attends to the same pixel of its own and all earlier frames.

    Costs 4 * h * w * t^2 * D floating-point operations: the past is seen without limit, so the work grows
    with the square of the clip's length, and what a stream keeps with its length.
    """

    rows = "(b h w) 1 t d"
    is_causal = True


def _attend(q_R1LD: Tensor, k_R1SD: Tensor, v_R1SD: Tensor, *, is_causal: bool) -> Tensor:
    num, num_seen = q_R1LD.shape[2], k_R1SD.shape[2]
    mask_LS = None
    # Later frames of a stream: torch's causal mask would start at the first.
    if is_causal and num != num_seen:
        mask_LS = torch.ones(num, num_seen, dtype=torch.bool, device=q_R1LD.device).tril(num_seen - num)
        is_causal = False
    rows = zip(*(torch.split(each, _MAX_ROWS) for each in (q_R1LD, k_R1SD, v_R1SD)), strict=True)
    attended = [
        F.scaled_dot_product_attention(q, k, v, attn_mask=mask_LS, is_causal=is_causal) for q, k, v in rows
    ]
    return attended[0] if len(attended) == 1 else torch.cat(attended)


class Middle(nn.Module):
    """Two residual blocks with attention inside frames, then between them, in the middle."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(dim, dim)
        self.attn_1 = nn.Sequential(SpatialAttention(dim), TemporalAttention(dim))
        self.block_2 = ResidualBlock(dim, dim)

    def forward(self, x_BtDhw: Tensor) -> Tensor:
        """Refine; the shape stays."""
        y: Tensor = self.block_2(self.attn_1(self.block_1(x_BtDhw)))
        return y


class HybridDownsample(nn.Module):
    """Halves frames' sides, the number of frames, or both: a strided convolution plus a mean.

    The published module holds convolutions for both even where it halves one or neither; only what is
    used is built here.
    """

    def __init__(self, dim: int, *, spatial: bool, temporal: bool) -> None:
        super().__init__()
        self.conv1 = SpatialConv(dim, dim, stride=2) if spatial else None
        self.conv2 = TemporalConv(dim, dim, stride=2) if temporal else None
        self.conv3 = SpatialConv(dim, dim, kernel_size=1)

    def forward(self, x_BtDhw: Tensor) -> Tensor:
        """Shrink; 1 + 2k frames become 1 + k, the first of which is the mean of the first with itself."""
        if self.conv1 is not None:
            mean = torch.unflatten(F.avg_pool2d(x_BtDhw.flatten(0, 1), 2), 0, x_BtDhw.shape[:2])
            x_BtDhw = self.conv1(x_BtDhw) + mean
        if self.conv2 is not None:
            pairs = lead_in(self, x_BtDhw, 1, dim=1, pad="repeat", stride=2)
            x_BtDhw = self.conv2(x_BtDhw) + (pairs[:, ::2] + pairs[:, 1::2]) / 2
        y: Tensor = self.conv3(x_BtDhw)
        return y


class HybridUpsample(nn.Module):
    """Doubles the number of frames, frames' sides, or both: repetition plus a convolution of it."""

    def __init__(self, dim: int, *, spatial: bool, temporal: bool) -> None:
        super().__init__()
        self.conv1 = TemporalConv(dim, dim) if temporal else None
        self.conv2 = SpatialConv(dim, dim) if spatial else None
        self.conv3 = SpatialConv(dim, dim, kernel_size=1)

    def forward(self, x_BtDhw: Tensor) -> Tensor:
        """Grow; 1 + k frames become 1 + 2k, since the first is not repeated."""
        if self.conv1 is not None:
            x_BtDhw = x_BtDhw.repeat_interleave(2, dim=1)[:, is_first_piece() :]
            x_BtDhw = self.conv1(x_BtDhw) + x_BtDhw
        if self.conv2 is not None:
            x_BtDhw = self._double(x_BtDhw)
        y: Tensor = self.conv3(x_BtDhw)
        return y

    def _double(self, x_BtDhw: Tensor) -> Tensor:
        """Repeat every pixel in a square and add a convolution of that."""
        assert self.conv2 is not None
        kernel = self.conv2.conv3d.weight.squeeze(2)
        frames = x_BtDhw.flatten(0, 1)
        y = doubled_conv2d(frames, kernel, self.conv2.conv3d.bias)
        y = add(y, F.interpolate(frames, scale_factor=2.0, mode="nearest"))
        return torch.unflatten(y, 0, x_BtDhw.shape[:2])
