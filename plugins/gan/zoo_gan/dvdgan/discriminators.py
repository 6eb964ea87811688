"""The discriminators of DVD-GAN: of a few frames at full size, and of whole clips at half the size.

Shape legend: B clips, T frames of a clip, K frames that are judged, N = B K of all clips, C colour or
feature channels, H W pixels, t h w a feature grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import PortError, ZooError
from zoo.outputs import Judged, take_frames
from zoo_gan.checks import check_counts, check_input, check_natural
from zoo_gan.dvdgan.layers import Attention, DiscriminatorBlock, start
from zoo_gan.dvdgan.options import check_choice

_BLOCKS_IN_3D = 2
_MULTIPLIERS = (2, 4, 8, 16, 16)


class _Discriminator(nn.Module):
    """Residual blocks, self-attention after the second, and a projected score of each frame that is left."""

    consumes = "video"

    def __init__(
        self,
        part: str,
        *,
        in_channels: int,
        base_channels: int,
        channel_multipliers: Sequence[int],
        num_classes: int,
        reduction: str,
        spectral_norm: str,
        blocks_in_3d: int,
        halved: int,
    ) -> None:
        super().__init__()
        self._part = part
        check_natural(part, num_classes=num_classes)
        check_choice(part, "reduction", reduction, ("sum", "none"))
        check_choice(part, "spectral_norm", spectral_norm, ("all", "blocks"))
        check_counts(
            part,
            in_channels=in_channels,
            base_channels=base_channels,
            **{f"channel_multipliers[{n}]": width for n, width in enumerate(channel_multipliers)},
        )
        if len(channel_multipliers) < 2:
            raise ZooError(
                f"{part}: channel_multipliers is {list(channel_multipliers)}; give the widths of at least "
                "two blocks, such as [2, 4, 8]"
            )
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.conditions: tuple[str, ...] = ("label",) if num_classes else ()
        side = 1 << (len(channel_multipliers) + halved)
        self.min_size = (1 << blocks_in_3d, side, side)
        self._reduction = reduction
        self._blocks_in_3d = blocks_in_3d
        widths = [in_channels, *(base_channels * multiplier for multiplier in channel_multipliers)]
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(
                widths[number],
                widths[number + 1],
                num_axes=3 if number < blocks_in_3d else 2,
                first=number == 0,
            )
            for number in range(len(channel_multipliers))
        )
        self.attention = Attention(widths[2], spectral=spectral_norm == "all")
        self.linear = start(nn.Linear(widths[-1], 1))
        self.embed = start(nn.Embedding(num_classes, widths[-1])) if num_classes else None

    def _judge(self, x_BCTHW: Tensor, label_B: Tensor | None) -> Judged:
        """Score every frame that the blocks leave, whether they fold time or not."""
        x, features = x_BCTHW, []
        for number, block in enumerate(self.blocks):
            if number == self._blocks_in_3d:
                num_frames = x.shape[2]
                x = rearrange(x, "B C t h w -> (B t) C h w")
            x = block(x)
            if number == 1:
                x = self._attend(x)
            features.append(x if x.ndim == 5 else rearrange(x, "(B t) C h w -> B C t h w", t=num_frames))
        pooled_BtC = torch.relu(features[-1]).sum(dim=(3, 4)).transpose(1, 2)
        score_Bt = self.linear(pooled_BtC).squeeze(2)
        if self.embed is not None:
            if label_B is None:
                raise PortError(
                    f"{self._part} was built with num_classes={self.num_classes} and needs label_B, int64 in "
                    f"[0, {self.num_classes}), one a clip; build it with num_classes=0 for clips without"
                )
            score_Bt = score_Bt + (pooled_BtC * self.embed(label_B)[:, None]).sum(dim=2)
        return Judged([score_Bt.sum(dim=1, keepdim=True) if self._reduction == "sum" else score_Bt], features)

    def _attend(self, x: Tensor) -> Tensor:
        """Let the positions of each frame attend to each other."""
        if x.ndim == 4:
            mixed = self.attention(rearrange(x, "N C h w -> N C (h w)"))
            return rearrange(mixed, "N C (h w) -> N C h w", h=x.shape[2])
        mixed = self.attention(rearrange(x, "B C t h w -> (B t) C (h w)"))
        return rearrange(mixed, "(B t) C (h w) -> B C t h w", t=x.shape[2], h=x.shape[3])


class SpatialDiscriminator(_Discriminator):
    """Scores a few frames of a clip at full size, each by itself: what is seen, not how it moves.

    BigGAN's image discriminator: residual blocks that each halve the frame, self-attention after the
    second, sums over space, a linear score plus the projection on the class embedding. Every weight is
    spectrally normalised. The paper judges 8 uniformly drawn frames and takes the sum of their scores;
    widths and the halving in every block are those of the best-known port
    (https://github.com/Harrypotterrrr/DVD-GAN), which leaves the scores apart (``reduction: none``) and
    its attention without spectral norm (``spectral_norm: blocks``). `zoo_gan.dvdgan.weights` reads its
    weights.

    Source: DVD-GAN, https://arxiv.org/abs/1907.06571; projection, https://arxiv.org/abs/1802.05637

    Args:
        in_channels: Colour channels.
        base_channels: Factor of all widths.
        channel_multipliers: Width of each block, in `base_channels`; each halves height and width.
        num_classes: Kinds of clip; 0 is unconditional.
        num_frames_drawn: Frames of a clip to judge; all where a clip has fewer.
        reduction: "sum" for one score a clip, "none" for one a frame.
        spectral_norm: "all", or "blocks" for all but the attention.

    Raises:
        ZooError: An option is out of its range.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 32,
        channel_multipliers: Sequence[int] = _MULTIPLIERS,
        num_classes: int = 0,
        num_frames_drawn: int = 8,
        reduction: str = "sum",
        spectral_norm: str = "all",
    ) -> None:
        part = "discriminator 'dvd-spatial'"
        check_counts(part, num_frames_drawn=num_frames_drawn)
        super().__init__(
            part,
            in_channels=in_channels,
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_classes=num_classes,
            reduction=reduction,
            spectral_norm=spectral_norm,
            blocks_in_3d=0,
            halved=0,
        )
        self._num_frames_drawn = num_frames_drawn

    def draw_frames(self, num: int, num_frames: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw which frames of each clip to judge, uniformly and without repetition.

        Returns:
            int64 (num, K), ascending; K is `num_frames_drawn`, or all frames where there are fewer.
        """
        device = "cpu" if generator is None else generator.device
        order = torch.rand(num, num_frames, generator=generator, device=device).argsort(dim=1)
        return order[:, : self._num_frames_drawn].sort(dim=1).values

    def forward(self, x: Tensor, label_B: Tensor | None = None) -> Judged:
        """Score real above generated.

        Args:
            x: x_BCKHW in [-1, 1], the frames that `draw_frames` chose.
            label_B: int64 class of each clip, if there are classes.

        Returns:
            Unbounded scores (B, 1), or (B, K) with ``reduction: none``; the output of each block, (B, C,
            K, h, w).

        Raises:
            PortError: `x` has other axes or channels or is smaller than `min_size`, or the labels are
                missing.
        """
        check_input(x, part=self._part, in_channels=self.in_channels, min_size=self.min_size, axes="BCTHW")
        return self._judge(x, label_B)


class TemporalDiscriminator(_Discriminator):
    """Scores a whole clip at half the height and width: how it moves.

    Frames are averaged over 2x2 pixels. The first two residual blocks are in 3D, with kernels 3x3x3, and
    halve time too; the others are those of `dvd-spatial`, a frame at a time, as are attention, score and
    options. So there is a score for every four frames, and the clip's is their sum.

    Source: DVD-GAN, https://arxiv.org/abs/1907.06571

    Args:
        in_channels: Colour channels.
        base_channels: Factor of all widths.
        channel_multipliers: Width of each block, in `base_channels`; each halves height and width.
        num_classes: Kinds of clip; 0 is unconditional.
        reduction: "sum" for one score a clip, "none" for one for every four frames.
        spectral_norm: "all", or "blocks" for all but the attention.

    Raises:
        ZooError: An option is out of its range.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 32,
        channel_multipliers: Sequence[int] = _MULTIPLIERS,
        num_classes: int = 0,
        reduction: str = "sum",
        spectral_norm: str = "all",
    ) -> None:
        super().__init__(
            "discriminator 'dvd-temporal'",
            in_channels=in_channels,
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_classes=num_classes,
            reduction=reduction,
            spectral_norm=spectral_norm,
            blocks_in_3d=_BLOCKS_IN_3D,
            halved=1,
        )

    def forward(self, x: Tensor, label_B: Tensor | None = None) -> Judged:
        """Score real above generated.

        Args:
            x: x_BCTHW in [-1, 1], no side shorter than `min_size`.
            label_B: int64 class of each clip, if there are classes.

        Returns:
            Unbounded scores (B, 1), or (B, t) with ``reduction: none``; the output of each block, (B, C,
            t, h, w).

        Raises:
            PortError: `x` has other axes or channels or is smaller than `min_size`, or the labels are
                missing.
        """
        check_input(x, part=self._part, in_channels=self.in_channels, min_size=self.min_size, axes="BCTHW")
        return self._judge(F.avg_pool3d(x, (1, 2, 2)), label_B)


class DualDiscriminator(nn.Module):
    """Holds `dvd-spatial` and `dvd-temporal` in one part with two scores.

    A recipe that lists the two parts does the same and can weigh them; there the training loop draws the
    frames. Here the frames of the spatial one are drawn inside, from torch's global generator in train
    mode, and are evenly spaced in eval mode, where nothing is random.

    Source: DVD-GAN, https://arxiv.org/abs/1907.06571

    Args:
        in_channels: Colour channels.
        base_channels: Factor of all widths.
        channel_multipliers: Width of each block, in `base_channels`; each halves height and width.
        num_classes: Kinds of clip; 0 is unconditional.
        num_frames_drawn: Frames of a clip that the spatial one judges.
        reduction: "sum" for one score a clip and discriminator, "none" for those of single frames.
        spectral_norm: "all", or "blocks" for all but the attention.

    Raises:
        ZooError: An option is out of its range.
    """

    consumes = "video"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        base_channels: int = 32,
        channel_multipliers: Sequence[int] = _MULTIPLIERS,
        num_classes: int = 0,
        num_frames_drawn: int = 8,
        reduction: str = "sum",
        spectral_norm: str = "all",
    ) -> None:
        super().__init__()
        self.spatial = SpatialDiscriminator(
            in_channels=in_channels,
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_classes=num_classes,
            num_frames_drawn=num_frames_drawn,
            reduction=reduction,
            spectral_norm=spectral_norm,
        )
        self.temporal = TemporalDiscriminator(
            in_channels=in_channels,
            base_channels=base_channels,
            channel_multipliers=channel_multipliers,
            num_classes=num_classes,
            reduction=reduction,
            spectral_norm=spectral_norm,
        )
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.conditions = self.spatial.conditions
        self.min_size = self.temporal.min_size
        self._num_frames_drawn = num_frames_drawn

    def forward(self, x: Tensor, label_B: Tensor | None = None) -> Judged:
        """Score real above generated.

        Args:
            x: x_BCTHW in [-1, 1], no side shorter than `min_size`.
            label_B: int64 class of each clip, if there are classes.

        Returns:
            Unbounded scores of the spatial and of the temporal discriminator; features of both, in this
            order.

        Raises:
            PortError: `x` has other axes or channels or is smaller than `min_size`, or the labels are
                missing.
        """
        check_input(
            x,
            part="discriminator 'dvd'",
            in_channels=self.in_channels,
            min_size=self.min_size,
            axes="BCTHW",
        )
        some = take_frames(x, self._frames(len(x), x.shape[2], x.device))
        still, moving = self.spatial(some, label_B), self.temporal(x, label_B)
        return Judged(still.logits + moving.logits, still.features + moving.features)

    def _frames(self, num: int, num_frames: int, device: torch.device) -> Tensor:
        if self.training and num_frames > self._num_frames_drawn:
            return self.spatial.draw_frames(num, num_frames).to(device)
        num_drawn = min(self._num_frames_drawn, num_frames)
        even = torch.linspace(0, num_frames - 1, num_drawn, device=device).round().long()
        return even.expand(num, -1)
