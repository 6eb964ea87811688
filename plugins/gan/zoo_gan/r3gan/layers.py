"""The layers of R3GAN (https://arxiv.org/abs/2501.05441), applied to every frame, and what lets frames meet.

Published: `ResidualBlock` without its temporal layer, `upsample_space`, `downsample_space`,
`GenerativeBasis`, `DiscriminativeBasis`, and how they are initialised. No layer normalises, and biases stand
before activations only. Ours: `TemporalConv`, `upsample_time` and `downsample_time`, and the sharing of one
basis by all steps.

Shape legend: B clips, T frames or steps of time, C channels, H W pixels; N = B * T frames as a batch, K
numbers that a step is made from.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))
BASIS_SIZE = 4
"""Height and width of the coarsest stage in pixels."""
SPACE_TAPS = (1.0, 3.0, 3.0, 1.0)
"""The resampling filter each way, up to its sum: [1, 2, 1] over pairs of pixels."""


def scaled_normal(weight: Tensor, *, gain: float = 1.0) -> None:
    """Fill a weight with normal numbers that keep the variance of its input, times the gain's square."""
    nn.init.normal_(weight, 0.0, gain / math.sqrt(weight[0].numel()))


def pointwise(width_in: int, width_out: int, *, gain: float = 1.0) -> nn.Conv2d:
    """Return a 1x1 convolution without bias that multiplies the variance by the gain's square."""
    conv = nn.Conv2d(width_in, width_out, 1, bias=False)
    scaled_normal(conv.weight, gain=gain)
    return conv


def frame_by_frame(layer: nn.Module, x_BTCHW: Tensor) -> Tensor:
    """Apply a layer for images to every frame."""
    y_NCHW: Tensor = layer(x_BTCHW.flatten(0, 1))
    return y_NCHW.reshape(*x_BTCHW.shape[:2], *y_NCHW.shape[1:])


class TemporalConv(nn.Module):
    """A filter of three steps for each channel, without padding: two steps fewer come out (ours).

    It starts as the step in the middle alone, so that a fresh network treats frames as the image network
    does.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.groups = width
        self.weight = nn.Parameter(torch.tensor([0.0, 1.0, 0.0]).repeat(width, 1))

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """Return steps 1 to T - 2, each mixed with its neighbours."""
        before, middle, after = self.weight.to(x_BTCHW.dtype).reshape(-1, 1, 1, 3).unbind(-1)
        y_BTCHW = x_BTCHW[:, 1:-1] * middle
        y_BTCHW = torch.addcmul(y_BTCHW, x_BTCHW[:, :-2], before)
        return torch.addcmul(y_BTCHW, x_BTCHW[:, 2:], after)


class ResidualBlock(nn.Module):
    """R3GAN's residual block, 1x1 - grouped 3x3 - 1x1, with a temporal filter in front of the 3x3.

    Published: both activations follow a bias; the last convolution starts at zero; the first two start with
    the gain of the leaky ReLU times ``depth ** (-1 / 4)``. Ours: the temporal filter, which with the 3x3
    after it makes a factorised 3x3x3 convolution. Two steps fewer come out.

    Args:
        width: Channels of input and output.
        cardinality: Groups of the 3x3 convolution.
        expansion: Channels inside, as a multiple of `width`.
        depth: Residual blocks of the whole network.
    """

    def __init__(self, width: int, *, cardinality: int, expansion: int, depth: int) -> None:
        super().__init__()
        inner = width * expansion
        gain = GAIN * depth**-0.25
        self.expand = pointwise(width, inner, gain=gain)
        self.bias1 = nn.Parameter(torch.zeros(inner))
        self.temporal = TemporalConv(inner)
        self.spatial = nn.Conv2d(inner, inner, 3, padding=1, groups=cardinality, bias=False)
        scaled_normal(self.spatial.weight, gain=gain)
        self.bias2 = nn.Parameter(torch.zeros(inner))
        self.reduce = pointwise(inner, width, gain=0.0)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """Return x_BTCHW without its first and last step, changed by what the block learnt."""
        y_BTCHW = _biased_activation(frame_by_frame(self.expand, x_BTCHW), self.bias1)
        y_BTCHW = frame_by_frame(self.spatial, self.temporal(y_BTCHW))
        y_BTCHW = frame_by_frame(self.reduce, _biased_activation(y_BTCHW, self.bias2))
        return x_BTCHW[:, 1:-1] + y_BTCHW


class GenerativeBasis(nn.Module):
    """Learnt 4x4 maps, each scaled by a number that is linear in the input; one map a channel."""

    def __init__(self, dim_in: int, width: int) -> None:
        super().__init__()
        self.basis = nn.Parameter(torch.randn(width, BASIS_SIZE, BASIS_SIZE))
        self.linear = nn.Linear(dim_in, width, bias=False)
        scaled_normal(self.linear.weight)

    def forward(self, z_BTK: Tensor) -> Tensor:
        """Return x_BTCHW of 4x4 pixels, every step made from its own numbers (ours) by the same maps."""
        scales_BTC: Tensor = self.linear(z_BTK)
        return scales_BTC[..., None, None] * self.basis.to(scales_BTC.dtype)


class DiscriminativeBasis(nn.Module):
    """Weigh each 4x4 map by a learnt one of its own, and mix the sums linearly."""

    def __init__(self, width: int, dim_out: int) -> None:
        super().__init__()
        self.basis = nn.Conv2d(width, width, BASIS_SIZE, groups=width, bias=False)
        scaled_normal(self.basis.weight)
        self.linear = nn.Linear(width, dim_out, bias=False)
        scaled_normal(self.linear.weight)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """Return v_BK: the mean over the steps (ours) of what the image network says of each."""
        v_BTC = frame_by_frame(self.basis, x_BTCHW).flatten(2)
        v_BK: Tensor = self.linear(v_BTC.mean(1))
        return v_BK


def upsample_space(x_BTCHW: Tensor) -> Tensor:
    """Double height and width by the published filter [1, 3, 3, 1] / 4 each way, zeros beyond the frame."""
    x_NCHW = x_BTCHW.flatten(0, 1)
    kernel = _space_kernel(x_NCHW) * 4
    y_NCHW = F.conv_transpose2d(x_NCHW, kernel, stride=2, padding=1, groups=len(kernel))
    return y_NCHW.reshape(*x_BTCHW.shape[:2], *y_NCHW.shape[1:])


def downsample_space(x_BTCHW: Tensor) -> Tensor:
    """Halve height and width by the published filter [1, 3, 3, 1] / 8 each way, zeros beyond the frame."""
    x_NCHW = x_BTCHW.flatten(0, 1)
    kernel = _space_kernel(x_NCHW)
    y_NCHW = F.conv2d(x_NCHW, kernel, stride=2, padding=1, groups=len(kernel))
    return y_NCHW.reshape(*x_BTCHW.shape[:2], *y_NCHW.shape[1:])


def upsample_time(x_BTCHW: Tensor) -> Tensor:
    """Double the steps by the filter [1, 3, 3, 1] / 4, without padding (ours).

    Step k of the input lies between steps 2k and 2k + 1; of steps p to q - 1 come 2p + 1 to 2q - 2.
    """
    early, late = x_BTCHW[:, :-1], x_BTCHW[:, 1:]
    odd, even = torch.lerp(early, late, 0.25), torch.lerp(early, late, 0.75)
    return rearrange([odd, even], "two B T C H W -> B (T two) C H W")


def downsample_time(x_BTCHW: Tensor) -> Tensor:
    """Halve the steps by the filter [1, 3, 3, 1] / 8, the ends continued by a step like them (ours).

    An odd number is rounded down, and its last step still counts.
    """
    x_BTCHW = continue_ends(x_BTCHW)
    half = x_BTCHW.shape[1] // 2 - 1
    first, second, third, fourth = (x_BTCHW[:, i : i + 2 * half : 2] for i in range(4))
    return (first + fourth) * 0.125 + (second + third) * 0.375


def continue_ends(x_BTCHW: Tensor) -> Tensor:
    """Repeat the first and the last step once."""
    return torch.cat([x_BTCHW[:, :1], x_BTCHW, x_BTCHW[:, -1:]], dim=1)


def _space_kernel(x_NCHW: Tensor) -> Tensor:
    """The resampling filter of sum 1, for each channel alone."""
    taps = torch.tensor(SPACE_TAPS, dtype=x_NCHW.dtype, device=x_NCHW.device) / sum(SPACE_TAPS)
    return torch.outer(taps, taps).expand(x_NCHW.shape[1], 1, -1, -1)


def _biased_activation(x_BTCHW: Tensor, bias_C: Tensor) -> Tensor:
    return F.leaky_relu(x_BTCHW + bias_C.to(x_BTCHW.dtype).reshape(-1, 1, 1), SLOPE)
