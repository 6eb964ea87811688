"""The network that reads frames given as pixels: a 3D ResNet-34 with layer norms.

Shape legend: B batch, C channels, T H W frames and pixels, D features.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from zoo_priors.videogpt.layers import at_least_float32

_BLOCKS = (3, 4, 6, 3)
_STRIDES = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 1, 1))


class FrameNet(nn.Module):
    """Turns frames into a grid of features, a quarter as high and as wide.

    Its blocks are those of ResNet-34 (https://arxiv.org/abs/1512.03385) with 3x3x3 kernels and layer norm
    over channels; the first of each group has a projection.

    Args:
        in_channels: Colour channels.
        base_channels: Width of the first group; the second has twice as many and the third four times.
        out_dim: Width of the last group.
    """

    def __init__(self, *, in_channels: int, base_channels: int, out_dim: int) -> None:
        super().__init__()
        self.stem = nn.Conv3d(in_channels, base_channels, 3, padding=1, bias=False)
        self.stem_norm = ChannelNorm(base_channels)
        widths = [base_channels, base_channels, 2 * base_channels, 4 * base_channels, out_dim]
        self.groups = nn.ModuleList(
            nn.Sequential(
                *(
                    Residual(widths[n + int(number > 0)], widths[n + 1], stride if number == 0 else None)
                    for number in range(blocks)
                )
            )
            for n, (blocks, stride) in enumerate(zip(_BLOCKS, _STRIDES, strict=True))
        )

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return features_BDTHW of frames in [-0.5, 0.5], with H and W a quarter."""
        h = F.relu(self.stem_norm(self.stem(x_BCTHW)))
        for group in self.groups:
            h = group(h)
        return h


class Residual(nn.Module):
    """Two convolutions, each with a norm, beside a projection or nothing.

    Args:
        in_dim: Width of what comes in.
        dim: Width of what goes out.
        stride: Of the first convolution and the projection; None for neither.
    """

    def __init__(self, in_dim: int, dim: int, stride: tuple[int, int, int] | None) -> None:
        super().__init__()
        step = stride or (1, 1, 1)
        self.projection = nn.Conv3d(in_dim, dim, 1, stride=step, bias=False) if stride else None
        self.projection_norm = ChannelNorm(dim) if stride else None
        self.conv1 = nn.Conv3d(in_dim, dim, 3, stride=step, padding=1, bias=False)
        self.norm1 = ChannelNorm(dim)
        self.conv2 = nn.Conv3d(dim, dim, 3, padding=1, bias=False)
        self.norm2 = ChannelNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        h = F.relu(self.norm2(self.conv2(h)))
        if self.projection is not None and self.projection_norm is not None:
            x = self.projection_norm(self.projection(x))
        return F.relu(h + x)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of x_BCTHW, in float32 at least."""

    def forward(self, x: Tensor) -> Tensor:
        wide = at_least_float32(x.movedim(1, -1))
        weight, bias = self.weight.type_as(wide), self.bias.type_as(wide)
        y = F.layer_norm(wide, self.normalized_shape, weight, bias, self.eps)
        return y.movedim(-1, 1).type_as(x)
