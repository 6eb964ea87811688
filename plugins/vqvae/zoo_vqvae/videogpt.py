"""Encoder and decoder of the VideoGPT VQ-VAE (https://arxiv.org/abs/2104.10157).

State-dict names inside a part are those of the published code, so its weights load through
`zoo_vqvae.videogpt_weights`. The published network sees video in [-0.5, 0.5]; both parts rescale.

Shapes: B batch, C colour channels, T H W frames and pixels, D channels, t h w the latent grid.
"""

from __future__ import annotations

from torch import Tensor, nn

from zoo.checks import require_clip, require_latent
from zoo.convolution import relu
from zoo_vqvae.videogpt_layers import (
    SamePadConv3d,
    SamePadConvTranspose3d,
    check_stride,
    check_widths,
    halvings,
    residual_stack,
)


class VideoGPTEncoder(nn.Module):
    """Shrinks video by strided convolutions, then refines it with axial attention.

    Ends before the published `pre_vq_conv`: that 1x1x1 projection is the recipe's `pre_quant`.

    Args:
        in_channels: Colour channels.
        hidden_dim: Width of every layer, and of the latent.
        num_residual_blocks: Residual blocks with axial attention.
        num_heads: Heads of each attention; divides `hidden_dim`.
        stride: Shrinkage of time, height and width, powers of two.

    Raises:
        RecipeError: An option is out of range.
    """

    causal = False

    def __init__(
        self,
        *,
        in_channels: int = 3,
        hidden_dim: int = 240,
        num_residual_blocks: int = 4,
        num_heads: int = 2,
        stride: list[int] = [4, 4, 4],  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__()
        self.stride = check_stride("encoder videogpt", stride)
        check_widths("encoder videogpt", hidden_dim, num_residual_blocks, num_heads)
        self.in_channels = in_channels
        self.latent_dim = hidden_dim
        steps = halvings(self.stride)
        widths = [in_channels] + [hidden_dim] * len(steps)
        self.convs = nn.ModuleList(
            SamePadConv3d(in_dim, hidden_dim, kernel_size=4, stride=step)
            for in_dim, step in zip(widths, steps, strict=False)
        )
        # The published code gives this layer the width of the *previous* input, which is wrong
        # (colour channels) exactly when there is one strided convolution; elsewhere it is the same.
        self.conv_last = SamePadConv3d(hidden_dim, hidden_dim, kernel_size=3)
        self.res_stack = residual_stack(hidden_dim, num_blocks=num_residual_blocks, num_heads=num_heads)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Encode video in [-1, 1] to z_BDthw of T/s_t, H/s_h, W/s_w.

        Raises:
            PortError: T, H or W is not a multiple of the stride, or C is not `in_channels`.
        """
        require_clip(
            "encoder videogpt", x_BCTHW, in_channels=self.in_channels, stride=self.stride, lead_frame=False
        )
        h = x_BCTHW * 0.5
        for conv in self.convs:
            h = relu(conv(h))
        z_BDthw: Tensor = self.res_stack(self.conv_last(h))
        return z_BDthw


class VideoGPTDecoder(nn.Module):
    """Refines the latent with axial attention, then grows it by transposed convolutions.

    Starts after the published `post_vq_conv`: that 1x1x1 projection is the recipe's `post_quant`.

    Args:
        out_channels: Colour channels.
        hidden_dim: Width of every layer, and of the latent.
        num_residual_blocks: Residual blocks with axial attention.
        num_heads: Heads of each attention; divides `hidden_dim`.
        stride: Growth of time, height and width, powers of two.

    Raises:
        RecipeError: An option is out of range.
    """

    causal = False

    def __init__(
        self,
        *,
        out_channels: int = 3,
        hidden_dim: int = 240,
        num_residual_blocks: int = 4,
        num_heads: int = 2,
        stride: list[int] = [4, 4, 4],  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__()
        self.stride = check_stride("decoder videogpt", stride)
        check_widths("decoder videogpt", hidden_dim, num_residual_blocks, num_heads)
        self.out_channels = out_channels
        self.latent_dim = hidden_dim
        self.res_stack = residual_stack(hidden_dim, num_blocks=num_residual_blocks, num_heads=num_heads)
        steps = halvings(self.stride)
        widths = [hidden_dim] * (len(steps) - 1) + [out_channels]
        self.convts = nn.ModuleList(
            SamePadConvTranspose3d(hidden_dim, out_dim, stride=step)
            for out_dim, step in zip(widths, steps, strict=True)
        )

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last convolution."""
        return self.convts[-1].get_parameter("convt.weight")

    def forward(self, z_BDthw: Tensor) -> Tensor:
        """Decode to x_BCTHW, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("decoder videogpt", z_BDthw, latent_dim=self.latent_dim)
        h: Tensor = self.res_stack(z_BDthw)
        for convt in self.convts[:-1]:
            h = relu(convt(h))
        x_BCTHW: Tensor = self.convts[-1](h) * 2
        return x_BCTHW
