"""The generator of StyleGAN-V: one StyleGAN2 style for a clip, and an input that moves in continuous time.

Shape legend: B clips, T moments, C colour channels, H W pixels; K content numbers, N motion codes of
M numbers, D numbers of a style latent, E numbers that embed a moment.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from zoo.errors import PortError, ZooError
from zoo_gan.checks import check_counts, check_image_size, check_natural
from zoo_gan.noise import draw_clips, normal_rows
from zoo_gan.stylegan2.networks import MappingNetwork, SynthesisNetwork, channels_by_resolution
from zoo_gan.stylegan_v.motion import MotionEncoder, TemporalInput

PART = "generator 'stylegan-v'"
# Published with mixed precision, for which activations are clamped.
CLAMP = 256.0


class StyleGANVGenerator(nn.Module):
    """Makes any moment of a clip of any length by itself.

    A content code becomes the style of every frame. Motion codes, `motion_distance` frames apart, become
    anchors, and a moment between two of them is embedded by sines and cosines (`zoo_gan.stylegan_v.motion`),
    which enter beside the learned 4x4 input of a StyleGAN2 synthesis network with skips. Frames are made
    independently of one another.

    The defaults are the published network at 256x256; above that, published networks have ``channel_base:
    32768``. For fast changing videos (SkyTimelapse) the authors have ``motion_distance: 256``.

    In train mode frames are unbounded, as published; in eval mode they are clamped to [-1, 1].

    Source: StyleGAN-V, https://arxiv.org/abs/2112.14683

    Args:
        out_channels: Colour channels of a frame.
        image_size: Height and width of a frame in pixels, a power of two of at least 16.
        channel_base: Channels times pixels of a side, as far as `channel_max` goes.
        channel_max: Most channels of a layer.
        content_dim: Numbers of a clip's content code.
        w_dim: Numbers of the style latent that it is mapped to.
        mapping_layers: Layers that map it.
        motion_dim: Numbers of a drawn motion code.
        motion_code_dim: Numbers of an anchor.
        motion_distance: Frames between anchors, and the shortest period of the embedding.
        motion_kernel_size: Codes that each of the two convolutions along time reads.
        num_frequencies: Sines of the embedding, and cosines.
        max_period: Longest period of the embedding in frames.
        num_classes: Labels, which style and motion read; 0 for none.
        truncation: In eval mode, how far the style latent stays from its mean: 1 leaves it, less trades
            variety for quality.

    Raises:
        ZooError: An option is out of its range.
    """

    emits = "video"
    time = "continuous"

    def __init__(
        self,
        *,
        out_channels: int = 3,
        image_size: int = 256,
        channel_base: int = 16384,
        channel_max: int = 512,
        content_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 2,
        motion_dim: int = 512,
        motion_code_dim: int = 512,
        motion_distance: int = 16,
        motion_kernel_size: int = 11,
        num_frequencies: int = 256,
        max_period: int = 1024,
        num_classes: int = 0,
        truncation: float = 1.0,
    ) -> None:
        super().__init__()
        check_counts(
            PART,
            out_channels=out_channels,
            image_size=image_size,
            channel_base=channel_base,
            channel_max=channel_max,
            content_dim=content_dim,
            w_dim=w_dim,
            mapping_layers=mapping_layers,
            motion_dim=motion_dim,
            motion_code_dim=motion_code_dim,
            motion_distance=motion_distance,
            motion_kernel_size=motion_kernel_size,
            num_frequencies=num_frequencies,
            max_period=max_period,
        )
        check_image_size(PART, image_size)
        check_natural(PART, num_classes=num_classes)
        if max_period < motion_distance:
            raise ZooError(
                f"{PART}: max_period is {max_period}, below the shortest period, motion_distance = "
                f"{motion_distance}; give as much or more"
            )
        self.out_channels = out_channels
        self.size_HW = (image_size, image_size)
        self.num_classes = num_classes
        self.conditions: tuple[str, ...] = ("label",) if num_classes else ()
        self.content_dim = content_dim
        self.motion_dim = motion_dim
        self.noise_dim = content_dim
        self.truncation = truncation
        self.kernel_size = motion_kernel_size

        self.mapping = MappingNetwork(
            z_dim=content_dim, c_dim=num_classes, w_dim=w_dim, num_layers=mapping_layers
        )
        self.motion_encoder = MotionEncoder(
            motion_dim=motion_dim,
            num_classes=num_classes,
            code_dim=motion_code_dim,
            distance=motion_distance,
            kernel_size=motion_kernel_size,
            num_frequencies=num_frequencies,
            max_period=max_period,
        )
        channels = channels_by_resolution(image_size, channel_base=channel_base, channel_max=channel_max)
        self.synthesis = SynthesisNetwork(
            image_size=image_size,
            img_channels=out_channels,
            w_dim=w_dim,
            channel_base=channel_base,
            channel_max=channel_max,
            input=TemporalInput(channels[4], 2 * num_frequencies),
            clamp=CLAMP,
        )

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight that makes the colours of the highest resolution."""
        return self.synthesis.last_layer

    @property
    def _spare(self) -> int:
        # A clip of one frame has two anchors, and each is made from this many codes with its neighbours.
        return 2 * self.kernel_size

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
        and the beginning of a longer one, are those of a smaller draw from an equal generator.

        Args:
            num: Clips, at least 1.
            num_frames: Frames in each clip, at least 1.
            generator: Where randomness comes from; torch's global one for the CPU when left out.
            device: Where the noise goes; the device of the weights when left out.

        Returns:
            ``content`` (num, K) and ``motion`` (num, N, M), standard normal, with N = num_frames + 2 *
            motion_kernel_size, which tells `forward` the frames; codes are `motion_distance` frames apart, so
            those of the end of a long clip are never read. ``label`` (num,), int64 in [0, num_classes), where
            there are labels.

        Raises:
            ZooError: `num` or `num_frames` is below 1.
        """
        check_counts(PART, num=num, num_frames=num_frames)
        return draw_clips(
            partial(self._draw_clip, num_codes=num_frames + self._spare),
            num,
            like=self.last_layer,
            generator=generator,
            device=device,
        )

    def _draw_clip(self, source: torch.Generator, *, num_codes: int) -> dict[str, Tensor]:
        """Draw the noise of one clip on the CPU, without its batch axis."""
        # Drawn in any case, so that the noise of a network with labels is that of one without.
        label = torch.randint(max(self.num_classes, 1), (), generator=source, device="cpu")
        noise = {
            "content": torch.randn(self.content_dim, generator=source, device="cpu"),
            "motion": normal_rows(num_codes, self.motion_dim, source),
        }
        return noise | ({"label": label} if self.num_classes else {})

    def forward(self, noise: dict[str, Tensor], times_BT: Tensor | None = None) -> Tensor:
        """Make moments of the clip that each row of noise stands for.

        Args:
            noise: What `draw_noise` returns; any number of clips and frames.
            times_BT: Moments in frames, real numbers between 0 and the frames that were drawn, for each clip
                in any order; every frame in turn when left out.

        Returns:
            x_BCTHW, a frame for each moment; within [-1, 1] in eval mode.

        Raises:
            PortError: A tensor is missing or has another shape than `draw_noise` gives it, or a moment is
                outside the clip (looked at on the CPU only).
        """
        num_frames = self._check_noise(noise)
        content_BK, motion_BNM = noise["content"], noise["motion"]
        if times_BT is None:
            times_BT = torch.arange(num_frames, device=content_BK.device).expand(content_BK.shape[0], -1)
        else:
            _check_times(times_BT, clips=content_BK.shape[0], num_frames=num_frames)
        label_BC = None
        if self.num_classes:
            label_BC = F.one_hot(noise["label"], self.num_classes).to(content_BK.dtype)
        truncation = 1.0 if self.training else self.truncation
        w_BD = self.mapping(content_BK, label_BC, truncation=truncation)
        codes_BNM = motion_BNM[:, : self.motion_encoder.num_codes(num_frames)]
        motion_BTE = self.motion_encoder(codes_BNM, times_BT, label_BC)
        frames = self.synthesis(
            repeat(w_BD, "B D -> (B T) D", T=times_BT.shape[1]), rearrange(motion_BTE, "B T E -> (B T) E")
        )
        x_BCTHW: Tensor = rearrange(frames, "(B T) C H W -> B C T H W", T=times_BT.shape[1])
        return x_BCTHW if self.training else x_BCTHW.clamp(-1, 1)

    def _check_noise(self, noise: dict[str, Tensor]) -> int:
        """Return how many frames the noise was drawn for."""
        wanted: dict[str, tuple[str | int, ...]] = {
            "content": ("clips", self.content_dim),
            "motion": ("clips", "frames", self.motion_dim),
        }
        if self.num_classes:
            wanted["label"] = ("clips",)
        for name, axes in wanted.items():
            found = tuple(noise[name].shape) if name in noise else None
            least = self._spare + 1
            if (
                found is None
                or len(found) != len(axes)
                or found[0] != noise["content"].shape[0]
                or (name != "label" and found[-1] != axes[-1])
                or (name == "motion" and found[1] < least)
            ):
                sizes = ", ".join(map(str, axes)).replace("frames", f"frames + {self._spare}")
                raise PortError(
                    f"{PART} needs noise {name!r} of shape ({sizes}); it was given "
                    f"{found if found is not None else ', '.join(map(repr, noise)) or 'none'}; make it with "
                    "draw_noise(num, num_frames)"
                )
        return noise["motion"].shape[1] - self._spare


def _check_times(times_BT: Tensor, *, clips: int, num_frames: int) -> None:
    if times_BT.ndim != 2 or times_BT.shape[0] != clips or times_BT.shape[1] < 1:
        raise PortError(
            f"{PART} needs times_BT of shape ({clips}, moments), a row for each clip; it was given "
            f"{tuple(times_BT.shape)}"
        )
    # Elsewhere, looking at the values would wait for the device.
    if times_BT.device.type == "cpu" and not torch.compiler.is_compiling():
        first, last = float(times_BT.min()), float(times_BT.max())
        if not (first >= 0 and last <= num_frames):
            raise PortError(
                f"{PART} was asked for moments from {first:g} to {last:g} of a clip that was drawn for "
                f"{num_frames} frames; draw_noise(num, num_frames) draws a longer one"
            )
