"""The discriminator `r3gan-video`: the image discriminator of R3GAN, stage by stage, with time of its own.

Shape legend: B clips, T frames or steps of time, C channels, H W pixels; E numbers that a label is judged by.
"""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import PortError
from zoo.outputs import Judged
from zoo_gan.checks import check_counts, check_input, check_natural
from zoo_gan.r3gan.layers import (
    BASIS_SIZE,
    DiscriminativeBasis,
    ResidualBlock,
    continue_ends,
    downsample_space,
    downsample_time,
    frame_by_frame,
    pointwise,
    scaled_normal,
)
from zoo_gan.r3gan.options import check_stages

PART = "discriminator 'r3gan-video'"


class DiscriminatorStage(nn.Module):
    """One size of frame: residual blocks, then a downsampling, or the basis in the last stage."""

    def __init__(
        self, width: int, width_out: int, *, num_blocks: int, time_scale: int | None, **block_options: int
    ) -> None:
        super().__init__()
        self.time_scale = time_scale
        self.blocks = nn.ModuleList(ResidualBlock(width, **block_options) for _ in range(num_blocks))
        self.basis = DiscriminativeBasis(width, width_out) if time_scale is None else None
        self.project = pointwise(width, width_out) if time_scale is not None and width != width_out else None

    def forward(self, x_BTCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Return what leaves the blocks, and what leaves the stage: x_BTCHW or, the last time, v_BE."""
        for block in self.blocks:
            x_BTCHW = block(continue_ends(x_BTCHW))
        if self.basis is not None:
            return x_BTCHW, self.basis(x_BTCHW)
        # Space first: it makes the steps a quarter as large.
        y_BTCHW = downsample_space(x_BTCHW)
        if self.time_scale == 2:
            y_BTCHW = downsample_time(y_BTCHW)
        if self.project is not None:
            y_BTCHW = frame_by_frame(self.project, y_BTCHW)
        return x_BTCHW, y_BTCHW


class R3GANVideoDiscriminator(nn.Module):
    """Scores clips by R3GAN's residual stages, which see how frames follow each other.

    Published: every layer that a single frame goes through, a mirror of the generator; a 1x1 convolution from
    colours, stages of residual blocks at halving sizes, a 4x4 basis and one linear layer to the score, which
    with labels is a product with the label's linear embedding. No normalisation: a clip's score does not
    depend on the batch. The defaults are the published network for FFHQ at 64x64.

    Ours: time. Each residual block mixes a step with its two neighbours (see `ResidualBlock`), some
    downsamplings halve time with space, and the 4x4 stage's verdicts are averaged over its steps. In time the
    first and the last step are continued, in space there are zeros, as published. With centred temporal
    filters, as in a fresh network, a clip that stands still gets the score that the published network gives
    the image.

    Source: R3GAN, https://arxiv.org/abs/2501.05441 (images). It was trained by the relativistic loss with R1
    and R2 penalties; both need the second derivatives that all layers here have.

    Args:
        in_channels: Colour channels of a clip.
        widths: Channels of each stage, fine first; the last has 4x4 pixels and each one before it twice the
            side, so that five judge frames of 64x64.
        cardinalities: Groups of the 3x3 convolutions of each stage.
        num_blocks: Residual blocks of each stage.
        time_scales: Factor, 1 or 2, by which each downsampling divides time; one fewer than stages.
        expansion: Channels inside a residual block, as a multiple of the stage's width.
        num_classes: Labels; 0 for none.
        embedding_dim: Numbers that a label is judged by; read where there are labels.

    Raises:
        ZooError: An option is out of its range.
    """

    consumes = "video"
    mixes_batch = False

    def __init__(
        self,
        *,
        in_channels: int = 3,
        widths: list[int] = [384, 768, 768, 768, 768],  # noqa: B006 - read, never changed
        cardinalities: list[int] = [48, 96, 96, 96, 96],  # noqa: B006 - read, never changed
        num_blocks: list[int] = [2, 2, 2, 2, 2],  # noqa: B006 - read, never changed
        time_scales: list[int] = [2, 2, 1, 1],  # noqa: B006 - read, never changed
        expansion: int = 2,
        num_classes: int = 0,
        embedding_dim: int = 768,
    ) -> None:
        super().__init__()
        check_stages(
            PART,
            widths=widths,
            cardinalities=cardinalities,
            num_blocks=num_blocks,
            time_scales=time_scales,
            expansion=expansion,
        )
        check_counts(PART, in_channels=in_channels, embedding_dim=embedding_dim)
        check_natural(PART, num_classes=num_classes)
        side = BASIS_SIZE << (len(widths) - 1)
        least = 1
        for scale in time_scales:
            least *= scale
        self.in_channels = in_channels
        self.size_HW = (side, side)
        self.min_size = (least, side, side)
        self.num_classes = num_classes
        self.conditions: tuple[str, ...] = ("label",) if num_classes else ()
        self.from_frame = pointwise(in_channels, widths[0])
        self.stages = nn.ModuleList(
            DiscriminatorStage(
                width,
                width_out,
                num_blocks=blocks,
                time_scale=scale,
                cardinality=cardinality,
                expansion=expansion,
                depth=sum(num_blocks),
            )
            for (width, width_out), blocks, scale, cardinality in zip(
                pairwise([*widths, embedding_dim if num_classes else 1]),
                num_blocks,
                [*time_scales, None],
                cardinalities,
                strict=True,
            )
        )
        self.embed = nn.Linear(num_classes, embedding_dim, bias=False) if num_classes else None
        if self.embed is not None:
            scaled_normal(self.embed.weight, gain=embedding_dim**-0.5)

    def forward(self, x_BCTHW: Tensor, label_B: Tensor | None = None) -> Judged:
        """Score real above generated.

        Args:
            x_BCTHW: Clips in [-1, 1] of frames of `size_HW`, no shorter than ``min_size[0]``.
            label_B: int64 in [0, num_classes), where there are labels.

        Returns:
            One unbounded score a clip, (B, 1), and what leaves the residual blocks of each stage, x_BTCHW.

        Raises:
            PortError: The clip has other axes, channels or size, or a label is missing.
        """
        check_input(x_BCTHW, part=PART, in_channels=self.in_channels, min_size=self.min_size, axes="BCTHW")
        if tuple(x_BCTHW.shape[-2:]) != self.size_HW:
            height, width = self.size_HW
            raise PortError(
                f"{PART} with {len(self.stages)} stages judges frames of {height}x{width}; it was given "
                f"{x_BCTHW.shape[-2]}x{x_BCTHW.shape[-1]}. A stage more doubles the side"
            )
        x = frame_by_frame(self.from_frame, rearrange(x_BCTHW, "B C T H W -> B T C H W"))
        features = []
        for stage in self.stages:
            inner_BTCHW, x = stage(x)
            features.append(inner_BTCHW)
        if self.embed is not None:
            if label_B is None:
                raise PortError(f"{PART} has num_classes={self.num_classes}; give it label_B with the clips")
            x = (x * F.embedding(label_B, self.embed.weight.T)).sum(1, keepdim=True)
        return Judged([x], features)
