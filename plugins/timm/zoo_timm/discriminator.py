"""A timm backbone as a discriminator of frames.

Shape legend: B batch, C colour channels, H W pixels; D feature channels, h w the feature grid of a stage.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from zoo.errors import ZooError
from zoo.outputs import Judged
from zoo_timm.backbone import Backbone


class TimmFeatures(nn.Module):
    """Judge frames by the features of a timm backbone, patch by patch, with one small head a stage.

    The multi-scale feature discriminator of Projected GAN (https://arxiv.org/abs/2111.01007) without its
    random mixing of channels and scales: a frozen network projects the frame, and only the spectrally
    normalised heads learn. With `pretrained` it judges by learned features; without, by a random projection.
    """

    consumes = "image"

    def __init__(
        self,
        *,
        backbone: str = "resnet18",
        stages: list[int] = [1, 2, 3, 4],  # noqa: B006
        width: int = 64,
        in_channels: int = 3,
        pretrained: bool = False,
        freeze_backbone: bool = True,
    ) -> None:
        """Build the discriminator.

        Args:
            backbone: A name of `timm.list_models()`; the tag after a dot names one of several weights.
            stages: Indices of the features judged, in rising order; one head and one map of logits each.
            width: Channels inside a head.
            in_channels: Colour channels of a frame.
            pretrained: Start from weights published for timm, which are downloaded from the Hugging Face Hub.
            freeze_backbone: Train the heads alone; the backbone keeps its weights and its evaluation mode.

        Raises:
            ZooError: An option outside its range; the message says what the backbone offers.
        """
        super().__init__()
        for option, value in {"width": width, "in_channels": in_channels}.items():
            if value < 1:
                raise ZooError(f"{option} of discriminator 'timm-features' is {value}; it must be 1 or more")
        self.in_channels = in_channels
        self.freeze_backbone = freeze_backbone
        self.backbone = Backbone(name=backbone, stages=stages, in_channels=in_channels, pretrained=pretrained)
        self.backbone.apply(without_fused_attention)
        self.backbone.requires_grad_(not freeze_backbone).train(not freeze_backbone)
        deepest = max(self.backbone.reductions)
        # A batch norm that learns needs more than one value a channel, even of a single frame.
        smallest = deepest if freeze_backbone else 2 * deepest
        self.min_size = (1, smallest, smallest)
        self.heads = nn.ModuleList(_head(channels, width) for channels in self.backbone.channels)

    def train(self, mode: bool = True) -> TimmFeatures:
        """Set the mode of the heads, and of the backbone unless it is frozen."""
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
        return self

    def forward(self, x_BCHW: Tensor) -> Judged:
        """Judge frames in [-1, 1]: logits [l_B1hw] and the backbone's features [f_BDhw], one entry a stage.

        Raises:
            ZooError: The frame's channels or size do not fit the discriminator.
        """
        channels, height, width = x_BCHW.shape[1:]
        if channels != self.in_channels:
            raise ZooError(
                f"discriminator 'timm-features' has in_channels={self.in_channels}; the frame has {channels}"
            )
        if min(height, width) < self.min_size[1]:
            raise ZooError(
                f"discriminator 'timm-features' with stages {self.backbone.stages} of {self.backbone.name!r} "
                f"judges frames of {self.min_size[1]}x{self.min_size[2]} or more; got {height}x{width}. "
                "Leave the deepest stages out"
            )
        features = self.backbone(x_BCHW)
        logits = [head(f_BDhw) for head, f_BDhw in zip(self.heads, features, strict=True)]
        return Judged(logits, features)


def without_fused_attention(module: Any) -> None:
    # torch's fused attention has no second derivative, which gradient penalties need.
    if hasattr(module, "fused_attn"):
        module.fused_attn = False


def _head(channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        spectral_norm(nn.Conv2d(channels, width, 3, padding=1)),
        nn.LeakyReLU(0.2),
        spectral_norm(nn.Conv2d(width, 1, 1)),
    )
