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

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from zoo.checks import require_clip, require_image_latents, require_images, require_latent
from zoo_tokenizers.bsqvit.layers import (
    BlockCausalAttention,
    FrameAttention,
    Sizes,
    Transformer,
    add_place,
    add_time,
    check_sizes,
    init_linear,
)


class _Part(nn.Module):
    """A transformer over the tokens of clips of one frame or more; its ends are the subclass's."""

    causal = True
    name: str
    attention: type[FrameAttention]

    def __init__(self, sizes: Sizes, num_frames: int | None, head_width: int = 1) -> None:
        super().__init__()
        check_sizes(self.name, sizes, num_frames, head_width)
        height, width = sizes.size
        self.size = (height, width)
        self.patch_size = sizes.patch_size
        self.latent_dim = sizes.width
        self.stride = (1, sizes.patch_size, sizes.patch_size)
        self.max_frames = num_frames

    def _add_transformer(self, sizes: Sizes, num_frames: int | None) -> None:
        """Add positions, of frames too unless they are images, and the layers between the ends."""
        num_places = math.prod(self.size) // self.patch_size**2
        self.positional_embedding = nn.Parameter(torch.randn(num_places, sizes.width) * 0.02)
        self.ln_pre = nn.LayerNorm(sizes.width)
        self.transformer = Transformer(
            self.attention,
            sizes.width,
            num_layers=sizes.num_layers,
            num_heads=sizes.num_heads,
            mlp_ratio=sizes.mlp_ratio,
        )
        self.ln_post = nn.LayerNorm(sizes.width)
        self.temporal_positional_embedding = (
            None if num_frames is None else nn.Parameter(torch.zeros(num_frames, sizes.width))
        )

    def _transform(self, x_BtnD: Tensor, height: int, width: int) -> Tensor:
        x_BtnD = add_place(self, x_BtnD, height, width)
        if self.temporal_positional_embedding is not None:
            x_BtnD = add_time(self, self.temporal_positional_embedding, x_BtnD, self.name)
        return self.ln_post(self.transformer(self.ln_pre(x_BtnD)))


class _Encoder(_Part):
    """Patches to tokens and through the transformer."""

    def __init__(self, in_channels: int, sizes: Sizes, num_frames: int | None = None) -> None:
        super().__init__(sizes, num_frames)
        self.in_channels = in_channels
        self.conv1 = nn.Linear(in_channels * sizes.patch_size**2, sizes.width, bias=False)
        init_linear(self.conv1)
        self._add_transformer(sizes, num_frames)

    def _encode(self, x_BCTHW: Tensor) -> Tensor:
        p = self.patch_size
        height, width = x_BCTHW.shape[3] // p, x_BCTHW.shape[4] // p
        x = rearrange(x_BCTHW, "b c t (h p) (w q) -> b t (h w) (c p q)", p=p, q=p)
        z_BtnD = self._transform(self.conv1(x), height, width)
        return rearrange(z_BtnD, "b t (h w) d -> b d t h w", h=height).contiguous()


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

    name = "encoder bsqvit"
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
        sizes = Sizes(size, patch_size, width, num_layers, num_heads, mlp_ratio)
        super().__init__(in_channels, sizes, num_frames)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Encode video in [-1, 1] to z_BDthw of t = T, H / patch_size, W / patch_size.

        Raises:
            PortError: H or W is not a multiple of the stride, C is not `in_channels`, or the clip, or the
                stream so far, is longer than `num_frames`.
        """
        require_clip(self.name, x_BCTHW, in_channels=self.in_channels, stride=self.stride, lead_frame=False)
        return self._encode(x_BCTHW)


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

    name = "encoder bsqvit-image"
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
        sizes = Sizes(size, patch_size, width, num_layers, num_heads, mlp_ratio)
        super().__init__(in_channels, sizes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Encode images in [-1, 1] to z_BDhw.

        Raises:
            PortError: H or W is not a multiple of the stride, or C not `in_channels`.
        """
        require_images(self.name, x_BCHW, in_channels=self.in_channels, stride=self.stride)
        return self._encode(x_BCHW.unsqueeze(2)).squeeze(2)


class _Decoder(_Part):
    """Tokens through the transformer and to patches."""

    def __init__(
        self, out_channels: int, head_width: int, sizes: Sizes, num_frames: int | None = None
    ) -> None:
        super().__init__(sizes, num_frames, head_width)
        self.out_channels = out_channels
        self._add_transformer(sizes, num_frames)
        self.ffn = nn.Sequential(nn.Linear(sizes.width, head_width), nn.Tanh())
        self.conv_out = nn.Linear(head_width, out_channels * sizes.patch_size**2)
        self.ffn.apply(init_linear)
        init_linear(self.conv_out)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the last layer, which makes a patch of every token."""
        return self.conv_out.get_parameter("weight")

    def _decode(self, z_BDthw: Tensor) -> Tensor:
        height, width = z_BDthw.shape[3:]
        x_BtnD = self._transform(rearrange(z_BDthw, "b d t h w -> b t (h w) d"), height, width)
        y = self.conv_out(self.ffn(x_BtnD))
        p = self.patch_size
        return rearrange(y, "b t (h w) (c p q) -> b c t (h p) (w q)", h=height, p=p, q=p).contiguous()


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

    name = "decoder bsqvit"
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
        sizes = Sizes(size, patch_size, width, num_layers, num_heads, mlp_ratio)
        super().__init__(out_channels, head_width, sizes, num_frames)

    def forward(self, z_BDthw: Tensor) -> Tensor:
        """Decode to x_BCTHW of T = t frames, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `width`, or the clip, or the stream so far, is longer than `num_frames`.
        """
        require_latent(self.name, z_BDthw, latent_dim=self.latent_dim)
        return self._decode(z_BDthw)


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

    name = "decoder bsqvit-image"
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
        sizes = Sizes(size, patch_size, width, num_layers, num_heads, mlp_ratio)
        super().__init__(out_channels, head_width, sizes)

    def forward(self, z_BDhw: Tensor) -> Tensor:
        """Decode to x_BCHW, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `width`.
        """
        require_image_latents(self.name, z_BDhw, latent_dim=self.latent_dim)
        return self._decode(z_BDhw.unsqueeze(2)).squeeze(2)
