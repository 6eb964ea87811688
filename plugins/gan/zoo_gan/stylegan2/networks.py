"""The networks of StyleGAN2: mapping, synthesis by skips, residual blocks and end of the discriminator.

State-dict names are those of the stylegan2-ada-pytorch family; only a plain constant input is
``b4.input.const`` here, which is ``b4.const`` there.

Source: StyleGAN2, https://arxiv.org/abs/1912.04958

Shape legend: B images, C channels or colours, H W pixels, Z latent as drawn, D latent as mapped (its width is
w_dim), L layers that read a latent.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from einops import repeat
from torch import Tensor, nn

from zoo.precision import at_least_fp32, full_precision
from zoo_gan.stylegan2.layers import (
    Conv2dLayer,
    FullyConnectedLayer,
    MinibatchStd,
    SynthesisLayer,
    ToRGBLayer,
    normalize_2nd_moment,
)
from zoo_gan.stylegan2.resampling import channels_innermost, make_filter, upsample_2d


def channels_by_resolution(
    image_size: int, *, channel_base: int = 32768, channel_max: int = 512
) -> dict[int, int]:
    """Return the channels at every resolution from 4 to `image_size`: fewer where there are more pixels."""
    sizes = [2**n for n in range(2, image_size.bit_length())]
    return {size: max(1, min(channel_base // size, channel_max)) for size in sizes}


class MappingNetwork(nn.Module):
    """Maps a drawn latent, a condition, or both to the latent that styles are made of.

    Args:
        z_dim: Width of the drawn latent; 0 for none.
        c_dim: Width of the condition (one-hot labels, embeddings); 0 for none.
        w_dim: Width of the result, of every layer and of the embedded condition.
        num_layers: Fully connected layers.
        lr_multiplier: How fast they learn, compared with the rest of the network.
        w_avg_beta: Share of the running mean of the results (buffer ``w_avg``) that each training
            batch keeps; None for no mean.
    """

    w_avg: Tensor

    def __init__(
        self,
        *,
        z_dim: int,
        c_dim: int,
        w_dim: int,
        num_layers: int = 8,
        lr_multiplier: float = 0.01,
        w_avg_beta: float | None = 0.995,
    ) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.c_dim = c_dim
        self.num_layers = num_layers
        self.w_avg_beta = w_avg_beta
        if c_dim > 0:
            self.embed = FullyConnectedLayer(c_dim, w_dim)
        widths = [z_dim + (w_dim if c_dim > 0 else 0)] + [w_dim] * num_layers
        for n, (width_in, width_out) in enumerate(pairwise(widths)):
            layer = FullyConnectedLayer(width_in, width_out, activation="lrelu", lr_multiplier=lr_multiplier)
            self.add_module(f"fc{n}", layer)
        if w_avg_beta is not None:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(
        self, z_BZ: Tensor | None = None, c_BC: Tensor | None = None, *, truncation: float = 1.0
    ) -> Tensor:
        """Return w_BD, float32 or wider.

        Args:
            z_BZ: Standard normal numbers, where `z_dim` is above 0.
            c_BC: The condition, where `c_dim` is above 0.
            truncation: How far from the mean the result stays: 1 leaves it, 0 is the mean itself.
        """
        given = []
        if self.z_dim > 0:
            assert z_BZ is not None
            given.append(at_least_fp32(z_BZ))
        if self.c_dim > 0:
            assert c_BC is not None
            given.append(self.embed(c_BC))
        x = torch.cat([_normalized(values) for values in given], dim=1)
        for n in range(self.num_layers):
            x = self.get_submodule(f"fc{n}")(x)
        if self.training and self.w_avg_beta is not None:
            with torch.no_grad():
                self.w_avg.lerp_(x.detach().mean(dim=0).to(self.w_avg.dtype), 1 - self.w_avg_beta)
        return x if truncation == 1.0 else self.w_avg.lerp(x, truncation)


def _normalized(values: Tensor) -> Tensor:
    with full_precision(values):
        return normalize_2nd_moment(values)


class SynthesisInput(nn.Module):
    """What makes the first 4x4 image of a synthesis network.

    Attributes:
        num_channels: Channels of the image.
    """

    num_channels: int


class ConstantInput(SynthesisInput):
    """The learned 4x4 image that synthesis starts from."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.num_channels = num_channels
        self.const = nn.Parameter(torch.randn(num_channels, 4, 4))

    def forward(self, batch: int) -> Tensor:
        """Return the image `batch` times."""
        return repeat(self.const, "C H W -> B C H W", B=batch)


class SynthesisBlock(nn.Module):
    """The layers of one resolution: one or two convolutions and the colours, added to those below.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        w_dim: Width of the latents.
        resolution: Height and width that come out, in pixels.
        img_channels: Colours.
        input: For the lowest resolution: what makes its first image. The
            block then has no first convolution.
        noise: As in `SynthesisLayer`.
        clamp: Largest absolute value of activations; None for any.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        img_channels: int,
        input: SynthesisInput | None = None,
        noise: str = "none",
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("resample_filter", make_filter())
        self.is_first = input is not None
        shared = {"w_dim": w_dim, "resolution": resolution, "noise": noise, "clamp": clamp}
        if input is None:
            self.conv0 = SynthesisLayer(in_channels, out_channels, up=2, **shared)  # type: ignore[arg-type]
        else:
            self.input = input
        width = in_channels if self.is_first else out_channels
        self.conv1 = SynthesisLayer(width, out_channels, **shared)  # type: ignore[arg-type]
        self.torgb = ToRGBLayer(out_channels, img_channels, w_dim=w_dim, clamp=clamp)
        # The colours read the latent after the last convolution's, which is the next block's first.
        self.num_conv = 1 if self.is_first else 2

    def forward(self, x: Tensor, img_BCHW: Tensor | None, ws_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Return activations and colours at this resolution.

        Args:
            x: x_BCHW of half the resolution; for the lowest what its `input` reads.
            img_BCHW: Colours of half the resolution; None for the lowest.
            ws_BLD: A latent for each convolution and one for the colours.
        """
        ws = iter(ws_BLD.unbind(dim=1))
        x = channels_innermost(self.input(x)) if self.is_first else self.conv0(x, next(ws))
        x = self.conv1(x, next(ws))
        colours = self.torgb(x, next(ws))
        # The picture sums many small steps, which half precision would lose.
        with full_precision(x):
            colours = at_least_fp32(colours)
            if img_BCHW is not None:
                colours = upsample_2d(img_BCHW, self.resample_filter) + colours
        return x, colours


class SynthesisNetwork(nn.Module):
    """Makes images from latents: a block ``b4``, ``b8``, ... for each resolution, colours added up by skips.

    Args:
        image_size: Height and width of the images, a power of two of at least 8.
        img_channels: Colours.
        w_dim: Width of the latents.
        channel_base: Channels times pixels of a side, as far as `channel_max` goes.
        channel_max: Most channels.
        input: Makes the first 4x4 image from what `forward` is given as `start`, and says its
            `num_channels`; `ConstantInput`, which is given the number of images, when left out.
        noise: As in `SynthesisLayer`.
        clamp: Largest absolute value of activations; None for any.

    Attributes:
        num_ws: Latents that `forward` reads for an image.
    """

    def __init__(
        self,
        *,
        image_size: int,
        img_channels: int,
        w_dim: int,
        channel_base: int = 32768,
        channel_max: int = 512,
        input: SynthesisInput | None = None,
        noise: str = "none",
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        channels = channels_by_resolution(image_size, channel_base=channel_base, channel_max=channel_max)
        self.resolutions = list(channels)
        first = ConstantInput(channels[4]) if input is None else input
        width = first.num_channels
        self.num_ws = 1
        for resolution, out_channels in channels.items():
            block = SynthesisBlock(
                width,
                out_channels,
                w_dim=w_dim,
                resolution=resolution,
                img_channels=img_channels,
                input=first if resolution == 4 else None,
                noise=noise,
                clamp=clamp,
            )
            self.add_module(f"b{resolution}", block)
            self.num_ws += block.num_conv
            width = out_channels

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the colours at the highest resolution."""
        weight = self.get_submodule(f"b{self.resolutions[-1]}.torgb").weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, ws: Tensor, start: Tensor | None = None) -> Tensor:
        """Return images x_BCHW, without bounds, float32 or wider.

        Args:
            ws: ws_BLD, `num_ws` latents for each image; or w_BD, the same one for every layer.
            start: What the input reads; the number of images when left out.
        """
        if ws.ndim == 2:
            ws = ws.unsqueeze(1).expand(-1, self.num_ws, -1)
        x = ws.shape[0] if start is None else start
        img, layer = None, 0
        for resolution in self.resolutions:
            block = self.get_submodule(f"b{resolution}")
            assert isinstance(block, SynthesisBlock)
            x, img = block(x, img, ws[:, layer : layer + block.num_conv + 1])
            layer += block.num_conv
        assert img is not None
        return img


class DiscriminatorBlock(nn.Module):
    """The layers of one resolution: two convolutions with a residual, down to half of it.

    Args:
        in_channels: Channels in; 0 for the first block, which reads colours.
        tmp_channels: Channels between the convolutions.
        out_channels: Channels out.
        img_channels: Colours, for the first block.
        clamp: Largest absolute value of activations; None for any.
    """

    def __init__(
        self,
        in_channels: int,
        tmp_channels: int,
        out_channels: int,
        *,
        img_channels: int,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        # Unused, as in the published weights; it stands there under every block.
        self.register_buffer("resample_filter", make_filter())
        self.reads_colours = in_channels == 0
        if self.reads_colours:
            self.fromrgb = Conv2dLayer(img_channels, tmp_channels, 1, activation="lrelu", clamp=clamp)
        width = in_channels or tmp_channels
        self.conv0 = Conv2dLayer(width, tmp_channels, 3, activation="lrelu", clamp=clamp)
        self.conv1 = Conv2dLayer(tmp_channels, out_channels, 3, activation="lrelu", down=2, clamp=clamp)
        self.skip = Conv2dLayer(width, out_channels, 1, bias=False, down=2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return x_BCHW of half the height and width."""
        x = channels_innermost(x_BCHW)
        if self.reads_colours:
            x = self.fromrgb(x)
        y = self.skip(x, gain=math.sqrt(0.5))
        x = self.conv1(self.conv0(x), gain=math.sqrt(0.5))
        return y + x


class DiscriminatorEpilogue(nn.Module):
    """The end of the discriminator: from 4x4 to one score, or to a projection on the condition.

    In full precision under any autocast.

    Args:
        in_channels: Channels in.
        cmap_dim: Width of the mapped condition; 0 for none.
        resolution: Height and width of what comes in.
        group_size: Images of a group in `MinibatchStd`.
        num_std_channels: Channels of `MinibatchStd`.
        clamp: Largest absolute value of activations; None for any.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        cmap_dim: int = 0,
        resolution: int = 4,
        group_size: int = 4,
        num_std_channels: int = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.cmap_dim = cmap_dim
        self.mbstd = MinibatchStd(group_size, num_channels=num_std_channels)
        width = in_channels + num_std_channels
        self.conv = Conv2dLayer(width, in_channels, 3, activation="lrelu", clamp=clamp)
        self.fc = FullyConnectedLayer(in_channels * resolution**2, in_channels, activation="lrelu")
        self.out = FullyConnectedLayer(in_channels, cmap_dim or 1)

    def forward(self, x_BCHW: Tensor, cmap_BD: Tensor | None = None) -> Tensor:
        """Return raw scores (B, 1), float32 or wider.

        Args:
            x_BCHW: Activations.
            cmap_BD: The mapped condition, where `cmap_dim` is above 0.
        """
        with full_precision(x_BCHW):
            x = self.conv(self.mbstd(x_BCHW))
            x = self.out(self.fc(x.flatten(1)))
            if self.cmap_dim == 0:
                return x
            assert cmap_BD is not None
            return (x * cmap_BD).sum(dim=1, keepdim=True) / math.sqrt(self.cmap_dim)
