"""A decoder-only transformer over the codes of any tokenizer.

Shape legend: B batch, q codebooks, t h w the latent grid, P = h w places of a frame, S steps of a frame,
N = t S steps in order, f digits of a code, V values of a digit, D width, K rows of a table.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo import progress
from zoo.checks import require_positive
from zoo.errors import PortError, ZooError
from zoo.precision import at_least_fp32, full_precision
from zoo.ranks import shared_draw
from zoo.sampling import Chance, Sampling, choose, draw_noise, shaped
from zoo_priors.checks import check_chance, check_codes, check_labels, check_noise, three
from zoo_priors.gpt.cache import window_mask
from zoo_priors.gpt.network import Block, Heads, init_weights
from zoo_priors.gpt.options import (
    PART,
    PATTERNS,
    POSITIONS,
    check_classes,
    check_name,
    check_width,
)
from zoo_priors.gpt.positions import Learned, Rotation
from zoo_priors.gpt.stream import Stream
from zoo_priors.gpt.symbols import Digits, Pattern


class GPTPrior(nn.Module):
    """Predicts codes one place after the other: frame by frame, row by row, column by column.

    A transformer with norms before its layers (https://arxiv.org/abs/1706.03762,
    https://d4mucfpksywv.cloudfront.net/better-language-models/language_models_are_unsupervised_multitask_learners.pdf)
    reads the codes of the place before, summed over codebooks, and the class, which is added at every place.

    A large vocabulary is split into digits, predicted one after the other from what the transformer gives for
    the place, each knowing those before it. Several codebooks are predicted at once and independently, given
    the places before, with pattern "parallel"; with "delay" each is one step behind the codebook before it
    and knows its code (MusicGen, https://arxiv.org/abs/2306.05284), at the price of q - 1 more steps a frame.

    With positions "rope" a clip can be of any length: a step sees the frames of a window as long as `grid`,
    whose keys and values are kept and never computed again. Learned positions end where `grid` ends.

    The default size is that of VideoGPT (https://arxiv.org/abs/2104.10157).

    Args:
        codebook_size: Codes of a codebook.
        num_codebooks: Codebooks.
        grid: Latent frames of the window, rows and columns.
        hidden_dim: Width.
        num_layers: Layers.
        num_heads: Heads of each attention.
        mlp_ratio: How many times wider it is between the two linear layers of each layer.
        dropout: Of what goes in and of what attention and linear layers add.
        positions: "rope" or "learned".
        pattern: "parallel" or "delay"; the same for one codebook.
        factors: Digits of a code; None is 1 for up to 2^14 codes, and otherwise as few as have 2^10 values at
            most.
        num_classes: Kinds of clip; 0 is unconditional.
        label_dropout: Chance that a clip's class is hidden in training, which guidance needs; a hidden class
            is one of its own.

    Raises:
        RecipeError: An option is out of range.
    """

    emits = "indices"
    order = "raster"

    def __init__(
        self,
        *,
        codebook_size: int = 2048,
        num_codebooks: int = 1,
        grid: list[int] = [4, 32, 32],  # noqa: B006 - read, never changed
        hidden_dim: int = 576,
        num_layers: int = 8,
        num_heads: int = 4,
        mlp_ratio: int = 4,
        dropout: float = 0.1,
        positions: str = "rope",
        pattern: str = "parallel",
        factors: int | None = None,
        num_classes: int = 0,
        label_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require_positive(
            PART,
            codebook_size=codebook_size,
            num_codebooks=num_codebooks,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_ratio=mlp_ratio,
        )
        self.grid_thw = three(PART, grid)
        check_name("positions", positions, POSITIONS)
        check_name("pattern", pattern, PATTERNS)
        check_width(hidden_dim, num_heads, positions)
        check_chance(PART, dropout=dropout, label_dropout=label_dropout)
        check_classes(num_classes, label_dropout)
        frames, height, width = self.grid_thw
        self.codebook_size = codebook_size
        self.num_codebooks = num_codebooks
        self.num_heads = num_heads
        self.num_classes = num_classes
        self.label_dropout = label_dropout
        self.conditions = ("label",) if num_classes else ()
        self.max_frames = frames if positions == "learned" else None
        self.digits = Digits(PART, codebook_size, factors)
        self.pattern = Pattern(pattern, height * width, num_codebooks)

        num_steps = self.pattern.num_steps
        num_symbols = num_codebooks * self.digits.num * self.digits.base
        # Steps at which a codebook has no code read a row of their own.
        self.embed_fill = num_symbols if num_steps > height * width else None
        self.embed = nn.Embedding(num_symbols + int(self.embed_fill is not None), hidden_dim)
        self.start = nn.Parameter(torch.empty(hidden_dim))
        self.labels = nn.Embedding(num_classes + int(label_dropout > 0), hidden_dim) if num_classes else None
        self.rotation = None
        self.positions = None
        if positions == "rope":
            self.rotation = Rotation(hidden_dim // num_heads, num_steps, width)
        else:
            self.positions = Learned(frames, num_steps, width, hidden_dim)
        self.dropout = nn.Dropout(dropout)
        mlp_dim = mlp_ratio * hidden_dim
        self.blocks = nn.ModuleList(
            Block(hidden_dim, num_heads=num_heads, mlp_dim=mlp_dim, dropout=dropout)
            for _ in range(num_layers)
        )
        self.heads = Heads(
            hidden_dim,
            num_codebooks=num_codebooks,
            num_digits=self.digits.num,
            base=self.digits.base,
            mlp_dim=mlp_dim,
        )
        init_weights(self, num_layers)

    def forward(self, indices_Bqthw: Tensor, *, label_B: Tensor | None = None) -> Tensor:
        """Return logits_BqthwfV: at each place those of its codes' digits, given the codes before.

        Args:
            indices_Bqthw: Codes of any number of frames, or up to `max_frames`; of more than `grid` has, a
                frame sees as many as it does in a stream.
            label_B: Class of each clip, for a prior with classes; None is a hidden one.

        Returns:
            Logits; minus infinity where no code has such a digit.

        Raises:
            PortError: The codes have another grid, or a label is missing.
        """
        self._check_indices(indices_Bqthw)
        # A hidden class is one of its own.
        self._check_label(
            label_B, len(indices_Bqthw), num_classes=self.num_classes + (self.label_dropout > 0)
        )
        digits_BtPqf = rearrange(self.digits.split(indices_Bqthw), "b q t h w f -> b t (h w) q f")
        h_BtSD = self._hidden(digits_BtPqf, label_B)
        logits = []
        for codebook, lag in enumerate(self.pattern.delays):
            h_BtPD = h_BtSD[:, :, lag : lag + self.pattern.num_places]
            digits_BtPf = digits_BtPqf[:, :, :, codebook]
            for n in range(self.digits.num):
                before = digits_BtPf[..., :n]
                if n:
                    logits_BtPV = self.heads.later(h_BtPD, before, codebook)
                else:
                    logits_BtPV = F.linear(h_BtPD, self.heads.weight_fqVD[0, codebook])
                logits.append(self.digits.allow(logits_BtPV, before))
        _, height, width = self.grid_thw
        return rearrange(
            torch.stack(logits),
            "(q f) b t (h w) v -> b q t h w f v",
            q=self.num_codebooks,
            h=height,
            w=width,
        )

    def loss(
        self,
        indices_Bqthw: Tensor,
        *,
        label_B: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the cross entropy of the codes in nats each; arguments as of `forward`.

        Args:
            generator: Draws, in training, whose classes are hidden.
        """
        self._check_indices(indices_Bqthw)
        self._check_label(label_B, len(indices_Bqthw))
        if self.training and self.label_dropout and label_B is not None:
            chance_B = shared_draw(lambda n: torch.rand(n, generator=generator, device="cpu"), len(label_B))
            hidden_B = chance_B < self.label_dropout
            label_B = label_B.masked_fill(hidden_B.to(label_B.device), self.num_classes)
        logits = self(indices_Bqthw, label_B=label_B)
        with full_precision(logits):
            digits = self.digits.split(indices_Bqthw).flatten()
            total = F.cross_entropy(at_least_fp32(logits).flatten(0, -2), digits, reduction="sum")
        return total / indices_Bqthw.numel()

    def draw_noise(
        self,
        num: int,
        num_frames: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Draw a seed for each clip, and classes for a prior with classes."""
        return draw_noise(num, self.num_classes, generator=generator, device=device)

    def frames(
        self, noise: dict[str, Tensor], sampling: Sampling, *, given_Bqthw: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Draw indices_Bqhw frame by frame, after those given, without end or up to `max_frames` in all.

        A clip is the same in any batch, as far as logits are: sums over rows of another number are rounded
        otherwise, in the last bits.

        Args:
            noise: As `draw_noise` gives it.
            sampling: How codes are drawn.
            given_Bqthw: Codes of the first frames.

        Raises:
            ZooError: Guidance is asked for without classes that are hidden in training, or the noise lacks
                something.
            PortError: The given frames have another grid or are too many.
        """
        num = check_noise(PART, noise, self.conditions)
        if given_Bqthw is not None:
            self._check_indices(given_Bqthw, least=0, num=num)
        label_B = noise["label"] if self.num_classes else None
        self._check_guidance(sampling.guidance)
        self._check_label(label_B, num)
        return self._go_on(noise["seed"], label_B, sampling, given_Bqthw)

    def stream(
        self,
        num: int,
        *,
        label_B: Tensor | None = None,
        guidance: float = 1.0,
        dtype: torch.dtype | None = None,
    ) -> Stream:
        """Begin clips that are read or drawn symbol after symbol; see `Stream`.

        Args:
            num: Clips.
            label_B: Their classes; None is a hidden one.
            guidance: As of `zoo.sampling.Sampling`.
            dtype: Of weights and cache; None is that of the weights.

        Raises:
            ZooError: Guidance is asked for without classes that are hidden in training.
            PortError: A label is missing, or there are others than clips or classes.
        """
        self._check_guidance(guidance)
        self._check_label(label_B, num)
        return Stream(self, num, label_B, guidance, dtype)

    def embed_rows(self, device: torch.device) -> Tensor:
        """Return the first row_qf in the table of vectors, of each digit of each codebook."""
        shape = (self.num_codebooks, self.digits.num)
        row = torch.arange(shape[0] * shape[1], device=device) * self.digits.base
        return row.view(shape)

    def label_vectors(self, label_B: Tensor | None, num: int) -> Tensor | None:
        """Return what is added to each place of a clip for its class, (B, D); None without classes."""
        if self.labels is None:
            return None
        if label_B is None:
            label_B = torch.full((num,), self.num_classes, device=self.labels.weight.device)
        return self.labels(label_B)

    def _go_on(
        self, seed_B: Tensor, label_B: Tensor | None, sampling: Sampling, given_Bqthw: Tensor | None
    ) -> Iterator[Tensor]:
        num_made = 0 if given_Bqthw is None else given_Bqthw.shape[2]
        if num_made == self.max_frames:
            return
        chance = Chance(seed_B)
        stream = Stream(self, len(seed_B), label_B, sampling.guidance, None)
        if given_Bqthw is not None and num_made:
            stream.take_frames(given_Bqthw)
        while self.max_frames is None or num_made < self.max_frames:
            uniform_BPqf = chance.uniform(self.pattern.num_places, self.num_codebooks, self.digits.num)
            # Not around the yield: what the caller does between frames is its own affair.
            with torch.inference_mode():
                indices_Bqhw = self._draw_frame(stream, uniform_BPqf, sampling)
            yield indices_Bqhw.clone()
            num_made += 1

    def _draw_frame(self, stream: Stream, uniform_BPqf: Tensor, sampling: Sampling) -> Tensor:
        uniform_BSqf = self.pattern.delay(uniform_BPqf[:, None])[:, 0]
        for step in range(self.pattern.num_steps):
            group = stream.group
            for n in range(self.digits.num):
                odds_BgV = shaped(stream.group_logits(), sampling)
                stream.push_group(choose(odds_BgV, uniform_BSqf[:, step, group.start : group.stop, n]))
            progress.made(len(uniform_BSqf) * len(group))
        return stream.last_frame()

    def _hidden(self, digits_BtPqf: Tensor, label_B: Tensor | None) -> Tensor:
        """Return h_BtSD after the last norm, of which the digits at each step are predicted."""
        digits_BNqf = self.pattern.delay(digits_BtPqf, -1).flatten(1, 2)
        num, num_frames, num_steps = len(digits_BNqf), digits_BtPqf.shape[1], self.pattern.num_steps
        rows_BNqf = digits_BNqf[:, :-1] + self.embed_rows(digits_BNqf.device)
        if self.embed_fill is not None:
            rows_BNqf = rows_BNqf.masked_fill(digits_BNqf[:, :-1] < 0, self.embed_fill)
        x_BND = self.embed(rows_BNqf.flatten(2)).sum(2)
        x_BND = torch.cat([self.start.expand(num, 1, -1), x_BND], dim=1)
        label_BD = self.label_vectors(label_B, num)
        if label_BD is not None:
            x_BND = x_BND + label_BD[:, None]
        tables = None
        if self.positions is not None:
            x_BND = x_BND + self.positions(num_frames)
        if self.rotation is not None:
            dtype = torch.promote_types(x_BND.dtype, torch.float32)
            tables = self.rotation.tables(0, num_frames, device=x_BND.device, dtype=dtype)
        mask_NN = window_mask(num_frames, self.grid_thw[0], num_steps, x_BND.device)
        x_BND = self.dropout(x_BND)
        for block in self.blocks:
            x_BND = block(x_BND, tables, mask_NN)
        return rearrange(self.heads.norm(x_BND), "b (t s) d -> b t s d", t=num_frames)

    def _check_indices(self, indices_Bqthw: Tensor, *, least: int = 1, num: int | None = None) -> None:
        check_codes(
            PART,
            indices_Bqthw,
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
            size_HW=self.grid_thw[1:],
            least=least,
            most=self.max_frames,
            num=num,
        )

    def _check_label(self, label_B: Tensor | None, num: int, *, num_classes: int | None = None) -> None:
        if label_B is None:
            if self.num_classes and not self.label_dropout:
                raise PortError(
                    f"{PART} has {self.num_classes} classes and got no label; only with label_dropout it can "
                    "do without"
                )
            return
        if not self.num_classes:
            raise PortError(f"{PART} has no classes and got labels; set num_classes")
        check_labels(PART, label_B, num, self.num_classes if num_classes is None else num_classes)

    def _check_guidance(self, guidance: float) -> None:
        if guidance != 1 and not self.label_dropout:
            raise ZooError(
                f"{PART} never had its classes hidden in training, so it cannot be guided: guidance is "
                f"{guidance:g}; leave it at 1, or train with num_classes and label_dropout, such as 0.1"
            )
