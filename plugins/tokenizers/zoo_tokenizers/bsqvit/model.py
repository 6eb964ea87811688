"""Encoder and decoder of BSQ-ViT, for video and images (https://arxiv.org/abs/2406.07548).

Frames are cut into square patches, each a token of a transformer. In video a token sees all of its own frame
and the frames before, never a later one (the paper's block-causal mask), and every frame is a latent frame.
State-dict names inside a part are those of the published code, so its weights load through
`zoo_tokenizers.bsqvit.weights`.

Time has learned positions: `num_frames` is the longest clip or stream, and what is longer is refused. Places
in a frame have learned positions, too, interpolated for frames of another size than `size`.

Streaming: keys and values of the whole past are kept, so what a stream holds grows with its length, up to
num_frames * h * w tokens of 2 * width numbers per layer.

Shapes: B batch, C colour channels, T H W frames and pixels, D channels, t h w the latent grid, n = h * w.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import PortError, RecipeError
from zoo_tokenizers.bsqvit.layers import (
    BlockCausalAttention,
    FrameAttention,
    Transformer,
    add_place,
    add_time,
    check_options,
    init_linear,
)


class _Encoder(nn.Module):
    """Patches to tokens and through the transformer, for clips of one frame or more."""

    causal = True
    name: str
    attention: type[FrameAttention]

    def __init__(
        self,
        *,
        in_channels: int,
        size: list[int],
        patch_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: int,
    ) -> None:
        super().__init__()
        self.size = check_options(
            f"encoder {self.name}",
            size=size,
            patch_size=patch_size,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
        )
        self.in_channels = in_channels
        self.patch_size = patch_size
        self.latent_dim = width
        self.stride = (1, patch_size, patch_size)

        self.conv1 = nn.Linear(in_channels * patch_size**2, width, bias=False)
        init_linear(self.conv1)
        self.positional_embedding = _positions(self.size, patch_size, width)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(
            self.attention, width, num_layers=num_layers, num_heads=num_heads, mlp_ratio=mlp_ratio
        )
        self.ln_post = nn.LayerNorm(width)

    def encode(self, x_BCTHW: Tensor, time_TD: Tensor | None) -> Tensor:
        """Encode, with positions of time where there are any."""
        height, width = x_BCTHW.shape[3] // self.patch_size, x_BCTHW.shape[4] // self.patch_size
        p = self.patch_size
        x = rearrange(x_BCTHW, "b c t (h p) (w q) -> b t (h w) (c p q)", p=p, q=p)
        x_BtnD = add_place(self, self.conv1(x), height, width)
        if time_TD is not None:
            x_BtnD = add_time(self, time_TD, x_BtnD, f"encoder {self.name}")
        z_BtnD = self.ln_post(self.transformer(self.ln_pre(x_BtnD)))
        return rearrange(z_BtnD, "b t (h w) d -> b d t h w", h=height).contiguous()

    def check_clip(self, x: Tensor, num_axes: int) -> None:
        """Raise `PortError` unless the clip or image fits."""
        size = tuple(x.shape[2:])
        if x.ndim != num_axes or min(size) < 1 or any(side % self.patch_size for side in size[-2:]):
            axes = "(B, C, T, H, W)" if num_axes == 5 else "(B, C, H, W)"
            raise PortError(
                f"encoder {self.name} got a clip of shape {tuple(x.shape)}; it takes {axes} with H, W "
                f"multiples of its stride {self.patch_size}"
            )
        if x.shape[1] != self.in_channels:
            raise PortError(
                f"encoder {self.name} has in_channels={self.in_channels} and got {x.shape[1]} channels"
            )


class BSQViTEncoder(_Encoder):
    """Turns patches of video into tokens that know their frame and the past.

    Ends before the published `quant_embed`: that projection is the recipe's `pre_quant`. The quantizer `bsq`
    then gives vectors length 1.

    Args:
        in_channels: Colour channels.
        size: Height and width that the learned positions are for.
        patch_size: Side of a patch, the stride.
        width: Channels of a token and of the latent.
        num_layers: Transformer blocks.
        num_heads: Heads of attention, a divisor of `width`.
        mlp_ratio: Width of the hidden layer in a block, in multiples of `width`.
        num_frames: Frames of the longest clip or stream.

    Raises:
        RecipeError: An option is out of range.
    """

    name = "bsqvit"
    attention = BlockCausalAttention

    def __init__(
        self,
        *,
        in_channels: int = 3,
        size: list[int] = [128, 128],  # noqa: B006 - read, never changed
        patch_size: int = 8,
        width: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_ratio: int = 4,
        num_frames: int = 16,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            size=size,
            patch_size=patch_size,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
        )
        self.temporal_positional_embedding = _times(f"encoder {self.name}", num_frames, width)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Encode video in [-1, 1] to z_BDthw of t = T, H / patch_size, W / patch_size.

        Raises:
            PortError: H or W is not a multiple of the stride, C is not `in_channels`, or the clip, or the
                stream so far, is longer than `num_frames`.
        """
        self.check_clip(x_BCTHW, 5)
        return self.encode(x_BCTHW, self.temporal_positional_embedding)


class BSQViTImageEncoder(_Encoder):
    """Turns patches of an image into tokens that know the image.

    Ends before the published `quant_embed`: that projection is the recipe's `pre_quant`.

    Args:
        in_channels: Colour channels.
        size: Height and width that the learned positions are for.
        patch_size: Side of a patch, the stride.
        width: Channels of a token and of the latent.
        num_layers: Transformer blocks.
        num_heads: Heads of attention, a divisor of `width`.
        mlp_ratio: Width of the hidden layer in a block, in multiples of `width`.

    Raises:
        RecipeError: An option is out of range.
    """

    name = "bsqvit-image"
    attention = FrameAttention
    consumes = "image"

    def __init__(
        self,
        *,
        in_channels: int = 3,
        size: list[int] = [256, 256],  # noqa: B006 - read, never changed
        patch_size: int = 8,
        width: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_ratio: int = 4,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            size=size,
            patch_size=patch_size,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Encode images in [-1, 1] to z_BDhw.

        Raises:
            PortError: H or W is not a multiple of the stride, or C not `in_channels`.
        """
        self.check_clip(x_BCHW, 4)
        return self.encode(x_BCHW.unsqueeze(2), None).squeeze(2)


class _Decoder(nn.Module):
    """Tokens through the transformer and to patches, for clips of one frame or more."""

    causal = True
    name: str
    attention: type[FrameAttention]

    def __init__(
        self,
        *,
        out_channels: int,
        size: list[int],
        patch_size: int,
        width: int,
        num_layers: int,
        num_heads: int,
        mlp_ratio: int,
        head_width: int,
    ) -> None:
        super().__init__()
        self.size = check_options(
            f"decoder {self.name}",
            size=size,
            patch_size=patch_size,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            head_width=head_width,
        )
        self.out_channels = out_channels
        self.patch_size = patch_size
        self.latent_dim = width
        self.stride = (1, patch_size, patch_size)

        self.positional_embedding = _positions(self.size, patch_size, width)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(
            self.attention, width, num_layers=num_layers, num_heads=num_heads, mlp_ratio=mlp_ratio
        )
        self.ln_post = nn.LayerNorm(width)
        self.ffn = nn.Sequential(nn.Linear(width, head_width), nn.Tanh())
        self.conv_out = nn.Linear(head_width, out_channels * patch_size**2)
        self.ffn.apply(init_linear)
        init_linear(self.conv_out)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last layer, which makes a patch of every token."""
        return self.conv_out.get_parameter("weight")

    def decode(self, z_BDthw: Tensor, time_TD: Tensor | None) -> Tensor:
        """Decode, with positions of time where there are any."""
        height, width = z_BDthw.shape[3:]
        x_BtnD = add_place(self, rearrange(z_BDthw, "b d t h w -> b t (h w) d"), height, width)
        if time_TD is not None:
            x_BtnD = add_time(self, time_TD, x_BtnD, f"decoder {self.name}")
        y = self.conv_out(self.ffn(self.ln_post(self.transformer(self.ln_pre(x_BtnD)))))
        p = self.patch_size
        return rearrange(y, "b t (h w) (c p q) -> b c t (h p) (w q)", h=height, p=p, q=p).contiguous()

    def check_latent(self, z: Tensor, num_axes: int) -> None:
        """Raise `PortError` unless the latent fits."""
        if z.ndim != num_axes or z.shape[1] != self.latent_dim:
            axes = "(B, D, t, h, w)" if num_axes == 5 else "(B, D, h, w)"
            raise PortError(
                f"decoder {self.name} got a latent of shape {tuple(z.shape)}; it takes {axes} with "
                f"D = {self.latent_dim}"
            )


class BSQViTDecoder(_Decoder):
    """Turns tokens that know their frame and the past into patches of video.

    Starts after the published `post_quant_embed`: that projection is the recipe's `post_quant`.

    Args:
        out_channels: Colour channels.
        size: Height and width that the learned positions are for.
        patch_size: Side of a patch, the stride.
        width: Channels of the latent and of a token.
        num_layers: Transformer blocks.
        num_heads: Heads of attention, a divisor of `width`.
        mlp_ratio: Width of the hidden layer in a block, in multiples of `width`.
        num_frames: Frames of the longest clip or stream.
        head_width: Width of the hidden layer that makes patches.

    Raises:
        RecipeError: An option is out of range.
    """

    name = "bsqvit"
    attention = BlockCausalAttention

    def __init__(
        self,
        *,
        out_channels: int = 3,
        size: list[int] = [128, 128],  # noqa: B006 - read, never changed
        patch_size: int = 8,
        width: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_ratio: int = 4,
        num_frames: int = 16,
        head_width: int = 3072,
    ) -> None:
        super().__init__(
            out_channels=out_channels,
            size=size,
            patch_size=patch_size,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            head_width=head_width,
        )
        self.temporal_positional_embedding = _times(f"decoder {self.name}", num_frames, width)

    def forward(self, z_BDthw: Tensor) -> Tensor:
        """Decode to x_BCTHW of T = t frames, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `width`, or the clip, or the stream so far, is longer than `num_frames`.
        """
        self.check_latent(z_BDthw, 5)
        return self.decode(z_BDthw, self.temporal_positional_embedding)


class BSQViTImageDecoder(_Decoder):
    """Turns tokens that know the image into its patches.

    Starts after the published `post_quant_embed`: that projection is the recipe's `post_quant`.

    Args:
        out_channels: Colour channels.
        size: Height and width that the learned positions are for.
        patch_size: Side of a patch, the stride.
        width: Channels of the latent and of a token.
        num_layers: Transformer blocks.
        num_heads: Heads of attention, a divisor of `width`.
        mlp_ratio: Width of the hidden layer in a block, in multiples of `width`.
        head_width: Width of the hidden layer that makes patches.

    Raises:
        RecipeError: An option is out of range.
    """

    name = "bsqvit-image"
    attention = FrameAttention
    emits = "image"

    def __init__(
        self,
        *,
        out_channels: int = 3,
        size: list[int] = [256, 256],  # noqa: B006 - read, never changed
        patch_size: int = 8,
        width: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_ratio: int = 4,
        head_width: int = 3072,
    ) -> None:
        super().__init__(
            out_channels=out_channels,
            size=size,
            patch_size=patch_size,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
            head_width=head_width,
        )

    def forward(self, z_BDhw: Tensor) -> Tensor:
        """Decode to x_BCHW, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `width`.
        """
        self.check_latent(z_BDhw, 4)
        return self.decode(z_BDhw.unsqueeze(2), None).squeeze(2)


def _positions(size: tuple[int, int], patch_size: int, width: int) -> nn.Parameter:
    """Small random positions (n, D) of the places in a frame."""
    num = (size[0] // patch_size) * (size[1] // patch_size)
    return nn.Parameter(torch.randn(num, width) * 0.02)


def _times(name: str, num_frames: int, width: int) -> nn.Parameter:
    """Zero positions (num_frames, D) of frames."""
    if num_frames < 1:
        raise RecipeError(f"{name}: num_frames is {num_frames}; it must be at least 1")
    return nn.Parameter(torch.zeros(num_frames, width))
