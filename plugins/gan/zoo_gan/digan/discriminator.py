"""The discriminators of DIGAN: of frames, and of two frames of a clip with the time between them.

Shape legend: B clips, T two frames of each, N images, C colour channels, H W pixels.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from zoo.outputs import Judged
from zoo_gan.checks import check_counts, check_image_size, check_timed_frames
from zoo_gan.digan.generator import check_clip_frames
from zoo_gan.stylegan2.networks import DiscriminatorBlock, DiscriminatorEpilogue, channels_by_resolution

PART = "discriminator 'digan'"
# Published with mixed precision, for which activations are clamped.
CLAMP = 256.0


class ImageNetwork(nn.Module):
    """StyleGAN2's residual discriminator: an image to one score.

    Args:
        in_channels: Channels of an image.
        image_size: Its height and width in pixels.
        channel_base: Channels times pixels of a side, as far as `channel_max` goes.
        channel_max: Most channels of a layer.
        group_size: Images that `MinibatchStd` compares.
    """

    def __init__(
        self, in_channels: int, *, image_size: int, channel_base: int, channel_max: int, group_size: int
    ) -> None:
        super().__init__()
        channels = channels_by_resolution(image_size, channel_base=channel_base, channel_max=channel_max)
        self.sizes = [size for size in reversed(channels) if size > 4]
        for size in self.sizes:
            width_in = 0 if size == image_size else channels[size]
            block = DiscriminatorBlock(
                width_in, channels[size], channels[size // 2], img_channels=in_channels, clamp=CLAMP
            )
            self.add_module(f"b{size}", block)
        self.b4 = DiscriminatorEpilogue(channels[4], group_size=group_size, clamp=CLAMP)

    def forward(self, x_NCHW: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return raw scores (N, 1) and what leaves every block, x_NCHW."""
        features = []
        for size in self.sizes:
            x_NCHW = self.get_submodule(f"b{size}")(x_NCHW)
            features.append(x_NCHW)
        return self.b4(x_NCHW), features


class DIGANDiscriminator(nn.Module):
    """Scores two frames of a clip: as a motion, given the time between them, and each as an image.

    The motion network reads both frames as one image of twice the channels and a plane that is filled with
    the time between them, counted in the length of a clip. The frame network judges each frame by itself.

    The defaults are the published networks at 128x128. In train mode a clip's scores depend on its batch
    (`MinibatchStd`).

    Source: DIGAN, https://arxiv.org/abs/2202.10571

    Args:
        in_channels: Colour channels of a frame.
        image_size: Height and width of a frame in pixels, a power of two of at least 16.
        channel_base: Channels times pixels of a side, as far as `channel_max` goes.
        channel_max: Most channels of a layer.
        clip_frames: Frames of a clip, at least 2: the time between its first and its last is 1.
        group_size: Clips, or frames, that `MinibatchStd` compares.

    Raises:
        ZooError: An option is out of its range.
    """

    consumes = "video"
    conditions = ("times",)
    num_frames = 2
    mixes_batch = True

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: int = 128,
        channel_base: int = 32768,
        channel_max: int = 512,
        clip_frames: int = 16,
        group_size: int = 4,
    ) -> None:
        super().__init__()
        check_counts(
            PART,
            in_channels=in_channels,
            image_size=image_size,
            channel_base=channel_base,
            channel_max=channel_max,
            clip_frames=clip_frames,
            group_size=group_size,
        )
        check_clip_frames(PART, clip_frames)
        check_image_size(PART, image_size)
        self.in_channels = in_channels
        self.min_size = (2, image_size, image_size)
        self.size_HW = (image_size, image_size)
        self.clip_frames = clip_frames
        self.motion, self.frame = (
            ImageNetwork(
                width,
                image_size=image_size,
                channel_base=channel_base,
                channel_max=channel_max,
                group_size=group_size,
            )
            for width in (2 * in_channels + 1, in_channels)
        )

    def draw_frames(self, num: int, num_frames: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw which two frames of each clip are judged.

        One tends to the end of the clip, Beta(2, 1), and one to its beginning, Beta(1, 2), as published. So
        both are the same frame now and then: in 4 of 100 clips of 16 frames.

        Args:
            num: Clips.
            num_frames: Frames of each clip.
            generator: Where randomness comes from, on the CPU; torch's global one when left out.

        Returns:
            frames_BT, int64, ascending, on the CPU.
        """
        check_counts(PART, num=num, num_frames=num_frames)
        uniform_BT = torch.rand(num, 2, generator=generator, device="cpu", dtype=torch.float64)
        # The root of a uniform number is Beta(2, 1), what is left of it to 1 is Beta(1, 2).
        late, early = uniform_BT.sqrt().unbind(dim=1)
        places_BT = torch.stack([1 - early, late], dim=1)
        return (places_BT * num_frames).long().clamp(max=num_frames - 1).sort(dim=1).values

    def forward(self, x_BCTHW: Tensor, times_BT: Tensor) -> Judged:
        """Score real above generated.

        Args:
            x_BCTHW: Two frames of each clip, in [-1, 1], of `size_HW`.
            times_BT: When they are, in frames, ascending.

        Returns:
            Two scores, of the motion (B, 1) and of the frames (B, 2); and the activations of every block of
            both networks, x_BCHW of the motion, then x_BCTHW of the frames.

        Raises:
            PortError: Frames or times have another shape.
        """
        shape_CTHW = (self.in_channels, 2, *self.size_HW)
        check_timed_frames(x_BCTHW, times_BT, part=PART, shape_CTHW=shape_CTHW)
        pair_BCHW = rearrange(x_BCTHW, "B C T H W -> B (T C) H W")
        between_B = times_BT.diff(dim=1).to(pair_BCHW.dtype) / (self.clip_frames - 1)
        plane_B1HW = between_B[:, :, None, None].expand_as(pair_BCHW[:, :1])
        motion_B1, moving = self.motion(torch.cat([pair_BCHW, plane_B1HW], dim=1))
        frame_N1, still = self.frame(rearrange(x_BCTHW, "B C T H W -> (B T) C H W"))
        frames = [rearrange(x, "(B T) C H W -> B C T H W", T=2) for x in still]
        return Judged([motion_B1, rearrange(frame_N1, "(B T) 1 -> B T", T=2)], moving + frames)
