"""The discriminators of MoCoGAN: of single frames and of clips, each for wholes or for patches.

The authors train with one image and one video discriminator at a time; their script's defaults, and
the command they published, are the patch image discriminator and the whole-clip video discriminator:
here `mocogan-patch-image` and `mocogan-video`. Their video discriminator may name the kind of clip
beside its score (`num_categories`), for the objective's `categories` term.

State-dict names are those of the authors' code (``main.{n}.*``). Weights start as torch's layers
start, as published. Batch norm pools over the batch in train mode; score real and generated clips in
batches of their own.

Shape legend: B batch, C colour channels, T H W frames and pixels, N categories.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.outputs import Judged
from zoo_gan.checks import check_counts, check_input, check_natural, num_halvings

# Each halves height and width; the 3D one also eats 3 frames.
_halve_2d = partial(nn.Conv2d, kernel_size=4, stride=2, padding=1, bias=False)
_halve_3d = partial(nn.Conv3d, kernel_size=4, stride=(1, 2, 2), padding=(0, 1, 1), bias=False)
# Each turns 4 pixels of height and width into one; the 3D one also 4 frames.
_whole_2d = partial(nn.Conv2d, kernel_size=4, bias=False)
_whole_3d = partial(nn.Conv3d, kernel_size=4, bias=False)

_PATCH_STAGES = 3


class InputNoise(nn.Module):
    """Adds normal noise of standard deviation `sigma` in train mode; hands eval inputs through."""

    def __init__(self, *, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor) -> Tensor:
        """Return `x`, noisy in train mode; `x` itself stays as it was."""
        if self.training and self.sigma > 0:
            return x + self.sigma * torch.randn_like(x)
        return x

    def extra_repr(self) -> str:
        return f"sigma={self.sigma}"


def _trunk(
    halve: Callable[[int, int], nn.Module],
    norm: Callable[[int], nn.Module],
    *,
    in_channels: int,
    widths: list[int],
    sigma: float,
) -> list[nn.Module]:
    """Layers that halve the frame once for each of `widths`; the first stage has no norm."""
    layers: list[nn.Module] = []
    for stage, (width_in, width_out) in enumerate(pairwise([in_channels, *widths])):
        layers += [InputNoise(sigma=sigma), halve(width_in, width_out)]
        if stage:
            layers.append(norm(width_out))
        layers.append(nn.LeakyReLU(0.2))
    return layers


class _Discriminator(nn.Module):
    """Runs `main`, keeps what leaves every activation, and returns the raw scores."""

    def __init__(
        self,
        *,
        part: str,
        axes: str,
        in_channels: int,
        min_size: tuple[int, int, int],
        layers: list[nn.Module],
        num_categories: int = 0,
    ) -> None:
        super().__init__()
        self._part = f"discriminator {part!r}"
        self._axes = axes
        self.in_channels = in_channels
        self.min_size = min_size
        self.num_categories = num_categories
        self.main = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Judged:
        """Score real above generated.

        Args:
            x: x_BCHW of an image discriminator, x_BCTHW of a video discriminator, in [-1, 1], no side
                shorter than `min_size`.

        Returns:
            One map of unbounded scores, (B, 1, h, w) or (B, 1, t, h, w), and one feature a stage.

        Raises:
            PortError: `x` has other axes or channels, or is smaller than `min_size`.
        """
        check_input(x, part=self._part, in_channels=self.in_channels, min_size=self.min_size, axes=self._axes)
        features = []
        for layer in self.main:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                features.append(x)
        return Judged([x[:, :1] if self.num_categories else x], features)

    def classify(self, features: list[Tensor]) -> Tensor:
        """Return logits_BN of the kind of clip, means over the map, from what `forward` gave as features."""
        logits: Tensor = self.main[-1](features[-1])[:, 1:].flatten(2).mean(2)
        return logits


def _check(part: str, *, in_channels: int, base_channels: int, noise_sigma: float) -> None:
    check_counts(f"discriminator {part!r}", in_channels=in_channels, base_channels=base_channels)
    if not noise_sigma >= 0:
        raise ZooError(f"discriminator {part!r}: noise_sigma is {noise_sigma!r}; give 0 (none) or more")


class ImageDiscriminator(_Discriminator):
    """Scores a whole frame by a DCGAN discriminator.

    The published network at ``image_size=64``; other sizes have a stage more or less for each power
    of two. A larger frame than `image_size` gets a map of scores.

    Source: MoCoGAN, https://arxiv.org/abs/1707.04993

    Args:
        in_channels: Colour channels.
        image_size: Height and width in pixels that make one score, a power of two of at least 16.
        base_channels: Channels of the first stage; each further stage has twice as many.
        noise_sigma: Standard deviation of the noise added before every stage in train mode; the
            authors' default is 0, their published command has 0.1.

    Raises:
        ZooError: An option is out of its range.
    """

    consumes = "image"
    mixes_batch = True

    def __init__(
        self, *, in_channels: int = 3, image_size: int = 64, base_channels: int = 64, noise_sigma: float = 0.0
    ) -> None:
        part = "mocogan-image"
        _check(part, in_channels=in_channels, base_channels=base_channels, noise_sigma=noise_sigma)
        num_stages = num_halvings(f"discriminator {part!r}", image_size=image_size)
        widths = [base_channels << stage for stage in range(num_stages)]
        layers = _trunk(_halve_2d, nn.BatchNorm2d, in_channels=in_channels, widths=widths, sigma=noise_sigma)
        super().__init__(
            part=part,
            axes="BCHW",
            in_channels=in_channels,
            min_size=(1, image_size, image_size),
            layers=[*layers, _whole_2d(widths[-1], 1)],
        )


class PatchImageDiscriminator(_Discriminator):
    """Scores the patches of a frame, 46 pixels wide and 16 apart.

    The published network, the image discriminator that MoCoGAN's training script takes by default.

    Source: MoCoGAN, https://arxiv.org/abs/1707.04993

    Args:
        in_channels: Colour channels.
        base_channels: Channels of the first stage; the next two have 2 and 4 times as many.
        noise_sigma: Standard deviation of the noise added before every stage and before the scores
            in train mode; the authors' default is 0, their published command has 0.1.

    Raises:
        ZooError: An option is out of its range.
    """

    consumes = "image"
    mixes_batch = True

    def __init__(self, *, in_channels: int = 3, base_channels: int = 64, noise_sigma: float = 0.0) -> None:
        part = "mocogan-patch-image"
        _check(part, in_channels=in_channels, base_channels=base_channels, noise_sigma=noise_sigma)
        widths = [base_channels << stage for stage in range(_PATCH_STAGES)]
        layers = _trunk(_halve_2d, nn.BatchNorm2d, in_channels=in_channels, widths=widths, sigma=noise_sigma)
        side = 2 ** (_PATCH_STAGES + 1)
        super().__init__(
            part=part,
            axes="BCHW",
            in_channels=in_channels,
            min_size=(1, side, side),
            layers=[*layers, InputNoise(sigma=noise_sigma), _halve_2d(widths[-1], 1)],
        )


class VideoDiscriminator(_Discriminator):
    """Scores 16 frames as a whole by 3D convolutions.

    The published network at ``image_size=64``; other sizes have a stage more or less for each power of
    two, and each stage takes 3 frames. A longer or larger clip gets a map of scores.

    Source: MoCoGAN, https://arxiv.org/abs/1707.04993

    Args:
        in_channels: Colour channels.
        image_size: Height and width in pixels that make one score, a power of two of at least 16.
            The frames that make one are 16 at 64 pixels, 13 at 32 and 10 at 16.
        base_channels: Channels of the first stage; each further stage has twice as many.
        noise_sigma: Standard deviation of the noise added before every stage in train mode; the
            authors' default is 0, their published command has 0.1.
        num_categories: Kinds of clip that it tells apart (`classify`), for the objective's `categories`
            term; 0 for none. The authors' command has 4.

    Raises:
        ZooError: An option is out of its range.
    """

    consumes = "video"
    mixes_batch = True

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: int = 64,
        base_channels: int = 64,
        noise_sigma: float = 0.0,
        num_categories: int = 0,
    ) -> None:
        part = "mocogan-video"
        _check(part, in_channels=in_channels, base_channels=base_channels, noise_sigma=noise_sigma)
        check_natural(f"discriminator {part!r}", num_categories=num_categories)
        num_stages = num_halvings(f"discriminator {part!r}", image_size=image_size)
        widths = [base_channels << stage for stage in range(num_stages)]
        layers = _trunk(_halve_3d, nn.BatchNorm3d, in_channels=in_channels, widths=widths, sigma=noise_sigma)
        super().__init__(
            part=part,
            axes="BCTHW",
            in_channels=in_channels,
            min_size=(3 * num_stages + 4, image_size, image_size),
            layers=[*layers, _whole_3d(widths[-1], 1 + num_categories)],
            num_categories=num_categories,
        )


class PatchVideoDiscriminator(_Discriminator):
    """Scores patches of a clip, 13 frames long and 46 pixels wide, 1 frame and 16 pixels apart.

    The published network.

    Source: MoCoGAN, https://arxiv.org/abs/1707.04993

    Args:
        in_channels: Colour channels.
        base_channels: Channels of the first stage; the next two have 2 and 4 times as many.
        noise_sigma: Standard deviation of the noise added before every stage in train mode; the
            authors' default is 0, their published command has 0.1.

    Raises:
        ZooError: An option is out of its range.
    """

    consumes = "video"
    mixes_batch = True

    def __init__(self, *, in_channels: int = 3, base_channels: int = 64, noise_sigma: float = 0.0) -> None:
        part = "mocogan-patch-video"
        _check(part, in_channels=in_channels, base_channels=base_channels, noise_sigma=noise_sigma)
        widths = [base_channels << stage for stage in range(_PATCH_STAGES)]
        layers = _trunk(_halve_3d, nn.BatchNorm3d, in_channels=in_channels, widths=widths, sigma=noise_sigma)
        side = 2 ** (_PATCH_STAGES + 1)
        super().__init__(
            part=part,
            axes="BCTHW",
            in_channels=in_channels,
            min_size=(3 * (_PATCH_STAGES + 1) + 1, side, side),
            layers=[*layers, _halve_3d(widths[-1], 1)],
        )
