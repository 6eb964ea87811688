"""The PatchGAN discriminator of pix2pix for single frames, for tokenizers and GANs alike.

Shape legend: B batch, C colour channels, H W pixels.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from zoo.outputs import Judged
from zoo_gan.checks import check_counts, check_input

PART = "discriminator 'patch2d'"
_MAX_MULTIPLIER = 8


class Patch2D(nn.Module):
    """Scores overlapping patches of a frame by 2D convolutions; takes frames of nearly any size.

    Equal to ``NLayerDiscriminator`` of taming-transformers with batch norm, which is the discriminator of
    pix2pix: kernels 4x4 with 1 of padding, `num_layers` convolutions of stride 2, one of stride 1, then the
    scores. State-dict names are the same (``main.{n}``), so the weights under
    ``loss.discriminator.main.`` of a VQGAN checkpoint load unchanged. Initial weights are theirs: kernels
    normal with deviation 0.02, scales of the batch norms around 1 alike.

    With the defaults a score sees 70x70 pixels, 8 apart. In train mode batch norm pools over the batch, so
    score real and generated frames in batches of their own.

    Sources: pix2pix, https://arxiv.org/abs/1611.07004; taming-transformers, https://arxiv.org/abs/2012.09841

    Args:
        in_channels: Colour channels.
        base_channels: Channels of the first convolution; doubled by each further one, up to 8 times as many.
        num_layers: Convolutions of stride 2.

    Raises:
        ZooError: An option is below 1.
    """

    consumes = "image"
    mixes_batch = True

    def __init__(self, *, in_channels: int = 3, base_channels: int = 64, num_layers: int = 3) -> None:
        super().__init__()
        check_counts(PART, in_channels=in_channels, base_channels=base_channels, num_layers=num_layers)
        self.in_channels = in_channels
        # Each of the two convolutions of stride 1 takes one pixel off what the halvings leave.
        self.min_size = (1, 3 << num_layers, 3 << num_layers)
        widths = [base_channels * min(1 << level, _MAX_MULTIPLIER) for level in range(num_layers + 1)]
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, base_channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
        ]
        for number, (width_in, width_out) in enumerate(pairwise(widths), start=1):
            stride = 2 if number < num_layers else 1
            layers += [
                nn.Conv2d(width_in, width_out, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width_out),
                nn.LeakyReLU(0.2),
            ]
        self.main = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, stride=1, padding=1))
        self.apply(_init)

    def forward(self, x: Tensor) -> Judged:
        """Score real above generated.

        Args:
            x: x_BCHW in [-1, 1], no side shorter than `min_size`.

        Returns:
            One map of unbounded scores (B, 1, h, w), and the output of every activation before it.

        Raises:
            PortError: `x` has other axes or channels, or is smaller than `min_size`.
        """
        check_input(x, part=PART, in_channels=self.in_channels, min_size=self.min_size, axes="BCHW")
        features = []
        for layer in self.main:
            x = layer(x)
            if isinstance(layer, nn.LeakyReLU):
                features.append(x)
        return Judged([x], features)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
