"""The discriminator `timm-projected`: frames judged in fixed random mixtures of a backbone's features.

Shape legend: B batch, C colour channels, H W pixels; D feature channels, h w the feature grid of a stage; E
channels by which a label is judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from zoo.checks import is_power_of_two
from zoo.errors import PortError, ZooError
from zoo.outputs import Judged
from zoo_timm.backbone import Backbone
from zoo_timm.discriminator import without_fused_attention

PART = "discriminator 'timm-projected'"
_LABEL_CHANNELS = 64
_LABEL_EMBEDDING = 128
_SCORE_SIZE = 4


class RandomMixing(nn.Module):
    """Mix features across channels and scales by random weights that never learn.

    As in the public code of Projected GAN: a 1x1 convolution for each stage (cross-channel mixing, CCM);
    then, deep to shallow, the sum of the stage and what came from below is enlarged to the next grid and goes
    through another 1x1 convolution (cross-scale mixing, CSM). The paper describes 3x3 convolutions there; the
    code that made its numbers has 1x1, and so has this. Weights start as torch's convolutions do.

    Args:
        channels: Feature channels of each stage, shallow first.
        width: Channels after mixing of the two shallowest stages; each further stage has twice as many.

    Attributes:
        channels: Channels of each mixed stage.
    """

    def __init__(self, channels: Sequence[int], *, width: int) -> None:
        super().__init__()
        mixed = [width << level for level in range(len(channels))]
        self.channels = [width, *mixed[:-1]]
        self.across_channels = nn.ModuleList(
            nn.Conv2d(width_in, width_out, 1) for width_in, width_out in zip(channels, mixed, strict=True)
        )
        self.across_scales = nn.ModuleList(
            nn.Conv2d(width_in, width_out, 1)
            for width_in, width_out in zip(mixed, self.channels, strict=True)
        )
        self.requires_grad_(False)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Return [f_BDhw], shallow first, each on the grid of the stage before it, the first on twice its
        own.

        The mixed stage that is enlarged last has seen all others.
        """
        own = [mix(f_BDhw) for mix, f_BDhw in zip(self.across_channels, features, strict=True)]
        sizes = [tuple(2 * side for side in own[0].shape[-2:]), *(tuple(f.shape[-2:]) for f in own[:-1])]
        mixed: list[Tensor] = []
        for f_BDhw, size, mix in zip(own[::-1], sizes[::-1], reversed(self.across_scales), strict=True):
            total = f_BDhw + mixed[-1] if mixed else f_BDhw
            mixed.append(mix(F.interpolate(total, size, mode="bilinear", align_corners=True)))
        return mixed[::-1]


class Head(nn.Module):
    """Score the patches of one mixed stage: halvings of the grid, then a 4x4 convolution.

    Args:
        width_in: Channels of the stage.
        num_halvings: How often the grid is halved.
        width: Channels at the end; half as many before each of the last three halvings, and again from the
            fifth on.
        downsample: ``strided`` or ``separable``, see `ProjectedDiscriminator`.
        num_classes: Labels; 0 for none.
    """

    def __init__(
        self, width_in: int, *, num_halvings: int, width: int, downsample: str, num_classes: int
    ) -> None:
        super().__init__()
        widths = [max(1, width // divisor) for divisor in (1, 2, 4, 8, 8, 16, 32, 64)]
        halve = _strided if downsample == "strided" else _separable
        self.main = nn.Sequential(
            *(halve(a, b) for a, b in pairwise([width_in, *reversed(widths[:num_halvings])]))
        )
        inner = width if num_halvings else width_in
        channels = _LABEL_CHANNELS if num_classes else 1
        self.score = spectral_norm(nn.Conv2d(inner, channels, _SCORE_SIZE, bias=False))
        self.embed: nn.Module | None = None
        if num_classes:
            self.embed = nn.Sequential(
                nn.Embedding(num_classes, _LABEL_EMBEDDING),
                nn.Linear(_LABEL_EMBEDDING, _LABEL_CHANNELS),
                nn.LeakyReLU(0.2),
            )

    def forward(self, f_BDhw: Tensor, label_B: Tensor | None) -> Tensor:
        """Return scores l_B1hw."""
        score_BEhw: Tensor = self.score(self.main(f_BDhw))
        if self.embed is None:
            return score_BEhw
        v_BE11 = self.embed(label_B)[..., None, None]
        return (score_BEhw * v_BE11).sum(1, keepdim=True) * _LABEL_CHANNELS**-0.5


class ProjectedDiscriminator(nn.Module):
    """Judges frames as Projected GAN does: a frozen network, fixed random mixing, one small head a stage.

    The network's features are mixed across channels and scales by random weights that are drawn once, kept in
    the state dict and never trained (see `RandomMixing`), so that no head can look away from most of them;
    only the spectrally normalised heads learn. The defaults are the published discriminator, whose backbone
    is ``tf_efficientnet_lite0``: set `pretrained` for its published weights, which its results rest on. They
    are downloaded then, and never otherwise; without them the backbone is a random projection too.

    Published with hinge loss, without gradient penalties, and with DiffAugment, which is the training loop's
    affair here. Heads have batch norm: in training a frame's score depends on the batch.

    Source: Projected GAN, https://arxiv.org/abs/2111.01007

    Args:
        backbone: A name of `timm.list_models()`; the tag after a dot names one of several weights.
        stages: Indices of the features used, in rising order; one head and one map of scores each.
        mixing_width: Channels of the shallowest mixed stages.
        width: Widest channels of a head.
        downsample: How heads halve a grid: ``strided``, 4x4 convolutions, as published with FastGAN's
            generator; or ``separable``, depthwise 3x3 and 1x1 convolutions and a mean, as with StyleGAN2's.
        resize: Frames with a side shorter than this are enlarged until their shorter side has it; 0 takes
            all as they are. Published: 224 pixels.
        in_channels: Colour channels of a frame.
        num_classes: Labels; 0 for none.
        pretrained: Start from weights published for timm, which are downloaded from the Hugging Face Hub.

    Raises:
        ZooError: An option outside its range; the message says what the backbone offers.
    """

    consumes = "image"
    mixes_batch = True

    def __init__(
        self,
        *,
        backbone: str = "tf_efficientnet_lite0",
        stages: list[int] = [1, 2, 3, 4],  # noqa: B006 - read, never changed
        mixing_width: int = 64,
        width: int = 512,
        downsample: str = "strided",
        resize: int = 224,
        in_channels: int = 3,
        num_classes: int = 0,
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        _check_options(
            {"mixing_width": mixing_width, "width": width, "in_channels": in_channels},
            {"resize": resize, "num_classes": num_classes},
            downsample,
        )
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.conditions: tuple[str, ...] = ("label",) if num_classes else ()
        self.resize = resize
        self.backbone = Backbone(name=backbone, stages=stages, in_channels=in_channels, pretrained=pretrained)
        self.backbone.apply(without_fused_attention)
        self.backbone.requires_grad_(False).eval()
        self.mixing = RandomMixing(self.backbone.channels, width=mixing_width)

        reductions = self.backbone.reductions
        deepest = reductions[-1]
        grids = [reductions[0] / 2, *reductions[:-1]]
        if not all(is_power_of_two(int(deepest / grid)) for grid in grids):
            raise ZooError(
                f"{PART}: stages {stages} of {backbone!r} have reductions {reductions}; choose stages whose "
                "reductions are powers of two of each other"
            )
        self.heads = nn.ModuleList(
            Head(
                channels,
                num_halvings=int(deepest / grid).bit_length() - 1,
                width=width,
                downsample=downsample,
                num_classes=num_classes,
            )
            for channels, grid in zip(self.mixing.channels, grids, strict=True)
        )
        # The 4x4 score needs a frame of that many of the deepest stage's steps.
        self._least = _SCORE_SIZE * deepest
        if 0 < resize < self._least:
            raise ZooError(
                f"{PART}: resize is {resize}; stages {stages} of {backbone!r} judge frames of {self._least} "
                f"pixels or more, so give {self._least}, or 0 to resize none"
            )
        side = 1 if resize else self._least
        self.min_size = (1, side, side)

    def train(self, mode: bool = True) -> ProjectedDiscriminator:
        """Set the mode of the heads; the backbone stays in evaluation."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x_BCHW: Tensor, label_B: Tensor | None = None) -> Judged:
        """Score real above generated.

        Args:
            x_BCHW: Frames in [-1, 1].
            label_B: int64 in [0, num_classes), where there are labels.

        Returns:
            Unbounded scores [l_B1hw] and mixed features [f_BDhw], one entry a stage, shallow first.

        Raises:
            PortError: The frame's channels or size do not fit, or a label is missing.
        """
        channels, height, width = x_BCHW.shape[1:]
        if channels != self.in_channels:
            raise PortError(f"{PART} has in_channels={self.in_channels}; the frame has {channels}")
        if min(height, width) < self.min_size[1]:
            raise PortError(
                f"{PART} with stages {self.backbone.stages} of {self.backbone.name!r} judges frames of "
                f"{self._least}x{self._least} or more; got {height}x{width}. Give resize={self._least} or "
                "more, or leave the deepest stages out"
            )
        if self.num_classes and label_B is None:
            raise PortError(f"{PART} has num_classes={self.num_classes}; give it label_B with the frames")
        features = self.mixing(self.backbone(self._enlarged(x_BCHW)))
        logits = [head(f_BDhw, label_B) for head, f_BDhw in zip(self.heads, features, strict=True)]
        return Judged(logits, features)

    def _enlarged(self, x_BCHW: Tensor) -> Tensor:
        height, width = x_BCHW.shape[-2:]
        short = min(height, width)
        if short >= self.resize:
            return x_BCHW
        size = (round(height * self.resize / short), round(width * self.resize / short))
        return F.interpolate(x_BCHW, size, mode="bilinear", align_corners=False)


def _strided(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(width_in, width_out, 4, stride=2, padding=1)),
        nn.BatchNorm2d(width_out),
        nn.LeakyReLU(0.2),
    )


def _separable(width_in: int, width_out: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(width_in, width_in, 3, padding=1, groups=width_in, bias=False)),
        spectral_norm(nn.Conv2d(width_in, width_out, 1, bias=False)),
        nn.BatchNorm2d(width_out),
        nn.LeakyReLU(0.2),
        nn.AvgPool2d(2),
    )


def _check_options(counts: dict[str, int], naturals: dict[str, int], downsample: str) -> None:
    for least, options in ((1, counts), (0, naturals)):
        for option, value in options.items():
            if not isinstance(value, int) or value < least:
                raise ZooError(f"{PART}: {option} is {value!r}; it must be {least} or more")
    if downsample not in ("strided", "separable"):
        raise ZooError(f"{PART}: downsample is {downsample!r}; give 'strided' or 'separable'")
