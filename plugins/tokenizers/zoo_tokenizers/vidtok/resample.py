"""Halving and doubling the number of frames in VidTok: a learned mix of a plain way and a convolution.

Shapes: B batch, t h w the grid, D channels, x_BthwD the layout of every module.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.convolution import fold_kernel
from zoo.streaming import lead_in
from zoo_tokenizers.vidtok.layers import Causal, EdgeMode, Kernel3D, pad_time, window_conv

_MIX_FACTOR = 2.0
"""Where the mix starts: sigmoid(2) = 88 % of the plain way."""


class _Mix(nn.Module):
    """Holds the learned share of the plain way."""

    def __init__(self) -> None:
        super().__init__()
        self.mix_factor = nn.Parameter(torch.full((1,), _MIX_FACTOR))

    def mix(self, plain: Tensor, convolved: Tensor) -> Tensor:
        share = self.mix_factor.sigmoid()
        return share * plain + (1 - share) * convolved


class TemporalDownsample(_Mix):
    """Halves the number of frames: the mean of three frames mixed with a 3x3x3 convolution of them."""

    def __init__(self, dim: int, edge: EdgeMode) -> None:
        super().__init__()
        self.edge: EdgeMode = edge
        conv = Kernel3D(dim, dim, 3, stride=(2, 1, 1), padding=(0, 1, 1))
        self.conv = conv if edge == "both" else Causal(conv)

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Shrink; t is halved."""
        padded = pad_time(self, x_BthwD, self.edge, stride=2)
        mean = (padded[:, :-2:2] + padded[:, 1:-1:2] + padded[:, 2::2]) / 3
        return self.mix(mean, self.conv(padded))


class TemporalUpsample(_Mix):
    """Doubles the number of frames: each one twice, mixed with a 3x3x3 convolution of that.

    Where frames are repeated, a kernel over three is one over two (`fold_kernel`): a third less work.
    """

    def __init__(self, dim: int, edge: EdgeMode) -> None:
        super().__init__()
        self.conv = window_conv(dim, dim, edge)
        self.edge: EdgeMode = edge

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Grow; t doubles."""
        kernel = self.conv.conv if isinstance(self.conv, Causal) else self.conv
        assert isinstance(kernel, nn.Conv3d)
        if self.edge == "both":
            padded = F.pad(x_BthwD, (0, 0, 0, 0, 0, 0, 1, 1))
            seen, phases = (padded[:, :-1], padded[:, 1:]), (0, 1)
        else:
            padded = lead_in(self, x_BthwD, 1, dim=1, pad=self.edge)
            seen, phases = (padded, padded), (1, 0)
        pair = []
        for frames, phase in zip(seen, phases, strict=True):
            weight = fold_kernel(kernel.weight, phase, dim=2)
            y = F.conv3d(frames.permute(0, 4, 1, 2, 3), weight, kernel.bias, padding=(0, 1, 1))
            pair.append(self.mix(x_BthwD, y.permute(0, 2, 3, 4, 1)))
        return torch.stack(pair, dim=2).flatten(1, 2)


class SmoothUpsample(_Mix):
    """Doubles the number of frames by interpolation, which looks one frame ahead.

    The frames of the first latent frame are interpolated apart from the others, so that an image alone
    decodes as the start of a clip does.

    Args:
        dim: Channels.
        edge: What the convolution finds before the first frame.
        num_lead: Frames here that the first latent frame has become.
    """

    def __init__(self, dim: int, edge: EdgeMode, *, num_lead: int) -> None:
        super().__init__()
        self.conv = window_conv(dim, dim, edge)
        self.num_lead = num_lead

    def forward(self, x_BthwD: Tensor) -> Tensor:
        """Grow; t doubles."""
        runs = [x_BthwD[:, : self.num_lead], x_BthwD[:, self.num_lead :]]
        between = torch.cat([_interpolate(run) for run in runs if run.shape[1]], dim=1)
        return self.mix(between, self.conv(between))


def _interpolate(x_BthwD: Tensor) -> Tensor:
    """Put two frames for each, a quarter of the way to its neighbours; the ends have themselves."""
    before = torch.cat([x_BthwD[:, :1], x_BthwD[:, :-1]], dim=1)
    after = torch.cat([x_BthwD[:, 1:], x_BthwD[:, -1:]], dim=1)
    return torch.stack([x_BthwD.lerp(before, 0.25), x_BthwD.lerp(after, 0.25)], dim=2).flatten(1, 2)
