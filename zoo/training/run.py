"""The state of a run: its two players, what it keeps from step to step, and the batches it is fed.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.ranks import Attempt, GivenUp, attempt, distributed, micro_batch, same_everywhere, share, whole
from zoo.training.acceleration import Acceleration
from zoo.training.anneal import annealed
from zoo.training.augment import check_speed, make_augment
from zoo.training.batch_norm import over_whole_batch
from zoo.training.categories import check_categories
from zoo.training.contrastive import ContrastiveMemory
from zoo.training.ema import MovingAverage
from zoo.training.finite import IN_A_ROW, Buffers, NotFiniteError
from zoo.training.objectives import check_slopes, objective_of_whole_batches
from zoo.training.player import Numbers, Player, Weights
from zoo.training.regularizers import LecamMeans, PathLengthMean
from zoo.training.rng import step_generator

if TYPE_CHECKING:
    from zoo.assemblies import Assembly
    from zoo.recipes import Adversarial, Train
    from zoo.training.shards import Shards


class Labelled(NamedTuple):
    """A batch to train on.

    Attributes:
        x_BCTHW: Clips in [-1, 1], or int64 codes indices_Bqthw.
        label_B: int64 label of each clip, -1 where it has none; None when the data has no labels.
    """

    x_BCTHW: Tensor
    label_B: Tensor | None = None

    def part(self, clips: slice) -> Labelled:
        """Return some of its clips."""
        return Labelled(self.x_BCTHW[clips], None if self.label_B is None else self.label_B[clips])

    def to(self, device: torch.device) -> Labelled:
        """Return the batch on a device, clips in float32."""
        label_B = None if self.label_B is None else self.label_B.to(device)
        dtype = torch.int64 if self.x_BCTHW.dtype == torch.int64 else torch.float32
        return Labelled(self.x_BCTHW.to(device, dtype), label_B)

    def is_finite(self) -> bool:
        """Whether every pixel is a finite number."""
        return not self.x_BCTHW.is_floating_point() or bool(torch.isfinite(self.x_BCTHW).all())


@dataclasses.dataclass
class Run:
    """The state of a run: everything that a step reads or changes.

    Attributes:
        model: The model with its discriminators, in training mode.
        train: The recipe's training section, its numbers as they are at this step.
        device: Where it is trained.
        player: The model's side.
        opponent: The discriminators' side, when there are any.
        average: Moving average of the weights, when the recipe asks for one.
        lpips: Frozen distance network, when the objective has a perceptual term.
        keepers: What else keeps state from step to step: "augment", "contrastive", "lecam" and "path_length",
            those that the objective has.
        acceleration: What makes a step faster or smaller.
        buffers: What the forward passes of an update move, to be put back when it is not made.
        accumulate: In how many parts a rank's share of a batch goes through the model; more than the recipe
            says once there was no memory for so few.
        shards: What has the weights cut over the ranks, where they are.
        step: Steps taken.
        batches: Batches taken from the data.
        troubles: Why updates were left out, for the session to tell.
        notices: What else it is to tell.
    """

    model: Assembly
    train: Train
    device: torch.device
    player: Player
    opponent: Player | None
    average: MovingAverage | None
    lpips: nn.Module | None
    keepers: nn.ModuleDict
    acceleration: Acceleration
    buffers: Buffers
    accumulate: int
    shards: Shards | None = None
    step: int = 0
    batches: int = 0
    troubles: list[str] = dataclasses.field(default_factory=list)
    notices: list[str] = dataclasses.field(default_factory=list)

    def set_numbers(self) -> None:
        """Set the numbers that change in the course of a run to what they are at this step."""
        if not self.train.anneal:
            return
        self.train = train = annealed(self.model.recipe.train, self.step)
        self.player.set_betas(train.optimizer.betas)
        if self.opponent is not None:
            self.opponent.set_betas((train.discriminator_optimizer or train.optimizer).betas)
        if self.average is not None and train.ema is not None:
            self.average.config = train.ema

    @property
    def adversarial(self) -> Adversarial | None:
        """The adversarial term, once it has started to count."""
        term = self.train.objective.adversarial
        return term if term is not None and self.step >= term.start_step else None

    def begin_update(self) -> None:
        """Make ready for an update: remember what it may move, and gather what it is to work with."""
        self.buffers.remember()
        if self.shards is not None:
            self.shards.gather()

    def let_go(self) -> None:
        """Leave a rank with no more than its share of the weights, where they are cut."""
        if self.shards is not None:
            self.shards.let_go()

    def whole_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights and buffers of the model and of its moving average, by name; every rank asks.

        Where they are cut over the ranks the first one gets them, on its host, and the others nothing of use.
        """
        self.let_go()
        found = {"model": self.model.state_dict()}
        if self.average is not None:
            found["ema"] = self.average.tensors()
        return {kind: {name: whole(tensor) for name, tensor in found[kind].items()} for kind in found}

    def best(self, tensors: dict[str, dict[str, Tensor]] | None = None) -> Assembly:
        """Return the model to measure, save and return: of the moving average where there is one.

        Every rank asks. Where the weights are cut, that is a copy on the first rank's host.

        Args:
            tensors: What `whole_tensors` gave just now, if it did.
        """
        if self.shards is not None:
            found = tensors or self.whole_tensors()
            return self.shards.publish(found["model"] | found.get("ema", {}))
        return self.average.model if self.average is not None else self.model

    def learn(
        self, player: Player, num: int, loss_of: Callable[[slice], tuple[Tensor, Numbers]], *, norm: str
    ) -> Numbers:
        """Have a player take its step on a batch, part by part where it is to be accumulated.

        Where there is no memory for a part, parts are made smaller, for the rest of the run. Where other
        ranks wait for this one in the middle of theirs, the run ends.

        Args:
            player: Whose step it is.
            num: Clips of the batch on this rank.
            loss_of: Computes the loss of some of the clips, and its numbers.
            norm: What the gradient's norm is called.

        Returns:
            The means of the numbers over the parts, and the norm unless the update was skipped.

        Raises:
            NotFiniteError: Loss or gradient is not finite and the recipe does not skip it; buffers and this
                side's weights are as before the update.
            TrainingError: There is no memory, and no smaller parts can be made.
        """
        while True:
            lacking: BaseException | None = None
            with attempt() as together:
                try:
                    loss, numbers = self._collect(player, num, loss_of)
                except (torch.OutOfMemoryError, MemoryError, RuntimeError, GivenUp) as error:
                    if not isinstance(error, GivenUp) and not is_out_of_memory(error):
                        raise
                    lacking = error.with_traceback(None)  # which holds on to what filled the memory
            if lacking is not None and self._is_awaited(together):
                why = "the other ranks wait for this one in the middle of the step"
                advice = [f"train.accumulate={parts}" for parts in self._more_parts(num)[:1]]
                raise self._too_large(num, why, *advice) from lacking
            if not together.is_given_up(lacking is not None):
                break
            player.forget()
            self.buffers.put_back()
            self._take_smaller_parts(num, lacking)
        try:
            numbers[norm] = player.update(loss, step=self.step, numbers=numbers)
        except NotFiniteError as error:
            self.buffers.put_back()
            self.skip(player, error)
            return numbers
        player.skipped = 0
        return numbers

    def _collect(
        self, player: Player, num: int, loss_of: Callable[[slice], tuple[Tensor, Numbers]]
    ) -> tuple[Tensor, Numbers]:
        player.forget()
        losses, found = list[Tensor](), list[Numbers]()
        for clips, context in self.parts(num):
            with context:
                loss, numbers = loss_of(clips)
                (loss / self.accumulate).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            found.append(numbers)
        if len(found) == 1:
            return losses[0], found[0]
        means = {name: torch.stack([one[name].float() for one in found]).mean() for name in found[0]}
        return torch.stack(losses).mean(), means

    def parts(self, num: int) -> list[tuple[slice, contextlib.AbstractContextManager[None]]]:
        """Return the parts of a batch of `num` clips here, each with what has to be entered for it.

        Raises:
            TrainingError: They cannot be cut alike.
        """
        size, rest = divmod(num, self.accumulate)
        if rest:
            raise TrainingError(
                f"{num} clips cannot be cut into {self.accumulate} parts alike: set train.accumulate to a "
                "number that divides them"
            )
        count = self.accumulate
        return [(slice(n * size, (n + 1) * size), micro_batch(n, count)) for n in range(count)]

    def _is_awaited(self, together: Attempt) -> bool:
        """Whether other ranks are in the middle of what this one has no memory for.

        Those that gather cut weights are, and compiled networks do not say.
        """
        among_others = distributed() and (self.shards is not None or self.train.compile)
        return together.given_up is False or among_others

    def _too_large(self, num: int, why: str, *advice: str) -> TrainingError:
        """Make the error that there is no memory for a part of `num` clips here, with what to try first."""
        choices = ", ".join([*advice, "a smaller train.batch_size", "train.activation_checkpointing=true"])
        return TrainingError(
            f"step {self.step + 1}: out of memory with {num // self.accumulate} clips at a time, and {why}: "
            f"set {choices}, or smaller clips"
        )

    def _more_parts(self, num: int) -> list[int]:
        """Return in how many more parts `num` clips can be cut, the doubled number of now or more first."""
        if objective_of_whole_batches(self.train.objective):
            return []
        more = [n for n in range(self.accumulate + 1, num + 1) if num % n == 0]
        return sorted(more, key=lambda n: (n < 2 * self.accumulate, n))

    def _take_smaller_parts(self, num: int, lacking: BaseException | None) -> None:
        """Cut batches into more parts.

        Raises:
            TrainingError: There are no smaller ones, or the objective is one of whole batches.
        """
        before, more = num // self.accumulate, self._more_parts(num)
        if not more:
            whole = objective_of_whole_batches(self.train.objective)
            why = f"{whole} needs whole batches" if whole else "there are no smaller parts"
            raise self._too_large(num, why) from lacking
        self.accumulate = more[0]
        self.free_memory()
        self.notices.append(
            f"step {self.step + 1}: out of memory with {before} clips at a time; from here on "
            f"{num // self.accumulate}, {self.accumulate} times a step (train.accumulate)"
        )

    def free_memory(self) -> None:
        """Give back the memory of something that was too large for it."""
        gc.collect()  # what a graph that was cut off in the middle keeps in circles
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def skip(self, player: Player, error: NotFiniteError) -> None:
        """Go on without a player's update where the recipe says so.

        Raises:
            NotFiniteError: It does not, or too many of this player's were skipped in a row.
        """
        player.skipped += 1
        if self.train.not_finite != "skip":
            raise error
        if player.skipped > IN_A_ROW:
            raise NotFiniteError(
                error.reason, f"{IN_A_ROW} updates in a row were skipped before it, so it stops"
            )
        self.troubles.append(f"{error.reason}; this update is skipped")

    def augmented(self, x_BCTHW: Tensor, stream: str, turn: int = 0) -> Tensor:
        """Change clips as the discriminators see them; all frames of a clip alike."""
        if "augment" not in self.keepers:
            return x_BCTHW
        changed: Tensor = self.keepers["augment"](
            x_BCTHW, generator=self.generator(f"augment {stream}", turn)
        )
        return changed

    def generator(self, stream: str, turn: int = 0) -> torch.Generator:
        """Random numbers of this step."""
        return step_generator(self.train.seed, stream, self.step, turn=turn)

    def laid_out(self, batch: Labelled) -> Labelled:
        """Return a batch on the device, in the order in memory that the recipe asks for."""
        batch = batch.to(self.device)
        return batch._replace(x_BCTHW=self.acceleration.laid_out(batch.x_BCTHW))

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """What networks compute in; losses are taken outside."""
        return self.acceleration.autocast()


def start(model: Assembly, device: torch.device, *, fsdp: bool = False) -> Run:
    """Make ready to train a model: optimisers, schedules, moving average, perceptual network.

    Args:
        model: The model, on the CPU.
        device: Where it is trained.
        fsdp: Cut its weights over the ranks.
    """
    train = model.recipe.train
    own = share(train.batch_size)
    if (own.stop - own.start) % train.accumulate:
        raise TrainingError(
            f"the {own.stop - own.start} clips of a rank cannot be cut into {train.accumulate} parts alike: "
            "set train.accumulate to a number that divides them"
        )
    shards = None
    if fsdp:
        from zoo.training.shards import Shards

        shards = Shards(model)
    model.to(device).train()
    if distributed():
        over_whole_batch(model)
        same_everywhere(model)
    model.before_training()
    acceleration = Acceleration(model, device)
    average = MovingAverage(model, train.ema) if train.ema is not None else None
    if shards is not None:
        shards.cut(average.model if average is not None else None)
    keepers = nn.ModuleDict()
    if (adversarial := train.objective.adversarial) is not None:
        if adversarial.augment is not None:
            check_speed(adversarial.augment, model)
            keepers["augment"] = make_augment(adversarial.augment)
        check_slopes(model, adversarial)
        if adversarial.lecam is not None:
            keepers["lecam"] = LecamMeans(len(model.discriminator), decay=adversarial.lecam.decay)
        if adversarial.categories is not None:
            check_categories(model, adversarial.categories)
        if adversarial.contrastive is not None:
            queue = step_generator(train.seed, "queue", 0)
            keepers["contrastive"] = ContrastiveMemory(model, adversarial.contrastive, generator=queue)
        if adversarial.path_length is not None:
            keepers["path_length"] = PathLengthMean(decay=adversarial.path_length.decay)
    lpips = None
    if train.objective.perceptual is not None:
        from zoo.metrics.lpips import load_lpips

        lpips = load_lpips().to(device)
    keepers.to(device)
    weights = Weights if shards is None else shards.weights
    opponent = None
    if train.objective.adversarial is not None:
        config = train.discriminator_optimizer or train.optimizer
        opponent = Player("discriminator", weights(model.discriminator.parameters()), config, train)
    return Run(
        model=model,
        train=train,
        device=device,
        player=Player("model", weights(model.player_parameters()), train.optimizer, train),
        opponent=opponent,
        average=average,
        lpips=lpips,
        keepers=keepers,
        accumulate=train.accumulate,
        acceleration=acceleration,
        shards=shards,
        buffers=Buffers(model, keepers),
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the host has no memory left."""
    # The last is what oneDNN says on a processor.
    signs = ("can't allocate memory", "could not create a primitive")
    named = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return named or any(sign in str(error) for sign in signs)
