"""The generator `r3gan-video`: the image generator of R3GAN, stage by stage, with time of its own.

Shape legend: B clips, T frames or steps of time, C channels, H W pixels; Z numbers of a clip's code, M motion
numbers of a frame, E numbers of a label, K = Z + M + E what a coarse step is made from.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from zoo.errors import PortError
from zoo_gan.checks import check_counts, check_natural, run_of_frames
from zoo_gan.noise import draw_clips, normal_rows
from zoo_gan.r3gan.layers import (
    BASIS_SIZE,
    GenerativeBasis,
    ResidualBlock,
    frame_by_frame,
    pointwise,
    scaled_normal,
    upsample_space,
    upsample_time,
)
from zoo_gan.r3gan.options import check_stages

PART = "generator 'r3gan-video'"
Span = tuple[int, int]


class GeneratorStage(nn.Module):
    """One size of frame: an upsampling, or the basis in the first stage, then residual blocks."""

    def __init__(
        self, width_in: int, width: int, *, num_blocks: int, time_scale: int | None, **block_options: int
    ) -> None:
        super().__init__()
        self.time_scale = time_scale
        self.basis = GenerativeBasis(width_in, width) if time_scale is None else None
        self.project = pointwise(width_in, width) if time_scale is not None and width_in != width else None
        self.blocks = nn.ModuleList(ResidualBlock(width, **block_options) for _ in range(num_blocks))

    def reads(self, span: Span) -> Span:
        """Return the span of input steps that these output steps are made from."""
        start, stop = self._inner(span)
        return ((start - 1) // 2, stop // 2 + 1) if self.time_scale == 2 else (start, stop)

    def forward(self, x: Tensor, span: Span) -> Tensor:
        """Turn the steps that `reads` names, z_BTK or x_BTCHW, into the steps of `span`."""
        if self.basis is not None:
            x = self.basis(x)
        else:
            if self.project is not None:
                x = frame_by_frame(self.project, x)
            if self.time_scale == 2:
                # Time first: space makes the steps four times as large.
                start, stop = self._inner(span)
                first = 2 * self.reads(span)[0] + 1
                x = upsample_time(x)[:, start - first : stop - first]
            x = upsample_space(x)
        for block in self.blocks:
            x = block(x)
        return x

    def _inner(self, span: Span) -> Span:
        return span[0] - len(self.blocks), span[1] + len(self.blocks)


class R3GANVideoGenerator(nn.Module):
    """Makes clips of any length from one code a clip and a stream of motion noise.

    Published: every layer that a single frame goes through. A basis of 4x4 maps, then stages of residual
    blocks of 1x1, grouped 3x3 and 1x1 convolutions at doubling sizes, no normalisation, no style, no noise
    inside, one 1x1 convolution to colours without a squashing function; widths, cardinalities, initial
    weights and the label's linear embedding beside the code. The defaults are the published network for FFHQ
    at 64x64.

    Ours: time. The 4x4 stage makes one coarse step for ``prod(time_scales)`` frames. Its code is the clip's,
    which is the same at all steps, beside the motion noise of its frames. Each residual block mixes a step
    with its two neighbours (see `ResidualBlock`), and some upsamplings double time with space. No layer pads
    time: noise reaches beyond both ends of a clip, so that frames at the ends are made as those in the middle
    are, a clip may be longer than those trained on, and frames [a, b) are made alone from the noise around
    them.

    A fresh network mixes steps by interpolation alone. With centred temporal filters and motion that is not
    heard, every frame is the image that the published network makes of the clip's code:
    `zoo_gan.r3gan.weights` starts a video generator from its weights in this way.

    As published, frames are unbounded in training, and clipped to [-1, 1] when they are to be seen: here in
    eval mode.

    Source: R3GAN, https://arxiv.org/abs/2501.05441 (images)

    Args:
        out_channels: Colour channels of a frame.
        widths: Channels of each stage, coarse first; the first has 4x4 pixels and each further one twice the
            side, so that five make frames of 64x64.
        cardinalities: Groups of the 3x3 convolutions of each stage.
        num_blocks: Residual blocks of each stage.
        time_scales: Factor, 1 or 2, that each upsampling has in time; one fewer than stages.
        expansion: Channels inside a residual block, as a multiple of the stage's width.
        content_dim: Numbers of a clip's code.
        motion_dim: Motion numbers of a frame.
        num_classes: Labels; 0 for none.
        embedding_dim: Numbers that a label adds to the code; read where there are labels.

    Raises:
        ZooError: An option is out of its range.
    """

    emits = "video"
    time = "frames"

    def __init__(
        self,
        *,
        out_channels: int = 3,
        widths: list[int] = [768, 768, 768, 768, 384],  # noqa: B006 - read, never changed
        cardinalities: list[int] = [96, 96, 96, 96, 48],  # noqa: B006 - read, never changed
        num_blocks: list[int] = [2, 2, 2, 2, 2],  # noqa: B006 - read, never changed
        time_scales: list[int] = [1, 1, 2, 2],  # noqa: B006 - read, never changed
        expansion: int = 2,
        content_dim: int = 64,
        motion_dim: int = 64,
        num_classes: int = 0,
        embedding_dim: int = 64,
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
        check_counts(
            PART,
            out_channels=out_channels,
            content_dim=content_dim,
            motion_dim=motion_dim,
            embedding_dim=embedding_dim,
        )
        check_natural(PART, num_classes=num_classes)
        side = BASIS_SIZE << (len(widths) - 1)
        self.out_channels = out_channels
        self.size_HW = (side, side)
        self.num_classes = num_classes
        self.conditions: tuple[str, ...] = ("label",) if num_classes else ()
        self.noise_dim = content_dim
        self.motion_dim = motion_dim
        self.stride = 1
        for scale in time_scales:
            self.stride *= scale

        dim_in = content_dim + motion_dim + (embedding_dim if num_classes else 0)
        self.stages = nn.ModuleList(
            GeneratorStage(
                width_in,
                width,
                num_blocks=blocks,
                time_scale=scale,
                cardinality=cardinality,
                expansion=expansion,
                depth=sum(num_blocks),
            )
            for (width_in, width), blocks, scale, cardinality in zip(
                pairwise([dim_in, *widths]), num_blocks, [None, *time_scales], cardinalities, strict=True
            )
        )
        self.to_frame = pointwise(widths[-1], out_channels)
        self.embed = nn.Linear(num_classes, embedding_dim, bias=False) if num_classes else None
        if self.embed is not None:
            scaled_normal(self.embed.weight)
        # Frames of noise in front of the first frame and, whatever the number of frames, behind the last.
        self._lead = -self.stride * self._spans((0, 1))[0][0]
        self._tail = max(
            self.stride * self._spans((0, stop))[0][1] - stop for stop in range(1, self.stride + 1)
        )

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the 1x1 convolution to colours."""
        weight = self.to_frame.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def draw_noise(
        self,
        num: int,
        num_frames: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Draw what `forward` needs for `num` clips.

        Every clip has a seed of its own, drawn from `generator`. So the first clips of a larger draw,
        and the first frames of a longer one, are those of a smaller draw from an equal generator.

        Args:
            num: Clips, at least 1.
            num_frames: Frames in each clip, at least 1.
            generator: Where randomness comes from; torch's global one for the CPU when left out.
            device: Where the noise goes; the device of the weights when left out.

        Returns:
            ``content`` (num, Z) and ``motion`` (num, T, M), standard normal, T being `num_frames` and a fixed
            number of frames before and after them; with labels ``label`` (num,), int64, drawn evenly.

        Raises:
            ZooError: `num` or `num_frames` is below 1.
        """
        check_counts(PART, num=num, num_frames=num_frames)
        return draw_clips(
            partial(self._draw_clip, length=self._lead + num_frames + self._tail),
            num,
            like=self.last_layer,
            generator=generator,
            device=device,
        )

    def _draw_clip(self, source: torch.Generator, *, length: int) -> dict[str, Tensor]:
        """Draw the noise of one clip on the CPU, without its batch axis."""
        noise = {"content": torch.randn(self.noise_dim, generator=source, device="cpu")}
        if self.num_classes:
            noise["label"] = torch.randint(self.num_classes, (), generator=source, device="cpu")
        noise["motion"] = normal_rows(length, self.motion_dim, source)
        return noise

    def forward(self, noise: dict[str, Tensor], times_BT: Tensor | None = None) -> Tensor:
        """Make a clip from each row of noise, or some of its frames.

        Args:
            noise: What `draw_noise` returns.
            times_BT: Numbers of the frames to make, the same consecutive ones in every row; all when left
                out. The others are not computed, save the few that these are mixed with.

        Returns:
            x_BCTHW, in [-1, 1] in eval mode; unbounded in train mode.

        Raises:
            PortError: A tensor of the noise is missing or of another shape than `draw_noise` gives it, or the
                noise has no such frames.
        """
        num_frames = self._check_noise(noise)
        start, stop = 0, num_frames
        if times_BT is not None:
            start, stop = run_of_frames(PART, times_BT, num_clips=len(noise["content"]))
            if start < 0 or stop > num_frames:
                raise PortError(
                    f"{PART}: frames {start} to {stop - 1} are asked for; the noise was drawn for "
                    f"frames 0 to {num_frames - 1}"
                )
        spans = self._spans((start, stop))
        x = self._codes(noise, spans[0])
        for stage, span in zip(self.stages, spans[1:], strict=True):
            x = stage(x, span)
        x_BCTHW: Tensor = rearrange(frame_by_frame(self.to_frame, x), "B T C H W -> B C T H W")
        return x_BCTHW if self.training else x_BCTHW.clamp(-1, 1)

    def _spans(self, frames: Span) -> list[Span]:
        """Return the steps that enter the first stage and those that leave each, for these frames."""
        spans = [frames]
        for stage in reversed(list(self.stages)):
            assert isinstance(stage, GeneratorStage)
            spans.insert(0, stage.reads(spans[0]))
        return spans

    def _codes(self, noise: dict[str, Tensor], steps: Span) -> Tensor:
        """Return the codes z_BTK of coarse steps."""
        first, last = (self._lead + self.stride * step for step in steps)
        frames_BTM = noise["motion"][:, first:last]
        # The sum of s independent numbers over sqrt(s): a step's motion is standard normal, as a frame's is.
        motion_BTM = rearrange(frames_BTM, "B (T s) M -> B T s M", s=self.stride).sum(2) * self.stride**-0.5
        still = [noise["content"]]
        if self.embed is not None:
            still.append(F.embedding(noise["label"], self.embed.weight.T).to(motion_BTM.dtype))
        still_BTK = repeat(torch.cat(still, dim=1), "B K -> B T K", T=motion_BTM.shape[1])
        return torch.cat([still_BTK, motion_BTM], dim=2)

    def _check_noise(self, noise: dict[str, Tensor]) -> int:
        """Return the number of frames that the noise was drawn for."""
        wanted = {"content": ("B", self.noise_dim), "motion": ("B", "T", self.motion_dim)}
        if self.num_classes:
            wanted["label"] = ("B",)
        num = noise["content"].shape[0] if "content" in noise else None
        for name, shape in wanted.items():
            found = tuple(noise[name].shape) if name in noise else None
            fits = found is not None and len(found) == len(shape) and found[0] == num
            if found is None or not fits or (len(found) > 1 and found[-1] != shape[-1]):
                raise PortError(
                    f"{PART}: noise[{name!r}] has shape {found}; it must be {shape}, as draw_noise gives it"
                )
        num_frames = noise["motion"].shape[1] - self._lead - self._tail
        if num_frames < 1:
            raise PortError(
                f"{PART}: noise['motion'] has {noise['motion'].shape[1]} frames, of which {self._lead} lie "
                f"before a clip and {self._tail} behind it; draw noise with draw_noise"
            )
        return num_frames
