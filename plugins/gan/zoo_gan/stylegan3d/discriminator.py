"""The discriminator of MAGVIT: that of StyleGAN, with time as a third axis.

Shape legend: B clips, C channels, T frames, H W pixels, F features of a whole clip.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.outputs import Judged
from zoo_gan.checks import check_counts, check_whole_clip

PART = "discriminator 'stylegan3d'"
_SLOPE = 0.2


def pool(x_BCTHW: Tensor) -> Tensor:
    """Halve all three axes by averages; of an odd axis the last sample is averaged by itself."""
    for dim in (2, 3, 4):
        if x_BCTHW.shape[dim] % 2:
            x_BCTHW = torch.cat([x_BCTHW, x_BCTHW.narrow(dim, x_BCTHW.shape[dim] - 1, 1)], dim)
    return F.avg_pool3d(x_BCTHW, 2)


class ResidualBlock(nn.Module):
    """Two convolutions with pooling between them, beside a pointwise one.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_0 = nn.Conv3d(in_channels, in_channels, 3, padding=1)
        self.conv_skip = nn.Conv3d(in_channels, out_channels, 1, bias=False)
        self.conv_1 = nn.Conv3d(in_channels, out_channels, 3, padding=1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the output at half the size."""
        hidden = pool(F.leaky_relu(self.conv_0(x_BCTHW), _SLOPE))
        hidden = F.leaky_relu(self.conv_1(hidden), _SLOPE)
        merged: Tensor = (self.conv_skip(pool(x_BCTHW)) + hidden) / math.sqrt(2)
        return merged


class StyleGAN3DDiscriminator(nn.Module):
    """Scores whole clips of one length and size by residual blocks that halve time and space.

    As in MAGVIT's public code: plain weights by Xavier's rule instead of equalised ones, average pooling
    instead of a filter, no minibatch deviation, no normalisation. The defaults are those of MAGVIT's base
    model (its large one has 128 `base_channels`). `zoo_gan.stylegan3d.weights` reads the public parameters.

    Sources: MAGVIT, https://arxiv.org/abs/2212.05199; StyleGAN2, https://arxiv.org/abs/1912.04958

    Args:
        in_channels: Colour channels.
        num_frames: Frames of a clip.
        height: Rows of a frame.
        width: Columns of a frame.
        base_channels: Channels of the first convolution.
        channel_multipliers: Channels of each block, in units of `base_channels`; each halves the clip.

    Raises:
        ZooError: An option is below 1, or there is no block.
    """

    consumes = "video"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        num_frames: int = 16,
        height: int = 128,
        width: int = 128,
        base_channels: int = 64,
        channel_multipliers: list[int] = [2, 4, 4, 4, 4],  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__()
        check_counts(
            PART,
            in_channels=in_channels,
            num_frames=num_frames,
            height=height,
            width=width,
            base_channels=base_channels,
        )
        if not channel_multipliers:
            raise ZooError(f"{PART}: channel_multipliers is empty; give a multiplier for each block")
        for number, multiplier in enumerate(channel_multipliers):
            check_counts(PART, **{f"channel_multipliers[{number}]": multiplier})
        self.in_channels = in_channels
        self.num_frames = num_frames
        self.size_HW = (height, width)
        self.min_size = (num_frames, height, width)

        widths = [base_channels, *(base_channels * multiplier for multiplier in channel_multipliers)]
        last = widths[-1]
        self.conv_in = nn.Conv3d(in_channels, base_channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            ResidualBlock(width_in, width_out) for width_in, width_out in pairwise(widths)
        )
        self.conv_out = nn.Conv3d(last, last, 3, padding=1)
        shrunk = 2 ** len(channel_multipliers)
        cells = math.prod(math.ceil(side / shrunk) for side in self.min_size)
        self.dense = nn.Linear(cells * last, last)
        self.score = nn.Linear(last, 1)
        self.apply(_init)

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
        x = F.leaky_relu(self.conv_in(x), _SLOPE)
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        x = F.leaky_relu(self.conv_out(x), _SLOPE)
        # Channels last, as the public weights have them.
        x_BF = F.leaky_relu(self.dense(rearrange(x, "B C T H W -> B (T H W C)")), _SLOPE)
        return Judged([self.score(x_BF)], features)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
