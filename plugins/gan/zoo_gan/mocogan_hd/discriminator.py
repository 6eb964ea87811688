"""The patch discriminators of MoCoGAN-HD: of whole clips, and of pairs of frames.

Both look at a frame beside the clip's first one, so that what should stay the same can be compared, and judge
patches at several scales. State-dict names are those of the public ``netD`` (``scale{i}_layer{j}.*``, the
finest scale has the highest number).

Left to the caller, as in the public code: reversing clips in time by chance while training.

Shape legend: B batch, C colour channels, T H W frames and pixels, K = 2 frames of a pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.outputs import Judged
from zoo_gan.checks import check_counts, check_input

_NUM_STAGES = 3
_MAX_CHANNELS = 512
_NORMS: dict[str, tuple[type[nn.Module], type[nn.Module]]] = {
    "instance": (nn.InstanceNorm2d, nn.InstanceNorm3d),
    "batch": (nn.BatchNorm2d, nn.BatchNorm3d),
}


class _MultiScale(nn.Module):
    """Patch discriminators of one layout, each on the input of the one before pooled by two."""

    def __init__(
        self,
        *,
        part: str,
        num_axes: int,
        in_channels: int,
        base_channels: int,
        num_scales: int,
        norm: str,
        pool_stride: Sequence[int],
    ) -> None:
        super().__init__()
        check_counts(part, in_channels=in_channels, base_channels=base_channels, num_scales=num_scales)
        if norm not in _NORMS:
            raise ZooError(f"{part}: norm is {norm!r}; give one of {', '.join(map(repr, _NORMS))}")
        self.num_scales = num_scales
        self.pool_stride = list(pool_stride)
        conv = (nn.Conv2d, nn.Conv3d)[num_axes - 2]
        widths = [min(base_channels << stage, _MAX_CHANNELS) for stage in range(_NUM_STAGES + 1)]
        for scale in range(num_scales):
            for stage, (width_in, width_out) in enumerate(pairwise([in_channels, *widths, 1])):
                stride = 2 if stage < _NUM_STAGES else 1
                layers: list[nn.Module] = [conv(width_in, width_out, 4, stride=stride, padding=2)]
                if 0 < stage <= _NUM_STAGES:
                    layers.append(_make_norm(_NORMS[norm][num_axes - 2], width_out))
                if stage <= _NUM_STAGES:
                    layers.append(nn.LeakyReLU(0.2))
                self.add_module(f"scale{scale}_layer{stage}", nn.Sequential(*layers))
        self.apply(_init)

    def forward(self, x: Tensor) -> Judged:
        """Return a map of scores for each scale, finest first, and the output of every stage before."""
        pool = F.avg_pool2d if x.ndim == 4 else F.avg_pool3d
        logits, features = [], []
        for scale in reversed(range(self.num_scales)):
            outputs = [x]
            for stage in range(_NUM_STAGES + 2):
                outputs.append(self.get_submodule(f"scale{scale}_layer{stage}")(outputs[-1]))
            logits.append(outputs[-1])
            features += outputs[1:-1]
            if scale:
                x = pool(x, 3, stride=self.pool_stride, padding=1, count_include_pad=False)
        return Judged(logits, features)


def _make_norm(cls: type[nn.Module], width: int) -> nn.Module:
    if issubclass(cls, (nn.InstanceNorm2d, nn.InstanceNorm3d)):
        return cls(width, affine=False, track_running_stats=True)
    return cls(width)


def _init(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
        nn.init.normal_(module.weight, 1.0, 0.02)


def _smallest_side(part: str, pool: int, num_scales: int) -> int:
    """Return the smallest side of a frame: an instance norm needs two pixels at the coarsest scale."""
    check_counts(part, pool=pool, num_scales=num_scales)
    return pool * (2 ** (num_scales - 1) + 1)


def _pool_frames(x_BCTHW: Tensor, pool: int) -> Tensor:
    return F.avg_pool3d(x_BCTHW, (1, pool, pool)) if pool > 1 else x_BCTHW


class VideoDiscriminator(nn.Module):
    """Scores patches of a clip by 3D convolutions at several scales, every frame beside the first.

    The published network at its defaults: kernels 4x4x4, three stages that halve time, height and width and
    one that does not; at the coarser scale height and width are pooled by two. In train mode instance norms
    use each clip's own statistics; in eval mode they use averages that training kept.

    Source: MoCoGAN-HD, https://arxiv.org/abs/2104.15069

    Args:
        in_channels: Colour channels.
        base_channels: Channels of the first stage; each further one has twice as many, up to 512.
        num_scales: How many scales are judged.
        view: "pairs": each frame after the first, beside the first (published for clips from the image
            generator's own domain). "frames": the clip as it is (published for another domain).
        time_stride: 1, or 2 to pool time too between scales, as published for clips longer than 16 frames.
        norm: "instance" (published default) or "batch".
        pool: Frames are averaged over squares of that side before they are judged. Published training judges
            at 128x128 whatever the generator's size: 2 for frames of 256x256.

    Raises:
        ZooError: An option is out of its range.
    """

    consumes = "video"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 64,
        num_scales: int = 2,
        view: str = "pairs",
        time_stride: int = 1,
        norm: str = "instance",
        pool: int = 1,
    ) -> None:
        super().__init__()
        self._part = "discriminator 'mocogan-hd-video'"
        if view not in ("pairs", "frames"):
            raise ZooError(f"{self._part}: view is {view!r}; give 'pairs' or 'frames'")
        if time_stride not in (1, 2):
            raise ZooError(f"{self._part}: time_stride is {time_stride!r}; give 1 or 2")
        side = _smallest_side(self._part, pool, num_scales)
        self.in_channels = in_channels
        self.view = view
        self.pool = pool
        # Torch pools time only where it has at least the three frames of a window.
        least = 1 if num_scales == 1 else 3 if time_stride == 1 else 2 ** (num_scales - 1) + 1
        self.min_size = (least + (view == "pairs"), side, side)
        self.mixes_batch = norm == "batch"
        self.netD = _MultiScale(
            part=self._part,
            num_axes=3,
            in_channels=in_channels * (2 if view == "pairs" else 1),
            base_channels=base_channels,
            num_scales=num_scales,
            norm=norm,
            pool_stride=(time_stride, 2, 2),
        )

    def forward(self, x: Tensor) -> Judged:
        """Score real above generated.

        Args:
            x: x_BCTHW in [-1, 1], no side shorter than `min_size`.

        Returns:
            A map of unbounded scores (B, 1, t, h, w) for each scale, and the output of every stage before.

        Raises:
            PortError: `x` has other axes or channels, or is smaller than `min_size`.
        """
        check_input(x, part=self._part, in_channels=self.in_channels, min_size=self.min_size, axes="BCTHW")
        x = _pool_frames(x, self.pool)
        if self.view == "pairs":
            x = torch.cat([x[:, :, :1].expand_as(x[:, :, 1:]), x[:, :, 1:]], dim=1)
        judged: Judged = self.netD(x)
        return judged


class PairDiscriminator(nn.Module):
    """Scores patches of a frame beside the first frame of its clip, by 2D convolutions at several scales.

    The published image discriminator for clips from the image generator's own domain. It sees two frames of
    each clip: the first, and one of the others by chance.

    Source: MoCoGAN-HD, https://arxiv.org/abs/2104.15069

    Args:
        in_channels: Colour channels.
        base_channels: Channels of the first stage; each further one has twice as many, up to 512.
        num_scales: How many scales are judged.
        norm: "instance" (published default) or "batch".
        pool: Frames are averaged over squares of that side before they are judged; as published, 2 for frames
            of 256x256.

    Raises:
        ZooError: An option is out of its range.
    """

    consumes = "video"
    num_frames = 2

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 64,
        num_scales: int = 2,
        norm: str = "instance",
        pool: int = 1,
    ) -> None:
        super().__init__()
        self._part = "discriminator 'mocogan-hd-pair'"
        side = _smallest_side(self._part, pool, num_scales)
        self.in_channels = in_channels
        self.pool = pool
        self.min_size = (2, side, side)
        self.mixes_batch = norm == "batch"
        self.netD = _MultiScale(
            part=self._part,
            num_axes=2,
            in_channels=2 * in_channels,
            base_channels=base_channels,
            num_scales=num_scales,
            norm=norm,
            pool_stride=(2, 2),
        )

    def draw_frames(self, num: int, num_frames: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw which frames it sees of `num` clips: int64 frames_BK, the first one and any other.

        Raises:
            ZooError: A clip has fewer than two frames.
        """
        if num_frames < 2:
            raise ZooError(f"{self._part} compares two frames; clips of {num_frames} have too few")
        device = "cpu" if generator is None else generator.device
        other_B1 = torch.randint(1, num_frames, (num, 1), generator=generator, device=device)
        return torch.cat([torch.zeros_like(other_B1), other_B1], dim=1)

    def forward(self, x: Tensor) -> Judged:
        """Score real above generated.

        Args:
            x: x_BCKHW in [-1, 1]: the first frame and another one; no side shorter than `min_size`.

        Returns:
            A map of unbounded scores (B, 1, h, w) for each scale, and the output of every stage before.

        Raises:
            PortError: `x` has other axes or channels, or is smaller than `min_size`.
            ZooError: There are not two frames.
        """
        check_input(x, part=self._part, in_channels=self.in_channels, min_size=self.min_size, axes="BCTHW")
        if x.shape[2] != self.num_frames:
            raise ZooError(
                f"{self._part} compares two frames and was given {x.shape[2]}; choose them by draw_frames"
            )
        judged: Judged = self.netD(rearrange(_pool_frames(x, self.pool), "B C K H W -> B (K C) H W"))
        return judged
