"""The token prior: a generator of a frozen tokenizer's codes, which its decoder turns into video.

Shape legend: B batch, C colour channels, T H W frames and pixels; q codebooks, t h w the latent grid; K
codes, D latent channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from zoo import progress
from zoo.assemblies.autoencoder import Autoencoder
from zoo.assemblies.base import check_clips
from zoo.assemblies.between import check_between, fill_between
from zoo.assemblies.padding import Size, latent_size, touched_cells
from zoo.assemblies.sampler import Sampler, clip_source
from zoo.errors import ZooError
from zoo.outputs import Tokens
from zoo.parts import Kind
from zoo.ports import Ports
from zoo.precision import full_precision
from zoo.recipes import Recipe
from zoo.sampling import Sampling

_PLAIN = Sampling()


class TokenPrior(Sampler):
    """Makes video as codes of a tokenizer: from nothing, from a start, between two frames, or into a gap.

    The tokenizer is an autoencoder of its own and is not trained here. The generator emits indices (see
    `zoo.ports`); what it is not told by the recipe about the tokenizer it is told here: how many codes and
    codebooks there are, and the grid of the recipe's clips.

    Attributes:
        every: The prior makes one latent frame in so many, and needs another for those between.
    """

    needs = ("encoder", "quantizer", "decoder", "generator")
    projections = ("pre_quant", "post_quant")
    has_tokenizer = True

    def __init__(self, recipe: Recipe, *, generator: nn.Module, **tokenizer: nn.Module) -> None:
        super().__init__(recipe)
        self.generator = generator
        self.tokenizer = Autoencoder(recipe, **tokenizer).requires_grad_(False)
        self.tokenizer.name = recipe.tokenizer.use if recipe.tokenizer else "the tokenizer"
        self.every = _every(recipe)

    @classmethod
    def offers(cls, recipe: Recipe, kind: Kind, ports: Mapping[Kind, Ports]) -> dict[str, Any]:
        encoder, quantizer, clip = ports.get("encoder"), ports.get("quantizer"), recipe.clip
        if kind != "generator" or encoder is None or quantizer is None or quantizer.continuous:
            return {}
        size_THW = (clip.num_frames, clip.height, clip.width)
        t, h, w = latent_size(size_THW, encoder.stride, lead_frame=encoder.lead_frame)
        return {
            "codebook_size": quantizer.codebook_size,
            "num_codebooks": quantizer.num_codebooks,
            "latent_dim": quantizer.latent_dim,
            "grid": [1 + (t - 1) // _every(recipe), h, w],
        }

    def train(self, mode: bool = True) -> TokenPrior:
        """Set the mode of the prior; the tokenizer stays in evaluation mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def part(self, field: str) -> nn.Module:
        return super().part(f"tokenizer.{field}" if field in Autoencoder.needs else field)

    def before_training(self) -> None:
        """Show a prior that reads code vectors those of the tokenizer."""
        if hasattr(self.generator, "set_codebook"):
            quantizer = self.tokenizer.quantizer
            codes_K = torch.arange(quantizer.codebook_size, device=self._device)
            with torch.no_grad():
                vectors_DK = quantizer.lookup(codes_K[None, None, :, None, None])[0, :, :, 0, 0]
            self.generator.set_codebook(vectors_DK.T)

    @torch.no_grad()
    def encode_codes(self, x_BCTHW: Tensor) -> Tensor:
        """Return the codes indices_Bqthw of clips in [-1, 1]."""
        # In full precision whatever the prior learns in: a rounded latent is another code.
        with full_precision(x_BCTHW):
            indices_Bqthw = self.tokenizer.encode(x_BCTHW.to(self.tokenizer.last_layer.dtype)).indices_Bqthw
        assert indices_Bqthw is not None
        return indices_Bqthw

    def loss(
        self, x_BCTHW: Tensor, *, label_B: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the prior's cross entropy for the codes of clips, in nats a code.

        Args:
            x_BCTHW: Clips in [-1, 1]; or the codes indices_Bqthw, int64, of the latent frames that are
                learnt.
            label_B: int64 labels, for priors that are told them.
            generator: Source of what a step draws by chance, such as masks; torch's global one when left out.

        Raises:
            ZooError: The prior is told frames and there are codes alone.
        """
        told: dict[str, Tensor] = {}
        if self.num_classes and label_B is not None:
            told["label_B"] = label_B
        is_codes = x_BCTHW.dtype == torch.int64
        if "frames" in self.generator.conditions:
            if is_codes:
                raise ZooError(f"{self.title} is told frames: it learns from clips, not from tokens alone")
            told["frames_BCTHW"] = x_BCTHW[:, :, : self.generator.num_cond_frames]
        indices_Bqthw = x_BCTHW if is_codes else self.encode_codes(x_BCTHW)[:, :, :: self.every]
        loss: Tensor = self.generator.loss(indices_Bqthw, generator=generator, **told)
        return loss

    def rehearse(self, shape_BCTHW: tuple[int, ...]) -> Tensor:
        b, _, t, h, w = shape_BCTHW
        x_BCTHW = torch.zeros(shape_BCTHW, device=self._device)
        self.loss(x_BCTHW, label_B=torch.zeros(b, dtype=torch.int64, device=self._device))
        return self._decode(self.encode_codes(x_BCTHW), (t, h, w))

    def sample(
        self,
        num: int,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        label: int | None = None,
        size_HW: tuple[int, int] | None = None,
        seed: int = 0,
        batch_size: int = 16,
        sampling: Sampling = _PLAIN,
        between: TokenPrior | None = None,
    ) -> Tensor:
        """Make clips x_BCTHW in [-1, 1]; clip i depends on the seed and i only.

        Args:
            num: Number of clips.
            num_frames: Frames in a clip; the recipe's when left out.
            fps: The recipe's frame rate; no other can be made.
            label: Label of all clips, for priors that take labels; drawn by chance when left out.
            size_HW: The recipe's frame size; no other can be made.
            seed: Seed of the first clip.
            batch_size: Clips made at a time.
            sampling: How codes are drawn.
            between: The prior that fills in what this one leaves out (`every`).

        Raises:
            ZooError: A number is not in its range, the prior ends before so many frames, or `between` is
                missing or does not fit.
        """
        pieces = self.sample_pieces(
            num,
            num_frames=num_frames,
            fps=fps,
            label=label,
            size_HW=size_HW,
            seed=seed,
            batch_size=batch_size,
            sampling=sampling,
            between=between,
        )
        return torch.cat(list(pieces), dim=2)

    @torch.no_grad()
    def sample_pieces(
        self,
        num: int,
        *,
        num_frames: int | None = None,
        fps: float | None = None,
        label: int | None = None,
        size_HW: tuple[int, int] | None = None,
        seed: int = 0,
        batch_size: int = 16,
        sampling: Sampling = _PLAIN,
        between: TokenPrior | None = None,
    ) -> Iterator[Tensor]:
        """Make the clips of `sample` piece by piece in time, so that long ones need no more memory.

        With a tokenizer that cannot stream, all codes are made first and decoded as one piece.

        Args:
            num: As for `sample`, like all the others.

        Yields:
            x_BCTHW of all clips, one run of frames after the other.
        """
        num_frames = self.recipe.clip.num_frames if num_frames is None else num_frames
        self.check_counts(num=num, num_frames=num_frames, batch_size=batch_size)
        self.check_label(label)
        check_between(self, between)
        own = self.recipe.clip.playback_fps
        if fps not in (None, own):
            raise ZooError(f"{self.title} makes {own:g} frames a second only, not {fps:g}")
        if size_HW not in (None, self.frame_HW):
            raise ZooError(f"{self.title} makes frames of {self.frame_HW[0]}x{self.frame_HW[1]} only")
        noises = [self._noise(seed, i, label=label) for i in range(num)]
        batches = [_stacked(noises[start : start + batch_size]) for start in range(0, num, batch_size)]
        runs = [self._go_on(noise, None, num_frames, sampling, between) for noise in batches]
        for pieces in zip(*runs, strict=True):
            yield torch.cat(pieces)

    @torch.no_grad()
    def predict(
        self,
        x_BCTHW: Tensor,
        num_frames: int,
        *,
        label: int | None = None,
        seed: int = 0,
        sampling: Sampling = _PLAIN,
        between: TokenPrior | None = None,
    ) -> Tensor:
        """Go on from the start of clips.

        The codes of the start are kept as they are. What of it does not fill a latent frame to the end is
        left out at its beginning.

        Args:
            x_BCTHW: The start, in [-1, 1], of the recipe's frame size.
            num_frames: Frames to add.
            label: As for `sample`.
            seed: Seed of the first clip.
            sampling: How codes are drawn.
            between: As for `sample`.

        Returns:
            The frames after the start, x_BCTHW in [-1, 1].

        Raises:
            ZooError: The start is too short or of another size, the prior ends before so many frames, or
                `between` is missing or does not fit.
        """
        self._check_frames(x_BCTHW)
        self.check_counts(num_frames=num_frames)
        self.check_label(label)
        check_between(self, between)
        lead, s_t = int(self.tokenizer.lead_frame), self.tokenizer.stride[0]
        start = lead + (x_BCTHW.shape[2] - lead) // s_t * s_t
        if start < 1:
            raise ZooError(f"a start of {x_BCTHW.shape[2]} frames is too short; {s_t} fill a latent frame")
        x_BCTHW = x_BCTHW[:, :, -start:].to(self._device)
        noise = _stacked([self._noise(seed, i, label=label) for i in range(len(x_BCTHW))])
        if "frames" in self.generator.conditions:
            noise["frames"] = x_BCTHW[:, :, : self.generator.num_cond_frames]
        given_Bqthw = self.encode_codes(x_BCTHW)
        pieces = self._go_on(noise, given_Bqthw, start + num_frames, sampling, between)
        return torch.cat(list(pieces), dim=2)[:, :, start:]

    @torch.no_grad()
    def interpolate(
        self,
        first_x_BCHW: Tensor,
        last_x_BCHW: Tensor,
        *,
        num_frames: int | None = None,
        label: int | None = None,
        seed: int = 0,
        sampling: Sampling = _PLAIN,
    ) -> Tensor:
        """Make the frames from one image to another.

        Args:
            first_x_BCHW: The first frames, in [-1, 1], of the recipe's frame size.
            last_x_BCHW: The last ones.
            num_frames: Frames in all; the recipe's when left out, and never more.
            label: As for `sample`.
            seed: Seed of the first clip.
            sampling: How codes are drawn.

        Returns:
            x_BCTHW in [-1, 1], whose first and last latent frames are those of the two images held still.

        Raises:
            ZooError: The prior fills no gaps, the images do not fit, or a number is not in its range.
        """
        self._check_fills()
        num_frames = self.recipe.clip.num_frames if num_frames is None else num_frames
        self.check_counts(num_frames=num_frames)
        half = num_frames // 2
        for image_BCHW in (first_x_BCHW, last_x_BCHW):
            self._check_frames(image_BCHW[:, :, None])
        if len(first_x_BCHW) != len(last_x_BCHW):
            raise ZooError(f"there are {len(first_x_BCHW)} first images and {len(last_x_BCHW)} last ones")
        x_BCTHW = torch.cat(
            [
                first_x_BCHW[:, :, None].expand(-1, -1, num_frames - half, -1, -1),
                last_x_BCHW[:, :, None].expand(-1, -1, half, -1, -1),
            ],
            dim=2,
        )
        indices_Bqthw = self.encode_codes(x_BCTHW.to(self._device))
        grid_t = indices_Bqthw.shape[2]
        if not 3 <= grid_t <= self.generator.grid_thw[0]:
            raise ZooError(
                f"{num_frames} frames are {grid_t} latent frames; {self.title} fills in from 3 to "
                f"{self.generator.grid_thw[0]} of them: it was trained on clips of "
                f"{self.recipe.clip.num_frames} frames"
            )
        known_Bqthw = torch.zeros_like(indices_Bqthw, dtype=torch.bool)
        known_Bqthw[:, :, [0, -1]] = True
        filled = self._fill(indices_Bqthw, known_Bqthw, label=label, seed=seed, sampling=sampling)
        return self._decode(filled, (num_frames, *self.frame_HW)).float().clamp(-1, 1)

    @torch.no_grad()
    def inpaint(
        self,
        x_BCTHW: Tensor,
        hole_BTHW: Tensor,
        *,
        label: int | None = None,
        seed: int = 0,
        sampling: Sampling = _PLAIN,
    ) -> Tensor:
        """Fill the holes in clips.

        Every latent cell that a hole touches is made anew; every pixel outside of the holes stays as it was.

        Args:
            x_BCTHW: Clips in [-1, 1], of the recipe's frame size and any length.
            hole_BTHW: bool, True where a pixel is to be filled; an axis of 1 stands for all.
            label: As for `sample`.
            seed: Seed of the first clip.
            sampling: How codes are drawn.

        Returns:
            x_BCTHW in [-1, 1].

        Raises:
            ZooError: The prior fills no gaps, or the clips or holes are of another size.
        """
        self._check_fills()
        self._check_frames(x_BCTHW)
        b, _, t, h, w = x_BCTHW.shape
        try:
            hole_BTHW = hole_BTHW.bool().expand(b, t, h, w).to(self._device)
        except RuntimeError:
            raise ZooError(
                f"the holes are {list(hole_BTHW.shape)}; the clips are {[b, t, h, w]} (batch, frames, "
                "height, width), and an axis of holes may be 1"
            ) from None
        x_BCTHW = x_BCTHW.to(self._device)
        hole_B1THW = hole_BTHW[:, None]
        indices_Bqthw = self.encode_codes(x_BCTHW.masked_fill(hole_B1THW, 0.0))
        touched_B1thw = touched_cells(hole_B1THW, self.tokenizer.stride, lead_frame=self.tokenizer.lead_frame)
        known_Bqthw = ~touched_B1thw.expand_as(indices_Bqthw)
        indices_Bqthw = self._fill(indices_Bqthw, known_Bqthw, label=label, seed=seed, sampling=sampling)
        made = self._decode(indices_Bqthw, (t, h, w)).float().clamp(-1, 1)
        return torch.where(hole_B1THW, made, x_BCTHW)

    def _fill(
        self, indices_Bqthw: Tensor, known_Bqthw: Tensor, *, label: int | None, seed: int, sampling: Sampling
    ) -> Tensor:
        self.check_label(label)
        noise = _stacked([self._noise(seed, i, label=label) for i in range(len(indices_Bqthw))])
        progress.expect(int((~known_Bqthw).sum()))
        filled: Tensor = self.generator.fill(indices_Bqthw, known_Bqthw, noise, sampling)
        return filled

    def _check_fills(self) -> None:
        """Refuse a prior that fills no gaps in a video."""
        if self.every > 1:
            raise ZooError(
                f"{self.title} learned 1 of {self.every} latent frames (tokenizer.every) and cannot fill a "
                "gap in a video; the prior that goes between them can"
            )
        if self.generator.order != "any":
            raise ZooError(
                f"{self.title} makes codes in their order and cannot fill a gap; it samples and predicts. "
                "A prior of any order fills gaps: maskgit"
            )

    def _noise(self, seed: int, index: int, *, label: int | None) -> dict[str, Tensor]:
        if self.training:
            raise ZooError(
                f"{self.title} is in training mode, where chance drops parts of it, so that a seed does not "
                "make the same video again; call model.eval() first"
            )
        source = clip_source(seed, index)
        frames = self.recipe.clip.num_frames
        noise: dict[str, Tensor] = self.generator.draw_noise(1, frames, generator=source, device=self._device)
        if label is not None:
            noise["label"] = torch.full_like(noise["label"], label)
        return noise

    @property
    def samples_alone(self) -> bool:
        return self.every == 1 and "frames" not in self.generator.conditions

    def _go_on(
        self,
        noise: dict[str, Tensor],
        given_Bqthw: Tensor | None,
        num_frames: int,
        sampling: Sampling,
        between: TokenPrior | None,
    ) -> Iterator[Tensor]:
        """Make clips of `num_frames` frames that begin with the codes given, piece by piece."""
        size_THW = (num_frames, *self.frame_HW)
        total, *grid_hw = self.tokenizer.latent_size(size_THW)
        known = 0 if given_Bqthw is None else given_Bqthw.shape[2]
        limit = self.generator.max_frames
        num_keys = 1 + math.ceil((total - 1) / self.every)
        if limit is not None and num_keys > limit:
            of_them = f" of {total}" if self.every > 1 else ""
            raise ZooError(
                f"{num_frames} frames take {num_keys}{of_them} latent frames of {self.title}, which makes "
                f"{limit} at most"
            )
        progress.expect(
            len(noise["seed"]) * self.generator.num_codebooks * (total - known) * math.prod(grid_hw)
        )
        keys_Bqthw = None if given_Bqthw is None else given_Bqthw[:, :, :: self.every]
        made = self.generator.frames(noise, sampling, given_Bqthw=keys_Bqthw)
        if between is not None:
            made = fill_between(
                made, noise, sampling, dense=between, every=self.every, given_Bqthw=given_Bqthw
            )
        frames = (frame_Bqhw[:, :, None] for frame_Bqhw in islice(made, total - known))
        if not self.tokenizer.decoder.causal:
            start = [] if given_Bqthw is None else [given_Bqthw]
            yield self._decode(torch.cat([*start, *frames], dim=2), size_THW).float().clamp(-1, 1)
            return
        stream = self.tokenizer.stream_decoder()
        given = () if given_Bqthw is None else torch.split(given_Bqthw, 1, dim=2)
        for indices_Bq1hw in chain(given, frames):
            yield self._push(stream, indices_Bq1hw, num_frames)

    def _push(self, stream: Any, indices_Bq1hw: Tensor, num_frames: int) -> Tensor:
        lead = self.tokenizer.lead_frame and stream.num_frames == 0
        num = min(1 if lead else self.tokenizer.stride[0], num_frames - stream.num_frames)
        x_BCTHW: Tensor = stream.push(Tokens(None, indices_Bq1hw, (num, *self.frame_HW)))
        return x_BCTHW.float().clamp(-1, 1)

    def _decode(self, indices_Bqthw: Tensor, size_THW: Size) -> Tensor:
        return self.tokenizer.decode(Tokens(None, indices_Bqthw, size_THW))

    def _check_frames(self, x_BCTHW: Tensor) -> None:
        check_clips(x_BCTHW, self.recipe.clip.channels)
        if tuple(x_BCTHW.shape[3:]) != self.frame_HW:
            height, width = self.frame_HW
            raise ZooError(
                f"the frames are {x_BCTHW.shape[3]}x{x_BCTHW.shape[4]}; {self.title} was trained on "
                f"{height}x{width} (height x width)"
            )

    @property
    def _device(self) -> torch.device:
        return next(self.generator.parameters()).device

    @property
    def title(self) -> str:
        """What errors call it."""
        return self.name or "this model"


def _every(recipe: Recipe) -> int:
    return recipe.tokenizer.every if recipe.tokenizer is not None else 1


def _stacked(noises: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.cat([noise[key] for noise in noises]) for key in noises[0]}
