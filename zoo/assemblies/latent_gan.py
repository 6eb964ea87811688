"""The latent GAN: a generator of latents, which a frozen tokenizer turns into video.

Shape legend: B batch, C colour channels, T H W frames and pixels; D latent channels, t h w the latent grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from zoo.assemblies.autoencoder import Autoencoder
from zoo.assemblies.gan import Gan
from zoo.assemblies.padding import Size
from zoo.errors import ZooError
from zoo.outputs import Tokens
from zoo.ranks import mean_everywhere, world_size
from zoo.recipes import Recipe

SPREAD = 3.0
"""Standard deviations of the latents that a generator's range of [-1, 1] covers."""


class LatentGan(Gan):
    """A GAN in the latent space of a tokenizer: latents are made and judged, and decoded when sampled.

    To the generator and the discriminators, a latent z_BDthw is a clip of D channels, t frames and h x w
    pixels. Each channel is scaled so that its mean is 0 and `SPREAD` of its standard deviations are 1, which
    is measured on the first batch of the training, over all ranks, and saved with the weights.

    A GAN in the fixed latent space of an autoencoder is from https://arxiv.org/abs/1707.02392 (l-GAN, there
    of point clouds); the networks are those of GANs of pixels.

    The tokenizer is an autoencoder of its own: ``init={"tokenizer": folder}`` takes a trained one over. It
    is not trained here.
    """

    needs = ("encoder", "quantizer", "decoder", "generator")
    projections = ("pre_quant", "post_quant")
    has_tokenizer = True

    mean_D: Tensor
    scale_D: Tensor
    is_measured: Tensor

    def __init__(self, recipe: Recipe, *, generator: nn.Module, **tokenizer: nn.Module) -> None:
        super().__init__(recipe, generator=generator)
        self.tokenizer = Autoencoder(recipe, **tokenizer).requires_grad_(False)
        width = self.tokenizer.quantizer.latent_dim
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("scale_D", torch.ones(width))
        self.register_buffer("is_measured", torch.zeros((), dtype=torch.bool))

    def train(self, mode: bool = True) -> LatentGan:
        """Set the mode of the generator and the discriminators; the tokenizer stays in evaluation mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def part(self, field: str) -> nn.Module:
        return super().part(f"tokenizer.{field}" if field in Autoencoder.needs else field)

    @torch.no_grad()
    def shown(self, x_BCTHW: Tensor) -> Tensor:
        z_BDthw = self.tokenizer.encode(x_BCTHW).z_BDthw
        assert z_BDthw is not None
        z_BDthw = z_BDthw.float()
        if self.training and not bool(self.is_measured):
            self._measure(rearrange(z_BDthw, "b d t h w -> d (b t h w)"))
        return (z_BDthw - _grid(self.mean_D)) / _grid(self.scale_D)

    def _measure(self, z_DN: Tensor) -> None:
        """Take mean and spread of each channel from a batch of latents, of which every rank has a share."""
        num = z_DN.shape[1] * world_size()
        mean_D = mean_everywhere(z_DN.mean(1))
        variance_D = mean_everywhere((z_DN - mean_D[:, None]).square().mean(1)) * (num / max(num - 1, 1))
        of_all = (variance_D + (mean_D - mean_D.mean()).square()).mean().sqrt()
        # A channel that hardly moves is left as it is: its noise would be blown up.
        std_D = variance_D.sqrt()
        self.mean_D.copy_(mean_D)
        self.scale_D.copy_(torch.where(std_D > 1e-3 * of_all, SPREAD * std_D, torch.ones_like(std_D)))
        self.is_measured.fill_(True)

    def rehearse(self, shape_BCTHW: tuple[int, ...]) -> Tensor:
        made_BDthw = super().rehearse((shape_BCTHW[0], 0, self._latent_frames(shape_BCTHW[2])))
        return self.decode(made_BDthw, shape_BCTHW[2])

    def decode(self, made_BDthw: Tensor, num_frames: int) -> Tensor:
        """Turn what the generator made into clips x_BCTHW of `num_frames` frames."""
        z_BDthw = made_BDthw.float() * _grid(self.scale_D) + _grid(self.mean_D)
        clip = self.recipe.clip
        x_BCTHW: Tensor = self.tokenizer.decode(Tokens(z_BDthw, None, (num_frames, clip.height, clip.width)))
        return x_BCTHW

    @torch.no_grad()
    def sample_pieces(
        self,
        num: int,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        size_HW: tuple[int, int] | None = None,
        **asked: Any,
    ) -> Iterator[Tensor]:
        """Make the clips of `sample`, in one piece; any number of frames that the tokenizer decodes.

        Raises:
            ZooError: As `Gan.sample_pieces`, or another frame rate or size than the tokenizer's is asked for.
        """
        if fps not in (None, self.recipe.clip.playback_fps):
            own = self.recipe.clip.playback_fps
            raise ZooError(f"{self.name or 'this model'} makes {own:g} frames a second only, not {fps:g}")
        clip = self.recipe.clip
        if size_HW not in (None, (clip.height, clip.width)):
            raise ZooError(f"{self.name or 'this model'} makes frames of {clip.height}x{clip.width} only")
        num_frames = clip.num_frames if num_frames is None else num_frames
        if num_frames < 1:
            raise ZooError(f"num_frames is {num_frames}; it must be at least 1")
        asked |= {"piece": None, "num_frames": self._latent_frames(num_frames)}
        made_BDthw = torch.cat(list(super().sample_pieces(num, **asked)), dim=2)
        batches = torch.split(made_BDthw, asked.get("batch_size", 16))
        yield torch.cat([self.decode(batch, num_frames) for batch in batches])

    @property
    def frame_HW(self) -> tuple[int, int]:
        """Height and width of the latents, which are the frames that the generator makes."""
        _, height, width = self._grid_of(1)
        return height, width

    def _latent_frames(self, num_frames: int) -> int:
        return self._grid_of(num_frames)[0]

    def _grid_of(self, num_frames: int) -> Size:
        return self.tokenizer.latent_size((num_frames, self.recipe.clip.height, self.recipe.clip.width))


def _grid(values_D: Tensor) -> Tensor:
    return values_D[:, None, None, None]
