"""The cross-domain image discriminator of MoCoGAN-HD: that of BigGAN, with a head for a contrastive loss.

State-dict names are those of the public ``modelD`` but for what its spectral norms are called (see
`zoo_gan.mocogan_hd.weights`).

Shape legend: B batch, C colour channels, H W pixels, P numbers of a projection.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from zoo.errors import ZooError
from zoo.outputs import Judged
from zoo_gan.checks import check_counts, check_input

# Side of a frame -> widths of the blocks, in base channels, and how many of the first of them halve it.
_LAYOUTS = {
    32: ([4, 4, 4, 4], 2),
    64: ([1, 2, 4, 8, 16], 4),
    128: ([1, 2, 4, 8, 16, 16], 5),
    256: ([1, 2, 4, 8, 8, 16, 16], 6),
}


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a 1x1 one, all of spectral norm 1; it may halve height and width."""

    def __init__(self, width_in: int, width_out: int, *, is_first: bool, halves: bool) -> None:
        super().__init__()
        self.is_first = is_first
        self.halves = halves
        self.conv1 = _normed(nn.Conv2d(width_in, width_out, 3, padding=1))
        self.conv2 = _normed(nn.Conv2d(width_out, width_out, 3, padding=1))
        self.conv_sc = _normed(nn.Conv2d(width_in, width_out, 1)) if halves or width_in != width_out else None

    def forward(self, x: Tensor) -> Tensor:
        """Return x_BCHW."""
        h = self.conv2(F.relu(self.conv1(x if self.is_first else F.relu(x))))
        if self.halves:
            h = F.avg_pool2d(h, 2)
            # The public code pools after the 1x1 convolution, save in the first block: the same, slower.
            x = F.avg_pool2d(x, 2)
        return h + (x if self.conv_sc is None else self.conv_sc(x))


class ImageDiscriminator(nn.Module):
    """Scores a frame by the residual discriminator of BigGAN, in spectral norm.

    The network that MoCoGAN-HD publishes for clips of another domain than the image generator's (see
    `CrossDomainDiscriminator`), to judge frames of real and of made clips. The defaults are the published
    network; larger frames than `image_size` are summed over more places before the score.

    Beside the score it has a projection, `project`, for the objective's `contrastive` term. No score depends
    on the projection's last layers, so those are frozen until that term lets them learn.

    Source: MoCoGAN-HD, https://arxiv.org/abs/2104.15069; BigGAN, https://arxiv.org/abs/1809.11096

    Args:
        in_channels: Colour channels.
        image_size: Side of a frame that the layout is made for, after pooling: 32, 64, 128 or 256.
        base_channels: What the channels of a block are a multiple of: once in the first block of the layouts
            for 64 pixels and more, four times in all blocks of the one for 32.
        projection_dim: Numbers of a projection.
        pool: Frames are averaged over squares of that side before they are judged; as published, 2 for frames
            of 256x256.

    Raises:
        ZooError: An option is out of its range.
    """

    consumes = "image"
    part = "discriminator 'mocogan-hd-image'"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        image_size: int = 128,
        base_channels: int = 96,
        projection_dim: int = 256,
        pool: int = 1,
    ) -> None:
        super().__init__()
        check_counts(
            self.part,
            in_channels=in_channels,
            base_channels=base_channels,
            projection_dim=projection_dim,
            pool=pool,
        )
        if image_size not in _LAYOUTS:
            raise ZooError(
                f"{self.part}: image_size is {image_size!r}; give one of {', '.join(map(str, _LAYOUTS))}"
            )
        multiples, num_halves = _LAYOUTS[image_size]
        widths = [in_channels, *(base_channels * multiple for multiple in multiples)]
        self.in_channels = in_channels
        self.projection_dim = projection_dim
        self.pool = pool
        self.min_size = (1, pool << num_halves, pool << num_halves)
        self.blocks = nn.ModuleList(
            ResidualBlock(*pair, is_first=i == 0, halves=i < num_halves)
            for i, pair in enumerate(pairwise(widths))
        )
        self.proj0 = _normed(nn.Linear(widths[-1], projection_dim))
        self.proj1 = _normed(nn.Linear(projection_dim, projection_dim)).requires_grad_(False)
        self.proj2 = _normed(nn.Linear(projection_dim, projection_dim)).requires_grad_(False)
        self.linear = _normed(nn.Linear(projection_dim, 1))

    def forward(self, x: Tensor) -> Judged:
        """Score real above generated.

        Args:
            x: x_BCHW in [-1, 1], no side shorter than `min_size`.

        Returns:
            Unbounded scores (B, 1), and the output of every block.

        Raises:
            PortError: `x` has other axes or channels, or is smaller than `min_size`.
        """
        check_input(x, part=self.part, in_channels=self.in_channels, min_size=self.min_size, axes="BCHW")
        if self.pool > 1:
            x = F.avg_pool2d(x, self.pool)
        features = []
        for block in self.blocks:
            x = block(x)
            features.append(x)
        return Judged([self.linear(self._summary(features))], features)

    def project(self, features: list[Tensor]) -> Tensor:
        """Return projections (B, P) of what `forward` gave as features, for the contrastive loss."""
        projection: Tensor = self.proj2(F.relu(self.proj1(self._summary(features))))
        return projection

    def _summary(self, features: list[Tensor]) -> Tensor:
        return F.relu(self.proj0(F.relu(features[-1]).sum(dim=(2, 3))))


class CrossDomainDiscriminator(ImageDiscriminator):
    """Tells frames of a made clip from first frames of made clips; real clips it does not see.

    The published image discriminator for clips of another domain than the image generator's: what a clip
    begins with is an image as the generator was made for, and the motion is not to leave that domain. It goes
    with the objective's `contrastive` term and its `match`.

    Options are those of `ImageDiscriminator`.

    Source: MoCoGAN-HD, https://arxiv.org/abs/2104.15069
    """

    part = "discriminator 'mocogan-hd-cross-domain'"
    reference_frames = 1

    def draw_frames(self, num: int, num_frames: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw which frames it sees of `num` clips: int64 frames_BK, the first one and any other."""
        device = "cpu" if generator is None else generator.device
        other_B1 = torch.randint(
            min(1, num_frames - 1), num_frames, (num, 1), generator=generator, device=device
        )
        return torch.cat([torch.zeros_like(other_B1), other_B1], dim=1)


def _normed(layer: nn.Module) -> nn.Module:
    """Start a layer orthogonal, as published, and keep its spectral norm at 1."""
    assert isinstance(layer.weight, Tensor)
    if layer.weight.device.type != "meta":
        nn.init.orthogonal_(layer.weight)
    return spectral_norm(layer)
