"""I3D trained on Kinetics-400: the network that FVD is defined on, in plain PyTorch.

Architecture: "Quo Vadis, Action Recognition?", https://arxiv.org/abs/1705.07750, RGB stream. FVD as
Unterthiner et al. define it, https://arxiv.org/abs/1812.01717, compares its 400 logits.

Shape legend: N clips, C colour channels, T H W frames and pixels, D features.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import ZooError
from zoo.metrics.i3d_weights import I3D_SHA256, find_i3d, read_i3d
from zoo.precision import full_precision

SIZE = 224
"""Height and width the network looks at, pixels."""

MIN_FRAMES = 9
"""Fewest frames: below it the grid of features is shorter than the last pooling window."""

NUM_FEATURES = 400
"""Features of a clip: the logits, averaged over time."""

RESIZE = "bilinear, antialiased where it shrinks, pixel centres at halves, to 224x224 whatever the aspect"
"""How frames are brought to `SIZE`."""

DETECTOR = "I3D, Kinetics-400, RGB, 400 logits averaged over time"

_EPS = 1e-3
_BLOCKS = {
    "Mixed_3b": (192, (64, 96, 128, 16, 32, 32)),
    "Mixed_3c": (256, (128, 128, 192, 32, 96, 64)),
    "Mixed_4b": (480, (192, 96, 208, 16, 48, 64)),
    "Mixed_4c": (512, (160, 112, 224, 24, 64, 64)),
    "Mixed_4d": (512, (128, 128, 256, 24, 64, 64)),
    "Mixed_4e": (512, (112, 144, 288, 32, 64, 64)),
    "Mixed_4f": (528, (256, 160, 320, 32, 128, 128)),
    "Mixed_5b": (832, (256, 160, 320, 32, 128, 128)),
    "Mixed_5c": (832, (384, 192, 384, 48, 128, 128)),
}
"""Input channels of each Inception block, and the outputs of its convolutions b0, b1a, b1b, b2a, b2b, b3b."""

_POOL_BEFORE = {"Mixed_4b": ((3, 3, 3), (2, 2, 2)), "Mixed_5b": ((2, 2, 2), (2, 2, 2))}


def _pad_same(x_NCTHW: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Pad as TensorFlow's SAME does: to ceil(size / stride) outputs, the odd element on the far side."""
    pads: list[int] = []
    for size, k, s in zip(reversed(x_NCTHW.shape[2:]), reversed(kernel), reversed(stride), strict=True):
        missing = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(x_NCTHW, pads) if any(pads) else x_NCTHW


def _max_pool(x_NCTHW: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    # Every pooled map comes out of a ReLU, so that zeros at the edge never win over a value.
    return F.max_pool3d(_pad_same(x_NCTHW, kernel, stride), kernel, stride)


class _Norm(nn.Module):
    """Batch norm with stored statistics, without nn.BatchNorm3d's count of batches."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        return F.batch_norm(
            x_NCTHW, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=_EPS
        )


class _Unit(nn.Module):
    """Convolution, batch norm with stored statistics, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride=stride, bias=False)
        self.bn = _Norm(out_channels)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        x_NCTHW = _pad_same(x_NCTHW, self.conv3d.kernel_size, self.conv3d.stride)
        return F.relu(self.bn(self.conv3d(x_NCTHW)))


class _Mixed(nn.Module):
    """Inception block: four branches side by side."""

    def __init__(self, in_channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        b0, b1a, b1b, b2a, b2b, b3b = widths
        self.b0 = _Unit(in_channels, b0, 1)
        self.b1a, self.b1b = _Unit(in_channels, b1a, 1), _Unit(b1a, b1b, 3)
        self.b2a, self.b2b = _Unit(in_channels, b2a, 1), _Unit(b2a, b2b, 3)
        self.b3b = _Unit(in_channels, b3b, 1)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        pooled = _max_pool(x_NCTHW, (3, 3, 3), (1, 1, 1))
        branches = (
            self.b0(x_NCTHW),
            self.b1b(self.b1a(x_NCTHW)),
            self.b2b(self.b2a(x_NCTHW)),
            self.b3b(pooled),
        )
        return torch.cat(branches, 1)


class _Logits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, NUM_FEATURES, 1)


class I3D(nn.Module):
    """Frozen clip network. Computes in float32 under any autocast; random until `load_i3d` fills it.

    Attributes:
        sha256: Hash of the weights it was given; None while they are random.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sha256: str | None = None
        self.Conv3d_1a_7x7 = _Unit(3, 64, 7, stride=2)
        self.Conv3d_2b_1x1 = _Unit(64, 64, 1)
        self.Conv3d_2c_3x3 = _Unit(64, 192, 3)
        for name, (in_channels, widths) in _BLOCKS.items():
            self.add_module(name, _Mixed(in_channels, widths))
        self.logits = _Logits()
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> I3D:
        """Stay in evaluation mode: the network is a ruler, not a player."""
        return super().train(False)

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        """Return the features z_ND of clips, float32, (N, 400).

        Args:
            x_NCTHW: Clips in [-1, 1], RGB or grey (grey is repeated three times), of any frame size (see
                `RESIZE`) and at least `MIN_FRAMES` frames.

        Raises:
            ZooError: Too few frames, or two or four channels.
        """
        if reason := i3d_reason(x_NCTHW.shape):
            raise ZooError(f"I3D (and so FVD) cannot look at clips of shape {tuple(x_NCTHW.shape)}: {reason}")
        with full_precision(x_NCTHW), exact_convolutions():
            y_NCTHW = fit(x_NCTHW.float()).expand(-1, 3, -1, -1, -1)
            y_NCTHW = _max_pool(self.Conv3d_1a_7x7(y_NCTHW), (1, 3, 3), (1, 2, 2))
            y_NCTHW = self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(y_NCTHW))
            y_NCTHW = _max_pool(y_NCTHW, (1, 3, 3), (1, 2, 2))
            for name in _BLOCKS:
                if name in _POOL_BEFORE:
                    y_NCTHW = _max_pool(y_NCTHW, *_POOL_BEFORE[name])
                y_NCTHW = self.get_submodule(name)(y_NCTHW)
            y_NCTHW = self.logits.conv3d(F.avg_pool3d(y_NCTHW, (2, 7, 7), stride=1))
            return y_NCTHW.mean((2, 3, 4))


@contextlib.contextmanager
def exact_convolutions() -> Iterator[None]:
    """Keep convolutions on a GPU in float32, where torch by itself rounds their inputs to 10 bits (TF32)."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def fit(x_NCTHW: Tensor, size: int = SIZE) -> Tensor:
    """Resize the frames of clips to `size` x `size`; see `RESIZE`. Frames of that size stay as they are."""
    num, (height, width) = len(x_NCTHW), x_NCTHW.shape[-2:]
    if (height, width) == (size, size):
        return x_NCTHW
    images = rearrange(x_NCTHW, "n c t h w -> (n t) c h w")
    images = F.interpolate(images, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return rearrange(images, "(n t) c h w -> n c t h w", n=num)


def i3d_reason(shape_NCTHW: tuple[int, ...]) -> str | None:
    """Return why I3D cannot look at clips of a shape, or None where it can."""
    _, channels, frames, _, _ = shape_NCTHW
    if channels not in (1, 3):
        return f"it looks at RGB or grey clips; these have {channels} channels"
    if frames < MIN_FRAMES:
        return f"clips of {frames} frames are shorter than the {MIN_FRAMES} it needs"
    return None


def load_i3d(path: Path | None = None) -> I3D:
    """Return I3D with its published weights, on the CPU, in float32.

    Args:
        path: File of the weights; what `zoo.metrics.i3d_weights.find_i3d` finds when left out.

    Raises:
        ZooError: They are nowhere, or the file holds others. There is no FVD without them.
    """
    state = read_i3d(path or find_i3d())
    with torch.device("meta"):  # draws no random numbers, and needs none
        network = I3D()
    network.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    for tensor in itertools.chain(network.parameters(), network.buffers()):
        tensor.requires_grad_(False)
    network.sha256 = I3D_SHA256
    return network
