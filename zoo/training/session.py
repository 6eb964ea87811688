"""One run at work: steps, logged numbers, evaluations, samples and saves, in the run's folder.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from zoo.assemblies import Assembly, Autoencoder, Sampler
from zoo.errors import TrainingError, ZooError
from zoo.files import is_full_disk
from zoo.metrics import Stopped, evaluate
from zoo.metrics.chosen import ChosenClips, evenly_spaced, read_batches
from zoo.ranks import among_others, any_rank, asked_to_end, everywhere, gathered, on_first, rank, world_size
from zoo.training.callbacks import Callbacks
from zoo.training.checkpoint import Snapshot, has_checkpoint, load_checkpoint, save_checkpoint
from zoo.training.clock import Clock
from zoo.training.finite import IN_A_ROW, NotFiniteError
from zoo.training.health import Health
from zoo.training.interrupts import Interrupts
from zoo.training.loop import training_step
from zoo.training.player import Numbers
from zoo.training.records import Journal, Window, card, sweep, write_facts
from zoo.training.rng import isolated_rng
from zoo.training.run import Labelled, Run, is_out_of_memory
from zoo.training.snapshot import restore, take_snapshot

EVAL_CLIPS = 64
"""Held-out clips measured while training goes on."""
FINAL_EVAL_CLIPS = 256
"""Held-out clips measured at the end, at most; `zoo eval` measures all."""
MAX_TROUBLES = 100
"""Updates that were left out, the latest, that run.json tells of."""
NUM_SAMPLES = 4
"""Clips written to samples/."""
KEPT: dict[str, Any] = {
    "started": str,
    "resumed_at": list[int],
    "seconds": float,
    "waited_seconds": float,
    "steps_per_s": float | None,
    "data_wait_share": float | None,
    "skipped": list[Annotated[list[str], Field(min_length=2, max_length=2)]] | None,
    "evaluation": dict[str, Any] | None,
    "evaluation_error": str | None,
    "init": dict[str, str] | None,
    "data": dict[str, Any],
    "not_finite": list[str],
}
"""Facts that a checkpoint carries over to the run that goes on from it, and what each is."""


def carried(snapshot: Snapshot) -> dict[str, Any]:
    """Return the facts that a checkpoint carries over, and no others that somebody put there.

    Raises:
        TrainingError: One is not what a run writes.
    """
    facts = snapshot.state.get("facts")
    found = {name: facts[name] for name in KEPT if name in facts} if isinstance(facts, dict) else {}
    try:
        for name, kind in KEPT.items():
            if name in found or name == "data":
                TypeAdapter(kind).validate_python(found.get(name), strict=True)
    except ValidationError as error:
        raise TrainingError(
            f"the checkpoint is damaged: {name} is {str(found.get(name))[:80]!r} among its facts; start "
            "again with --force, or give another --out"
        ) from error
    return found


class Session:
    """Drives a run to its last step and keeps its folder.

    Of several ranks each drives its own, in step with the others; the first writes, measures and speaks.

    Args:
        run: State of the run.
        folder: The run's folder.
        facts: What run.json says; kept up to date here.
        heldout: Clips never trained on; None when there are none.
        callbacks: Who looks on.
        journal: metrics.jsonl.
        window: Sums since its last line.
        progress: Show a bar and what is saved, on standard error.
        skipped: Tells the sources that could not be read so far, with the reason.
        interrupts: Looked at between steps and between batches of an evaluation.
        num_workers: Processes that decode clips to measure; chosen by the loader when None.
        keep: Checkpoints that stay.
        health: The monitors; one of the callbacks. None when they are off.

    Attributes:
        best: The model to evaluate, save and return: of the moving average where there is one. Made ready by
            `save` and `evaluate`.
        interrupted: Whether a signal to any rank ended the training.
        passed_over: Checkpoints that were passed over when the run went on from an older one; the next save
            removes them.
    """

    def __init__(
        self,
        run: Run,
        *,
        folder: Path,
        facts: dict[str, Any],
        heldout: Dataset[Any] | None,
        callbacks: Callbacks,
        journal: Journal,
        window: Window,
        progress: bool,
        skipped: Callable[[], list[list[str]]],
        interrupts: Interrupts,
        num_workers: int | None,
        keep: int,
        health: Health | None,
    ) -> None:
        self.run = run
        self.folder = folder
        self.facts = facts
        self.heldout = heldout
        self.callbacks = callbacks
        self.journal = journal
        self.window = window
        self.progress = progress
        self._skipped = skipped
        self._interrupts = interrupts
        self._num_workers = num_workers
        self._keep = keep
        self._health = health
        self.best = run.model
        self.saved_step: int | None = None
        self.interrupted = False
        self.passed_over: tuple[Path, ...] = ()
        self._furthest = self._rolled_back = 0
        self._shown: Tensor | None = None

    def train(self, batches: Callable[[int], Iterator[Labelled]]) -> None:
        """Step until the recipe's last step or an interrupt, logging, evaluating and saving on the way.

        Args:
            batches: Makes the endless batches from a position on.

        Raises:
            TrainingError: A loss, gradient or weight is not finite, a checkpoint cannot be written, or the
                monitors end the run.
        """
        run, config, interrupts = self.run, self.run.train, self._interrupts
        self.callbacks.call("on_start", self.folder, self.facts["recipe"], run.step)
        # The first rank may have cleared the folder when others see still what was in it.
        if config.not_finite == "roll-back" and not gathered(has_checkpoint(self.folder / "checkpoint"))[0]:
            self.save()
        clock = Clock(self.facts, batches(run.batches))
        bar = tqdm(
            total=config.steps,
            initial=run.step,
            desc=run.model.name,
            unit="step",
            dynamic_ncols=True,
            disable=not self.progress,
        )
        self.interrupted = any_rank(interrupts.noted is not None)
        with bar:
            while run.step < config.steps and not self.interrupted:
                try:
                    with among_others(lambda: f"step {run.step + 1}: "):
                        numbers = training_step(run, clock)
                except NotFiniteError as error:
                    self._roll_back(error, bar)
                    continue
                except Exception as error:
                    # The same Ctrl-C ends the loader's workers; between two steps that is no fault.
                    # Of several ranks, though, the others are in the middle of this one.
                    if interrupts.noted is not None and clock.failed and world_size() == 1:
                        self.interrupted = True
                        break
                    if is_out_of_memory(error) and not isinstance(error, ZooError):
                        raise TrainingError(
                            f"step {run.step + 1}: out of memory where nothing can be cut into smaller parts "
                            f"({str(error).splitlines()[0]}): set a smaller train.batch_size or smaller "
                            "clips, and start again"
                        ) from error
                    raise
                values = _floats(numbers)
                self.window.add(values)
                self._tell_troubles()
                clock.stepped()
                self.facts["steps_per_s"] = run.step / max(self.facts["seconds"], 1e-9)
                bar.update()
                bar.set_postfix(loss=f"{values.get('loss', math.nan):.4f}", refresh=False)
                ends = run.step == config.steps
                logs = run.step % config.log_every == 0 or ends
                measures = bool(config.eval_every) and run.step % (config.eval_every or 1) == 0 and not ends
                if logs:
                    self._log(clock)
                if run.step % config.save_every == 0 and not ends:
                    try:
                        self.save()
                    except NotFiniteError as error:
                        self._roll_back(error, bar)
                        continue
                if measures:
                    self.evaluate(num_clips=EVAL_CLIPS)
                if self._health is not None and (logs or measures) and any_rank(bool(self._health.verdict)):
                    self.save()
                    raise TrainingError(self._health.verdict or "the first rank's monitors end the run")
                clock.resume()
                self.interrupted = any_rank(interrupts.noted is not None)
        self.save()

    def _roll_back(self, error: NotFiniteError, bar: tqdm[Any]) -> None:
        """Go back to the last checkpoint where the recipe says so, and on with the clips that are next.

        Raises:
            NotFiniteError: `error`, where the recipe says otherwise or the run gets no further this way.
        """
        run, failed = self.run, self.run.step
        if failed > self._furthest:
            self._furthest, self._rolled_back = failed, 0
        self._rolled_back += 1
        if run.train.not_finite != "roll-back" or self._rolled_back > IN_A_ROW:
            if self._health is not None:
                self._health.broke(failed + 1, str(error))
            raise error
        batches = run.batches
        snapshot = load_checkpoint(self.folder / "checkpoint")
        restore(run, snapshot)
        run.batches, self.saved_step, self.passed_over = batches, None, snapshot.passed_over
        self.window = Window(snapshot.state["window"])
        self.journal.cut(run.step)
        run.troubles.append(f"{error.reason}; back to step {run.step}, and on with the clips that are next")
        self._tell_troubles()
        bar.n = run.step
        bar.refresh()

    def _tell_troubles(self) -> None:
        """Write down which updates were left out, and why; say what else there is to say."""
        for notice in self.run.notices:
            if self.progress:
                tqdm.write(f"note: {notice}", file=sys.stderr)
        self.run.notices.clear()
        for trouble in self.run.troubles:
            self.facts["not_finite"] = [*self.facts["not_finite"][-MAX_TROUBLES:], trouble]
            if self._health is not None:
                self._health.broke(self.run.step, trouble)
            if self.progress:
                tqdm.write(f"warning: {trouble}", file=sys.stderr)
        self.run.troubles.clear()

    def save(self) -> None:
        """Save checkpoint, model and run.json; a checkpoint of this very step is not written twice."""
        if self.saved_step == self.run.step:
            return
        self.note_skipped(gathered(self._skipped()))
        self.saved_step = self.run.step
        self.facts["step"] = self.run.step
        kept = {name: self.facts[name] for name in KEPT}
        snapshot = take_snapshot(self.run, window=self.window.sums, facts=kept)
        self.best = self.run.best(snapshot.tensors)
        on_first(lambda: self._save(snapshot))

    def _save(self, snapshot: Snapshot) -> None:
        save_checkpoint(self.folder / "checkpoint", snapshot, keep=self._keep, passed_over=self.passed_over)
        self.passed_over = ()
        self.save_model()
        self.write()
        sweep(self.folder)
        self.callbacks.call("on_save", self.run.step, self.folder)

    def save_model(self) -> None:
        """Write model/ with a card of the facts so far."""
        from zoo.weights import save

        save(self.best, self.folder / "model", force=True, card=card(self.facts))

    def final_model(self) -> Assembly:
        """Return the trained model, to evaluate; where weights are cut, others read what the first saved."""
        from zoo.weights import load

        whole = self.run.shards is None or not rank()
        return self.best.eval() if whole else load(self.folder / "model")

    def note_skipped(self, of_ranks: list[list[list[str]]] | None = None) -> None:
        """Take over which sources could not be read, beside those of the run before it was resumed.

        Args:
            of_ranks: What each rank skipped; this one's alone when left out.
        """
        found = dict(self.facts["skipped"] or [])
        for skipped in of_ranks or [self._skipped()]:
            found |= dict(skipped)
        self.facts["skipped"] = [[source, reason] for source, reason in sorted(found.items())]

    def write(self) -> None:
        """Write run.json, on the first rank."""
        if rank():
            return
        if self._health is not None:
            self.facts["health"] = self._health.lines()
        write_facts(self.folder, self.facts)

    def evaluate(self, *, num_clips: int | None = None) -> dict[str, Any] | None:
        """Measure the model on held-out clips and write samples of it; None when that cannot be done.

        The first rank does, on every clip once, while the others wait.

        Args:
            num_clips: Clips measured, evenly spaced, without the baselines; `FINAL_EVAL_CLIPS`, with them,
                when left out.
        """
        self.best = self.run.best()
        return on_first(lambda: self._evaluate(num_clips), asks=self._to_stop)

    def _evaluate(self, num_clips: int | None) -> dict[str, Any] | None:
        self.best.to(self.run.device)
        try:
            with isolated_rng():
                self._write_samples()
                result = self._measure(num_clips)
        except Stopped:
            return None
        except Exception as error:
            if is_full_disk(error):
                raise
            # Clips that cannot be read, or no memory to measure in, say nothing against the model.
            kind = "" if isinstance(error, ZooError) else f"{type(error).__name__}: "
            self.facts["evaluation_error"] = f"at step {self.run.step}: {kind}{error}"
            self.write()
            if self.progress:
                print(f"the model could not be measured: {kind}{error}", file=sys.stderr)
            return None
        finally:
            self.run.model.train()
            if self.run.shards is not None:
                self.best.cpu()
        if result is None:
            return None
        values: dict[str, float] = dict(result["values"])
        self.facts |= {"evaluation": {"step": self.run.step, **result}, "evaluation_error": None}
        self.journal.add(self.run.step, "eval", values)
        self.write()
        self.callbacks.call("on_eval", self.run.step, values)
        return result

    def _measure(self, num_clips: int | None) -> dict[str, Any] | None:
        """Measure with as many clips at a time as a step has, and fewer where there is no memory for them."""
        if self.heldout is None:
            return None
        run, metrics = self.run, None
        if num_clips is not None and isinstance(self.best, Autoencoder):
            metrics = ("psnr", "ssim", "lpips", "codebook")
        size = max(1, run.train.batch_size // (world_size() * run.accumulate))
        while True:
            try:
                return evaluate(
                    self.best,
                    self.heldout,
                    metrics=metrics,
                    batch_size=size,
                    num_clips=num_clips or FINAL_EVAL_CLIPS,
                    num_workers=self._num_workers,
                    seed=run.train.seed,
                    progress=self.progress,
                    stop=self._to_stop,
                )
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
            size //= 2
            run.free_memory()

    def _to_stop(self) -> bool:
        return self._interrupts.noted is not None or asked_to_end()

    def _log(self, clock: Clock) -> None:
        numbers = self.window.take()
        numbers["lr"] = self.run.player.lr
        numbers |= clock.numbers()
        self.journal.add(self.run.step, "train", numbers)
        self.callbacks.call("on_log", self.run.step, numbers)

    def _shown_clips(self) -> Tensor:
        """Read the held-out clips of samples/ once, by workers as those to measure: they may die of one."""
        assert self.heldout is not None
        if self._shown is None:
            chosen = evenly_spaced(len(self.heldout), NUM_SAMPLES)  # type: ignore[arg-type]
            batches = read_batches(
                ChosenClips(self.heldout, chosen),
                batch_size=1,
                num_workers=self._num_workers,
                progress=False,
                stop=self._to_stop,
            )
            self._shown = torch.cat(list(batches))
        return self._shown

    @torch.no_grad()
    def _write_samples(self) -> None:
        """Write a few clips: originals once, reconstructions (or samples) for this step."""
        from zoo.data import write_video

        folder = self.folder / "samples"
        fps = self.run.model.recipe.clip.playback_fps
        model = self.best.eval()
        clips: dict[str, Tensor] = {}
        if isinstance(model, Sampler):
            if not model.samples_alone:
                return
            clips[f"step-{self.run.step:08d}"] = model.sample(NUM_SAMPLES, seed=self.run.train.seed)
        elif self.heldout is not None:
            assert isinstance(model, Autoencoder)
            clips["original"] = x_BCTHW = self._shown_clips().to(self.run.device)
            clips[f"step-{self.run.step:08d}"] = torch.cat(
                [model.reconstruct(x) for x in torch.split(x_BCTHW, 1)]
            )
        for name, x_BCTHW in clips.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for index, x_CTHW in enumerate(x_BCTHW.float().clamp(-1, 1).cpu()):
                path = folder / name / f"{index}.mp4"
                if name != "original" or not path.exists():
                    path.unlink(missing_ok=True)
                    write_video(path, x_CTHW, fps)


def _floats(numbers: Numbers) -> dict[str, float]:
    """Fetch all numbers from the device at once, as means over the ranks."""
    if not numbers:
        return {}
    values = torch.stack([value.detach().float().reshape(()) for value in numbers.values()])
    return dict(zip(numbers, (everywhere(values) / world_size()).tolist(), strict=True))
