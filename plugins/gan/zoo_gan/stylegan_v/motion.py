"""Motion of StyleGAN-V: codes on a path of anchors, and an embedding of any moment between two of them.

All of it stays in full precision under any autocast, since times multiply frequencies.

Source: StyleGAN-V, https://arxiv.org/abs/2112.14683

Shape legend: B clips, T moments, N anchors; Z numbers of a drawn code with its label, V numbers of an anchor,
F frequencies, E = 2F numbers of an embedding.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from zoo.precision import at_least_fp32, full_precision
from zoo_gan.stylegan2.layers import FullyConnectedLayer
from zoo_gan.stylegan2.networks import SynthesisInput

_LR_MULTIPLIER = 0.01


class EqualizedConv1d(nn.Module):
    """An unpadded convolution along time with leaky ReLU, which learns at 1/100 of the rate.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Steps that each output step is made from.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size) / _LR_MULTIPLIER)
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = _LR_MULTIPLIER / math.sqrt(in_channels * kernel_size)

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Return x_BCT, ``kernel_size - 1`` steps shorter."""
        y_BCT = F.conv1d(x_BCT, self.weight * self.weight_gain, self.bias * _LR_MULTIPLIER)
        # Published without the factor sqrt(2) that the other layers have.
        return F.leaky_relu(y_BCT, 0.2)


class AlignedTimeEncoder(nn.Module):
    """Embeds a moment by sines whose periods and phases the anchor before it decides.

    What the sines are at both anchors, interpolated, is subtracted, and a learned vector of each
    anchor, interpolated, is added: so an embedding is continuous where one anchor hands over to the next.

    Args:
        code_dim: Numbers of an anchor.
        num_frequencies: Sines; as many cosines.
        min_period: Shortest period in frames.
        max_period: Longest period in frames.
    """

    freqs: Tensor
    phase_scales: Tensor

    def __init__(self, *, code_dim: int, num_frequencies: int, min_period: int, max_period: int) -> None:
        super().__init__()
        exponents = torch.linspace(
            math.log2(max_period), math.log2(min_period), num_frequencies, dtype=torch.float64
        )
        freqs = (2 * math.pi / 2**exponents).float()[None]
        self.register_buffer("freqs", freqs)
        self.register_buffer("phase_scales", max_period * freqs / (2 * math.pi))
        self.periods_predictor = FullyConnectedLayer(code_dim, num_frequencies, bias=False)
        self.phase_predictor = FullyConnectedLayer(code_dim, num_frequencies, bias=False)
        self.aligners_predictor = FullyConnectedLayer(code_dim, 2 * num_frequencies, bias=False)

    def forward(self, times_BT: Tensor, anchors_BNV: Tensor, *, distance: int) -> Tensor:
        """Return the embeddings motion_BTE.

        Args:
            times_BT: Moments in frames, at least 0 and before the last anchor.
            anchors_BNV: Anchors `distance` frames apart, the first at time 0.
            distance: Frames between anchors.
        """
        index_BT = (times_BT / distance).floor()
        start_BT = index_BT * distance
        share_BT1 = ((times_BT - start_BT) / distance)[..., None]

        def of_anchor(values_BNC: Tensor, step: int) -> Tensor:
            index = repeat(index_BT.long() + step, "B T -> B T C", C=values_BNC.shape[2])
            return values_BNC.gather(1, index)

        def interpolate(left: Tensor, right: Tensor) -> Tensor:
            return left * (1 - share_BT1) + right * share_BT1

        # An anchor speaks for many moments: ask each predictor once, then look up.
        flat_NV = rearrange(anchors_BNV, "B N V -> (B N) V")
        num = anchors_BNV.shape[0]

        def predicted(layer: FullyConnectedLayer) -> Tensor:
            values: Tensor = rearrange(layer(flat_NV), "(B N) C -> B N C", B=num)
            return values

        rate_BTF = self.freqs * (of_anchor(predicted(self.periods_predictor), 0).tanh() + 1)
        phase_BTF = of_anchor(predicted(self.phase_predictor), 0) * self.phase_scales
        aligners = predicted(self.aligners_predictor)

        def waves(moments_BT: Tensor) -> Tensor:
            angles_BTF = rate_BTF * moments_BT[..., None] + phase_BTF
            return torch.cat([angles_BTF.sin(), angles_BTF.cos()], dim=2)

        ends = interpolate(waves(start_BT), waves(start_BT + distance))
        return waves(times_BT) - ends + interpolate(of_anchor(aligners, 0), of_anchor(aligners, 1))


class MotionEncoder(nn.Module):
    """Turns drawn codes, one for each stretch of time, into an embedding of any moment.

    Two unpadded convolutions make the anchors, so that they are alike at all times and a clip has no end
    that it is made for.

    Args:
        motion_dim: Numbers of a drawn code.
        num_classes: Labels that are appended to it, one-hot.
        code_dim: Numbers of an anchor.
        distance: Frames between anchors, and the shortest period.
        kernel_size: Codes that each convolution reads.
        num_frequencies: Sines and cosines of the embedding.
        max_period: Longest period in frames.
    """

    def __init__(
        self,
        *,
        motion_dim: int,
        num_classes: int,
        code_dim: int,
        distance: int,
        kernel_size: int,
        num_frequencies: int,
        max_period: int,
    ) -> None:
        super().__init__()
        self.distance = distance
        self.context = 2 * (kernel_size - 1)
        self.conv = nn.Sequential(
            EqualizedConv1d(motion_dim + num_classes, motion_dim, kernel_size),
            EqualizedConv1d(motion_dim, code_dim, kernel_size),
        )
        self.time_encoder = AlignedTimeEncoder(
            code_dim=code_dim, num_frequencies=num_frequencies, min_period=distance, max_period=max_period
        )

    def num_codes(self, num_frames: int) -> int:
        """Return how many codes the moments in [0, num_frames] are made from."""
        return num_frames // self.distance + 2 + self.context

    def forward(self, codes_BNZ: Tensor, times_BT: Tensor, condition_BC: Tensor | None = None) -> Tensor:
        """Return the embeddings motion_BTE, float32 or wider.

        Args:
            codes_BNZ: Drawn codes, at least as many as `num_codes` says.
            times_BT: Moments in frames.
            condition_BC: One-hot labels, where there are any.
        """
        with full_precision(codes_BNZ):
            codes_BNZ = at_least_fp32(codes_BNZ)
            if condition_BC is not None:
                labels_BNC = repeat(condition_BC, "B C -> B N C", N=codes_BNZ.shape[1])
                codes_BNZ = torch.cat([codes_BNZ, labels_BNC.to(codes_BNZ.dtype)], dim=2)
            anchors_BVN = self.conv(rearrange(codes_BNZ, "B N Z -> B Z N"))
            motion_BTE: Tensor = self.time_encoder(
                times_BT.to(codes_BNZ.dtype),
                rearrange(anchors_BVN, "B V N -> B N V"),
                distance=self.distance,
            )
            return motion_BTE


class TemporalInput(SynthesisInput):
    """A learned 4x4 image with the motion of the moment as further channels, the same at every pixel.

    Args:
        const_channels: Channels of the learned image.
        motion_channels: Channels of the motion.
    """

    def __init__(self, const_channels: int, motion_channels: int) -> None:
        super().__init__()
        self.num_channels = const_channels + motion_channels
        self.const = nn.Parameter(torch.randn(1, const_channels, 4, 4))

    def forward(self, motion_BE: Tensor) -> Tensor:
        """Return x_BCHW for each row of motion."""
        const = self.const.expand(motion_BE.shape[0], -1, -1, -1)
        return torch.cat([const, motion_BE[:, :, None, None].expand(-1, -1, 4, 4)], dim=1)
