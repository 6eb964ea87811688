"""A PatchGAN discriminator in three dimensions, for tokenizers and GANs alike.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from zoo.outputs import Judged
from zoo_gan.checks import check_counts, check_input

PART = "discriminator 'patch3d'"
_MAX_CHANNELS = 512


class Patch3D(nn.Module):
    """Scores overlapping patches of a clip by 3D convolutions; takes clips of nearly any size.

    Equal to the video discriminator of TATS, ``NLayerDiscriminator3D`` in its public code, which is
    the discriminator of pix2pix with time as a third axis: kernels 4x4x4 with 2 of padding all round,
    `num_layers` blocks of stride 2 on every axis, one of stride 1, then the scores. State-dict names
    are the same: block n is ``model{n}``, with its convolution at 0 and, save in the first and last,
    its batch norm at 1. So the weights under ``video_discriminator.`` of a TATS checkpoint load
    unchanged. TATS has its batch norm synchronised over GPUs; `torch.nn.SyncBatchNorm`'s
    ``convert_sync_batchnorm`` does that here, and the names stay. Initial weights are those of
    pix2pix, normal with deviation 0.02 (TATS leaves them as torch draws them).

    With the defaults a score sees 70 frames and 70 pixels each way, 8 apart; most of that is padding
    in a short clip. In train mode batch norm pools over the batch, so score real and generated clips in
    batches of their own, and the gradient of a bias that a batch norm follows is 0 but for rounding.

    Sources: TATS, https://arxiv.org/abs/2204.03638; pix2pix, https://arxiv.org/abs/1611.07004

    Args:
        in_channels: Colour channels.
        base_channels: Channels of the first block; doubled by each further block, up to 512.
        num_layers: Blocks of stride 2.

    Raises:
        ZooError: An option is below 1.
    """

    consumes = "video"
    mixes_batch = True

    def __init__(self, *, in_channels: int = 3, base_channels: int = 64, num_layers: int = 3) -> None:
        super().__init__()
        check_counts(PART, in_channels=in_channels, base_channels=base_channels, num_layers=num_layers)
        self.in_channels = in_channels
        # One pixel would leave a batch norm a single value to pool over.
        self.min_size = (1, 2, 2)
        widths = [base_channels]
        for _ in range(num_layers):
            widths.append(min(2 * widths[-1], _MAX_CHANNELS))
        for number, (width_in, width_out) in enumerate(pairwise([in_channels, *widths])):
            block: list[nn.Module] = [_conv(width_in, width_out, stride=2 if number < num_layers else 1)]
            if number:
                block.append(nn.BatchNorm3d(width_out))
            self.add_module(f"model{number}", nn.Sequential(*block, nn.LeakyReLU(0.2)))
        self.add_module(f"model{num_layers + 1}", nn.Sequential(_conv(widths[-1], 1, stride=1)))
        self.apply(_init)

    def forward(self, x: Tensor) -> Judged:
        """Score real above generated.

        Args:
            x: x_BCTHW in [-1, 1], no side shorter than `min_size`.

        Returns:
            One map of unbounded scores (B, 1, t, h, w), and the output of every block before it.

        Raises:
            PortError: `x` has other axes or channels, or is smaller than `min_size`.
        """
        check_input(x, part=PART, in_channels=self.in_channels, min_size=self.min_size, axes="BCTHW")
        outputs = []
        for block in self.children():
            x = block(x)
            outputs.append(x)
        return Judged([outputs[-1]], outputs[:-1])


def _conv(width_in: int, width_out: int, *, stride: int) -> nn.Conv3d:
    return nn.Conv3d(width_in, width_out, 4, stride=stride, padding=2)


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm3d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
