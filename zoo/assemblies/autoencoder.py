"""The autoencoder: encoder, quantizer and decoder, with discriminators while training.

With a discrete quantizer it is a VQ-VAE (with discriminators a VQGAN), with a continuous one a VAE.

Shape legend: B batch, C colour channels, T H W frames and pixels; D latent channels, t h w the latent
grid, q codebooks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from zoo.assemblies.base import Assembly, check_clips
from zoo.assemblies.padding import Size, crop, latent_size, pad
from zoo.assemblies.streams import StreamDecoder, StreamEncoder
from zoo.errors import ZooError
from zoo.outputs import Quantized, Tokens
from zoo.recipes import Recipe
from zoo.streaming import is_first_piece


class Reconstructed(NamedTuple):
    """A clip after the round trip, and what the quantizer said of it.

    Attributes:
        x_BCTHW: The reconstruction, same size as the input, in about [-1, 1] (not clamped).
        quantized: The quantizer's result, with its loss.
    """

    x_BCTHW: Tensor
    quantized: Quantized


class Autoencoder(Assembly):
    """A tokenizer for video: `encode` to tokens, `decode` back, `reconstruct` in one go.

    Any T, H, W goes in and exactly that comes out, by the rule in `zoo.assemblies.padding`. Parts that
    work on images are applied frame by frame.
    """

    needs = ("encoder", "quantizer", "decoder")
    projections = ("pre_quant", "post_quant")

    # Parts are typed by their ports (zoo.ports), which are checked when a model is built.
    encoder: Any
    quantizer: Any
    decoder: Any

    def __init__(
        self, recipe: Recipe, *, encoder: nn.Module, quantizer: nn.Module, decoder: nn.Module
    ) -> None:
        super().__init__(recipe)
        self.encoder = encoder
        self.pre_quant = _projection(recipe.pre_quant, encoder, quantizer)
        self.quantizer = quantizer
        self.post_quant = _projection(recipe.post_quant, quantizer, decoder)
        self.decoder = decoder

    @property
    def stride(self) -> Size:
        """How many frames and pixels a latent cell stands for: (s_t, s_h, s_w)."""
        return self.encoder.stride

    @property
    def causal(self) -> bool:
        """Whether a frame never depends on later ones."""
        return bool(self.encoder.causal and self.decoder.causal)

    @property
    def lead_frame(self) -> bool:
        """Whether the first frame is a latent frame of its own: 1 + k*s_t frames are 1 + k."""
        return bool(getattr(self.encoder, "lead_frame", self.encoder.causal))

    @property
    def max_frames(self) -> int | None:
        """How many frames a clip or a stream may have; None without end."""
        limits = [getattr(part, "max_frames", None) for part in (self.encoder, self.decoder)]
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.decoder.last_layer

    def latent_size(self, size_THW: Size) -> Size:
        """Return the latent grid (t, h, w) of a clip of the given frames, height and width."""
        return latent_size(size_THW, self.stride, lead_frame=self.lead_frame)

    def forward(self, x_BCTHW: Tensor) -> Reconstructed:
        """Reconstruct clips and keep the quantizer's loss, for training.

        Args:
            x_BCTHW: Clips in [-1, 1], any size.
        """
        quantized = self._quantize(x_BCTHW)
        size_THW = (x_BCTHW.shape[2], x_BCTHW.shape[3], x_BCTHW.shape[4])
        return Reconstructed(self._decode(quantized.z_BDthw, size_THW), quantized)

    def rehearse(self, shape_BCTHW: tuple[int, ...]) -> Tensor:
        return self.forward(torch.empty(shape_BCTHW, device=self.last_layer.device)).x_BCTHW

    def encode(self, x_BCTHW: Tensor) -> Tokens:
        """Turn clips into tokens.

        Args:
            x_BCTHW: Clips in [-1, 1], any size.

        Raises:
            ZooError: The input is not a batch of clips.
        """
        quantized = self._quantize(x_BCTHW)
        size_THW = (x_BCTHW.shape[2], x_BCTHW.shape[3], x_BCTHW.shape[4])
        return Tokens(quantized.z_BDthw, quantized.indices_Bqthw, size_THW)

    def decode(self, tokens: Tokens) -> Tensor:
        """Turn tokens back into clips x_BCTHW of the size the tokens were made from.

        Tokens without latents are looked up by their indices, so ``tokens._replace(z_BDthw=None)`` gives
        the same clip.

        Raises:
            ZooError: The tokens hold neither latents nor indices, or a grid of another size.
        """
        z_BDthw = tokens.z_BDthw
        if z_BDthw is None:
            if tokens.indices_Bqthw is None:
                raise ZooError("the tokens hold neither z_BDthw nor indices_Bqthw; one is needed to decode")
            if self.quantizer.continuous:
                raise ZooError("this model's bottleneck is continuous: decode from z_BDthw, not from indices")
            z_BDthw = self.quantizer.lookup(tokens.indices_Bqthw)
        grid = tuple(z_BDthw.shape[-3:])
        wanted = latent_size(tokens.size_THW, self.stride, lead_frame=self._leads_here)
        if grid != wanted:
            raise ZooError(
                f"a clip of {tokens.size_THW} has a latent grid of {wanted}; these tokens have {grid}"
            )
        return self._decode(z_BDthw, tokens.size_THW)

    def reconstruct(self, x_BCTHW: Tensor) -> Tensor:
        """Encode and decode clips; the result has the input's size, clamped to [-1, 1]."""
        return self.forward(x_BCTHW).x_BCTHW.clamp(-1, 1)

    def stream_encoder(self) -> StreamEncoder:
        """Open a stream that turns frames into tokens as they come.

        Raises:
            ZooError: The encoder looks ahead in time, or the model is in training mode.
        """
        return StreamEncoder(self)

    def stream_decoder(self) -> StreamDecoder:
        """Open a stream that turns tokens into frames as they come.

        Raises:
            ZooError: The decoder looks ahead in time, or the model is in training mode.
        """
        return StreamDecoder(self)

    @property
    def _leads_here(self) -> bool:
        """Whether the frames at hand begin with a lead frame: in a stream only the first piece does."""
        return self.lead_frame and is_first_piece()

    def _quantize(self, x_BCTHW: Tensor) -> Quantized:
        check_clips(x_BCTHW, self.encoder.in_channels)
        x_BCTHW = pad(x_BCTHW, self.stride, lead_frame=self._leads_here)
        per_frame = getattr(self.encoder, "consumes", "video") == "image"
        z_BDthw = _per_frame(self.encoder, x_BCTHW) if per_frame else self.encoder(x_BCTHW)
        return self.quantizer(self.pre_quant(z_BDthw))

    def _decode(self, z_BDthw: Tensor, size_THW: Size) -> Tensor:
        z_BDthw = self.post_quant(z_BDthw)
        per_frame = getattr(self.decoder, "emits", "video") == "image"
        x_BCTHW = _per_frame(self.decoder, z_BDthw) if per_frame else self.decoder(z_BDthw)
        return crop(x_BCTHW, size_THW)


def _projection(choice: str | None, source: Any, target: Any) -> nn.Module:
    if choice is None:
        return nn.Identity()
    return nn.Conv3d(source.latent_dim, getattr(target, "input_dim", target.latent_dim), kernel_size=1)


def _per_frame(part: nn.Module, x_BCTHW: Tensor) -> Tensor:
    """Apply a part that works on images to every frame."""
    y: Tensor = part(rearrange(x_BCTHW, "b c t h w -> (b t) c h w"))
    return rearrange(y, "(b t) c h w -> b c t h w", b=len(x_BCTHW))
