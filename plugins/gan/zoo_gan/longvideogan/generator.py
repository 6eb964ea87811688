"""The low-resolution generator of LongVideoGAN: styles change over time, slowly and fast at once.

Shape legend: B clips, L frames of noise, N noise channels, D latent channels, C channels, T frames at the
rate of a layer, H W pixels. A span is (first sample, one past the last), counted from the clip's start at
the rate of a layer: sample n of a rate of one in s frames stands for frames n * s to (n + 1) * s - 1.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import PortError, ZooError
from zoo.ranks import everywhere
from zoo_gan.checks import check_counts, find_run
from zoo_gan.longvideogan.layers import Synthesis3dBlock, ToRGB
from zoo_gan.longvideogan.temporal_noise import BlurredNoise, HalveInTime, before_halving
from zoo_gan.noise import draw_clips
from zoo_gan.stylegan2.layers import FullyConnectedLayer, normalize_2nd_moment

PART = "generator 'longvideogan'"
# Frames for each sample of the coarsest layer.
PERIOD = 32
_OUTPUT_SCALE = 0.25
_NOISE_CHUNK = 256

# Times `base_channels`: channels in and out, doubling of the frame rate and of the frame's sides.
_TEMPORAL_LAYERS = ((8, 8, 2, 1), (8, 8, 2, 2), (8, 8, 2, 1), (8, 8, 2, 2), (8, 4, 2, 1), (4, 4, 1, 1))
_SPATIAL_LAYERS = ((4, 2, 1, 2), (2, 2, 1, 1), (2, 1, 1, 2), (1, 1, 1, 1))


def check_frame_size(part: str, /, *, height: int, width: int) -> int:
    """Return the longer side of a frame.

    Raises:
        ZooError: It is neither 32 nor 64, or the sides differ by an odd number.
    """
    check_counts(part, height=height, width=width)
    if max(height, width) not in (32, 64) or (height - width) % 2:
        raise ZooError(
            f"{part}: height and width are {height} and {width}; the longer one has to be 32 or 64, "
            f"and the other one even: 36 and 64 are the published ones"
        )
    return max(height, width)


class LongVideoGANGenerator(nn.Module):
    """Makes clips of any length, whose frames depend on the thousands of frames of noise before them.

    White noise is blurred over 128 widths of time, two layers turn the numbers of each frame into a latent,
    and the latents, slowed down in steps of 2, set the styles of 3D convolutional layers. The first of
    those work on one sample in 32 frames, the last ones on single frames. Each layer computes just the
    samples that the wanted frames rest on. So any stretch of a long clip can be made alone: it is as in
    the whole clip, and takes the memory and time of its own frames and some neighbours.

    How a frame is made depends on its number modulo 32. So that a discriminator cannot go by that, a
    forward pass in train mode begins, for the whole batch and on all ranks, at one of the first 32 frames by
    chance. A program made by torch.compile would be one for each start, so training leaves it uncompiled.

    In train mode frames are unbounded, as published; in eval mode they are clamped to [-1, 1].

    The defaults are the published network. Weights start as published, standard normal. Two things make a
    difference of 1e-6 to the public code: it scales styles by the largest of a clip, and has zeros for the
    latents beyond a clip's ends, where here the noise goes on.

    Source: LongVideoGAN, https://arxiv.org/abs/2206.03429

    Args:
        out_channels: Colour channels.
        height: Rows of a frame.
        width: Columns of a frame; the longer side is 32 or 64.
        base_channels: Channels of the last layers; the first ones have 8 times as many.
        latent_dim: Width of the latents that styles are made of.
        noise_channels: Channels of white noise.
        blur_widths: How many widths each of them is blurred by.
        shortest_blur: Least width, in frames; the filter has half as many taps.
        longest_blur: Largest width, in frames.

    Raises:
        ZooError: An option is out of its range.
    """

    emits = "video"
    time = "frames"
    compiles = False
    conditions: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        out_channels: int = 3,
        height: int = 36,
        width: int = 64,
        base_channels: int = 64,
        latent_dim: int = 1024,
        noise_channels: int = 8,
        blur_widths: int = 128,
        shortest_blur: int = 250,
        longest_blur: int = 10_000,
    ) -> None:
        super().__init__()
        check_counts(
            PART,
            out_channels=out_channels,
            base_channels=base_channels,
            latent_dim=latent_dim,
            noise_channels=noise_channels,
            blur_widths=blur_widths,
        )
        longer = check_frame_size(PART, height=height, width=width)
        if not 4 <= shortest_blur <= longest_blur:
            raise ZooError(
                f"{PART}: shortest_blur is {shortest_blur!r} and longest_blur {longest_blur!r} frames; "
                f"give 4 or more, the shorter one first"
            )
        self.out_channels = out_channels
        self.size_HW = (height, width)
        self.noise_dim = noise_channels

        scales = [max(1, longer // 2 ** (2 + step)) for step in range(5)]
        sizes_HW = [(math.ceil(height / scale), math.ceil(width / scale)) for scale in scales]

        def blocks(layers: tuple[tuple[int, int, int, int], ...], size: int, kernel: int) -> nn.ModuleList:
            made = nn.ModuleList()
            for wide_in, wide_out, temporal_up, spatial_up in layers:
                size += spatial_up - 1
                # At 32 pixels the last doubling is left out.
                grows = spatial_up == 2 and sizes_HW[size] != sizes_HW[size - 1]
                block = Synthesis3dBlock(
                    latent_dim,
                    wide_in * base_channels,
                    wide_out * base_channels,
                    out_HW=sizes_HW[size],
                    temporal_kernel=kernel,
                    temporal_up=temporal_up,
                    spatial_up=2 if grows else 1,
                )
                made.append(block)
            return made

        self.temporal_layers = blocks(_TEMPORAL_LAYERS, 0, 3)
        self.spatial_layers = blocks(_SPATIAL_LAYERS, 2, 1)
        self.to_rgb = ToRGB(latent_dim, base_channels, out_channels)
        first_channels = 8 * base_channels
        self.spatial_input = nn.Parameter(torch.randn(1, first_channels, 1, *sizes_HW[0]))
        self.temporal_emb = BlurredNoise(num_widths=blur_widths, shortest=shortest_blur, longest=longest_blur)
        self.latent_mapping = nn.ModuleDict(
            {
                f"layer_{number}": FullyConnectedLayer(
                    dim, latent_dim, activation="lrelu", lr_multiplier=0.01
                )
                for number, dim in enumerate((noise_channels * blur_widths, latent_dim))
            }
        )
        self.halve = HalveInTime()
        self.w_to_temp_input = FullyConnectedLayer(latent_dim, first_channels)

        ends = {end: self._latents_needed(0, end) for end in range(1, PERIOD + 1)}
        # Frames of noise before frame 0 and after the last, whatever the length and the start in train mode.
        self._before = self.temporal_emb.num_taps - 1 - ends[1][0]
        self._after = max(last - end for end, (_, last) in ends.items()) + PERIOD - 1

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the convolution to colours."""
        return self.to_rgb.weight

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
            ``temporal`` (num, frames, N), standard normal, for the frames of the clip, the thousands
            before them that the blur reaches back to, and some after them.

        Raises:
            ZooError: `num` or `num_frames` is below 1.
        """
        check_counts(PART, num=num, num_frames=num_frames)
        length = self._before + num_frames + self._after
        return draw_clips(
            lambda source: {"temporal": self._draw_clip(source, length)},
            num,
            like=self.last_layer,
            generator=generator,
            device=device,
        )

    def _draw_clip(self, source: torch.Generator, length: int) -> Tensor:
        """Draw noise_LN of one clip on the CPU."""
        # In pieces of one length, because a longer randn does not start with the numbers of a shorter one.
        pieces = [
            torch.randn(_NOISE_CHUNK, self.noise_dim, generator=source, device="cpu")
            for _ in range(-(-length // _NOISE_CHUNK))
        ]
        return torch.cat(pieces)[:length]

    def forward(self, noise: dict[str, Tensor], times_BT: Tensor | None = None) -> Tensor:
        """Make a clip, or a stretch of it, from each row of noise.

        Args:
            noise: What `draw_noise` returns.
            times_BT: Which frames: the same consecutive whole numbers in each row. All of them when left
                out; in train mode then counted from a random frame out of 32.

        Returns:
            x_BCTHW; in [-1, 1] in eval mode, about so in train mode.

        Raises:
            PortError: The noise is missing or of another shape than `draw_noise` gives it, or
                `times_BT` is no run of frames that it was drawn for.
        """
        noise_BLN, num_frames = self._check_noise(noise)
        if times_BT is None:
            start, end = 0, num_frames
            if self.training:  # what all ranks drew, added up, is as much by chance
                start = int(everywhere(torch.randint(PERIOD, (), device="cpu"))) % PERIOD
                end += start
        else:
            start, end = _run_of_frames(times_BT, len(noise_BLN), num_frames)

        spans = self._spans(start, end)
        latents = self._latents(noise_BLN, spans[0])
        first, w_BTD = latents[-1]
        temporal_BTC = self.w_to_temp_input(rearrange(w_BTD, "B T D -> (B T) D"))
        temporal_BCT11 = rearrange(temporal_BTC, "(B T) C -> B C T 1 1", T=w_BTD.shape[1])
        x = (temporal_BCT11 + self.spatial_input) * math.sqrt(0.5)
        for layer, span, out in zip(self.temporal_layers, spans[:-1], spans[1:], strict=True):
            first, w_BTD = latents[-1]
            x = layer(x, w_BTD[:, span[0] - first : span[1] - first], start=span[0], out=out)
            if layer.temporal_up == 2:
                latents.pop()
        first, w_BTD = latents[-1]
        w_BTD = w_BTD[:, start - first : end - first]
        for layer in self.spatial_layers:
            x = layer(x, w_BTD, start=start, out=(start, end))
        x_BCTHW: Tensor = self.to_rgb(x, w_BTD)
        x_BCTHW = x_BCTHW * _OUTPUT_SCALE
        return x_BCTHW if self.training else x_BCTHW.clamp(-1, 1)

    def _spans(self, start: int, end: int) -> list[tuple[int, int]]:
        """The samples that come into each temporal layer, and at last the frames that come out."""
        spans = [(start, end)]
        for layer in reversed(self.temporal_layers):
            assert isinstance(layer, Synthesis3dBlock)
            spans.append(layer.needs(*spans[-1]))
        return spans[::-1]

    def _latents_needed(self, start: int, end: int) -> tuple[int, int]:
        """The moments whose latents frames [start, end) rest on."""
        span = self._spans(start, end)[0]
        for layer in self.temporal_layers:
            if layer.temporal_up == 2:
                span = before_halving(*span)
        return span

    def _latents(self, noise_BLN: Tensor, coarsest: tuple[int, int]) -> list[tuple[int, Tensor]]:
        """Make w_BTD at each rate, fine to coarse, with the number of its first sample.

        Args:
            noise_BLN: Noise of the whole clip.
            coarsest: Samples that are needed at one in 32 frames.
        """
        spans = [coarsest]
        while len(spans) < int(math.log2(PERIOD)) + 1:
            spans.append(before_halving(*spans[-1]))
        start, end = spans[-1]
        reach = self.temporal_emb.num_taps - 1
        needed = noise_BLN[:, self._before + start - reach : self._before + end]
        embedding_BDT = normalize_2nd_moment(self.temporal_emb(rearrange(needed, "B L N -> B N L")))
        rows = rearrange(embedding_BDT, "B D T -> (B T) D")
        for layer in self.latent_mapping.values():
            rows = layer(rows)
        latents = [(start, rearrange(rows, "(B T) D -> B T D", T=end - start))]
        for start, _ in spans[-2::-1]:
            latents.append((start, self.halve(latents[-1][1])))
        return latents

    def _check_noise(self, noise: dict[str, Tensor]) -> tuple[Tensor, int]:
        """Return noise_BLN and how many frames it was drawn for."""
        wanted = f"(clips, {self._before + self._after} + frames, {self.noise_dim})"
        if "temporal" not in noise:
            raise PortError(
                f"{PART} needs noise 'temporal' of shape {wanted}; it was given "
                f"{', '.join(map(repr, noise)) or 'none'}; make it with draw_noise(num, num_frames)"
            )
        temporal = noise["temporal"]
        shape = tuple(temporal.shape)
        if len(shape) != 3 or shape[2] != self.noise_dim or shape[1] <= self._before + self._after:
            raise PortError(
                f"{PART} needs noise 'temporal' of shape {wanted}; it was given {shape}; make it with "
                f"draw_noise(num, num_frames)"
            )
        return temporal, shape[1] - self._before - self._after


def _run_of_frames(times_BT: Tensor, num_clips: int, num_frames: int) -> tuple[int, int]:
    """Return the first frame and one past the last."""
    found = find_run(times_BT, num_clips)
    if found is not None and found[0] >= 0 and found[1] <= num_frames:
        return found
    raise PortError(
        f"{PART} makes runs of whole frames: times_BT has to be ({num_clips}, frames) with the same numbers "
        f"n, n + 1, ... out of 0 to {num_frames - 1} in every row; it was given shape "
        f"{tuple(times_BT.shape)}, the first row being {_preview(times_BT)}"
    )


def _preview(times_BT: Tensor) -> str:
    first = times_BT.flatten()[:4].tolist() if times_BT.ndim < 2 else times_BT[0].flatten()[:4].tolist()
    return ", ".join(f"{time:g}" for time in first) + (", ..." if times_BT.shape[-1] > 4 else "")
