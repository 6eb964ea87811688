"""The discriminator of LongVideoGAN's low-resolution network: residual, 3D, of whole clips.

Shape legend: B clips, C channels, T frames, H W pixels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.outputs import Judged
from zoo_gan.checks import check_counts, check_whole_clip
from zoo_gan.longvideogan.generator import check_frame_size
from zoo_gan.longvideogan.layers import CLAMP
from zoo_gan.stylegan2.layers import FullyConnectedLayer, bias_act

PART = "discriminator 'longvideogan'"
_CONVOLUTIONS: dict[int, Any] = {1: F.conv1d, 3: F.conv3d}
_TIME, _HEIGHT, _WIDTH = 2, 3, 4
_SHORTEST = 16


def halve(x: Tensor, dim: int) -> Tensor:
    """Halve an axis of even length behind the filter [1, 3, 3, 1] / 8, with zeros beyond its ends."""
    even, odd = x.reshape(*x.shape[:dim], -1, 2, *x.shape[dim + 1 :]).unbind(dim + 1)
    zero, inner = torch.zeros_like(even.narrow(dim, 0, 1)), even.shape[dim] - 1
    before = torch.cat([zero, odd.narrow(dim, 0, inner)], dim)
    after = torch.cat([even.narrow(dim, 1, inner), zero], dim)
    return (even + odd) * 0.375 + (before + after) * 0.125


class Convolution(nn.Module):
    """A convolution with an equalised learning rate that keeps sizes; leaky ReLU where it has a bias.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel: Sides of the kernel, one or three, all odd.
        bias: Whether there is a bias, and an activation.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: tuple[int, ...], *, bias: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, *kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * math.prod(kernel))

    def forward(self, x: Tensor, *, halved: tuple[int, ...] = (), clamp: float | None = CLAMP) -> Tensor:
        """Return the convolution, then halved along some axes, then activated."""
        weight = (self.weight * self.weight_gain).to(x.dtype)
        kernel = weight.shape[2:]
        x = _CONVOLUTIONS[len(kernel)](x, weight, padding=tuple(side // 2 for side in kernel))
        for dim in halved:
            x = halve(x, dim)
        activation = "linear" if self.bias is None else "lrelu"
        return bias_act(x, self.bias, activation=activation, clamp=clamp)


class Block(nn.Module):
    """Two convolutions beside a pointwise one, then halving.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        temporal_kernel: Frames in a kernel.
        halved: Axes that are halved.
        video_channels: Colours, where the block begins with a pointwise convolution of the clip.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        temporal_kernel: int,
        halved: tuple[int, ...],
        video_channels: int = 0,
    ) -> None:
        super().__init__()
        self.halved = halved
        kernel = (temporal_kernel, 3, 3)
        self.conv_vid = Convolution(video_channels, in_channels, (1, 1, 1)) if video_channels else None
        self.conv_0 = Convolution(in_channels, in_channels, kernel)
        self.conv_1 = Convolution(in_channels, out_channels, kernel)
        self.conv_skip = Convolution(in_channels, out_channels, (1, 1, 1), bias=False)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the output, halved along the axes that are to be."""
        x = x_BCTHW if self.conv_vid is None else self.conv_vid(x_BCTHW)
        skip = x
        # A pointwise convolution may as well come after the filter, on an eighth of the values.
        for dim in self.halved:
            skip = halve(skip, dim)
        hidden = self.conv_1(self.conv_0(x), halved=self.halved)
        merged: Tensor = (hidden + self.conv_skip(skip)) * math.sqrt(0.5)
        return merged


class Epilogue(nn.Module):
    """Convolutions along time of what is left of the frames, then a score of the whole clip.

    Args:
        in_channels: Channels times pixels.
        channels: Channels within.
        num_frames: Frames that are left.
    """

    def __init__(self, in_channels: int, channels: int, *, num_frames: int) -> None:
        super().__init__()
        for number in range(4):
            layer = Convolution(in_channels if number == 0 else channels, channels, (3 if number else 1,))
            self.add_module(f"conv1d_{number}", layer)
        self.linear_0 = FullyConnectedLayer(num_frames * channels, channels, activation="lrelu")
        self.linear_1 = FullyConnectedLayer(channels, 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return (B, 1)."""
        x = rearrange(x_BCTHW, "B C T H W -> B (C H W) T")
        for number in range(4):
            x = self.get_submodule(f"conv1d_{number}")(x, clamp=None)
        score: Tensor = self.linear_1(self.linear_0(rearrange(x, "B C T -> B (C T)")))
        return score


class LongVideoGANDiscriminator(nn.Module):
    """Scores whole clips of one length and size, with kernels of five frames.

    Frames are padded to a square with zeros; four blocks bring them to 4 x 4 pixels and an eighth of the
    frames, whose order a last stack of temporal convolutions and a fully connected layer read. The defaults
    are the published network. Weights start as published, standard normal.

    Source: LongVideoGAN, https://arxiv.org/abs/2206.03429

    Args:
        in_channels: Colour channels.
        num_frames: Frames of a clip, a multiple of 8 of at least 16.
        height: Rows of a frame.
        width: Columns of a frame; the longer side is 32 or 64.
        base_channels: Channels of the first block; each of the four doubles them.
        head_channels: Channels after the blocks.

    Raises:
        ZooError: An option is out of its range.
    """

    consumes = "video"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_frames: int = 128,
        height: int = 36,
        width: int = 64,
        base_channels: int = 32,
        head_channels: int = 1024,
    ) -> None:
        super().__init__()
        check_counts(
            PART,
            in_channels=in_channels,
            num_frames=num_frames,
            base_channels=base_channels,
            head_channels=head_channels,
        )
        self.longer = check_frame_size(PART, height=height, width=width)
        if num_frames < _SHORTEST or num_frames % 8:
            raise ZooError(f"{PART}: num_frames is {num_frames}; give a multiple of 8 of {_SHORTEST} or more")
        self.in_channels = in_channels
        self.num_frames = num_frames
        self.size_HW = (height, width)
        self.min_size = (num_frames, height, width)

        blocks: list[nn.Module] = [
            Block(
                base_channels,
                2 * base_channels,
                temporal_kernel=1,
                halved=(_HEIGHT, _WIDTH) if self.longer > 32 else (),
                video_channels=in_channels,
            )
        ]
        for level in (1, 2, 3):
            width_in = base_channels << level
            halved = (_HEIGHT, _WIDTH, _TIME)
            blocks.append(Block(width_in, 2 * width_in, temporal_kernel=5, halved=halved))
        self.blocks = nn.ModuleList(blocks)
        self.epilogue = Epilogue(16 * base_channels * 16, head_channels, num_frames=num_frames // 8)

    def forward(self, x: Tensor) -> Judged:
        """Score real above generated.

        Args:
            x: x_BCTHW in [-1, 1], of exactly `num_frames` frames of `size_HW`.

        Returns:
            One unbounded score a clip (B, 1), and the output of each block.

        Raises:
            PortError: `x` is of another shape.
        """
        check_whole_clip(x, part=PART, in_channels=self.in_channels, size_THW=self.min_size)
        rows, columns = ((self.longer - side) // 2 for side in self.size_HW)
        x = F.pad(x, (columns, columns, rows, rows))
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return Judged([self.epilogue(x)], features)
