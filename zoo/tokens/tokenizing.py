"""Tokenise a source of videos into a folder, and go on where a killed run stopped."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import DataError, ZooError
from zoo.fingerprint import fingerprint
from zoo.tokens.clips import WholeClips
from zoo.tokens.folder import alone_in, missing_jobs, prepare, results
from zoo.tokens.making import Task, Told, make_shards
from zoo.tokens.metadata import (
    ClipFacts,
    Metadata,
    Settings,
    SplitFacts,
    TokenizerFacts,
    describe,
    write_card,
    write_metadata,
)
from zoo.windows import streams

if TYPE_CHECKING:
    from zoo.assemblies import Autoencoder

_MOST_SHARDS, _FEWEST_CLIPS = 128, 4


def tokenize(
    model: Any,
    data: Any,
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    num_clips: int | None = None,
    num_frames: int | None = None,
    shard_clips: int | None = None,
    workers: int = 1,
    reference: str | os.PathLike[str] | None = None,
    device: str | None = None,
    force: bool = False,
    begin: Callable[[int, int], Told] | None = None,
) -> Metadata:
    """Write the codes of every video of a source to a folder, which `TokenClips` and `datasets` read.

    Run again with the same arguments, a run that was killed goes on; one that is complete does nothing.

    Args:
        model: Folder of a model or run; or an autoencoder in evaluation mode.
        data: As for `zoo.data.open_clips`, apart from streams.
        out: Folder to write: new, empty, or of a run to go on with.
        split: ``train``, ``test`` or ``val``; what training trains on and what it holds out, as the splits
            train and test, when left out.
        num_clips: Videos of each split at most; of data that are made on the fly, as many.
        num_frames: Frames of each video at most; all of them when left out.
        shard_clips: Videos in a file; chosen by their number when left out.
        workers: Processes. The result does not depend on it.
        reference: Folder that several workers load a model from which is given as an autoencoder.
        device: Where to compute; the GPU when there is one. A model that is given stays where it is.
        force: Start anew, and delete the tokens that are there.
        begin: Called with the number of videos and of those that are done; gives what is called after each.

    Returns:
        Metadata: With the result of every split.

    Raises:
        OutputExistsError: The folder holds something else, or tokens made with other settings.
        DataError: There are no videos, or more than half of them cannot be read.
        ZooError: The model has no codes, or cannot be loaded.
    """
    if workers < 1 or any(
        number is not None and number < 1 for number in (num_clips, num_frames, shard_clips)
    ):
        raise ZooError("workers, num_clips, num_frames and shard_clips are at least 1")
    folder = Path(out)
    loaded, folder_of_model, where = _loaded(model, reference, workers, device)
    _refuse_continuous(loaded)
    splits = _open_splits(data, loaded, split, num_clips, num_frames)
    settings = _settings(loaded, data, splits, num_frames, shard_clips)
    task = Task(
        model=folder_of_model,
        device=where,
        data=data,
        clip=loaded.recipe.clip,
        num_clips=num_clips,
        settings=settings,
    )
    with alone_in(folder):
        done = prepare(folder, settings, force=force)
        if done is not None:
            return done
        missing, num_done = missing_jobs(folder, settings)
        total = sum(facts.clips for facts in settings.splits.values())
        told = begin(total, num_done) if begin else lambda _frames: None
        if missing:
            make_shards(task, missing, workers=workers, told=told, model=loaded)
        metadata = describe(settings, results(folder, settings))
        write_card(folder, metadata)
        write_metadata(folder, metadata)
    return metadata


def _loaded(
    model: Any, reference: str | os.PathLike[str] | None, workers: int, device: str | None
) -> tuple[Autoencoder, str, str]:
    """Return the model, its folder and its device."""
    import torch

    import zoo
    from zoo.devices import pick_device

    loaded: Any = model
    if not isinstance(model, torch.nn.Module):
        reference = model
        loaded = zoo.load(model, device=str(pick_device(device)))
    elif workers > 1 and reference is None:
        raise ZooError("several workers load the model themselves: give its folder (zoo.save), not the model")
    if not hasattr(loaded, "reconstruct"):
        raise ZooError(
            f"{reference or loaded.name} is a {loaded.recipe.assembly}: it makes videos out of noise and has "
            f"no codes. {_which_are_discrete()}"
        )
    return loaded, os.fspath(reference or ""), str(loaded.last_layer.device)


def _refuse_continuous(model: Autoencoder) -> None:
    if model.quantizer.continuous:
        raise ZooError(
            f"{model.name} has a continuous bottleneck ({model.recipe_part('quantizer')}) and no codes to "
            f"write. {_which_are_discrete()}"
        )


def _which_are_discrete() -> str:
    """Name the small recipes whose models have codes."""
    from zoo.building import resolve_recipe
    from zoo.discovery import catalogue

    known, names = catalogue(), list[str]()
    for name in known.bundled_recipes():
        recipe = resolve_recipe(name).recipe
        if name.endswith("-tiny") and recipe.assembly == "autoencoder" and recipe.quantizer is not None:
            part = known.find("quantizer", recipe.quantizer.use).load()
            if not getattr(part, "continuous", True):
                names.append(name)
    return f"Recipes with codes: {', '.join(names)} and the larger ones of the same families (zoo list)"


def _open_splits(
    data: Any, model: Autoencoder, split: str | None, num_clips: int | None, num_frames: int | None
) -> dict[str, WholeClips]:
    splits = dict[str, WholeClips]()
    for name in (split,) if split else ("train", "test"):
        try:
            splits[name] = WholeClips(
                data, clip=model.recipe.clip, split=name, num_clips=num_clips, max_frames=num_frames
            )
        except DataError:
            if name == "train" or split:
                raise
            # Nothing can be held out: as in training, that is no reason not to go on.
    return splits


def _settings(
    model: Autoencoder,
    data: Any,
    splits: dict[str, WholeClips],
    num_frames: int | None,
    shard_clips: int | None,
) -> Settings:
    clip = model.recipe.clip
    names = [clips.labels for clips in splits.values()]
    return Settings(
        format=1,
        tokenizer=TokenizerFacts(
            name=model.name,
            fingerprint=fingerprint(model),
            codebook_size=model.quantizer.codebook_size,
            num_codebooks=model.quantizer.num_codebooks,
            stride=list(model.stride),
            lead_frame=model.lead_frame,
            window=None if streams(model) else clip.num_frames,
        ),
        clip=ClipFacts(
            height=clip.height,
            width=clip.width,
            fps=clip.fps,
            channels=clip.channels,
            min_frames=min(clip.num_frames, num_frames or clip.num_frames),
            max_frames=num_frames,
        ),
        grid=list(model.latent_size((1, clip.height, clip.width))[1:]),
        data=os.path.normpath(data) if isinstance(data, str | os.PathLike) else type(data).__name__,
        class_names=names[0]
        if all(n == names[0] for n in names)
        else sorted({n for ns in names for n in ns}),
        splits={
            name: SplitFacts(
                clips=len(clips),
                shards=math.ceil(len(clips) / (shard_clips or _shard_clips(len(clips)))),
                sources_sha256=clips.digest(),
            )
            for name, clips in splits.items()
        },
    )


def _shard_clips(num_clips: int) -> int:
    return max(_FEWEST_CLIPS, math.ceil(num_clips / _MOST_SHARDS))
