"""Encoder and decoder of OmniTokenizer (https://arxiv.org/abs/2406.09399).

Patches, of which those of the first frame are embedded on their own, then a transformer in space and one in
time; the decoder in reverse. Names in the state dict are those of the published code, so its weights load
through `zoo_tokenizers.omnitokenizer.weights`.

The published code looks ahead in time: between frames its convolution runs over misread axes (see
`ScrambledPEG`), although its attention there is causal. `OmniTokenizerEncoder` and `OmniTokenizerDecoder` do
the same, so that published weights give what they gave. `CausalOmniTokenizerEncoder` and -`Decoder` read the
axes rightly: causal, streaming, with the same weights by name, and equal to the others for single frames.

The published code takes square frames only. Here columns, rows and windows follow the frame, whatever its
aspect ratio; for square frames whose side is a multiple of the window, that is what was published.

Shapes: B batch, C colours, T H W frames and pixels, D channels, t h w the grid of patches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from zoo.checks import require_clip, require_latent
from zoo.errors import RecipeError
from zoo.streaming import is_first_piece
from zoo_tokenizers.omnitokenizer.layers import (
    CausalPEG,
    FrameAttention,
    ScrambledPEG,
    TimeAttention,
    Transformer,
    WindowAttention,
)

_POSITIONS = ("rope", "bias", "none")


class OmniTokenizerEncoder(nn.Module):
    """Cuts video into patches, embeds them and lets them attend in space, then in time.

    Ends before the published `pre_vq_conv`: that projection is the recipe's `pre_quant`. Not causal, as
    published; see `CausalOmniTokenizerEncoder`.

    Args:
        in_channels: Colour channels.
        latent_dim: Channels of the latent, and the width of every layer.
        num_heads: Heads of attention.
        head_dim: Channels of a head (of windows: latent_dim / num_heads).
        spatial_layers: A letter for every layer in space: t attends to the frame, w to a window of it.
        temporal_depth: Layers in time.
        window_size: Side of a window, in patches; at the frame's edge windows are cut by it.
        positions: "rope" rotates queries and keys in space. "bias" adds a learned bias in space and one by
            distance in time: what the public code does where it does not find PyTorch's fused attention, as
            in the training of imagenet_only.ckpt. "none" is what it makes of "bias" where it finds it.
        stride: Frames, rows and columns of a patch; the first frame makes patches of its own.

    Raises:
        RecipeError: An option is out of range.
    """

    causal = False
    lead_frame = True
    _temporal_peg: type[CausalPEG] = ScrambledPEG

    def __init__(
        self,
        *,
        in_channels: int = 3,
        latent_dim: int = 512,
        num_heads: int = 8,
        head_dim: int = 64,
        spatial_layers: str = "ttww",
        temporal_depth: int = 4,
        window_size: int = 8,
        positions: str = "rope",
        stride: list[int] = [4, 8, 8],  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__()
        in_space, in_time, self.stride = _plan(
            "encoder omnitokenizer",
            latent_dim=latent_dim,
            num_heads=num_heads,
            head_dim=head_dim,
            spatial_layers=spatial_layers,
            temporal_depth=temporal_depth,
            window_size=window_size,
            positions=positions,
            stride=stride,
        )
        self.in_channels = in_channels
        self.latent_dim = latent_dim
        s_t, s_h, s_w = self.stride
        self.to_patch_emb_first_frame = _embedding(in_channels, (1, s_h, s_w), latent_dim)
        self.to_patch_emb = _embedding(in_channels, (s_t, s_h, s_w), latent_dim)
        self.enc_spatial_transformer = Transformer(latent_dim, in_space, peg=CausalPEG)
        self.enc_temporal_transformer = Transformer(latent_dim, in_time, peg=self._temporal_peg)
        self.apply(_initialise)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Encode video in [-1, 1] to z_BDthw of t = 1 + (T - 1) / s_t, H / s_h, W / s_w.

        Raises:
            PortError: T is not 1 + k*s_t, H or W not a multiple of the stride, or C not `in_channels`.
        """
        require_clip(
            "encoder omnitokenizer",
            x_BCTHW,
            in_channels=self.in_channels,
            stride=self.stride,
            lead_frame=True,
        )
        x_BCTHW = x_BCTHW / 2  # published: video in [-0.5, 0.5]
        lead, rest = torch.tensor_split(x_BCTHW, [int(is_first_piece())], dim=2)
        embedded = [
            embed(frames)
            for embed, frames in ((self.to_patch_emb_first_frame, lead), (self.to_patch_emb, rest))
            if frames.shape[2]
        ]
        h_BthwD = self.enc_spatial_transformer(torch.cat(embedded, dim=1))
        z_BthwD: Tensor = self.enc_temporal_transformer(h_BthwD)
        return z_BthwD.movedim(-1, 1).contiguous()


class OmniTokenizerDecoder(nn.Module):
    """Lets latents attend in time, then in space, and makes a patch of pixels of each.

    Starts after the published `post_vq_conv`: that projection is the recipe's `post_quant`. Not causal, as
    published; see `CausalOmniTokenizerDecoder`.

    Args:
        out_channels: Colour channels.
        latent_dim: Channels of the latent, and the width of every layer.
        num_heads: Heads of attention.
        head_dim: Channels of a head (of windows: latent_dim / num_heads).
        spatial_layers: A letter for every layer in space: t attends to the frame, w to a window of it.
        temporal_depth: Layers in time.
        window_size: Side of a window, in patches; read by layers w only.
        positions: As in the encoder.
        stride: Frames, rows and columns of a patch; the first frame is made of patches of its own.

    Raises:
        RecipeError: An option is out of range.
    """

    causal = False
    lead_frame = True
    _temporal_peg: type[CausalPEG] = ScrambledPEG

    def __init__(
        self,
        *,
        out_channels: int = 3,
        latent_dim: int = 512,
        num_heads: int = 8,
        head_dim: int = 64,
        spatial_layers: str = "tttt",
        temporal_depth: int = 4,
        window_size: int = 8,
        positions: str = "rope",
        stride: list[int] = [4, 8, 8],  # noqa: B006 - read, never changed
    ) -> None:
        super().__init__()
        in_space, in_time, self.stride = _plan(
            "decoder omnitokenizer",
            latent_dim=latent_dim,
            num_heads=num_heads,
            head_dim=head_dim,
            spatial_layers=spatial_layers,
            temporal_depth=temporal_depth,
            window_size=window_size,
            positions=positions,
            stride=stride,
        )
        self.out_channels = out_channels
        self.latent_dim = latent_dim
        s_t, s_h, s_w = self.stride
        self.dec_temporal_transformer = Transformer(latent_dim, in_time, peg=self._temporal_peg)
        self.dec_spatial_transformer = Transformer(latent_dim, in_space, peg=CausalPEG)
        self.to_pixels_first_frame = _pixels(latent_dim, out_channels, (1, s_h, s_w))
        self.to_pixels = _pixels(latent_dim, out_channels, (s_t, s_h, s_w))
        self.apply(_initialise)

    @property
    def last_layer(self) -> nn.Parameter:
        """Scale of the last norm: the last weight of all frames, since the first makes pixels its own way."""
        return self.dec_spatial_transformer.get_parameter("norm_out.gamma")

    def forward(self, z_BDthw: Tensor) -> Tensor:
        """Decode to x_BCTHW of T = 1 + (t - 1) * s_t frames, about [-1, 1] and not clamped.

        Raises:
            PortError: D is not `latent_dim`.
        """
        require_latent("decoder omnitokenizer", z_BDthw, latent_dim=self.latent_dim)
        h_BthwD = self.dec_temporal_transformer(z_BDthw.movedim(1, -1))
        h_BthwD = self.dec_spatial_transformer(h_BthwD)
        lead, rest = torch.tensor_split(h_BthwD, [int(is_first_piece())], dim=1)
        frames = [
            to_pixels(tokens)
            for to_pixels, tokens in ((self.to_pixels_first_frame, lead), (self.to_pixels, rest))
            if tokens.shape[1]
        ]
        return torch.cat(frames, dim=2) * 2  # published: video in [-0.5, 0.5]


class CausalOmniTokenizerEncoder(OmniTokenizerEncoder):
    """OmniTokenizer's encoder with its convolution over the real axes of the clip: causal, and it streams.

    Options, sizes and names of weights are those of `OmniTokenizerEncoder`, and so is what it gives for one
    frame. Published weights load, but for clips they were trained with the other one.

    What a stream keeps grows with it: the keys and values of every layer in time, temporal_depth * 2 *
    num_heads * head_dim numbers for every latent position so far. The rest is two frames of tokens a layer.
    """

    causal = True
    _temporal_peg = CausalPEG


class CausalOmniTokenizerDecoder(OmniTokenizerDecoder):
    """OmniTokenizer's decoder with its convolution over the real axes of the clip: causal, and it streams.

    Options, sizes and names of weights are those of `OmniTokenizerDecoder`, and so is what it gives for one
    frame. Published weights load, but for clips they were trained with the other one.

    What a stream keeps grows with it, as in `CausalOmniTokenizerEncoder`.
    """

    causal = True
    _temporal_peg = CausalPEG


Size3 = tuple[int, int, int]
_Makers = list[Callable[[], nn.Module]]


def _embedding(channels: int, patch: Size3, dim: int) -> nn.Sequential:
    s_t, s_h, s_w = patch
    num_values = channels * s_t * s_h * s_w
    cut = Rearrange("b c (t s) (h y) (w x) -> b t h w (c s y x)", s=s_t, y=s_h, x=s_w)
    return nn.Sequential(cut, nn.LayerNorm(num_values), nn.Linear(num_values, dim), nn.LayerNorm(dim))


def _pixels(dim: int, channels: int, patch: Size3) -> nn.Sequential:
    s_t, s_h, s_w = patch
    join = Rearrange("b t h w (c s y x) -> b c (t s) (h y) (w x)", c=channels, s=s_t, y=s_h, x=s_w)
    return nn.Sequential(nn.Linear(dim, channels * s_t * s_h * s_w), join)


def _initialise(module: nn.Module) -> None:
    """Draw linear layers as in the published first stage of training."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _plan(
    part: str,
    *,
    latent_dim: int,
    num_heads: int,
    head_dim: int,
    spatial_layers: str,
    temporal_depth: int,
    window_size: int,
    positions: str,
    stride: Sequence[int],
) -> tuple[_Makers, _Makers, Size3]:
    """Check options; returns what makes the attention of each layer in space and in time, and the stride.

    Raises:
        RecipeError: An option is out of range.
    """
    counts = (latent_dim, num_heads, head_dim, temporal_depth, window_size, *stride)
    if len(stride) != 3 or min(counts) < 1:
        raise RecipeError(
            f"{part}: latent_dim is {latent_dim}, num_heads {num_heads}, head_dim {head_dim}, temporal_depth "
            f"{temporal_depth}, window_size {window_size} and stride {list(stride)}; all must be at least 1, "
            "the stride (time, height, width), such as latent_dim=512, num_heads=8, head_dim=64, "
            "temporal_depth=4, window_size=8, stride=[4, 8, 8]"
        )
    if not spatial_layers or set(spatial_layers) - set("tw"):
        raise RecipeError(
            f"{part}: spatial_layers is {spatial_layers!r}; it is a letter for every layer, t (whole frame) "
            "or w (window), such as 'ttww'"
        )
    if positions not in _POSITIONS:
        raise RecipeError(f"{part}: positions is {positions!r}; choose one of {', '.join(_POSITIONS)}")
    if positions == "rope" and head_dim % 4:
        raise RecipeError(f"{part}: head_dim is {head_dim}; positions='rope' needs a multiple of 4")
    if "w" in spatial_layers and latent_dim % num_heads:
        raise RecipeError(
            f"{part}: latent_dim {latent_dim} is no multiple of num_heads {num_heads}, as windows need"
        )
    heads = {"num_heads": num_heads, "head_dim": head_dim}
    of_letter: dict[str, Callable[[], nn.Module]] = {
        "t": functools.partial(FrameAttention, latent_dim, **heads, positions=positions),
        "w": functools.partial(WindowAttention, latent_dim, num_heads=num_heads, window_size=window_size),
    }
    in_time = functools.partial(TimeAttention, latent_dim, **heads, is_nearer_stronger=positions == "bias")
    return (
        [of_letter[letter] for letter in spatial_layers],
        [in_time] * temporal_depth,
        (stride[0], stride[1], stride[2]),
    )
