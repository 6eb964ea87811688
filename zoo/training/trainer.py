"""`zoo.train`: from the name of a recipe and a source of clips to a trained model in a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from zoo.assemblies import ASSEMBLIES, Sampler
from zoo.building import build, plan, resolve_recipe
from zoo.devices import DeviceError, pick_device
from zoo.errors import TrainingError, ZooError
from zoo.files import is_full_disk
from zoo.ranks import (
    TIMEOUT_S,
    among_others,
    any_rank,
    gathered,
    is_loss_of_rank,
    joined,
    on_first,
    own_device,
    rank,
    world_size,
)
from zoo.training.anneal import check_anneal
from zoo.training.callbacks import Callbacks, callbacks_of_plugins
from zoo.training.checkpoint import Snapshot, clean_up, has_checkpoint, load_checkpoint
from zoo.training.clips import Clips, TokenData, is_token_folder, open_data, open_tokens
from zoo.training.first_stage import FOLDER, train_first_stage
from zoo.training.health import make_health
from zoo.training.interrupts import Interrupts
from zoo.training.objectives import check_objective
from zoo.training.records import (
    Journal,
    Window,
    begin_run,
    describe,
    is_run,
    refuse_existing_run,
    refuse_links,
    sweep,
    train_command,
    versions,
)
from zoo.training.rng import isolated_rng
from zoo.training.run import is_out_of_memory, start
from zoo.training.session import Session, carried
from zoo.training.snapshot import refuse_other_recipe, restore

if TYPE_CHECKING:
    from zoo.assemblies import Assembly
    from zoo.recipes import Recipe


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a run gave.

    Attributes:
        folder: The run's folder; `zoo.load` reads it.
        model: The trained model, in evaluation mode; of the moving average where there is one.
        history: The lines of metrics.jsonl.
        figures: Measured on held-out clips, by name; empty when there were none, or no time to.
        step: Steps taken.
        interrupted: Whether Ctrl-C or SIGTERM came before the run was over; everything is saved.
        resume_command: What to type to go on.
    """

    folder: Path
    model: Assembly
    history: list[dict[str, Any]]
    figures: dict[str, float]
    step: int
    interrupted: bool
    resume_command: str


def train(
    name: str | Path | Recipe | Mapping[str, Any],
    *,
    data: Any,
    out: str | Path | None = None,
    steps: int | None = None,
    resume: bool | Literal["auto"] = False,
    force: bool = False,
    init: Mapping[str, str | Path] | None = None,
    progress: bool = True,
    num_workers: int | None = None,
    keep: int = 1,
    max_bad: float | None = None,
    device: str | torch.device | None = None,
    callbacks: Iterable[Any] = (),
    timeout_s: float = TIMEOUT_S,
    fsdp: bool = False,
    **overrides: Any,
) -> TrainResult:
    """Train a model, keeping everything in one folder (see `zoo.training`).

    The same recipe, data and seed give the same weights on the same machine, interrupted or not. The
    caller's random generators are left as they were.

    Where `torchrun` started several processes, every batch is shared out among them and the first one writes
    the folder. The figures of the result are then those of the first rank, and empty on the others.

    Args:
        name: Recipe, as for `zoo.build`.
        data: Source of clips, as for `zoo.data.open_clips`, or a data set of clips. A prior over tokens also
            learns from a folder that `zoo.tokens.tokenize` made with its tokenizer.
        out: Folder of the run; ``runs/<name>`` when left out.
        steps: Updates of the model, instead of the recipe's. With `resume` it may be raised; a schedule
            that decays is then stretched from here on.
        resume: Go on from the checkpoint in `out`; "auto" starts where there is none, for jobs that are
            started again by themselves.
        force: Replace the run that is in `out`.
        init: Model folders to take parts from, as for `zoo.build`; a resumed run has them already.
        progress: Show a bar and messages on standard error.
        num_workers: Processes that decode clips; chosen by the number of cores when left out.
        keep: Checkpoints that stay: the newest, and those before it as ``checkpoint-STEP/``.
        max_bad: Largest share of the clips' sources that may be bad before the run stops; a half when left
            out.
        device: Where to train; a CUDA device when there is one, or else the CPU.
        callbacks: `zoo.training.Callback` objects, or names: ``("tensorboard",)``.
        timeout_s: Seconds that a rank waits for the others, where `torchrun` started several.
        fsdp: Cut weights, their average and the optimisers' state over the ranks, instead of holding all of
            them on each (`zoo.training.shards`). A run can go on with or without.
        **overrides: Changes to the recipe, as for `zoo.build`.

    Raises:
        OutputExistsError: `out` exists, and neither `resume` nor `force` is given.
        TrainingError: The objective does not suit the parts, a loss is not finite, or the checkpoint is
            missing, damaged or of another recipe.
        ZooError: As `zoo.build` and `zoo.data.open_clips`.
    """
    if keep < 1:
        raise TrainingError(f"keep is {keep}; at least 1 checkpoint stays, the newest")
    try:
        onto = pick_device(own_device(device))
    except DeviceError as error:
        raise TrainingError(str(error)) from error
    with joined(onto, timeout_s), among_others():
        if resume == "auto":
            folder = Path(out) if out is not None else Path("runs") / resolve_recipe(name, overrides).name
            resume, force = _where_it_stands(folder)
        return _train(
            name,
            data=data,
            out=out,
            steps=steps,
            resume=resume,
            force=force,
            init=init,
            progress=progress and not rank(),
            num_workers=num_workers,
            keep=keep,
            max_bad=max_bad,
            device=device,
            callbacks=[callbacks] if isinstance(callbacks, str) else list(callbacks),
            fsdp=fsdp,
            timeout_s=timeout_s,
            onto=onto,
            overrides=overrides,
        )


def _train(
    name: str | Path | Recipe | Mapping[str, Any],
    *,
    data: Any,
    out: str | Path | None,
    steps: int | None,
    resume: bool,
    force: bool,
    init: Mapping[str, str | Path] | None,
    progress: bool,
    num_workers: int | None,
    keep: int,
    max_bad: float | None,
    device: str | torch.device | None,
    callbacks: list[Any],
    fsdp: bool,
    timeout_s: float,
    onto: torch.device,
    overrides: Mapping[str, Any],
    command: Callable[..., str] | None = None,
) -> TrainResult:
    """Train among the ranks that there are.

    Args:
        command: Says what to type, as `train_command` does, where that is not of these arguments: a tokenizer
            goes on with the run of its prior. All else is as of `train`.
    """
    changes = _with_steps(overrides, steps)
    resolved = resolve_recipe(name, changes)
    recipe = resolved.recipe
    check_objective(resolved.name, recipe)
    check_anneal(resolved.name, recipe.train)
    if fsdp:
        from zoo.training.shards import refuse_fsdp  # not in every build of torch

        refuse_fsdp(recipe)
    folder = Path(out) if out is not None else Path("runs") / resolved.name
    on_first(lambda: refuse_links(folder))
    needs_tokenizer = ASSEMBLIES[recipe.assembly].has_tokenizer and "tokenizer" not in (init or {})
    is_early = needs_tokenizer and (folder / FOLDER).exists() and not has_checkpoint(folder / "checkpoint")
    snapshot = None if resume and is_early else _checkpoint(folder, recipe, resume=resume, force=force)
    command = command or functools.partial(
        train_command,
        name,
        data,
        folder,
        steps=steps,
        init=init,
        num_workers=num_workers,
        keep=keep,
        max_bad=max_bad,
        device=device,
        callbacks=callbacks,
        fsdp=fsdp,
        timeout_s=timeout_s,
        overrides=overrides,
    )
    if needs_tokenizer and snapshot is None:
        plan(resolved)  # what does not fit is told before a tokenizer is trained for it
        if is_token_folder(data):
            raise TrainingError(
                f"{data} holds tokens, and their tokenizer is needed too: add --init tokenizer=FOLDER, the "
                "model that made them"
            )
        first = train_first_stage(
            functools.partial(
                _train, steps=None, init=None, callbacks=[], onto=onto, overrides={}, command=command
            ),
            resolved.name,
            recipe,
            folder,
            data=data,
            resume=resume,
            force=force,
            progress=progress,
            num_workers=num_workers,
            keep=keep,
            max_bad=max_bad,
            device=device,
            fsdp=fsdp,
            timeout_s=timeout_s,
        )
        if first is not None and first.interrupted:
            return dataclasses.replace(first, folder=folder)
        init = {**(init or {}), "tokenizer": folder / FOLDER}
    # Clips first: a source that is not there is told at once. Tokens can only be told with their tokenizer.
    clips: Clips | TokenData | None = None
    if not is_token_folder(data):
        clips = open_data(data, recipe, num_workers=num_workers, max_bad=max_bad)
    model = build(name, init=init if snapshot is None else None, seed=recipe.train.seed, **changes)
    if clips is None:
        clips = open_tokens(data, recipe, model)
        if snapshot is None:
            clips.check(model)
    if isinstance(model, Sampler) and model.num_classes:
        model.labels = clips.trained.labels
    if snapshot is not None:
        init = snapshot.state["facts"].get("init")  # what the run began with
    health = make_health(model, quiet=not progress)
    own = [health] if health is not None else []
    watchers = Callbacks(own, [])
    if not rank():
        watchers = Callbacks([*own, *callbacks], callbacks_of_plugins(recipe.model_dump(mode="json")))
    facts = _facts(model, clips, onto)
    facts["fsdp"] = fsdp
    facts |= {"command": command(), "resume_command": command(resume=True)}
    facts["init"] = {part: str(source) for part, source in init.items()} if init else None
    with isolated_rng(recipe.train.seed), Interrupts() as interrupts:
        run = start(model, onto, fsdp=fsdp)
        window = Window()
        if snapshot is not None:
            with _undamaged():  # before anything in the folder is changed
                restore(run, snapshot)
                window = Window(snapshot.state["window"])
            if isinstance(clips, TokenData):
                clips.check(run.model)
        session = Session(
            run,
            folder=folder,
            facts=facts,
            heldout=clips.heldout,
            callbacks=watchers,
            journal=_journal(folder, snapshot, facts),
            window=window,
            progress=progress,
            skipped=clips.skipped,
            interrupts=interrupts,
            num_workers=num_workers,
            keep=keep,
            health=health,
        )
        if snapshot is not None:
            _go_on(session, snapshot)
            snapshot = None  # it is as large as the model and its optimizers
        try:
            result = _run(session, clips, interrupts, watchers)
        finally:
            watchers.close()
    # A signal that came after the run looked for one last must not be lost between two stages.
    late = any_rank(interrupts.noted is not None)
    return dataclasses.replace(result, interrupted=result.interrupted or late)


def _run(
    session: Session, clips: Clips | TokenData, interrupts: Interrupts, watchers: Callbacks
) -> TrainResult:
    """Train, measure, save and report, writing down in run.json how it ended."""
    facts = session.facts
    evaluation: dict[str, Any] | None = None
    if clips.heldout is None and session.progress:
        print(f"nothing will be measured: {clips.why_not}", file=sys.stderr)
    try:
        session.write()
        session.train(clips.batches)
        if not session.interrupted:
            try:
                evaluation = session.evaluate()
                if not any_rank(interrupts.noted is not None):
                    on_first(session.save_model)
                    facts["status"] = "finished"
            except KeyboardInterrupt:
                if world_size() > 1:  # the others wait for this rank, and stop when it is gone
                    raise
        if facts["status"] != "finished":
            facts["status"] = "interrupted"
    except BaseException as error:
        facts["status"] = f"stopped: {type(error).__name__}: {error}".rstrip(": ")
        session.note_skipped()
        with contextlib.suppress(OSError):  # a full disk must not hide what stopped the run
            session.write()
        with contextlib.suppress(Exception):
            _report(session)
        if is_full_disk(error):
            saved, then = "its last checkpoint is whole", f"go on with:\n  {facts['resume_command']}"
            if not has_checkpoint(session.folder / "checkpoint"):
                saved, then = "nothing was saved yet", "start again with --force (force=True in Python)"
            raise TrainingError(
                f"{error.filename} cannot be written: {error.strerror}. The run ended at step "
                f"{session.run.step}; {saved}. Free some space, then {then}"
            ) from error
        raise
    on_first(lambda: _close(session))
    result = TrainResult(
        folder=session.folder,
        model=session.final_model(),
        history=session.journal.lines,
        figures=dict(evaluation["values"]) if evaluation else {},
        step=session.run.step,
        interrupted=facts["status"] == "interrupted",
        resume_command=facts["resume_command"],
    )
    watchers.call("on_end", result)
    if session.progress:
        print(_last_words(result, interrupts), file=sys.stderr)
    return result


def _close(session: Session) -> None:
    session.note_skipped()
    session.write()
    _report(session)


def _last_words(result: TrainResult, interrupts: Interrupts) -> str:
    if result.interrupted:
        why = f" by {interrupts.noted}" if interrupts.noted else ""
        return f"interrupted{why} at step {result.step}; all is saved. Go on with:\n  {result.resume_command}"
    figures = ", ".join(f"{name} {value:.4g}" for name, value in result.figures.items())
    return f"trained {result.step} steps: {result.folder}" + (f" ({figures})" if figures else "")


def _where_it_stands(folder: Path) -> tuple[bool, bool]:
    """Return whether there is a run to resume, and whether one is there that died before it saved."""
    found = [
        (has_checkpoint(folder / "checkpoint") or has_checkpoint(folder / FOLDER / "checkpoint")),
        is_run(folder),
    ]
    resumes, begun = gathered(found)[0]
    return resumes, begun and not resumes


def _tidy(folder: Path) -> None:
    """Remove what a run that was killed left half-written."""
    clean_up(folder / "checkpoint")
    sweep(folder)


def _checkpoint(folder: Path, recipe: Recipe, *, resume: bool, force: bool) -> Snapshot | None:
    """Load the checkpoint to go on from, or see to it that there is nothing to overwrite."""
    if resume and force:
        raise TrainingError("resume goes on with the run that is there, force replaces it; give one of them")
    if not resume:
        on_first(lambda: refuse_existing_run(folder, force=force))
        return None
    on_first(lambda: _tidy(folder))
    snapshot = load_checkpoint(folder / "checkpoint")
    with _undamaged():
        snapshot.state["facts"] = carried(snapshot)
        refuse_other_recipe(snapshot, recipe, folder=str(folder))
    return snapshot


@contextlib.contextmanager
def _undamaged() -> Iterator[None]:
    """Say of a checkpoint whose files are whole, but not what a run writes, that it is damaged."""
    try:
        yield
    except ZooError:
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        if is_out_of_memory(error) or is_loss_of_rank(error):
            raise
        raise TrainingError(
            f"the checkpoint is damaged: {type(error).__name__}: {error}; start again with --force, or give "
            "another --out"
        ) from error


def _journal(folder: Path, snapshot: Snapshot | None, facts: Mapping[str, Any]) -> Journal:
    writes = not rank()
    if snapshot is not None:
        return Journal(folder, upto=snapshot.state["step"], writes=writes)
    if writes:
        begin_run(folder, facts)
    return Journal(folder, writes=writes)


def _go_on(session: Session, snapshot: Snapshot) -> None:
    """Take over what the first part of the run wrote down."""
    facts, before = session.facts, dict(snapshot.state["facts"])
    data = before.pop("data")
    if data.get("description") != facts["data"]["description"]:
        warnings.warn(
            f"the run began on other clips ({data.get('description')}); it goes on with "
            f"{facts['data']['description']}",
            stacklevel=4,
        )
    if data.get("heldout") != facts["data"]["heldout"] and not rank():
        shutil.rmtree(session.folder / "samples" / "original", ignore_errors=True)
    step, session.passed_over = session.run.step, snapshot.passed_over
    facts |= {**before, "resumed_at": [*before.get("resumed_at", []), step], "step": step}


def _with_steps(overrides: Mapping[str, Any], steps: int | None) -> dict[str, Any]:
    if steps is None:
        return dict(overrides)
    section = overrides.get("train", {})
    if not isinstance(section, Mapping):
        raise TrainingError(f"train is {section!r}; it must be a mapping of the recipe's training settings")
    return {**overrides, "train": {**section, "steps": steps}}


def _facts(model: Assembly, clips: Clips | TokenData, device: torch.device) -> dict[str, Any]:
    """What run.json says from the start.

    `seconds` are those of steps, without starting up, measuring and saving; `waited_seconds` is the part of
    them spent waiting for data, `data_wait_share` their ratio.
    """
    recipe = model.recipe
    judges = sum(parameter.numel() for parameter in model.discriminator.parameters())
    return {
        "format": 1,
        "name": model.name,
        "assembly": recipe.assembly,
        "status": "running",
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "resumed_at": [],
        "step": 0,
        "steps": recipe.train.steps,
        "batch_size": recipe.train.batch_size,
        "seed": recipe.train.seed,
        "seconds": 0.0,
        "waited_seconds": 0.0,
        "steps_per_s": None,
        "data_wait_share": None,
        "parameters": model.num_parameters(),
        "discriminator_parameters": judges,
        "device": describe(device),
        "ranks": world_size(),
        "versions": versions(),
        "data": clips.facts(),
        "skipped": None,
        "evaluation": None,
        "evaluation_error": None,
        "health": [],
        "not_finite": [],
        "recipe": recipe.model_dump(mode="json"),
    }


def _report(session: Session) -> None:
    """Write report.html, on the first rank."""
    if rank():
        return
    from zoo.report import write_report

    try:
        write_report(session.folder)
    except Exception as error:  # the model is trained and saved: a page must not take that away
        warnings.warn(f"report.html was not written: {type(error).__name__}: {error}", stacklevel=3)
