"""A masked prior over tokens, trained on many tasks at once: MAGVIT's (https://arxiv.org/abs/2212.05199).

Shape legend: B batch, q codebooks, t h w the grid of tokens (of frames too where it says so), N = t h w
places, S = q factors streams of codes, K codes of a stream, P prefix tokens, C T H W colours and pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import PortError, ZooError
from zoo.ranks import shared_draw
from zoo.sampling import SCHEDULES, Chance, Sampling, draw_noise, guided
from zoo_priors.checks import check_codes, check_labels, check_noise
from zoo_priors.maskgit.bert import Bert
from zoo_priors.maskgit.decoding import decode
from zoo_priors.maskgit.masking import draw_mask, draw_uniform
from zoo_priors.maskgit.options import PART, check
from zoo_priors.maskgit.streams import Streams, default_factors
from zoo_priors.maskgit.task_set import TaskSet

_MASK = -1
_NUM_SPECIAL = 16


class MaskGIT(nn.Module):
    """Fills in tokens of a window in a few passes, whichever of them are given.

    A BERT reads a row of tokens: one for the task where there are several kinds, one for the class, then the
    window, place by place. In training a share of the places, drawn by the schedule, shows the mask
    token, and the network learns the codes of all places that a task does not give. Sampling starts from all
    open places masked and keeps the surest codes of every pass.

    As published (MAGVIT-B; L is 24 layers of 1024, 16 heads, 4096 inside): the network and its size,
    1024 codes on 4x16x16 places, dropout, tasks with their regions and tokens, cosine schedule in training
    and sampling, label smoothing, equal loss on masked and shown places, 12 passes and a choice
    temperature of 4.5. Parameters number the same as in the public code.

    What differs: the softmax is over codes alone, where the public one also has classes and special tokens
    that are never right. Tasks and mask ratios are drawn for each clip, not for a batch. The class is
    told in all tasks but full generation and dropped by chance, where the public code tells it in those tasks
    that say so. Inpainting has its own token, where the public code uses that of outpainting unless told
    otherwise. Several codebooks and factors are ours: their embeddings are summed and each has an
    output of its own, given the place (as https://arxiv.org/abs/2310.05737 does for its two halves of a
    code). All codes of a place are masked together.

    COMMIT, the paper's way to condition, shows in the known region the tokens of a padded clip, which
    the network refines. It needs pixels: ``draw_tasks`` draws tasks, ``padded_clips`` makes the clips to
    tokenize, and ``loss`` and ``fill`` take their tokens as `condition_Bqthw`. Without them the tokens of
    the known region itself are given and kept; they have seen a little of what is to be filled in if
    the tokenizer's field of view crosses the region's edge.

    Args:
        codebook_size: Codes of a codebook.
        num_codebooks: Codebooks at a place.
        grid: [t, h, w] of the window.
        num_layers: Blocks.
        hidden_dim: Width.
        num_heads: Heads of attention.
        mlp_dim: Width inside a block.
        factors: Digits that a code is written in: 2 for 2^18 codes makes 2 x 512 outputs. None is 1 for up to
            2^14 codes, and otherwise the fewest that have 2^10 values at most, if any do.
        num_classes: Classes to condition on; 0 is none.
        tasks: Names of `zoo_priors.maskgit.tasks.TASKS`; None is all that the grid is large enough for,
            "class_generation" only where there are classes.
        context_frames: Latent frames that prediction knows at the start and interpolation at both ends; and
            that `frames` hands on from window to window.
        mask_schedule: How the share of masked places depends on a uniform number in training.
        shown_weight: Weight of the loss at places that show their code, against 1 at the masked ones.
        label_smoothing: Of the training loss.
        label_dropout: Chance to hide the label of a clip in training, for guidance.
        dropout: After the embedding and in each sum.
        attention_dropout: In attention.

    Attributes:
        tasks: Names of the tasks, in the order in which numbers mean them.

    Raises:
        ZooError: An option is outside its range.
    """

    emits = "indices"
    order = "any"
    max_frames = None

    def __init__(
        self,
        *,
        codebook_size: int = 1024,
        num_codebooks: int = 1,
        grid: Sequence[int] = (4, 16, 16),
        num_layers: int = 12,
        hidden_dim: int = 768,
        num_heads: int = 12,
        mlp_dim: int = 3072,
        factors: int | None = None,
        num_classes: int = 0,
        tasks: Sequence[str] | None = None,
        context_frames: int = 1,
        mask_schedule: Literal["cosine", "linear", "square", "root"] = "cosine",
        shown_weight: float = 1.0,
        label_smoothing: float = 1e-4,
        label_dropout: float = 0.1,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        check(
            counts={
                "codebook_size": codebook_size,
                "num_codebooks": num_codebooks,
                "num_layers": num_layers,
                "hidden_dim": hidden_dim,
                "num_heads": num_heads,
                "mlp_dim": mlp_dim,
                "factors": 1 if factors is None else factors,
            },
            shares={
                "shown_weight": shown_weight,
                "label_smoothing": label_smoothing,
                "label_dropout": label_dropout,
                "dropout": dropout,
                "attention_dropout": attention_dropout,
            },
            grid=grid,
            num_classes=num_classes,
            context_frames=context_frames,
            heads=(hidden_dim, num_heads),
            mask_schedule=mask_schedule,
        )
        self.codebook_size = codebook_size
        self.num_codebooks = num_codebooks
        self.grid_thw = (grid[0], grid[1], grid[2])
        self.num_classes = num_classes
        self.conditions = ("label",) if num_classes else ()
        # A window of one frame cannot both know one and make one.
        self.context_frames = min(context_frames, grid[0] - 1)
        self._tasks = TaskSet(
            tasks, self.grid_thw, context=self.context_frames, has_classes=bool(num_classes)
        )
        self.tasks = self._tasks.names
        self._schedule = SCHEDULES[mask_schedule]
        self._shown_weight = shown_weight
        self._label_smoothing = label_smoothing
        self._label_dropout = label_dropout
        self._learned_untold = bool(num_classes) and (label_dropout > 0 or "full_generation" in self.tasks)
        if factors is None:
            factors = default_factors(codebook_size)
        self._streams = Streams(codebook_size, num_codebooks, factors)
        self.bert = Bert(
            num_streams=self._streams.num,
            codes_per_stream=self._streams.base,
            num_other=num_classes + 1 + (_NUM_SPECIAL if self._tasks.has_token else 1),
            num_prefix=1 + self._tasks.has_token,
            num_places=math.prod(self.grid_thw),
            dim=hidden_dim,
            num_layers=num_layers,
            num_heads=num_heads,
            mlp_dim=mlp_dim,
            dropout=dropout,
            attention_dropout=attention_dropout,
        )

    def forward(
        self,
        indices_Bqthw: Tensor,
        *,
        label_B: Tensor | None = None,
        hidden_Bthw: Tensor | None = None,
        task_B: Tensor | None = None,
    ) -> Tensor:
        """Give the logits of all codes of a window from what is shown of it.

        Args:
            indices_Bqthw: Codes of a window of the grid.
            label_B: Classes, int64; None, or -1 for a clip, is without.
            hidden_Bthw: Places that show the mask token; None is nowhere.
            task_B: Numbers of tasks in `tasks`; None takes for each clip the task whose region is most like
                what it shows.

        Returns:
            Logits (B, t, h, w, S, K), of the digits of each codebook's code in turn.
        """
        self._check(indices_Bqthw, window=True)
        digits_BNS = self._streams.split(indices_Bqthw)
        hidden_BN = (
            torch.zeros_like(digits_BNS[..., 0], dtype=torch.bool)
            if hidden_Bthw is None
            else hidden_Bthw.flatten(1)
        )
        if task_B is None:
            task_B = self._tasks.nearest(~hidden_BN)
        logits_BNSK = self._logits(digits_BNS, hidden_BN, self._prefix(task_B, label_B, hidden_BN))
        return logits_BNSK.view(len(indices_Bqthw), *self.grid_thw, *logits_BNSK.shape[2:])

    def loss(
        self,
        indices_Bqthw: Tensor,
        *,
        label_B: Tensor | None = None,
        generator: torch.Generator | None = None,
        task_B: Tensor | None = None,
        condition_Bqthw: Tensor | None = None,
    ) -> Tensor:
        """Draw a task and a mask for each clip and return the cross entropy of its codes.

        Args:
            indices_Bqthw: Codes of windows of the grid.
            label_B: Classes, int64; None is without.
            generator: On the CPU; draws tasks, masks and dropped labels. None is torch's own.
            task_B: Numbers of tasks in `tasks`; None draws them.
            condition_Bqthw: Codes of the clips that `padded_clips` gives for these tasks. Masked places in
                the known region show these instead of the mask token, and none is spared the mask. None shows
                the known region as it is and leaves it out of the loss.

        Returns:
            Scalar in nats per code, mean over the places of a clip by their weights, then over clips.
        """
        self._check(indices_Bqthw, window=True)
        num, device = len(indices_Bqthw), indices_Bqthw.device
        task_B = (
            shared_draw(lambda n: self.draw_tasks(n, generator=generator), num)
            if task_B is None
            else task_B.cpu()
        )
        known_BN = self._tasks.regions_RN[task_B]
        can_mask_BN = torch.ones_like(known_BN) if condition_Bqthw is not None else ~known_BN
        masked_BN = draw_mask(can_mask_BN, self._schedule, generator)
        weight_BN = torch.where(masked_BN, 1.0, self._shown_weight * can_mask_BN).to(device)
        if label_B is not None and self.num_classes:
            check_labels(PART, label_B, num, self.num_classes, least=-1)
            drop_B = shared_draw(lambda n: draw_uniform(generator, n), num) < self._label_dropout
            drop_B |= ~self._tasks.tells_class(task_B)
            label_B = label_B.masked_fill(drop_B.to(label_B.device), -1)

        digits_BNS = self._streams.split(indices_Bqthw)
        shown_BNS, hidden_BN = digits_BNS, masked_BN.to(device)
        if condition_Bqthw is not None:
            self._check(condition_Bqthw, window=True, num=num)
            refined_BN = (masked_BN & known_BN).to(device)
            shown_BNS = torch.where(refined_BN[..., None], self._streams.split(condition_Bqthw), digits_BNS)
            hidden_BN = hidden_BN & ~refined_BN
        logits_BNSK = self._logits(shown_BNS, hidden_BN, self._prefix(task_B, label_B, hidden_BN))
        each = F.cross_entropy(
            logits_BNSK.flatten(0, 2).float(),
            digits_BNS.flatten(),
            reduction="none",
            label_smoothing=self._label_smoothing,
        )
        each_BN = each.view(digits_BNS.shape).sum(-1) / self.num_codebooks
        return ((each_BN * weight_BN).sum(1) / weight_BN.sum(1)).mean()

    def draw_tasks(self, num: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Draw a task for each of `num` clips, all as likely: numbers in `tasks`, int64 (B,) on the CPU."""
        return self._tasks.draw(num, generator)

    def padded_clips(self, x_BCTHW: Tensor, task_B: Tensor, *, num_frames: int = 1) -> Tensor:
        """Show only what is known of each clip in its task; a tokenizer makes condition tokens of it.

        Args:
            x_BCTHW: Clips in [-1, 1].
            task_B: Numbers of tasks in `tasks`.
            num_frames: Frames (not latent ones) known at an end in prediction and interpolation.

        Returns:
            New clips (B, C, T, H, W).
        """
        return self._tasks.padded_clips(x_BCTHW, task_B, num_frames=num_frames)

    def draw_noise(
        self,
        num: int,
        num_frames: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Draw a seed, and a class where there are classes, for each of `num` clips."""
        return draw_noise(num, self.num_classes, generator=generator, device=device)

    def frames(
        self, noise: dict[str, Tensor], sampling: Sampling, *, given_Bqthw: Tensor | None = None
    ) -> Iterator[Tensor]:
        """Make frames without end, window by window; each goes on from the last `context_frames` before.

        Args:
            noise: "seed" (B,), and "label" (B,) where there are classes (without it, no class is told).
            sampling: How codes are drawn.
            given_Bqthw: Frames to go on from; only their last `context_frames` are looked at.

        Yields:
            Codes (B, q, h, w) of the next frame.

        Raises:
            ZooError: The given codes do not fit.
        """
        num = self._check_drawing(noise, sampling)
        if given_Bqthw is not None:
            self._check(given_Bqthw, num=num)
        return self._frames(noise, sampling, given_Bqthw)

    @torch.no_grad()
    def fill(
        self,
        indices_Bqthw: Tensor,
        known_Bqthw: Tensor,
        noise: dict[str, Tensor],
        sampling: Sampling,
        *,
        task: str | None = None,
        condition_Bqthw: Tensor | None = None,
    ) -> Tensor:
        """Keep the known codes and fill in exactly the others.

        A place of which a codebook is unknown is seen as unknown, though its known codes are kept. Longer
        clips than the window are filled window by window from the start, each overlapping the one before
        by `context_frames` at least; what is known beyond a window is not seen in it. Shorter ones
        are filled as the start of a window.

        Args:
            indices_Bqthw: Codes of any number of frames; anything where they are unknown.
            known_Bqthw: bool, which codes to keep.
            noise: "seed" (B,), and "label" (B,) where there are classes (without it, no class is told).
            sampling: How codes are drawn.
            task: What the network is told to do; None takes for each clip and window the task whose region is
                most like what is known.
            condition_Bqthw: Codes of a padded clip to show at unknown places until they are filled (COMMIT),
                -1 where there are none. None shows the mask token there.

        Returns:
            New codes (B, q, t, h, w).

        Raises:
            ZooError: The known codes do not fit, or the prior was not trained on the task.
        """
        try:
            known_Bqthw = known_Bqthw.bool().expand_as(indices_Bqthw)
        except RuntimeError:
            raise PortError(
                f"{PART} was told which codes are known as {tuple(known_Bqthw.shape)}; the codes are "
                f"{tuple(indices_Bqthw.shape)}"
            ) from None
        indices_Bqthw = indices_Bqthw.masked_fill(~known_Bqthw, 0)
        self._check(indices_Bqthw, num=self._check_drawing(noise, sampling))
        if condition_Bqthw is None:
            condition_Bqthw = torch.full_like(indices_Bqthw, -1)
        self._check(condition_Bqthw.clamp(min=0), num=len(indices_Bqthw))
        chance = Chance(noise["seed"])
        window, num_frames = self.grid_thw[0], indices_Bqthw.shape[2]
        short = max(window - num_frames, 0)
        around = (0, 0, 0, 0, 0, short)
        open_B1thw = ~known_Bqthw.all(1, keepdim=True)
        open_B1thw = F.pad(open_B1thw, around, value=True)
        filled = F.pad(indices_Bqthw, around)
        condition = F.pad(condition_Bqthw, around, value=-1)
        for start in self._starts(filled.shape[2]):
            span = slice(start, start + window)
            codes = self._fill_window(
                filled[:, :, span],
                open_B1thw[:, 0, span],
                condition[:, :, span],
                noise,
                chance,
                sampling,
                task,
            )
            filled[:, :, span] = codes
            open_B1thw[:, :, span] = False
        return torch.where(known_Bqthw, indices_Bqthw, filled[:, :, :num_frames])

    def _starts(self, num_frames: int) -> list[int]:
        window = self.grid_thw[0]
        last = num_frames - window
        step = max(window - self.context_frames, 1)
        return [*range(0, last, step), last]

    @torch.no_grad()
    def _frames(
        self, noise: dict[str, Tensor], sampling: Sampling, given_Bqthw: Tensor | None
    ) -> Iterator[Tensor]:
        seed_B = noise["seed"]
        chance = Chance(seed_B)
        shape = (len(seed_B), self.num_codebooks, *self.grid_thw)
        before = torch.zeros((*shape[:2], 0, *shape[3:]), dtype=torch.int64, device=seed_B.device)
        if given_Bqthw is not None:
            before = given_Bqthw
        while True:
            num = min(before.shape[2], self.context_frames)
            window = torch.zeros(shape, dtype=torch.int64, device=seed_B.device)
            window[:, :, :num] = before[:, :, before.shape[2] - num :]
            open_Bthw = torch.ones_like(window[:, 0], dtype=torch.bool)
            open_Bthw[:, :num] = False
            before = self._fill_window(
                window, open_Bthw, torch.full_like(window, -1), noise, chance, sampling, None
            )
            yield from before[:, :, num:].unbind(2)

    def _fill_window(
        self,
        indices_Bqthw: Tensor,
        open_Bthw: Tensor,
        condition_Bqthw: Tensor,
        noise: dict[str, Tensor],
        chance: Chance,
        sampling: Sampling,
        task: str | None,
    ) -> Tensor:
        open_BN = open_Bthw.flatten(1)
        shown_B1thw = (condition_Bqthw >= 0).all(1, keepdim=True)
        conditioned_BN = shown_B1thw.flatten(1) & open_BN
        digits_BNS = self._streams.split(
            torch.where(shown_B1thw & open_Bthw[:, None], condition_Bqthw, indices_Bqthw)
        )
        if task is None:
            task_B = self._tasks.nearest(~open_BN | conditioned_BN)
        else:
            task_B = torch.full((len(open_BN),), self._tasks.number(task), device="cpu")
        label_B = noise.get("label") if self.num_classes else None
        told_BP = self._prefix(task_B, label_B, open_BN)
        untold_BP = self._prefix(task_B, None, open_BN)
        guidance = 1.0 if label_B is None else sampling.guidance

        def logits_of(digits_BNS: Tensor, open_BN: Tensor, places_BM: Tensor) -> Tensor:
            hidden_BN = open_BN & ~conditioned_BN
            if guidance in (0, 1):
                prefix_BP = told_BP if guidance else untold_BP
                return self._logits(digits_BNS, hidden_BN, prefix_BP, places_BM)
            both = self._logits(
                digits_BNS.repeat(2, 1, 1),
                hidden_BN.repeat(2, 1),
                torch.cat((told_BP, untold_BP)),
                places_BM.repeat(2, 1),
            )
            told_BMSK, untold_BMSK = both.float().chunk(2)
            return guided(told_BMSK, untold_BMSK, guidance)

        filled_BNS = decode(
            logits_of, digits_BNS, open_BN, chance, sampling, codes_per_place=self.num_codebooks
        )
        return self._streams.join(filled_BNS, self.grid_thw)

    def _logits(
        self, digits_BNS: Tensor, hidden_BN: Tensor, prefix_BP: Tensor, places_BM: Tensor | None = None
    ) -> Tensor:
        first_row_S = torch.arange(self._streams.num, device=digits_BNS.device) * self._streams.base
        mask_row = self.bert.embedding.num_embeddings + _MASK
        return self.bert(digits_BNS + first_row_S, hidden_BN, prefix_BP, mask_row, places_BM=places_BM)

    def _prefix(self, task_B: Tensor, label_B: Tensor | None, like: Tensor) -> Tensor:
        """Rows of the embedding for the task, where there are several kinds, and the class."""
        none = self.bert.num_codes + self.num_classes
        row_B = torch.full((len(like),), none, device=like.device)
        if label_B is not None and self.num_classes:
            label_B = label_B.to(like.device)
            check_labels(PART, label_B, len(like), self.num_classes, least=-1)
            row_B = torch.where(label_B < 0, none, self.bert.num_codes + label_B)
        if not self._tasks.has_token:
            return row_B[:, None]
        token_B = self._tasks.tokens(task_B.to(like.device))
        return torch.stack((token_B + self.bert.embedding.num_embeddings, row_B), 1)

    def _check(self, indices_Bqthw: Tensor, *, window: bool = False, num: int | None = None) -> None:
        least, most = (self.grid_thw[0], self.grid_thw[0]) if window else (0, None)
        check_codes(
            PART,
            indices_Bqthw,
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
            size_HW=self.grid_thw[1:],
            least=least,
            most=most,
            num=num,
        )

    def _check_drawing(self, noise: dict[str, Tensor], sampling: Sampling) -> int:
        """Refuse noise or guidance that the prior cannot work with, and return the number of clips."""
        if sampling.guidance != 1 and not self._learned_untold:
            raise ZooError(
                f"{PART} never had its classes hidden in training, so it cannot be guided: guidance is "
                f"{sampling.guidance:g}; leave it at 1, or train with num_classes and label_dropout, such as "
                "0.1"
            )
        return check_noise(PART, noise, ())
