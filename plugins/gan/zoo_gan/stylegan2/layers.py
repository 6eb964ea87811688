"""The layers of StyleGAN2: equalised learning rates, modulated convolutions, minibatch deviation.

Weights start as standard normal numbers and are scaled at run time, so that one learning rate suits
every layer. Convolutions follow autocast; all that decides how they are scaled (fully connected layers,
demodulation, minibatch statistics) stays in full precision. State-dict names are those of the
stylegan2-ada-pytorch family.

Source: StyleGAN2, https://arxiv.org/abs/1912.04958

Shape legend: B images, I O channels in and out, C channels, H W pixels, y x sides of a kernel, D features;
G members of a group, N groups.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.precision import at_least_fp32, full_precision
from zoo_gan.stylegan2.resampling import conv2d_down, conv2d_up, make_filter

_EPSILON = 1e-8


def bias_act(
    x_BC: Tensor,
    bias_C: Tensor | None = None,
    *,
    activation: str = "linear",
    gain: float = 1.0,
    clamp: float | None = None,
) -> Tensor:
    """Add a bias along axis 1, apply the activation, scale, and clamp.

    Args:
        x_BC: Any number of axes after the channels.
        bias_C: One number a channel.
        activation: "linear"; or "lrelu", of slope 0.2 and times sqrt(2), which keeps the variance.
        gain: Factor on the result.
        clamp: Largest absolute value, times `gain`; None for any.
    """
    scale = _gain(activation) * gain
    fresh = bias_C is not None or scale != 1.0
    if bias_C is not None:
        bias = (bias_C * scale).to(x_BC.dtype).reshape(-1, *[1] * (x_BC.ndim - 2))
        x_BC = torch.add(bias, x_BC, alpha=scale)
    elif fresh:
        x_BC = x_BC * scale
    return _activate(x_BC, activation, bound=None if clamp is None else clamp * gain, in_place=fresh)


def _gain(activation: str) -> float:
    return math.sqrt(2) if activation == "lrelu" else 1.0


def _activate(x: Tensor, activation: str, *, bound: float | None, in_place: bool = True) -> Tensor:
    """Apply the activation, whose gain `x` has already, and clamp.

    Leaky ReLU is linear in positive factors, so that what comes before it can be scaled instead: a kernel
    rather than an image. `in_place` says that `x` may be overwritten.
    """
    if activation == "lrelu":
        x = F.leaky_relu(x, 0.2, inplace=in_place)
    # As clamp does, with one pass in the backward pass where clamp has four.
    return x if bound is None else F.hardtanh(x, -bound, bound)


def normalize_2nd_moment(x_BD: Tensor) -> Tensor:
    """Scale each row to a mean square of 1."""
    return x_BD * (x_BD.square().mean(dim=1, keepdim=True) + _EPSILON).rsqrt()


class FullyConnectedLayer(nn.Module):
    """A fully connected layer with an equalised learning rate, in full precision under any autocast.

    Args:
        in_features: Width of the input.
        out_features: Width of the output.
        bias: Whether a bias is added.
        activation: "linear" or "lrelu".
        lr_multiplier: How fast it learns, compared with other layers.
        bias_init: What the bias starts at, in units of ``1 / lr_multiplier``.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        lr_multiplier: float = 1.0,
        bias_init: float = 0.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), float(bias_init))) if bias else None
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x_BD: Tensor) -> Tensor:
        """Return (B, out_features), float32 or wider."""
        with full_precision(x_BD):
            y_BD = at_least_fp32(x_BD) @ (self.weight * self.weight_gain).T
            bias = None if self.bias is None else self.bias * self.bias_gain
            return bias_act(y_BD, bias, activation=self.activation)


class Conv2dLayer(nn.Module):
    """A convolution with an equalised learning rate, and resampling by a filter.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        kernel_size: Side of the kernel, 1 or 3.
        bias: Whether a bias is added.
        activation: "linear" or "lrelu".
        up: 1, or 2 to double height and width.
        down: 1, or 2 to halve height and width.
        clamp: Largest absolute value of the output; None for any.
    """

    resample_filter: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        bias: bool = True,
        activation: str = "linear",
        up: int = 1,
        down: int = 1,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.up = up
        self.down = down
        self.clamp = clamp
        self.register_buffer("resample_filter", make_filter())
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.weight_gain = 1 / math.sqrt(in_channels * kernel_size**2)

    def forward(self, x_BIHW: Tensor, *, gain: float = 1.0) -> Tensor:
        """Return x_BOHW, times `gain`."""
        scale = _gain(self.activation) * gain
        weight = (self.weight * (self.weight_gain * scale)).to(x_BIHW.dtype)
        bias = None if self.bias is None else (self.bias * scale).to(x_BIHW.dtype)
        x = _resampled_conv2d(x_BIHW, weight, self.resample_filter, up=self.up, down=self.down, bias=bias)
        return _activate(x, self.activation, bound=None if self.clamp is None else self.clamp * gain)


def modulated_conv2d(
    x_BIHW: Tensor,
    weight_OIyx: Tensor,
    styles_BI: Tensor,
    *,
    demodulate: bool = True,
    up: int = 1,
    resample_filter: Tensor | None = None,
    bias_O: Tensor | None = None,
    gain: float = 1.0,
) -> Tensor:
    """Convolve each image by the kernel that its style scales.

    With demodulation every output channel of that kernel has length 1. The styles scale the image before,
    the lengths after the convolution, which is the same and holds no kernel for each image: clips have
    many frames.

    Args:
        x_BIHW: Images.
        weight_OIyx: The kernel, side 1 or 3.
        styles_BI: A factor for each input channel of each image; float32.
        demodulate: Whether kernels are brought to length 1.
        up: 1, or 2 to double height and width.
        resample_filter: What `make_filter` returns, for ``up=2``.
        bias_O: Added at the end.
        gain: Factor on what the bias is added to.

    Returns:
        x_BOHW in the type of the convolution.
    """
    if weight_OIyx.shape[-1] == 1 and up == 1:
        scales_BO1 = demodulation(weight_OIyx, styles_BI)[..., None] * gain if demodulate else gain
        x = mix_channels(at_least_fp32(weight_OIyx)[..., 0, 0] * styles_BI[:, None] * scales_BO1, x_BIHW)
        return x if bias_O is None else x + bias_O.to(x.dtype)[:, None, None]
    x = x_BIHW * styles_BI.to(x_BIHW.dtype)[:, :, None, None]
    weight = weight_OIyx.to(x_BIHW.dtype)
    if not demodulate:
        x = _resampled_conv2d(x, weight * gain, resample_filter, up=up)
        return x if bias_O is None else x + bias_O.to(x.dtype)[:, None, None]
    x = _resampled_conv2d(x, weight, resample_filter, up=up)
    scales_BO = (demodulation(weight_OIyx, styles_BI) * gain).to(x.dtype)[:, :, None, None]
    if bias_O is None:
        return x * scales_BO
    return torch.addcmul(bias_O.to(x.dtype)[:, None, None], x, scales_BO)


def mix_channels(kernel_BOI: Tensor, x_BI: Tensor) -> Tensor:
    """Mix the channels of each row of a batch by a kernel of its own, at every place of the other axes."""
    x_BON = torch.bmm(kernel_BOI.to(x_BI.dtype), x_BI.flatten(2))
    return x_BON.view(*x_BON.shape[:2], *x_BI.shape[2:])


def demodulation(weight_OIyx: Tensor, styles_BI: Tensor) -> Tensor:
    """Return the inverse length of each output channel of the scaled kernel, (B, O), float32 or wider."""
    with full_precision(styles_BI):
        energy_OI = at_least_fp32(weight_OIyx).square().sum(dim=(2, 3))
        return (at_least_fp32(styles_BI).square() @ energy_OI.T + _EPSILON).rsqrt()


def _resampled_conv2d(
    x: Tensor, weight: Tensor, taps: Tensor | None, *, up: int, down: int = 1, bias: Tensor | None = None
) -> Tensor:
    if up == 2:
        assert taps is not None
        x = conv2d_up(x, weight, taps)
        return x if bias is None else x + bias[:, None, None]
    if down == 2:
        assert taps is not None
        return conv2d_down(x, weight, taps, bias)
    return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2)


class SynthesisLayer(nn.Module):
    """A modulated 3x3 convolution with leaky ReLU, and noise where it is wanted.

    Args:
        in_channels: Channels in.
        out_channels: Channels out.
        w_dim: Width of the latent that its style is made of.
        resolution: Height and width that come out, in pixels.
        up: 1, or 2 to double height and width.
        noise: "none"; or "pixel": one number a pixel by a learned strength, drawn anew in train mode, always
            the same (a buffer) in eval mode.
        clamp: Largest absolute value of the output; None for any.
    """

    resample_filter: Tensor
    noise_const: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        w_dim: int,
        resolution: int,
        up: int = 1,
        noise: str = "none",
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.up = up
        self.noise = noise
        self.clamp = clamp
        self.register_buffer("resample_filter", make_filter())
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        if noise == "pixel":
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
            self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x_BIHW: Tensor, w_BD: Tensor, *, gain: float = 1.0) -> Tensor:
        """Return x_BOHW, times `gain`."""
        scale = _gain("lrelu") * gain
        x = modulated_conv2d(
            x_BIHW,
            self.weight,
            self.affine(w_BD),
            up=self.up,
            resample_filter=self.resample_filter,
            bias_O=self.bias * scale,
            gain=scale,
        )
        if self.noise == "pixel":
            pixels = torch.randn_like(x[:, :1]) if self.training else self.noise_const.to(x.dtype)
            x = x + pixels * (self.noise_strength * scale).to(x.dtype)
        return _activate(x, "lrelu", bound=None if self.clamp is None else self.clamp * gain)


class ToRGBLayer(nn.Module):
    """A modulated 1x1 convolution to colours, not demodulated.

    Args:
        in_channels: Channels in.
        out_channels: Colours.
        w_dim: Width of the latent that its style is made of.
        clamp: Largest absolute value of the output; None for any.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, w_dim: int, clamp: float | None = None
    ) -> None:
        super().__init__()
        self.clamp = clamp
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x_BIHW: Tensor, w_BD: Tensor) -> Tensor:
        """Return x_BCHW."""
        styles_BI = self.affine(w_BD) * self.weight_gain
        x = modulated_conv2d(x_BIHW, self.weight, styles_BI, demodulate=False, bias_O=self.bias)
        return _activate(x, "linear", bound=self.clamp)


class MinibatchStd(nn.Module):
    """Appends how much the images of a group differ, as channels of one number each.

    In train mode a group is `group_size` images of the batch, or the largest number below it that divides
    the batch. In eval mode every image is a group by itself, so that its score is its own.

    Args:
        group_size: Images of a group.
        num_channels: Numbers that are appended, each of its share of the channels.
    """

    def __init__(self, group_size: int = 4, *, num_channels: int = 1) -> None:
        super().__init__()
        self.group_size = group_size
        self.num_channels = num_channels

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Return (B, C + num_channels, H, W), float32 or wider."""
        batch, _, height, width = x_BCHW.shape
        largest = min(self.group_size, batch) if self.training else 1
        group = next(size for size in range(largest, 0, -1) if batch % size == 0)
        with full_precision(x_BCHW):
            x_BCHW = at_least_fp32(x_BCHW)
            x = rearrange(x_BCHW, "(G N) (K C) H W -> G N K C H W", G=group, K=self.num_channels)
            deviation = (x.var(dim=0, correction=0) + _EPSILON).sqrt().mean(dim=(2, 3, 4))
            planes = deviation.repeat(group, 1)[:, :, None, None].expand(-1, -1, height, width)
            return torch.cat([x_BCHW, planes], dim=1)
