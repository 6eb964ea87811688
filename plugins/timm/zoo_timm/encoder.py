"""A timm backbone as an encoder of clips.

Shape legend: B batch, C colour channels, T H W frames and pixels; D latent channels, t h w the latent grid;
F feature channels of the backbone.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from zoo.checks import is_power_of_two
from zoo.errors import ZooError
from zoo_timm.backbone import Backbone


class TimmEncoder(nn.Module):
    """Encode each frame by one stage of a timm backbone, then stride in time by 3D convolutions.

    stride is (temporal_stride, r, r), r being the reduction of the stage. H and W that are multiples of r,
    and T a multiple of temporal_stride, give h = H / r, w = W / r, t = T / temporal_stride.
    """

    causal = False

    def __init__(
        self,
        *,
        backbone: str = "resnet18",
        stage: int = 1,
        temporal_stride: int = 4,
        latent_dim: int = 256,
        in_channels: int = 3,
        pretrained: bool = False,
    ) -> None:
        """Build the encoder.

        Args:
            backbone: A name of `timm.list_models()`; the tag after a dot names one of several weights.
            stage: Index of the features used. resnet18: 0 (stem) to 4, with reductions 2, 4, 8, 16 and 32.
            temporal_stride: Frames for each step of the latent grid: 1, 2, 4, 8, ...
            latent_dim: Channels of the latent.
            in_channels: Colour channels of a clip.
            pretrained: Start from weights published for timm, which are downloaded from the Hugging Face Hub.

        Raises:
            ZooError: An option outside its range; the message says what the backbone offers.
        """
        super().__init__()
        for option, value in {"latent_dim": latent_dim, "in_channels": in_channels}.items():
            if value < 1:
                raise ZooError(f"{option} of encoder 'timm' is {value}; it must be 1 or more")
        if not is_power_of_two(temporal_stride):
            raise ZooError(f"temporal_stride of encoder 'timm' is {temporal_stride}; it must be 1, 2, 4 ...")
        self.in_channels = in_channels
        self.latent_dim = latent_dim
        self.backbone = Backbone(
            name=backbone, stages=[stage], in_channels=in_channels, pretrained=pretrained
        )
        (features,), (reduction,) = self.backbone.channels, self.backbone.reductions
        self.stride = (temporal_stride, reduction, reduction)
        layers: list[nn.Module] = []
        for _ in range(temporal_stride.bit_length() - 1):
            halve = nn.Conv3d(features, features, (4, 3, 3), stride=(2, 1, 1), padding=1)
            layers += [halve, nn.SiLU()]
        self.temporal = nn.Sequential(*layers, nn.Conv3d(features, latent_dim, 3, padding=1))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Encode clips in [-1, 1] to z_BDthw.

        Raises:
            ZooError: The clip's channels or size do not fit the encoder.
        """
        batch, channels, *size = x_BCTHW.shape
        if channels != self.in_channels:
            raise ZooError(f"encoder 'timm' has in_channels={self.in_channels}; the clip has {channels}")
        if any(length == 0 or length % step for length, step in zip(size, self.stride, strict=True)):
            raise ZooError(f"encoder 'timm' takes (T, H, W) in multiples of {self.stride}; got {tuple(size)}")
        (f_NFhw,) = self.backbone(rearrange(x_BCTHW, "b c t h w -> (b t) c h w"))
        grid = tuple(length // step for length, step in zip(size[1:], self.stride[1:], strict=True))
        if tuple(f_NFhw.shape[-2:]) != grid:
            raise ZooError(
                f"timm backbone {self.backbone.name!r} gives a grid of {tuple(f_NFhw.shape[-2:])}, not "
                f"{grid} as its reduction {self.stride[1]} says, so no decoder fits; choose another backbone"
            )
        z_BDthw: Tensor = self.temporal(rearrange(f_NFhw, "(b t) f h w -> b f t h w", b=batch))
        return z_BDthw
