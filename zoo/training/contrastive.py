"""The contrastive loss of MoCoGAN-HD (https://arxiv.org/abs/2104.15069), with its memory.

To a discriminator that projects what it sees (`project`), two augmented views of a frame are to be alike, and
unlike all other frames: those of the batch, and those that a queue remembers as a slowly following copy of
the discriminator projected them (MoCo, https://arxiv.org/abs/1911.05722). What it takes for real and what is
made are two such tasks, with a queue each.

Shape legend: B frames of a batch on this rank, N on all ranks, Q places of a queue, P numbers of a
projection.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.precision import full_precision
from zoo.ranks import places_of_ranks, rows_everywhere

if TYPE_CHECKING:
    from zoo.assemblies import Assembly
    from zoo.outputs import Judged, Selection
    from zoo.recipes import Contrastive

SIDES = ("real", "made")


class MemoryQueue(nn.Module):
    """The memory of one discriminator: a copy that follows it, and what that made of the latest frames.

    Args:
        discriminator: Whose; it has `project` and `projection_dim`.
        config: The recipe's term.
        generator: Draws what the queues hold at first, on the CPU.
    """

    place: Tensor

    def __init__(self, discriminator: Any, config: Contrastive, *, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.network: Any = copy.deepcopy(discriminator).requires_grad_(False)
        shape_QP = (config.queue_size, discriminator.projection_dim)
        for side in SIDES:
            self.register_buffer(side, torch.randn(shape_QP, generator=generator))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def forward(self, side: str, first_BP: Tensor, second_BP: Tensor) -> Tensor:
        """Return the cross entropy of finding each view's other among all that are not itself, a mean.

        As in the authors' code, a view counts against itself like one at a right angle.

        Args:
            side: "real" or "made".
            first_BP: Projections of one view of each frame.
            second_BP: Those of another.
        """
        with full_precision(first_BP):
            views = [F.normalize(view_BP.float(), dim=1) for view_BP in (first_BP, second_BP)]
            queue_QP = F.normalize(self.get_buffer(side), dim=1)
            keys = torch.cat([*(rows_everywhere(view_BP) for view_BP in views), queue_QP])
            logits = torch.cat(views) @ keys.T / self.config.temperature
            before, num_all = places_of_ranks(len(first_BP), first_BP.device)
            first_B = before + torch.arange(len(first_BP), device=first_BP.device)
            places = torch.cat([first_B, first_B + num_all])
            logits = logits.scatter(1, places[:, None], 0.0)
            return F.cross_entropy(logits, torch.cat([first_B + num_all, first_B]))

    @torch.no_grad()
    def remember(self, real_BP: Tensor, made_BP: Tensor) -> None:
        """Put projections of the batch, of all ranks, in the places of the oldest."""
        for side, projected_BP in zip(SIDES, (real_BP, made_BP), strict=True):
            rows_NP = rows_everywhere(projected_BP.float())[-self.config.queue_size :]
            order_N = torch.arange(len(rows_NP), device=rows_NP.device)
            places_N = (self.place + order_N) % self.config.queue_size
            self.get_buffer(side).index_copy_(0, places_N, rows_NP)
        self.place.copy_((self.place + len(rows_NP)) % self.config.queue_size)

    @torch.no_grad()
    def follow(self, discriminator: nn.Module) -> None:
        """Move the copy's weights towards the discriminator's."""
        for mine, theirs in zip(self.network.parameters(), discriminator.parameters(), strict=True):
            mine.lerp_(theirs, 1 - self.config.momentum)


class ContrastiveMemory(nn.Module):
    """The memories of all discriminators of a model that project; those then learn with their projections.

    Args:
        model: The model.
        config: The recipe's term.
        generator: Draws what the queues hold at first, on the CPU.

    Raises:
        TrainingError: No discriminator projects, or none has the reference that `match` asks for; or a batch
            is larger than the queues.
    """

    def __init__(self, model: Assembly, config: Contrastive, *, generator: torch.Generator) -> None:
        super().__init__()
        where = "train.objective.adversarial.contrastive"
        judges = {n: judge for n, judge in enumerate(model.discriminator) if hasattr(judge, "project")}
        if not judges:
            raise TrainingError(
                f"{where} needs a discriminator that projects what it sees, and {model.name!r} has none; use "
                f"mocogan-hd-cross-domain or mocogan-hd-image, or set {where}: null"
            )
        matches = config.match or any(
            entry.number.endswith("contrastive.match") and entry.to for entry in model.recipe.train.anneal
        )
        if matches and not any(hasattr(judge, "reference_frames") for judge in judges.values()):
            raise TrainingError(
                f"{where}.match compares frames with their clip's reference frame, and no discriminator of "
                f"{model.name!r} has one; use mocogan-hd-cross-domain, or set {where}.match: 0"
            )
        if (batch := model.recipe.train.batch_size) > config.queue_size:
            raise TrainingError(
                f"{where}.queue_size is {config.queue_size}, less than a batch: set it to {batch} or more"
            )
        for judge in judges.values():
            judge.requires_grad_(True)
        self.memories = nn.ModuleDict(
            {str(n): MemoryQueue(judge, config, generator=generator) for n, judge in judges.items()}
        )

    def forward(
        self,
        model: Assembly,
        seen: tuple[Tensor, Tensor],
        verdicts: tuple[list[Judged], list[Judged]],
        again: tuple[Tensor, Tensor],
        selection: Selection,
        *,
        label_B: Tensor | None,
    ) -> Tensor:
        """Return what the discriminators lose, and remember what was seen.

        Args:
            model: The model.
            seen: Real and made clips x_BCTHW, one view.
            verdicts: Those of all discriminators on this view.
            again: Another view of the same clips.
            selection: Which frames are seen.
            label_B: Label of each clip.

        Returns:
            Scalar, the sum over discriminators and sides.
        """
        terms = []
        for number, memory in self._of(model):
            judge: Any = model.discriminator[number]
            others = model.judge_sides(number, *again, selection, label_B=label_B)
            for side, firsts, second in zip(SIDES, verdicts, others, strict=True):
                terms.append(memory(side, *(judge.project(one.features) for one in (firsts[number], second))))
            with torch.no_grad():
                kept = model.judge_sides(number, *seen, selection, label_B=label_B, by=memory.network)
                memory.remember(*(memory.network.project(judged.features) for judged in kept))
        return torch.stack(terms).sum()

    def match(
        self,
        model: Assembly,
        made_x_BCTHW: Tensor,
        fakes: list[Judged],
        selection: Selection,
        *,
        label_B: Tensor | None,
    ) -> Tensor:
        """Return minus the mean cosine between projections of made frames and of their reference frames."""
        terms = []
        for number, _ in self._of(model):
            judge: Any = model.discriminator[number]
            if hasattr(judge, "reference_frames"):
                reference = model.judge_one(number, made_x_BCTHW, selection, label_B=label_B, reference=True)
                pair = (judge.project(judged.features).float() for judged in (fakes[number], reference))
                terms.append(-F.cosine_similarity(*pair).mean())
        return torch.stack(terms).sum()

    def follow(self, model: Assembly) -> None:
        """Move the copies after an update of the discriminators."""
        for number, memory in self._of(model):
            memory.follow(model.discriminator[number])

    def _of(self, model: Assembly) -> list[tuple[int, MemoryQueue]]:
        found = []
        for number, memory in self.memories.items():
            assert isinstance(memory, MemoryQueue)
            found.append((int(number), memory))
        return found
