"""LPIPS v0.1 with AlexNet: perceptual distance between images (https://arxiv.org/abs/1801.03924).

Shape legend: N images (or frames), C colour channels, H W pixels, D feature channels, h w their grid.
"""

from __future__ import annotations

import functools
from importlib.resources import as_file, files

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import ZooError
from zoo.files import sha256
from zoo.precision import full_precision

WEIGHTS = "lpips_alex_fp16.safetensors"
"""File in ``zoo/assets``: ImageNet AlexNet and the five v0.1 heads, float16."""

MIN_SIZE = 31
"""Smallest height and width the network can look at, pixels."""

_WIDTHS = (64, 192, 384, 256, 256)
_TAPS = (1, 4, 7, 9, 11)  # the five ReLUs of AlexNet.features
_MEAN = (-0.030, -0.088, -0.188)
_STD = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """Frozen distance network; gradients flow to the images only.

    Features of AlexNet's five ReLUs, each pixel's vector scaled to length 1; squared differences
    weighed by the learned heads, averaged over pixels and summed over layers. Computes in float32
    under any autocast. The weights are random until `load_lpips` fills them.
    """

    shift_1C11: Tensor
    scale_1C11: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
        )
        self.heads = nn.ParameterList(torch.zeros(1, width, 1, 1) for width in _WIDTHS)
        self.register_buffer("shift_1C11", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale_1C11", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> LPIPS:
        """Stay in evaluation mode: the network is a ruler, not a player."""
        return super().train(False)

    def forward(self, x_NCHW: Tensor, y_NCHW: Tensor) -> Tensor:
        """Return the distance of each pair of images, shape (N,), 0 for equal ones.

        Args:
            x_NCHW: Images in [-1, 1], RGB or grey (grey is repeated three times), 31x31 or larger.
            y_NCHW: Images of the same shape. The order of the two does not matter.

        Raises:
            ZooError: Shapes differ, or the images are too small or have two or four channels.
        """
        if x_NCHW.ndim != 4 or x_NCHW.shape != y_NCHW.shape:
            raise ZooError(
                "LPIPS compares two batches of images of one shape (N, C, H, W); "
                f"got {tuple(x_NCHW.shape)} and {tuple(y_NCHW.shape)}"
            )
        channels, height, width = x_NCHW.shape[1:]
        if channels not in (1, 3):
            raise ZooError(f"LPIPS looks at RGB or grey images; these have {channels} channels")
        if min(height, width) < MIN_SIZE:
            raise ZooError(
                f"LPIPS needs images of at least {MIN_SIZE}x{MIN_SIZE} pixels; these are {height}x{width}. "
                "Use larger clips, or leave the perceptual term (or the lpips metric) out"
            )
        with full_precision(x_NCHW):
            total_N = torch.zeros(len(x_NCHW), device=x_NCHW.device)
            pairs = zip(self._describe(x_NCHW), self._describe(y_NCHW), self.heads, strict=True)
            for x_NDhw, y_NDhw, head_1D11 in pairs:
                total_N = total_N + F.conv2d((x_NDhw - y_NDhw).square(), head_1D11).mean((1, 2, 3))
            return total_N

    def _describe(self, x_NCHW: Tensor) -> list[Tensor]:
        z_NDhw = (x_NCHW.float().expand(-1, 3, -1, -1) - self.shift_1C11) / self.scale_1C11
        found = []
        for index, layer in enumerate(self.features):
            z_NDhw = layer(z_NDhw)
            if index in _TAPS:
                # Not F.normalize: the published metric adds 1e-10 to the length, and a vector of zeros,
                # which ReLU does give, needs a gradient of zero rather than NaN.
                length_N1hw = (z_NDhw.square().sum(1, keepdim=True) + 1e-20).sqrt()
                found.append(z_NDhw / (length_N1hw + 1e-10))
        return found


def load_lpips() -> LPIPS:
    """Return LPIPS with the published weights that ship inside the package, on the CPU, in float32."""
    with as_file(files("zoo") / "assets" / WEIGHTS) as path:
        stored = load_file(path)
    with torch.random.fork_rng(devices=[]):  # the random weights it starts with must not move the run's seed
        network = LPIPS()
    names = {f"heads.{index}": f"lin{index}.model.1.weight" for index in range(len(_WIDTHS))}
    state = {name: stored[names.get(name, name)].float() for name in network.state_dict()}
    network.load_state_dict(state)
    return network


@functools.cache
def weights_sha256() -> str:
    """Return the hash of the file of the weights."""
    with as_file(files("zoo") / "assets" / WEIGHTS) as path:
        return sha256(path)
