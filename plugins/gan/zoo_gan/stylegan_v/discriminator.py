"""The discriminator of StyleGAN-V: a few frames of a clip, judged as one together with the gaps between them.

Shape legend: B clips, T frames of each, C channels, H W pixels; G = T - 1 gaps, E numbers that embed a gap,
D numbers of the mapped condition.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.checks import is_power_of_two
from zoo.errors import PortError, ZooError
from zoo.outputs import Judged
from zoo.precision import full_precision
from zoo_gan.checks import check_counts, check_image_size, check_natural, check_timed_frames
from zoo_gan.stylegan2.networks import (
    DiscriminatorBlock,
    DiscriminatorEpilogue,
    MappingNetwork,
    channels_by_resolution,
)
from zoo_gan.stylegan_v.generator import CLAMP

PART = "discriminator 'stylegan-v'"


class FourierTimes(nn.Module):
    """Sines and cosines of a gap, whose periods double from 2 frames to twice the longest clip.

    Args:
        max_frames: Frames of the longest clip.
    """

    fourier_coefs: Tensor

    def __init__(self, max_frames: int) -> None:
        super().__init__()
        octaves = math.ceil(math.log2(max_frames))
        coefficients = math.pi * 2.0 ** torch.arange(octaves, dtype=torch.float32) / 2**octaves
        self.register_buffer("fourier_coefs", coefficients[None])

    def forward(self, gaps_BG: Tensor) -> Tensor:
        """Return (B, G, two numbers for each period)."""
        angles = gaps_BG[..., None] * self.fourier_coefs
        return torch.cat([angles.sin(), angles.cos()], dim=2)


class GapEncoder(nn.Module):
    """Embeds the gaps between frames: a learned vector of each, and Fourier features.

    Args:
        max_frames: Frames of the longest clip; a gap beyond it has the vector of the longest.
        gap_dim: Numbers of a learned vector.

    Attributes:
        width: Numbers of a gap.
    """

    def __init__(self, *, max_frames: int, gap_dim: int) -> None:
        super().__init__()
        self.const_embed = nn.Embedding(max_frames, gap_dim)
        self.time_encoder = FourierTimes(max_frames)
        self.width = gap_dim + 2 * self.time_encoder.fourier_coefs.shape[1]

    def forward(self, times_BT: Tensor) -> Tensor:
        """Return the embedded gaps between neighbours, (B, G * width)."""
        weight = self.const_embed.weight
        with full_precision(weight):
            gaps_BG = times_BT.to(weight.dtype).diff(dim=1)
            index_BG = gaps_BG.round().long().clamp(0, self.const_embed.num_embeddings - 1)
            gaps_BGE = torch.cat([self.const_embed(index_BG), self.time_encoder(gaps_BG)], dim=2)
            return gaps_BGE.flatten(1)


class StyleGANVDiscriminator(nn.Module):
    """Scores a few frames of a clip, given the gaps between them.

    Frames go one by one through the residual blocks of StyleGAN2's discriminator, down to `concat_size`
    pixels, where their channels are halved and put together; from there they are one image. The end of the
    network is projected on a condition that is mapped from the gaps, and from the label where there is one.

    The defaults are the published network at 256x256; above that, published networks have ``channel_base:
    32768``. In train mode a clip's score depends on its batch (`MinibatchStd`).

    Source: StyleGAN-V, https://arxiv.org/abs/2112.14683

    Args:
        in_channels: Colour channels of a frame.
        image_size: Height and width of a frame in pixels, a power of two of at least 16.
        channel_base: Channels times pixels of a side, as far as `channel_max` goes.
        channel_max: Most channels of a layer.
        num_frames: Frames that are judged together, at least 2.
        concat_size: Height and width in pixels where they are put together, a power of two from 8 to half of
            `image_size`.
        max_gap: Most frames from the first to the last one that `draw_frames` draws.
        max_frames: Frames of the longest clip, as far as gaps are told apart.
        gap_dim: Numbers of the learned embedding of a gap.
        mapping_layers: Layers that map the condition.
        group_size: Clips that `MinibatchStd` compares.
        num_classes: Labels; 0 for none.

    Raises:
        ZooError: An option is out of its range.
    """

    consumes = "video"
    mixes_batch = True

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: int = 256,
        channel_base: int = 16384,
        channel_max: int = 512,
        num_frames: int = 3,
        concat_size: int = 16,
        max_gap: int = 32,
        max_frames: int = 1024,
        gap_dim: int = 256,
        mapping_layers: int = 2,
        group_size: int = 4,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        check_counts(
            PART,
            in_channels=in_channels,
            image_size=image_size,
            channel_base=channel_base,
            channel_max=channel_max,
            gap_dim=gap_dim,
            mapping_layers=mapping_layers,
            group_size=group_size,
        )
        check_image_size(PART, image_size)
        check_natural(PART, num_classes=num_classes)
        if not isinstance(num_frames, int) or num_frames < 2:
            raise ZooError(f"{PART}: num_frames is {num_frames!r}; give 2 or more, 3 are published")
        if max_gap < num_frames - 1 or max_frames < 2:
            raise ZooError(
                f"{PART}: max_gap is {max_gap} and max_frames {max_frames}; {num_frames} frames need a gap "
                f"of {num_frames - 1} or more and max_frames of 2 or more"
            )
        if not is_power_of_two(concat_size) or not 8 <= concat_size < image_size:
            raise ZooError(
                f"{PART}: concat_size is {concat_size}; give a power of two from 8 to {image_size // 2}"
            )
        self.in_channels = in_channels
        self.min_size = (num_frames, image_size, image_size)
        self.size_HW = (image_size, image_size)
        self.num_frames = num_frames
        self.max_gap = max_gap
        self.concat_size = concat_size
        self.num_classes = num_classes
        self.conditions = ("times", "label") if num_classes else ("times",)

        channels = channels_by_resolution(image_size, channel_base=channel_base, channel_max=channel_max)
        self.resolutions = [size for size in reversed(channels) if size > 4]
        for size in self.resolutions:
            width_in = 0 if size == image_size else channels[size]
            width_out = channels[size // 2]
            if size == concat_size:
                width_in = max(1, width_in // 2) * num_frames
            if size // 2 == concat_size:
                width_out = max(1, width_out // 2)
            block = DiscriminatorBlock(
                width_in, channels[size], width_out, img_channels=in_channels, clamp=CLAMP
            )
            self.add_module(f"b{size}", block)
        self.time_encoder = GapEncoder(max_frames=max_frames, gap_dim=gap_dim)
        self.mapping = MappingNetwork(
            z_dim=0,
            c_dim=num_classes + (num_frames - 1) * self.time_encoder.width,
            w_dim=channels[4],
            num_layers=mapping_layers,
            w_avg_beta=None,
        )
        self.b4 = DiscriminatorEpilogue(channels[4], cmap_dim=channels[4], group_size=group_size, clamp=CLAMP)

    def draw_frames(self, num: int, num_frames: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw which frames of each clip are judged.

        The first and the last are a power of two apart, 2 to `max_gap` frames, each equally likely; where
        they are and which frames lie between them is uniform.

        Args:
            num: Clips.
            num_frames: Frames of each clip.
            generator: Where randomness comes from, on the CPU; torch's global one when left out.

        Returns:
            frames_BT, int64, ascending, on the CPU.

        Raises:
            ZooError: The clips have fewer frames than are judged.
        """
        if num_frames < self.num_frames:
            raise ZooError(
                f"{PART} judges {self.num_frames} frames of a clip, which has {num_frames}; give it longer "
                f"clips, or num_frames={max(num_frames, 2)}"
            )
        most = min(num_frames - 1, self.max_gap)
        powers = [2**n for n in range(most.bit_length()) if 2**n >= self.num_frames - 1]
        # Four frames of a clip of four have no power of two between 3 and 3.
        gaps = torch.tensor(powers or [most], device="cpu")

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator, device="cpu", dtype=torch.float64)

        gap_B1 = gaps[(uniform(num, 1) * len(gaps)).long()]
        inner = torch.arange(1, most, device="cpu")
        order = uniform(num, most - 1).masked_fill(inner >= gap_B1, 2.0).argsort(dim=1)
        between = order[:, : self.num_frames - 2] + 1
        start_B1 = (uniform(num, 1) * (num_frames - gap_B1)).long()
        frames_BT = torch.cat([torch.zeros_like(gap_B1), between, gap_B1], dim=1) + start_B1
        return frames_BT.sort(dim=1).values

    def forward(self, x_BCTHW: Tensor, times_BT: Tensor, label_B: Tensor | None = None) -> Judged:
        """Score real above generated.

        Args:
            x_BCTHW: `num_frames` frames of each clip, in [-1, 1], of `size_HW`.
            times_BT: When they are, in frames, ascending.
            label_B: int64 labels, where there are labels.

        Returns:
            One score a clip, (B, 1), and the activations of every block, (B, C, T, H, W) before frames are
            put together and (B, C, H, W) after.

        Raises:
            PortError: Frames or times have another shape, or labels are missing.
        """
        shape_CTHW = (self.in_channels, self.num_frames, *self.size_HW)
        check_timed_frames(x_BCTHW, times_BT, part=PART, shape_CTHW=shape_CTHW)
        if self.num_classes and label_B is None:
            raise PortError(f"{PART} was built for {self.num_classes} labels and needs label_B")
        condition = self.time_encoder(times_BT)
        if label_B is not None and self.num_classes:
            label_BC = F.one_hot(label_B, self.num_classes).to(condition.dtype)
            condition = torch.cat([label_BC, condition], dim=1)
        features = []
        x = rearrange(x_BCTHW, "B C T H W -> (B T) C H W")
        for size in self.resolutions:
            if size == self.concat_size:
                x = rearrange(x, "(B T) C H W -> B (T C) H W", T=self.num_frames)
            x = self.get_submodule(f"b{size}")(x)
            single = size > self.concat_size
            features.append(rearrange(x, "(B T) C H W -> B C T H W", T=self.num_frames) if single else x)
        logits = self.b4(x, self.mapping(None, condition))
        return Judged([logits], features)
