"""VideoGPT's prior (https://arxiv.org/abs/2104.10157).

Shape legend: B batch, C colours, T H W frames and pixels; q = 1 codebook, t h w the latent grid, N = t h w
places in raster order, n places at once, M places of the frames' features, D width, K codes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.checks import require_positive
from zoo.errors import PortError, RecipeError, ZooError
from zoo.sampling import Chance, Sampling, draw_noise
from zoo_priors.checks import check_chance, check_codes, check_labels, check_noise, three
from zoo_priors.videogpt.cache import LayerCache, draw_codes
from zoo_priors.videogpt.frame_net import FrameNet
from zoo_priors.videogpt.layers import Block, Memory, Norm, Positions, at_least_float32
from zoo_priors.videogpt.options import PART, attention_mask, check_width, frame_size
from zoo_priors.videogpt.stream import Stream


class VideoGPTPrior(nn.Module):
    """A causal transformer over the vectors of the codes, in raster order: time, then rows, then columns.

    The vector of each code goes through a linear layer and moves on by one place, a learned start coming
    first; learned positions, shared out to the axes, are added. Frames given as pixels are read by a 3D
    ResNet and attended to in every layer; a class sets gain and bias of every norm. Frames given as codes
    are another matter: they are simply what comes first.

    The models that the authors offer were trained with ``attention: sparse``, all else being the default; the
    default of their code is "full". Here the sparse form is computed in full and masked; it drops no
    attention weights, as theirs.

    The last layer starts at 0, as published: at first every code is as likely, and in the first training step
    no other weight moves.

    Source: VideoGPT, https://arxiv.org/abs/2104.10157

    Args:
        codebook_size: Codes.
        num_codebooks: 1.
        latent_dim: Width of a code's vector.
        grid: Latent frames, rows and columns; more frames cannot be made.
        hidden_dim: Width; a multiple of 3 and of `num_heads`.
        num_heads: Heads of each attention.
        num_layers: Layers.
        dropout: Of what attention and linear layers add.
        attention: "full", or "sparse" for strided blocks of 32 places.
        attention_dropout: Of the weights of full attention.
        num_classes: Kinds of clip; 0 is unconditional.
        num_cond_frames: How many first frames are given as pixels; 0 for none.
        in_channels: Colour channels of those frames.
        cond_size: Their height and width in pixels, multiples of 4.
        cond_base_channels: Width of the first layers of the network that reads them.
        cond_dim: Width of what it makes of them; a multiple of 3 and of `num_heads`.

    Raises:
        RecipeError: An option is out of range.
    """

    emits = "indices"
    order = "raster"
    num_codebooks = 1

    codebook_KD: Tensor
    mask_NN: Tensor | None

    def __init__(
        self,
        *,
        codebook_size: int = 2048,
        num_codebooks: int = 1,
        latent_dim: int = 256,
        grid: list[int] = [4, 32, 32],  # noqa: B006 - read, never changed
        hidden_dim: int = 576,
        num_heads: int = 4,
        num_layers: int = 8,
        dropout: float = 0.2,
        attention: str = "full",
        attention_dropout: float = 0.3,
        num_classes: int = 0,
        num_cond_frames: int = 0,
        in_channels: int = 3,
        cond_size: list[int] = [128, 128],  # noqa: B006 - read, never changed
        cond_base_channels: int = 64,
        cond_dim: int = 240,
    ) -> None:
        super().__init__()
        require_positive(
            PART,
            codebook_size=codebook_size,
            latent_dim=latent_dim,
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            num_layers=num_layers,
            in_channels=in_channels,
            cond_base_channels=cond_base_channels,
            cond_dim=cond_dim,
        )
        if num_codebooks != 1:
            raise RecipeError(
                f"{PART}: num_codebooks is {num_codebooks}, and VideoGPT models codes of one codebook. "
                "Take a quantizer with one, such as vq-ema, or another prior, such as gpt"
            )
        self.grid_thw = three(PART, grid)
        self.max_frames = self.grid_thw[0]
        self.codebook_size = codebook_size
        self.latent_dim = latent_dim
        check_chance(PART, dropout=dropout, attention_dropout=attention_dropout)
        check_width("hidden_dim", hidden_dim, num_heads)
        if num_classes < 0 or num_cond_frames < 0:
            raise RecipeError(
                f"{PART}: num_classes is {num_classes} and num_cond_frames is {num_cond_frames}; "
                "they must be 0 or more"
            )
        self.num_classes = num_classes
        self.num_cond_frames = num_cond_frames
        self.in_channels = in_channels
        self.cond_size_HW = frame_size(cond_size)
        named = {"label": num_classes > 0, "frames": num_cond_frames > 0}
        self.conditions = tuple(name for name, is_told in named.items() if is_told)

        if num_cond_frames:
            check_width("cond_dim", cond_dim, num_heads)
            self.frame_net = FrameNet(
                in_channels=in_channels, base_channels=cond_base_channels, out_dim=cond_dim
            )
            self.frame_positions = Positions(
                (num_cond_frames, self.cond_size_HW[0] // 4, self.cond_size_HW[1] // 4), cond_dim
            )
        self.register_buffer("codebook_KD", torch.randn(codebook_size, latent_dim))
        self.register_buffer("mask_NN", attention_mask(attention, self.grid_thw), persistent=False)
        self.fc_in = nn.Linear(latent_dim, hidden_dim, bias=False)
        nn.init.normal_(self.fc_in.weight, std=0.02)
        self.start = nn.Parameter(torch.randn(hidden_dim) * 0.02)
        self.positions = Positions(self.grid_thw, hidden_dim)
        self.blocks = nn.ModuleList(
            Block(
                hidden_dim,
                num_heads=num_heads,
                num_layers=num_layers,
                dropout=dropout,
                attention_dropout=attention_dropout if attention == "full" else 0.0,
                num_classes=num_classes,
                memory_dim=cond_dim if num_cond_frames else 0,
            )
            for _ in range(num_layers)
        )
        self.norm = Norm(hidden_dim, num_classes)
        self.fc_out = nn.Linear(hidden_dim, codebook_size, bias=False)
        nn.init.zeros_(self.fc_out.weight)

    @torch.no_grad()
    def set_codebook(self, vectors_KD: Tensor) -> None:
        """Take over the vectors of the codes, which are saved with the weights and not trained.

        Raises:
            PortError: There are more or fewer codes, or their vectors have another width.
        """
        if vectors_KD.shape != self.codebook_KD.shape:
            raise PortError(
                f"{PART} has a codebook of (codebook_size, latent_dim) = {tuple(self.codebook_KD.shape)} and "
                f"got one of {tuple(vectors_KD.shape)}"
            )
        self.codebook_KD.copy_(vectors_KD)

    def forward(
        self, indices_Bqthw: Tensor, *, label_B: Tensor | None = None, frames_BCTHW: Tensor | None = None
    ) -> Tensor:
        """Return logits_BqthwK: at each place those of its code, given the codes before.

        Args:
            indices_Bqthw: Codes of up to `max_frames` latent frames.
            label_B: Class of each clip, for a prior with classes.
            frames_BCTHW: The first `num_cond_frames` frames in [-1, 1], for a prior that is given any.

        Raises:
            PortError: The codes have another grid, or what the prior is conditioned on is missing.
        """
        self._check_indices(indices_Bqthw)
        self._check_conditions(label_B, frames_BCTHW, len(indices_Bqthw))
        logits_BNK = self._codes_logits(
            rearrange(indices_Bqthw, "b 1 t h w -> b (t h w)"), label_B, frames_BCTHW
        )
        _, height, width = self.grid_thw
        return rearrange(logits_BNK, "b (t h w) k -> b 1 t h w k", h=height, w=width)

    def loss(
        self,
        indices_Bqthw: Tensor,
        *,
        label_B: Tensor | None = None,
        frames_BCTHW: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the cross entropy of the codes in nats each; arguments as of `forward`.

        A step of training draws nothing but dropout, so `generator` is not read.
        """
        logits = self(indices_Bqthw, label_B=label_B, frames_BCTHW=frames_BCTHW)
        return F.cross_entropy(at_least_float32(logits).flatten(0, -2), indices_Bqthw.flatten())

    def draw_noise(
        self,
        num: int,
        num_frames: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Draw a seed for each clip, and classes for a prior with classes.

        A prior that is given frames needs them too, from the caller, as "frames": x_BCTHW in [-1, 1].
        """
        return draw_noise(num, self.num_classes, generator=generator, device=device)

    def frames(
        self, noise: dict[str, Tensor], sampling: Sampling, *, given_Bqthw: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Draw indices_Bqhw frame by frame, after those given and up to `max_frames` in all.

        Args:
            noise: As `draw_noise` gives it; with "frames" for a prior that is given frames as pixels.
            sampling: How codes are drawn; its guidance has to be 1, as no class is ever left out in training.
            given_Bqthw: Codes of the first frames.

        Raises:
            ZooError: Guidance is asked for, or the noise lacks something.
            PortError: The given frames have another grid or are too many.
        """
        if sampling.guidance != 1:
            raise ZooError(
                f"{PART} was never trained without its condition, so it cannot be guided: guidance is "
                f"{sampling.guidance:g}; leave it at 1, or take another prior, such as gpt"
            )
        num = check_noise(PART, noise, self.conditions)
        told = {name: noise.get(name) if name in self.conditions else None for name in ("label", "frames")}
        self._check_conditions(told["label"], told["frames"], num)
        if given_Bqthw is not None:
            self._check_indices(given_Bqthw, least=0, num=num)
        return self._go_on(noise["seed"], told, sampling, given_Bqthw)

    def _go_on(
        self,
        seed_B: Tensor,
        told: dict[str, Tensor | None],
        sampling: Sampling,
        given_Bqthw: Tensor | None,
    ) -> Iterator[Tensor]:
        num_given = 0 if given_Bqthw is None else given_Bqthw.shape[2]
        if num_given >= self.max_frames:
            return
        chance = Chance(seed_B)
        stream = Stream(self, told["label"], told["frames"])
        last_B = seed_B.new_zeros(len(seed_B))
        if given_Bqthw is not None and num_given:
            codes_BN = rearrange(given_Bqthw, "b 1 t h w -> b (t h w)")
            stream.take_in(codes_BN[:, :-1])
            last_B = codes_BN[:, -1]
        _, height, width = self.grid_thw
        for _ in range(num_given, self.max_frames):
            uniform_Bn = chance.uniform(height * width)
            # Not around the yield: what the caller does between frames is its own affair.
            with torch.inference_mode():
                codes_Bn, last_B = draw_codes(stream.step, last_B, uniform_Bn, sampling)
            yield rearrange(codes_Bn, "b (h w) -> b 1 h w", h=height).clone()

    def _codes_logits(self, codes_BN: Tensor, label_B: Tensor | None, frames_BCTHW: Tensor | None) -> Tensor:
        num_frames = codes_BN.shape[1] // (self.grid_thw[1] * self.grid_thw[2])
        x_BND = self.inputs(codes_BN[:, :-1], first=True) + self.positions(num_frames)
        x_BND = self.layers(x_BND, label_B, self.memories(frames_BCTHW), [None] * len(self.blocks))
        logits_BNK: Tensor = self.fc_out(self.norm(x_BND, label_B))
        return logits_BNK

    def inputs(self, codes_Bn: Tensor, *, first: bool) -> Tensor:
        """Return what stands in the places after the codes, and in the very first, without positions."""
        x_BnD: Tensor = self.fc_in(F.embedding(codes_Bn, self.codebook_KD))
        if not first:
            return x_BnD
        start_B1D = self.start.type_as(x_BnD).expand(len(codes_Bn), 1, -1)
        return torch.cat([start_B1D, x_BnD], dim=1)

    def memories(self, frames_BCTHW: Tensor | None) -> list[Memory]:
        """Return what each layer attends to of frames given as pixels."""
        if frames_BCTHW is None:
            return [None] * len(self.blocks)
        # The published network sees video in [-0.5, 0.5].
        features_BMD = self.frame_net(frames_BCTHW * 0.5).flatten(2).transpose(1, 2)
        memory_BMD = features_BMD + self.frame_positions(self.num_cond_frames)
        blocks: Any = self.blocks
        return [block.cross.read(memory_BMD) for block in blocks]

    def layers(
        self,
        x_BnD: Tensor,
        label_B: Tensor | None,
        memories: list[Memory],
        caches: Sequence[LayerCache | None],
    ) -> Tensor:
        """Apply the layers to places, after those in the caches, which then hold them too."""
        for block, memory, cache in zip(self.blocks, memories, caches, strict=True):
            x_BnD = block(x_BnD, label_B=label_B, memory=memory, mask_NN=self.mask_NN, cache=cache)
        return x_BnD

    def _check_indices(self, indices_Bqthw: Tensor, *, least: int = 1, num: int | None = None) -> None:
        check_codes(
            PART,
            indices_Bqthw,
            num_codebooks=1,
            codebook_size=self.codebook_size,
            size_HW=self.grid_thw[1:],
            least=least,
            most=self.max_frames,
            num=num,
        )

    def _check_conditions(self, label_B: Tensor | None, frames_BCTHW: Tensor | None, num: int) -> None:
        if (label_B is None) == bool(self.num_classes):
            wants = f"has {self.num_classes} classes" if self.num_classes else "has no classes"
            raise PortError(f"{PART} {wants} and got {'no' if label_B is None else 'a'} label")
        if label_B is not None:
            check_labels(PART, label_B, num, self.num_classes)
        wanted = (num, self.in_channels, self.num_cond_frames, *self.cond_size_HW)
        if (frames_BCTHW is None) == bool(self.num_cond_frames):
            wants = f"is given frames of shape {wanted}" if self.num_cond_frames else "is given no frames"
            raise PortError(f"{PART} {wants} and got {'none' if frames_BCTHW is None else 'some'}")
        if frames_BCTHW is not None and frames_BCTHW.shape != wanted:
            raise PortError(f"{PART} got frames of shape {tuple(frames_BCTHW.shape)}; it takes {wanted}")
