"""The network of VidTok (https://arxiv.org/abs/2412.13061), whatever stands where there is no frame.

Residual blocks inside frames alternate with residual blocks between them; only the middle, the ends and the
changes of the number of frames convolve over both at once. Norms and attention stay inside a frame.

Shapes: B batch, C colour channels, T H W frames and pixels, D channels, t h w the latent grid; inside,
channels stand last (x_BthwD, see `zoo_tokenizers.vidtok.layers`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.checks import require_clip, require_latent
from zoo.convolution import in_pieces, memories, silu
from zoo.streaming import Memory, is_first_piece
from zoo_tokenizers.vidtok.layers import (
    ChannelNorm,
    EdgeMode,
    FrameDownsample,
    FrameUpsample,
    Middle,
    frame_block,
    temporal_block,
    window_conv,
)
from zoo_tokenizers.vidtok.plan import check_options, doublings, halvings
from zoo_tokenizers.vidtok.resample import TemporalDownsample, TemporalUpsample


class EncoderBase(nn.Module):
    """The encoder; its options are those of `VidTokEncoder`, and `edge` of any kind."""

    name: str
    causal: bool

    def __init__(
        self,
        *,
        in_channels: int,
        base_channels: int,
        channel_multipliers: Sequence[int],
        num_residual_blocks: int,
        latent_dim: int,
        stride: Sequence[int],
        edge: EdgeMode,
    ) -> None:
        super().__init__()
        widths, self.stride = check_options(
            f"encoder {self.name}",
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            latent_dim=latent_dim,
            stride=stride,
        )
        self.in_channels = in_channels
        self.latent_dim = latent_dim

        self.conv_in = window_conv(in_channels, base_channels, edge)
        self.down = nn.ModuleList()
        self.down_temporal = nn.ModuleList()
        self.widths = widths
        self.halves = halves = halvings(self.stride, len(widths))
        dim = base_channels
        for level, width in enumerate(widths):
            dims = [dim, *[width] * num_residual_blocks]
            self.down.append(
                _Level(
                    [frame_block(*pair) for pair in itertools.pairwise(dims)],
                    downsample=FrameDownsample(width) if level in halves.spatial else None,
                )
            )
            self.down_temporal.append(
                _Level(
                    [temporal_block(width, edge) for _ in range(num_residual_blocks)],
                    downsample=TemporalDownsample(width, edge) if level in halves.temporal else None,
                )
            )
            dim = width
        self.mid = Middle(dim, edge)
        self.norm_out = ChannelNorm(dim)
        self.conv_out = window_conv(dim, latent_dim, edge)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Encode video in [-1, 1] to z_BDthw, H / s_h, W / s_w.

        A causal encoder makes t = 1 + k of T = 1 + k*s_t frames, another one t = k of T = k*s_t.

        Raises:
            PortError: T, H or W does not fit the stride, or C is not `in_channels`.
        """
        require_clip(
            f"encoder {self.name}",
            x_BCTHW,
            in_channels=self.in_channels,
            stride=self.stride,
            lead_frame=self.causal,
        )
        if self.causal and is_first_piece():
            first = x_BCTHW[:, :, :1].expand(-1, -1, self.stride[0] - 1, -1, -1)
            x_BCTHW = torch.cat([first, x_BCTHW], dim=2)
        last = len(self.down) - 1
        carried = memories(self, x_BCTHW, last + 1)
        h = self.mid(self._shrink(x_BCTHW.permute(0, 2, 3, 4, 1), last, carried))
        z_BthwD: Tensor = self.conv_out(silu(self.norm_out(h)))
        return z_BthwD.permute(0, 4, 1, 2, 3).contiguous()

    def _shrink(self, x_BTHWC: Tensor, level: int, carried: list[Memory] | None) -> Tensor:
        """Run all levels down to one, the finer the fewer frames at a time."""
        if level < 0:
            h: Tensor = self.conv_in(x_BTHWC)
            return h

        def run(piece: Tensor) -> Tensor:
            return _run(self._shrink(piece, level - 1, carried), self.down[level], self.down_temporal[level])

        stride = 2 ** sum(at <= level for at in self.halves.temporal)
        in_stride = 2 ** sum(at < level for at in self.halves.temporal)
        side = 2 ** sum(at < level for at in self.halves.spatial)
        each = _bytes_of(x_BTHWC, self.widths[level]) // (side * side * in_stride)
        memory = None if carried is None else carried[level]
        return in_pieces(self, run, x_BTHWC, memory=memory, bytes_each=each, stride=stride)


class DecoderBase(nn.Module):
    """The decoder; its options are those of `VidTokDecoder`, and `edge` of any kind."""

    name: str
    lead_frame: bool

    def __init__(
        self,
        *,
        out_channels: int,
        base_channels: int,
        channel_multipliers: Sequence[int],
        num_residual_blocks: int,
        latent_dim: int,
        stride: Sequence[int],
        edge: EdgeMode,
    ) -> None:
        super().__init__()
        widths, self.stride = check_options(
            f"decoder {self.name}",
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_residual_blocks=num_residual_blocks,
            latent_dim=latent_dim,
            stride=stride,
        )
        self.out_channels = out_channels
        self.latent_dim = latent_dim

        dim = widths[-1]
        self.conv_in = window_conv(latent_dim, dim, edge)
        self.mid = Middle(dim, edge)
        up, up_temporal = [], []
        self.widths = widths
        self.doubles = doubles = doublings(self.stride, len(widths))
        num_lead = 1
        for level in reversed(range(len(widths))):
            width = widths[level]
            dims = [dim, *[width] * (num_residual_blocks + 1)]
            up.append(
                _Level(
                    [frame_block(*pair) for pair in itertools.pairwise(dims)],
                    upsample=FrameUpsample(width) if level in doubles.spatial else None,
                )
            )
            upsample = None
            if level in doubles.temporal:
                upsample = self._temporal_upsample(width, edge, num_lead)
                num_lead *= 2
            up_temporal.append(
                _Level(
                    [temporal_block(width, edge) for _ in range(num_residual_blocks + 1)], upsample=upsample
                )
            )
            dim = width
        self.up = nn.ModuleList(reversed(up))
        self.up_temporal = nn.ModuleList(reversed(up_temporal))
        self.norm_out = ChannelNorm(dim)
        self.conv_out = window_conv(dim, out_channels, edge)

    def _temporal_upsample(self, dim: int, edge: EdgeMode, num_lead: int) -> nn.Module:
        return TemporalUpsample(dim, edge)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution."""
        conv = getattr(self.conv_out, "conv", self.conv_out)
        return conv.get_parameter("weight")

    def forward(self, z_BDthw: Tensor) -> Tensor:
        """Decode to x_BCTHW, about [-1, 1] and not clamped.

        Makes T = 1 + (t - 1) * s_t frames, or T = t * s_t when the first frame has no latent of its own.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent(f"decoder {self.name}", z_BDthw, latent_dim=self.latent_dim)
        h = self.mid(self.conv_in(z_BDthw.permute(0, 2, 3, 4, 1)))
        y_BThwC = self._grow(h, len(self.up) - 1, memories(self, z_BDthw, len(self.up)))
        if self.lead_frame and is_first_piece():
            y_BThwC = y_BThwC[:, self.stride[0] - 1 :]
        return y_BThwC.permute(0, 4, 1, 2, 3).contiguous()

    def _grow(self, h_BthwD: Tensor, level: int, carried: list[Memory] | None) -> Tensor:
        """Run all levels up from one, the finer the fewer frames at a time."""
        if level < 0:
            y: Tensor = self.conv_out(silu(self.norm_out(h_BthwD)))
            return y

        def run(piece: Tensor) -> Tensor:
            return self._grow(_run(piece, self.up[level], self.up_temporal[level]), level - 1, carried)

        growth = (4 if level in self.doubles.spatial else 1) * (2 if level in self.doubles.temporal else 1)
        memory = None if carried is None else carried[level]
        each = _bytes_of(h_BthwD, self.widths[level]) * growth
        return in_pieces(self, run, h_BthwD, memory=memory, bytes_each=each)


class _Level(nn.Module):
    """The residual blocks of one size of one kind, and what changes the size after them, if anything does."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        *,
        downsample: nn.Module | None = None,
        upsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.downsample = downsample
        self.upsample = upsample


def _run(h: Tensor, level: nn.Module, level_temporal: nn.Module) -> Tensor:
    """Apply the blocks inside and between frames in turns, then what changes the sides, then the frames."""
    assert isinstance(level, _Level)
    assert isinstance(level_temporal, _Level)
    for block, block_temporal in zip(level.block, level_temporal.block, strict=True):
        h = block_temporal(block(h))
    for each in (level, level_temporal):
        resample = each.downsample or each.upsample
        h = h if resample is None else resample(h)
    return h


def _bytes_of(x_BthwD: Tensor, width: int) -> int:
    """Return the size of a frame of so many channels, of all clips."""
    b, _, h, w, _ = x_BthwD.shape
    return b * h * w * width * x_BthwD.element_size()
