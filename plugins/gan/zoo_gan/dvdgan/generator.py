"""The generator of DVD-GAN: recurrent feature maps, drawn frame by frame by residual blocks.

Shape legend: B clips, T frames, N = B T frames of all clips, C colour or feature channels, H W pixels, h
w a feature grid; Z noise numbers, E = Z + class numbers, the condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from zoo.errors import PortError, ZooError
from zoo.spectral_norm import original_weight
from zoo_gan.checks import check_counts, check_natural, run_of_frames
from zoo_gan.dvdgan.layers import (
    ConvGRU,
    GeneratorBlock,
    SeparableAttention,
    start,
)
from zoo_gan.dvdgan.options import check_choice
from zoo_gan.noise import draw_clips

PART = "generator 'dvdgan'"
_GRID = 4


class DVDGANGenerator(nn.Module):
    """Makes clips of any length: a linear layer gives a map, GRUs unroll it in time, blocks enlarge it.

    Noise and class embedding together are the condition. A linear function of it, a 4x4 map, is what the
    first GRU reads at every frame. Each group is a convolutional GRU over the frames, then two residual
    blocks on the frames one by one, the second of which doubles height and width; the next group reads
    what they give. All batch norms are scaled and shifted by the condition. ReLU, a 3x3 convolution and
    tanh make the frames. A GRU step convolves small maps only and everything else is done for all frames
    at once: the work is linear in the number of frames. In eval mode batch norms use running statistics,
    so a clip is the same in any batch.

    What the paper states: noise and embedding of 120 numbers each, the 4x4 start read at every frame, one GRU
    and two residual blocks a group, no enlarging in the first of the two, the condition in all batch norms;
    and, as others report of it, 3x3 kernels and a ReLU candidate in the GRU, spectral norm and
    orthogonal starting weights everywhere, attention over one axis after another, a width of 128.

    What the best-known port does (https://github.com/Harrypotterrrr/DVD-GAN): three GRU layers a group with a
    tanh candidate, spectral norm in the residual blocks and the last convolution only, no attention, width
    32, and the widths per group that are the default here. ``gru_multipliers: [1, 2, 1]``, ``gru_kernels``
    three times [3, 5, 3] and then [3, 5, 5], ``gru_activation: tanh``, ``spectral_norm: blocks`` and
    ``attention: none`` make that network; `zoo_gan.dvdgan.weights` reads its weights. The port repeats the
    condition in another order than it folds the frames, so in a batch a frame gets that of another clip.

    What we chose: the paper's form at the port's width as the default, no batch norm before the last
    convolution (as the port), attention before the last enlarging block, and noise as a row for each frame:
    all the same as published, but a caller may let them drift.

    With ``attention: separable`` every frame depends on all others and `time` is "clip". With ``attention:
    none`` it is "frames": a run of frames alone takes all earlier ones through the groups before the last,
    but only its own through the blocks of the last group, the most costly ones.

    Source: DVD-GAN, https://arxiv.org/abs/1907.06571

    Args:
        out_channels: Colour channels of a frame.
        base_channels: Factor of all widths.
        channel_multipliers: Width of the start and after each group, in `base_channels`. Each entry after
            the first is a group and doubles the frame: the default makes 64x64.
        noise_dim: Numbers that a clip is drawn from.
        num_classes: Kinds of clip; 0 is unconditional.
        class_dim: Numbers of a class embedding.
        gru_multipliers: Width of each GRU layer of a group, in channels of its input; the last is 1.
        gru_kernels: Side of the kernels of each of these layers, or a list of such lists, one a group.
        gru_activation: "relu" or "tanh", of the candidate state.
        attention: "separable", or "none".
        spectral_norm: "all" for every weight but the embedding's, or "blocks" for the residual blocks and
            the last convolution.

    Raises:
        ZooError: An option is out of its range.
    """

    emits = "video"

    def __init__(
        self,
        *,
        out_channels: int = 3,
        base_channels: int = 32,
        channel_multipliers: Sequence[int] = (8, 8, 8, 4, 2),
        noise_dim: int = 120,
        num_classes: int = 0,
        class_dim: int = 120,
        gru_multipliers: Sequence[int] = (1,),
        gru_kernels: Sequence[int] | Sequence[Sequence[int]] = (3,),
        gru_activation: str = "relu",
        attention: str = "separable",
        spectral_norm: str = "all",
    ) -> None:
        super().__init__()
        check_counts(
            PART,
            out_channels=out_channels,
            base_channels=base_channels,
            noise_dim=noise_dim,
            class_dim=class_dim,
            **{f"channel_multipliers[{n}]": width for n, width in enumerate(channel_multipliers)},
            **{f"gru_multipliers[{n}]": width for n, width in enumerate(gru_multipliers)},
        )
        check_natural(PART, num_classes=num_classes)
        if len(channel_multipliers) < 2:
            raise ZooError(
                f"{PART}: channel_multipliers is {list(channel_multipliers)}; give the width of the start "
                "and one for each group, such as [8, 8, 4, 2] for 32x32"
            )
        check_choice(PART, "gru_activation", gru_activation, ("relu", "tanh"))
        check_choice(PART, "attention", attention, ("separable", "none"))
        check_choice(PART, "spectral_norm", spectral_norm, ("all", "blocks"))
        widths = [base_channels * multiplier for multiplier in channel_multipliers]
        kernels = _kernels(gru_kernels, gru_multipliers, num_groups=len(widths) - 1)

        self.out_channels = out_channels
        self.noise_dim = noise_dim
        self.num_classes = num_classes
        self.conditions: tuple[str, ...] = ("label",) if num_classes else ()
        self.time = "clip" if attention == "separable" else "frames"
        self.size_HW = (_GRID << (len(widths) - 1),) * 2
        everywhere = spectral_norm == "all"
        condition_dim = noise_dim + (class_dim if num_classes else 0)
        self.embedding = start(nn.Embedding(num_classes, class_dim), spectral=False) if num_classes else None
        self.affine = start(nn.Linear(condition_dim, _GRID * _GRID * widths[0]), spectral=everywhere)
        self.groups = nn.ModuleList(
            _Group(
                width_in,
                width_out,
                condition_dim=condition_dim,
                gru_widths=[width_in * multiplier for multiplier in gru_multipliers],
                gru_kernels=kernels[number],
                gru_activation=gru_activation,
                attention=attention == "separable" and number == len(widths) - 2,
                spectral=everywhere,
            )
            for number, (width_in, width_out) in enumerate(pairwise(widths))
        )
        self.colorize = start(nn.Conv2d(widths[-1], out_channels, 3, padding=1))

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last convolution, before spectral norm."""
        return original_weight(self.colorize)

    def draw_noise(
        self,
        num: int,
        num_frames: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Draw what `forward` needs for `num` clips.

        Every clip has a seed of its own, drawn from `generator`, so the first clips of a larger draw are
        those of a smaller one from an equal generator; and so are the first frames of a longer one.

        Args:
            num: Clips, at least 1.
            num_frames: Frames in each clip, at least 1.
            generator: Where randomness comes from; torch's global one for the CPU when left out.
            device: Where the noise goes; the device of the weights when left out.

        Returns:
            ``content`` (num, num_frames, Z), standard normal and the same at each frame of a clip; with
            classes ``label`` (num,), int64, uniform.

        Raises:
            ZooError: `num` or `num_frames` is below 1.
        """
        check_counts(PART, num=num, num_frames=num_frames)
        noise = draw_clips(self._draw_clip, num, like=self.last_layer, generator=generator, device=device)
        return noise | {"content": repeat(noise["content"], "B Z -> B T Z", T=num_frames)}

    def _draw_clip(self, source: torch.Generator) -> dict[str, Tensor]:
        """Draw the noise of one clip on the CPU, without its axes of clips and frames."""
        noise = {"content": torch.randn(self.noise_dim, generator=source, device="cpu")}
        if self.num_classes:
            noise["label"] = torch.randint(self.num_classes, (), generator=source, device="cpu")
        return noise

    def forward(self, noise: dict[str, Tensor], times_BT: Tensor | None = None) -> Tensor:
        """Make a clip from each row of noise.

        Args:
            noise: What `draw_noise` returns; any number of clips and frames.
            times_BT: Which frames to make, where `time` is "frames": the same consecutive whole numbers in
                every row. All when left out.

        Returns:
            x_BCTHW in [-1, 1].

        Raises:
            PortError: A tensor is missing or of another shape than `draw_noise` gives it, or such frames
                cannot be made alone, or lie outside of what the noise was drawn for.
        """
        condition_BTE = self._condition(noise)
        num_frames = condition_BTE.shape[1]
        begin, end = (0, num_frames) if times_BT is None else self._window(times_BT, condition_BTE)
        condition_BTE = condition_BTE[:, :end]
        x = rearrange(self.affine(condition_BTE), "B T (C h w) -> B T C h w", h=_GRID, w=_GRID)
        for number, group in enumerate(self.groups, start=1):
            x = group(x, condition_BTE, begin=begin if number == len(self.groups) else 0)
        frames = torch.tanh(self.colorize(torch.relu(rearrange(x, "B T C h w -> (B T) C h w"))))
        x_BCTHW: Tensor = rearrange(frames, "(B T) C H W -> B C T H W", T=end - begin)
        return x_BCTHW

    def _condition(self, noise: dict[str, Tensor]) -> Tensor:
        """Return content and class embedding of every frame, (B, T, E)."""
        found = tuple(noise["content"].shape) if "content" in noise else None
        if found is None or len(found) != 3 or found[-1] != self.noise_dim or 0 in found:
            raise PortError(
                f"{PART} needs noise 'content' of shape (clips, frames, {self.noise_dim}); it was given "
                f"{found or ', '.join(noise) or 'none'}; make it with draw_noise(num, num_frames)"
            )
        if self.embedding is None:
            return noise["content"]
        labels = tuple(noise["label"].shape) if "label" in noise else None
        if labels != found[:1]:
            raise PortError(
                f"{PART} has {self.num_classes} classes and needs noise 'label', int64 of shape {found[:1]}; "
                f"it was given {labels or 'none'}; make it with draw_noise(num, num_frames)"
            )
        class_BE = self.embedding(noise["label"])
        return torch.cat(
            [noise["content"], repeat(class_BE, "B E -> B T E", T=found[1]).to(noise["content"].dtype)], dim=2
        )

    def _window(self, times_BT: Tensor, condition_BTE: Tensor) -> tuple[int, int]:
        """Read which frames [begin, end) are asked for."""
        if self.time == "clip":
            raise PortError(
                f"{PART} with attention='separable' makes whole clips only, each frame depends on all "
                "others; leave times_BT out and cut the clip, or train with attention='none'"
            )
        num_clips, num_frames = condition_BTE.shape[:2]
        begin, end = run_of_frames(PART, times_BT, num_clips=num_clips)
        if begin < 0 or end > num_frames:
            raise PortError(
                f"{PART} was asked for frames {begin} to {end - 1} by noise of {num_frames} frames; draw "
                f"noise with draw_noise(num, {end}) or more"
            )
        return begin, end


class _Group(nn.Module):
    """A GRU over the frames, then two residual blocks on each, the second doubling the grid."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        condition_dim: int,
        gru_widths: list[int],
        gru_kernels: list[int],
        gru_activation: str,
        attention: bool,
        spectral: bool,
    ) -> None:
        super().__init__()
        self.gru = nn.ModuleList(
            ConvGRU(before, after, kernel_size=kernel, activation=gru_activation, spectral=spectral)
            for (before, after), kernel in zip(pairwise([in_channels, *gru_widths]), gru_kernels, strict=True)
        )
        self.block0 = GeneratorBlock(
            in_channels, in_channels, condition_dim=condition_dim, upsample=1, spectral_norms=spectral
        )
        self.attention = SeparableAttention(in_channels, spectral=spectral) if attention else None
        self.block1 = GeneratorBlock(
            in_channels, out_channels, condition_dim=condition_dim, upsample=2, spectral_norms=spectral
        )

    def forward(self, x_BTCHW: Tensor, condition_BTE: Tensor, *, begin: int) -> Tensor:
        """Return the maps of the frames from `begin` on, twice as high and wide."""
        for layer in self.gru:
            x_BTCHW = layer(x_BTCHW)
        num_frames = x_BTCHW.shape[1] - begin
        condition_NE = rearrange(condition_BTE[:, begin:], "B T E -> (B T) E")
        x_NCHW = self.block0(rearrange(x_BTCHW[:, begin:], "B T C h w -> (B T) C h w"), condition_NE)
        if self.attention is not None:
            x_BTCHW = self.attention(rearrange(x_NCHW, "(B T) C h w -> B T C h w", T=num_frames))
            x_NCHW = rearrange(x_BTCHW, "B T C h w -> (B T) C h w")
        return rearrange(self.block1(x_NCHW, condition_NE), "(B T) C h w -> B T C h w", T=num_frames)


def _kernels(
    kernels: Sequence[int] | Sequence[Sequence[int]], multipliers: Sequence[int], *, num_groups: int
) -> list[list[int]]:
    """Return the sides of the kernels of each layer, group by group."""
    by_group = [[side] if isinstance(side, int) else list(side) for side in kernels]
    if all(isinstance(side, int) for side in kernels):
        by_group = [[side for (side,) in by_group]] * num_groups
    fits = len(by_group) == num_groups and all(len(sides) == len(multipliers) for sides in by_group)
    odd = all(isinstance(side, int) and side > 0 and side % 2 for sides in by_group for side in sides)
    if not multipliers or not fits or not odd or multipliers[-1] != 1:
        raise ZooError(
            f"{PART}: gru_kernels is {list(kernels)} and gru_multipliers {list(multipliers)}; give as many "
            f"odd sides as multipliers, or {num_groups} lists of them, one a group; the last multiplier is 1"
        )
    return by_group
