"""Fréchet distance of single frames, on the features of a timm image network that the user gives.

It is no FID: that is defined on one Inception network. The figure bears the network's name instead, and
its protocol the hash of the weights.

Shape legend: N frames, B clips, C colour channels, T H W frames and pixels, D features.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.converting.files import read_file
from zoo.errors import WeightsError, ZooError
from zoo.metrics.i3d import exact_convolutions
from zoo.metrics.i3d_weights import tensors_sha256
from zoo.precision import full_precision
from zoo.torchvision_repair import repair_torchvision

_AT_ONCE = 32


class FrameNetwork(nn.Module):
    """Frozen image network; features are what its classifier would see.

    Args:
        backbone: Name of a timm model, such as ``resnet18``.
        weights: File of its trained weights: safetensors, ``.pth`` or ``.bin``, as timm publishes them. A
            network without them is refused: distances in random features look like figures and are none.

    Raises:
        ZooError: timm has no such model, or no weights are given.
        WeightsError: The file cannot be read or does not fit the network.

    Attributes:
        backbone: Its name.
        sha256: Hash of the weights by name, type, shape and value.
        resize: How frames are brought to its size, in words.
        num_features: Length of a feature vector (D).
    """

    mean_1C11: Tensor
    std_1C11: Tensor

    def __init__(self, backbone: str, weights: str | Path | None) -> None:
        super().__init__()
        repair_torchvision()
        import timm

        if backbone not in timm.list_models():
            close = timm.list_models(f"*{backbone.split('.')[0]}*")[:5]
            raise ZooError(
                f"timm has no model {backbone!r}; give a name without a tag, such as "
                + ", ".join(close or ["resnet18"])
            )
        if weights is None:
            raise ZooError(
                f"frame_distance needs trained weights of {backbone}: a random network measures nothing. "
                f"Type: --frame-weights FILE, the safetensors file of {backbone} as timm publishes it"
            )
        with torch.random.fork_rng(devices=[]):
            network: Any = timm.create_model(backbone, pretrained=False, num_classes=0)
        state = read_file(weights).tensors
        wanted = network.state_dict()
        missing = [
            name for name, tensor in wanted.items() if name not in state or state[name].shape != tensor.shape
        ]
        if missing:
            raise WeightsError(
                f"{weights} is not of {backbone}: {len(missing)} of its {len(wanted)} tensors are not there "
                f"in the right shape, the first is {missing[0]}"
            )
        state = {name: state[name] for name in wanted}
        network.load_state_dict(state)
        self.backbone = backbone
        self.sha256 = tensors_sha256(state)
        facts: dict[str, Any] = network.pretrained_cfg
        self.size_HW: tuple[int, int] = tuple(facts["input_size"][1:])
        self.num_features: int = network.num_features
        self.resize = "bilinear, antialiased where it shrinks, to {}x{} whatever the aspect".format(
            *self.size_HW
        )
        self.network = network
        for name in ("mean", "std"):
            self.register_buffer(f"{name}_1C11", torch.tensor(facts[name]).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> FrameNetwork:
        """Stay in evaluation mode: the network is a ruler, not a player."""
        return super().train(False)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the features z_ND of every frame of clips in [-1, 1], float32, (B * T, D)."""
        if x_BCTHW.shape[1] not in (1, 3):
            raise ZooError(
                f"frame_distance looks at RGB or grey frames; these have {x_BCTHW.shape[1]} channels"
            )
        x_NCHW = rearrange(x_BCTHW, "b c t h w -> (b t) c h w")
        with full_precision(x_BCTHW), exact_convolutions():
            return torch.cat([self._describe(part.float()) for part in torch.split(x_NCHW, _AT_ONCE)])

    def _describe(self, x_NCHW: Tensor) -> Tensor:
        x_NCHW = F.interpolate(x_NCHW, self.size_HW, mode="bilinear", align_corners=False, antialias=True)
        x_NCHW = (x_NCHW.expand(-1, 3, -1, -1) / 2 + 0.5 - self.mean_1C11) / self.std_1C11
        return self.network(x_NCHW)
