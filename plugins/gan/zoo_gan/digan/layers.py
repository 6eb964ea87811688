"""The layers of DIGAN's generator: Fourier features of place and time, and mixing of a pixel's channels.

No layer looks at a neighbouring pixel or at another moment, so all moments of a clip are a batch of pixels.
Both kinds of layer read the clip's style, and a kernel is made once for a clip, not once for a frame.
State-dict names are those of the authors' code where a tensor is theirs (see `zoo_gan.digan.weights`).

Sources: DIGAN, https://arxiv.org/abs/2202.10571; INR-GAN, https://arxiv.org/abs/2011.12026

Shape legend: B clips, T moments, H W pixels; D style latent, M motion code, E frequencies of
A = 2 axes each, F = 2E Fourier features; I O channels in and out, R rank.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from zoo.precision import at_least_fp32, full_precision
from zoo_gan.stylegan2.layers import FullyConnectedLayer, bias_act, mix_channels

_FREQUENCY_SCALE = math.sqrt(10)
_MOTION_SCALE = 0.25
_EPSILON = 1e-8


class Grid(NamedTuple):
    """Which pixels of a frame are computed: those at every `step`-th row and column of `full_HW`."""

    full_HW: tuple[int, int]
    step: int

    @property
    def size_HW(self) -> tuple[int, int]:
        """Height and width of the grid; the last pixels may stand for fewer than `step`."""
        height, width = self.full_HW
        return -(-height // self.step), -(-width // self.step)

    def coordinates(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_W, from -1 at the left edge up, and y_H, from -1 at the bottom up, both below 1."""
        (full_height, full_width), (height, width) = self.full_HW, self.size_HW
        x_W = torch.arange(width, device=like.device).to(like.dtype)
        y_H = torch.arange(height, device=like.device).to(like.dtype)
        return x_W * (2 * self.step / full_width) - 1, 1 - (y_H + 1) * (2 * self.step / full_height)


def enlarge(x_BCTHW: Tensor, grid: Grid) -> Tensor:
    """Repeat every pixel to 2x2 and cut the result to the size of `grid`."""
    height, width = grid.size_HW
    x = repeat(x_BCTHW, "B C T H W -> B C T (H y) (W x)", y=2, x=2)
    return x[..., :height, :width]


class MotionCoordinates(nn.Module):
    """Sines and cosines of places, whose frequencies and phases the clip decides; time moves the phases.

    Args:
        w_dim: Width of the style latent.
        motion_dim: Width of the motion code.
        num_frequencies: Sines, and cosines.
    """

    def __init__(self, *, w_dim: int, motion_dim: int, num_frequencies: int) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        self.xyaffine = FullyConnectedLayer(w_dim, 3 * num_frequencies)
        self.affine = FullyConnectedLayer(w_dim + motion_dim, num_frequencies)
        self.motion_mlp = nn.Sequential(
            FullyConnectedLayer(num_frequencies, num_frequencies, activation="lrelu"),
            FullyConnectedLayer(num_frequencies, num_frequencies),
        )

    def forward(self, w_BD: Tensor, motion_BM: Tensor, time_BT: Tensor, grid: Grid) -> Tensor:
        """Return the features of every pixel of the grid at every moment.

        Args:
            w_BD: The clip's style.
            motion_BM: The clip's motion code.
            time_BT: Moments, of which 0 to 1 is a clip as trained on.
            grid: Where the pixels are.

        Returns:
            features_BFTHW, sines before cosines, in [-1, 1], float32 or wider under any autocast.
        """
        with full_precision(w_BD):
            plane_B3E = self.xyaffine(w_BD)
            waves_BEA, still_BE = plane_B3E.split([2 * self.num_frequencies, self.num_frequencies], dim=1)
            waves_BEA = rearrange(waves_BEA, "B (E A) -> B E A", A=2) * _FREQUENCY_SCALE
            pace_BE = self.affine(torch.cat([w_BD, at_least_fp32(motion_BM)], dim=1))
            path_BTE = F.leaky_relu(pace_BE[:, None] * time_BT[..., None] * _MOTION_SCALE)
            moved = self.motion_mlp(path_BTE.flatten(0, 1)).unflatten(0, time_BT.shape)
            phase_BTE = still_BE[:, None] + moved
            x_W, y_H = grid.coordinates(w_BD)
            across = rearrange(waves_BEA[..., :1] * x_W, "B E W -> B E 1 1 W")
            down = rearrange(waves_BEA[..., 1:] * y_H, "B E H -> B E 1 H 1")
            angles_BETHW = across + down + rearrange(phase_BTE, "B T E -> B E T 1 1")
            return torch.cat([angles_BETHW.sin(), angles_BETHW.cos()], dim=1)


class FactorizedLayer(nn.Module):
    """Mixes the channels of each pixel by a kernel that the style scales, entry by entry, with low rank.

    Every row of the scaled kernel has length 1.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        w_dim: Width of the style latent.
        rank: Rank of the scales.
    """

    def __init__(self, in_channels: int, out_channels: int, *, w_dim: int, rank: int) -> None:
        super().__init__()
        self.rank = rank
        self.affine = FullyConnectedLayer(w_dim, (in_channels + out_channels) * rank)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def _kernel(self, w_BD: Tensor) -> Tensor:
        rows, columns = self.weight.shape[:2]
        with full_precision(w_BD):
            left, right = self.affine(w_BD).split([rows * self.rank, columns * self.rank], dim=1)
            left_BOR = rearrange(left, "B (O R) -> B O R", R=self.rank)
            right_BRI = rearrange(right, "B (R I) -> B R I", R=self.rank)
            scales_BOI = left_BOR @ right_BRI / math.sqrt(self.rank) + 1
            kernel_BOI = at_least_fp32(self.weight)[..., 0, 0] * scales_BOI
            return kernel_BOI / (kernel_BOI.norm(dim=2, keepdim=True) + _EPSILON)

    def forward(self, x_BITHW: Tensor, w_BD: Tensor) -> Tensor:
        """Return x_BOTHW after a leaky ReLU."""
        return bias_act(mix_channels(self._kernel(w_BD), x_BITHW), self.bias, activation="lrelu")

    def enlarged(self, x_BITHW: Tensor, features_BFTHW: Tensor, w_BD: Tensor, grid: Grid) -> Tensor:
        """Double the size of `x`, put `features` of that size behind its channels, and apply the layer.

        Mixing channels and repeating pixels can be swapped, so `x` is mixed while it is small.
        """
        kernel_BOI, width = self._kernel(w_BD), x_BITHW.shape[1]
        from_x, from_features = kernel_BOI[..., :width], kernel_BOI[..., width:]
        y = enlarge(mix_channels(from_x, x_BITHW), grid) + mix_channels(from_features, features_BFTHW)
        return bias_act(y, self.bias, activation="lrelu")


class ColourLayer(nn.Module):
    """Makes colours of each pixel's channels, by a kernel whose columns the style scales.

    Args:
        in_channels: Channels in.
        out_channels: Colours.
        w_dim: Width of the style latent.
    """

    def __init__(self, in_channels: int, out_channels: int, *, w_dim: int) -> None:
        super().__init__()
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x_BITHW: Tensor, w_BD: Tensor) -> Tensor:
        """Return x_BCTHW without bounds, float32 or wider."""
        scales_BI = self.affine(w_BD) / math.sqrt(self.weight.shape[1])
        kernel_BCI = at_least_fp32(self.weight)[..., 0, 0] * scales_BI[:, None]
        return bias_act(at_least_fp32(mix_channels(kernel_BCI, x_BITHW)), self.bias)
