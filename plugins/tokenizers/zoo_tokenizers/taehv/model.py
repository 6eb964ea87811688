"""Encoder and decoders of TAEHV, tiny autoencoders for the latents of video generators
(https://github.com/madebyollin/taehv).

Every layer works inside frames but three kinds: memory blocks see the frame before as well, pools make one
frame of two and their inverses two of one. Nothing looks ahead, and a stream keeps one frame per block.

Time, as published: the decoder makes s_t frames of a latent and drops the first s_t - 1 of a clip, so that
1 + k latents are 1 + k*s_t frames and latent i shows frames up to i*s_t. The encoder makes a latent of s_t
frames, so that latent i is made of frames i*s_t to i*s_t + s_t - 1, and repeats the last frame of a clip
where some are lacking. By the frames that latents show, it thus looks s_t - 1 frames ahead:
`alignment: ahead`, not causal. `taeh3` alone puts s_t - 1 black frames before the clip instead:
`alignment: black`, causal. Its public code encodes 17 frames at a time so, each piece a clip of its own, and
decodes all their latents as one clip, of which it drops frames 17, 18 and 19 of every 20.

State-dict names inside a part are those of the published code after `layers.`, so its weights load
through `zoo_tokenizers.taehv.weights`. The published network sees video in [0, 1]; parts rescale inside.

Shapes: B batch, C colour channels, T H W frames and pixels, D latent channels, t h w the latent grid; inside,
frames stand before channels (x_BtDhw, see `zoo_tokenizers.taehv.layers`).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.checks import require_clip, require_latent
from zoo.errors import RecipeError
from zoo.streaming import is_first_piece
from zoo_tokenizers.taehv.layers import (
    Clamp,
    MemoryBlock,
    SuperMemoryBlock,
    TimeGrow,
    TimePool,
    WideMemoryBlock,
    conv3x3,
    init_layers,
    run_layers,
)

ALIGNMENTS = ("ahead", "black", "none")
_NUM_LEVELS = 3
_NUM_BLOCKS = 3
_BLOCKS = {"plain": MemoryBlock, "wide": WideMemoryBlock}


class TAEHVEncoder(nn.Module):
    """Shrinks video by strided 2D convolutions and joins frames, with memory of the frame before.

    Args:
        in_channels: Colour channels.
        base_channels: Width of all layers.
        latent_dim: Channels of the latent.
        stride: Shrinkage of time (1, 2, 4 or 8), height and width (both 8 times the side of a patch).
            Published: [4, 8, 8], [4, 16, 16] and [8, 32, 32].
        alignment: Which frames the first latent is made of. `ahead`: the first s_t, with the end of the clip
            repeated as needed (lead frame, not causal), as published. `black`: s_t - 1 black ones and the
            first (lead frame, causal), as published for `taeh3`. `none`: the first s_t, and clips of whole
            latents only (no lead frame, causal).

    Raises:
        RecipeError: An option is out of range.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 64,
        latent_dim: int = 16,
        stride: list[int] = [4, 8, 8],  # noqa: B006 - read, never changed
        alignment: str = "ahead",
    ) -> None:
        super().__init__()
        name = "encoder taehv"
        self.stride = _check_options(name, [base_channels], latent_dim=latent_dim, stride=stride)
        if alignment not in ALIGNMENTS:
            raise RecipeError(
                f"{name}: alignment is {alignment!r}; it must be one of {', '.join(ALIGNMENTS)}"
            )
        self.in_channels = in_channels
        self.latent_dim = latent_dim
        self.alignment = alignment
        self.lead_frame = alignment != "none"
        self.causal = alignment != "ahead" or self.stride[0] == 1
        self.patch_size = self.stride[1] // 2**_NUM_LEVELS

        dim = base_channels
        layers: list[nn.Module] = [conv3x3(in_channels * self.patch_size**2, dim), nn.ReLU()]
        for time in reversed(_time_strides(self.stride[0])):
            layers += [TimePool(dim, time), conv3x3(dim, dim, stride=2, bias=False)]
            layers += [MemoryBlock(dim) for _ in range(_NUM_BLOCKS)]
        self.layers = nn.Sequential(*layers, conv3x3(dim, latent_dim))
        init_layers(self.layers)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Encode video in [-1, 1] to z_BDthw.

        t is 1 + (T - 1) / s_t, and T / s_t with `alignment: none`; values are not bounded.

        Raises:
            PortError: T does not fit, H or W is not a multiple of the stride, or C not `in_channels`.
        """
        require_clip(
            f"encoder taehv with alignment '{self.alignment}'",
            x_BCTHW,
            in_channels=self.in_channels,
            stride=self.stride,
            lead_frame=self.lead_frame,
        )
        x_BTCHW = (x_BCTHW.transpose(1, 2) + 1) / 2
        s_t, is_start = self.stride[0], is_first_piece()
        if is_start and self.alignment == "ahead":
            x_BTCHW = torch.cat([x_BTCHW, x_BTCHW[:, -1:].expand(-1, s_t - 1, -1, -1, -1)], dim=1)
        elif is_start and self.alignment == "black":
            x_BTCHW = F.pad(x_BTCHW, (0, 0, 0, 0, 0, 0, s_t - 1, 0))
        z_BtDhw = run_layers(self.layers, F.pixel_unshuffle(x_BTCHW, self.patch_size))
        return z_BtDhw.transpose(1, 2).contiguous()


class _Decoder(nn.Module):
    """What both decoders share: sizes, time and range."""

    causal = True
    name: str
    layers: nn.Sequential

    def __init__(
        self,
        widths: Sequence[int],
        *,
        out_channels: int,
        latent_dim: int,
        stride: list[int],
        lead_frame: bool,
    ) -> None:
        super().__init__()
        self.stride = _check_options(f"decoder {self.name}", widths, latent_dim=latent_dim, stride=stride)
        if len(widths) != 1 + _NUM_LEVELS:
            raise RecipeError(
                f"decoder {self.name}: widths has {len(widths)} numbers; it takes {1 + _NUM_LEVELS}, one for "
                f"each level and one for the end"
            )
        self.out_channels = out_channels
        self.latent_dim = latent_dim
        self.lead_frame = lead_frame
        self.patch_size = self.stride[1] // 2**_NUM_LEVELS

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution."""
        return self.layers[-1].get_parameter("weight")

    def forward(self, z_BDthw: Tensor) -> Tensor:
        """Decode to x_BCTHW of T = 1 + (t - 1) * s_t frames, about [-1, 1] and not clamped.

        Without a lead frame, T = t * s_t.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent(f"decoder {self.name}", z_BDthw, latent_dim=self.latent_dim)
        y_BTDhw = run_layers(self.layers, z_BDthw.transpose(1, 2))
        if self.lead_frame and is_first_piece():
            y_BTDhw = y_BTDhw[:, self.stride[0] - 1 :]
        y_BTCHW = F.pixel_shuffle(y_BTDhw, self.patch_size)
        return (y_BTCHW * 2 - 1).transpose(1, 2).contiguous()


class TAEHVDecoder(_Decoder):
    """Grows the latent by nearest neighbours and 2D convolutions, with memory of the frame before.

    Values of the latent are first bent into (-3, 3).

    Args:
        out_channels: Colour channels.
        widths: Channels of the three levels, the one nearest to the latent first, and of the end.
        block: `plain`, or `wide` as in `taeltx2_3_wide`, whose widths are [1024, 512, 256, 64].
        latent_dim: Channels of the latent.
        stride: Growth of time, height and width, as the encoder's.
        lead_frame: Drop the first s_t - 1 frames of a clip, as published; else all are kept.

    Raises:
        RecipeError: An option is out of range.
    """

    name = "taehv"

    def __init__(
        self,
        *,
        out_channels: int = 3,
        widths: list[int] = [256, 128, 64, 64],  # noqa: B006 - read, never changed
        block: str = "plain",
        latent_dim: int = 16,
        stride: list[int] = [4, 8, 8],  # noqa: B006 - read, never changed
        lead_frame: bool = True,
    ) -> None:
        super().__init__(
            widths, out_channels=out_channels, latent_dim=latent_dim, stride=stride, lead_frame=lead_frame
        )
        if block not in _BLOCKS:
            raise RecipeError(f"decoder taehv: block is {block!r}; it must be one of {', '.join(_BLOCKS)}")
        make = _BLOCKS[block]
        odd = [width for width in widths[:-1] if block == "wide" and width % max(1, width // 64)]
        if odd:
            raise RecipeError(
                f"decoder taehv: {odd[0]} channels of wide blocks do not go in {odd[0] // 64} equal groups; "
                f"set a multiple of 64 in widths"
            )
        layers: list[nn.Module] = [Clamp(), conv3x3(latent_dim, widths[0]), nn.ReLU()]
        for i, time in enumerate(_time_strides(self.stride[0])):
            layers += [make(widths[i]) for _ in range(_NUM_BLOCKS)]
            layers += [nn.Upsample(scale_factor=2), TimeGrow(widths[i], time)]
            layers += [conv3x3(widths[i], widths[i + 1], bias=False)]
        self.layers = nn.Sequential(
            *layers, nn.ReLU(), conv3x3(widths[-1], out_channels * self.patch_size**2)
        )
        init_layers(self.layers, num_last=1)


class TAEHVSuperDecoder(_Decoder):
    """Grows the latent by rearranging channels to pixels, with wide kernels and memory of the frame before.

    Args:
        out_channels: Colour channels.
        widths: Channels of the three levels, the one nearest to the latent first, and of the end.
        latent_dim: Channels of the latent.
        stride: Growth of time, height and width, as the encoder's.
        lead_frame: Drop the first s_t - 1 frames of a clip, as published; else all are kept.

    Raises:
        RecipeError: An option is out of range.
    """

    name = "taehv-super"

    def __init__(
        self,
        *,
        out_channels: int = 3,
        widths: list[int] = [512, 256, 128, 64],  # noqa: B006 - read, never changed
        latent_dim: int = 32,
        stride: list[int] = [4, 16, 16],  # noqa: B006 - read, never changed
        lead_frame: bool = True,
    ) -> None:
        super().__init__(
            widths, out_channels=out_channels, latent_dim=latent_dim, stride=stride, lead_frame=lead_frame
        )
        layers: list[nn.Module] = [nn.Conv2d(latent_dim, widths[0], 1, bias=False)]
        for i, time in enumerate(_time_strides(self.stride[0])):
            layers += [SuperMemoryBlock(widths[i]) for _ in range(_NUM_BLOCKS)]
            layers += [conv3x3(widths[i], 4 * widths[i + 1]), nn.ReLU(), nn.PixelShuffle(2)]
            layers += [TimeGrow(widths[i + 1], time)]
        self.layers = nn.Sequential(*layers, conv3x3(widths[-1], out_channels * self.patch_size**2))
        init_layers(self.layers, num_last=1)


def _time_strides(stride: int) -> list[int]:
    """Return by how much each level of a decoder multiplies frames: the last levels by 2."""
    num = stride.bit_length() - 1
    return [1] * (_NUM_LEVELS - num) + [2] * num


def _check_options(
    name: str, widths: Sequence[int], *, latent_dim: int, stride: Sequence[int]
) -> tuple[int, int, int]:
    """Return the stride as a tuple.

    Raises:
        RecipeError: An option is out of range.
    """
    if min([*widths, latent_dim], default=0) < 1:
        raise RecipeError(f"{name}: widths {list(widths)} and latent_dim {latent_dim} must be at least 1")
    unit = 2**_NUM_LEVELS
    fits = len(stride) == 3 and stride[0] in (1, 2, 4, 8) and stride[1] == stride[2] >= unit
    if not fits or stride[1] % unit:
        raise RecipeError(
            f"{name}: stride is {list(stride)}; it must be [s_t, s, s] with s_t 1, 2, 4 or 8 and s a "
            f"multiple of {unit}, such as [4, 8, 8]"
        )
    return stride[0], stride[1], stride[2]
