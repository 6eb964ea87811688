"""Everything a run needs to go on, in one folder: tensors as safetensors, the rest as JSON, no pickle.

``checkpoint/`` holds ``model.safetensors``, ``ema.safetensors``, ``optimizers.safetensors``,
``rng.safetensors`` and ``state.json``, which names the others with their size and sha256. A new
checkpoint is written beside the old one, synced and swapped in, and the old one removed last: whenever
the process dies, one whole checkpoint is there. Of older ones as many stay as are asked for, each as
``checkpoint-STEP/``, of the same files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from zoo.errors import TrainingError
from zoo.files import new_folder, read_regular, remove_leftovers, sha256
from zoo.weights import saveable

_UNREADABLE = (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError)
FORMAT = 1
"""Version of the layout; another one is refused."""
_STATE = "state.json"
_MAX_STATE_BYTES = 256 << 20


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A moment of a run.

    Attributes:
        tensors: Tensors by the name of their file (without ending) and their own.
        state: Plain data: strings, numbers, lists and mappings.
        passed_over: Where checkpoints lie that are damaged, or of later steps than the one that was read.
    """

    tensors: dict[str, dict[str, torch.Tensor]]
    state: dict[str, Any]
    passed_over: tuple[Path, ...] = ()


def save_checkpoint(
    folder: Path, snapshot: Snapshot, *, keep: int = 1, passed_over: Iterable[Path] = ()
) -> None:
    """Replace the checkpoint in `folder`; until the new one is whole, the old ones stay.

    Args:
        folder: Where the newest checkpoint is.
        snapshot: What goes into it.
        keep: Checkpoints that stay, with this one; older ones are removed last.
        passed_over: What was passed over when the run went on from an older checkpoint; removed first.

    Raises:
        TrainingError: It cannot be written (a full disk, no permission); the old ones are untouched.
    """
    try:
        for place in passed_over:
            _remove(place)
        if keep > 1:
            _set_aside(folder, step=snapshot.state.get("step"))
        with new_folder(folder, force=True) as aside:
            files = {}
            for stem, tensors in snapshot.tensors.items():
                path = aside / f"{stem}.safetensors"
                save_file(saveable(tensors), path)
                files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
            state = {"format": FORMAT, "files": files, **snapshot.state}
            (aside / _STATE).write_text(json.dumps(state), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        kept = "the last one is still there" if has_checkpoint(folder) else "there is none yet"
        raise TrainingError(
            f"the checkpoint {str(folder)!r} cannot be written: {error}; {kept}. Free some space, or give "
            "another folder with --out"
        ) from error
    clean_up(folder, keep=keep)


def load_checkpoint(folder: Path) -> Snapshot:
    """Read the newest whole checkpoint, to the CPU, after checking every file against its hash.

    That is the one in `folder` or, where that is damaged and older ones were kept, the newest of those, with
    a warning.

    Raises:
        TrainingError: There is none, or none that is whole and of this format.
    """
    places = [place for place in _places(folder) if (place / _STATE).is_file()]
    damaged: list[TrainingError] = []
    for number, place in enumerate(places):
        try:
            snapshot = _read(place)
        except TrainingError as error:
            damaged.append(error)
            continue
        if damaged:
            warnings.warn(f"{damaged[0]}. Going on from the older {place.name}", stacklevel=2)
        later = [one for one in places[number + 1 :] if _step_in_name(one) > snapshot.state["step"]]
        return dataclasses.replace(snapshot, passed_over=(*places[:number], *later))
    if damaged:
        raise TrainingError(f"{damaged[0]}; start again with --force, or give another --out") from damaged[0]
    raise TrainingError(
        f"there is no checkpoint in {str(folder)!r} to go on from; leave out --resume to start"
    )


def _read(found: Path) -> Snapshot:
    try:
        state = _state(found)
        tensors = {}
        for name, facts in state.pop("files").items():
            path = found / name
            if (
                Path(name).name != name
                or not _is_regular(path)
                or path.stat().st_size != facts["bytes"]
                or sha256(path) != facts["sha256"]
            ):
                raise _damaged(found, f"{name} is not the file that was saved")
            # What safetensors maps into memory would go with the file, and take the process with it.
            tensors[path.stem] = {name: tensor.clone() for name, tensor in load_file(path).items()}
    except TrainingError:
        raise
    except _UNREADABLE as error:
        raise _damaged(found, f"{type(error).__name__}: {error}") from error
    del state["format"]
    return Snapshot(tensors, state)


def _is_regular(path: Path) -> bool:
    """Whether a path is a file itself: no link, pipe or device."""
    return stat.S_ISREG(path.lstat().st_mode)


def _state(found: Path) -> dict[str, Any]:
    """Read the plain data of a checkpoint.

    Raises:
        TrainingError: It is damaged, or of another format.
    """
    try:
        state = json.loads(read_regular(found / _STATE, most=_MAX_STATE_BYTES))
    except _UNREADABLE as error:
        raise _damaged(found, f"{type(error).__name__}: {error}") from error
    kind = state.get("format") if isinstance(state, dict) else type(state).__name__
    if type(kind) is not int or kind != FORMAT:
        raise _damaged(found, f"its format is {kind!r}, this zoo reads {FORMAT}")
    if type(state.get("step")) is not int or state["step"] < 0:
        raise _damaged(found, f"its step is {str(state.get('step'))[:80]!r}")
    return dict(state)


def has_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint in `folder`."""
    return any((place / _STATE).is_file() for place in _places(folder))


def clean_up(folder: Path, *, keep: int | None = None) -> None:
    """Remove what killed saves left beside a checkpoint that is there, and all but the newest `keep`."""
    if not (folder / _STATE).is_file():
        return
    _remove_leftovers(folder)
    stay = older_checkpoints(folder)
    if keep is not None:
        stay = stay[: keep - 1]
    for one in _numbered(folder):
        if one not in stay:
            _remove(one)


def remove_checkpoints(folder: Path) -> None:
    """Remove the checkpoint in `folder`, the older ones, and what killed saves left beside them."""
    for place in [*_numbered(folder), folder]:
        _remove(place)
    _remove_leftovers(folder)


def older_checkpoints(folder: Path) -> list[Path]:
    """Return the folders of the older checkpoints that were kept, the newest first."""
    return [path for path in _numbered(folder) if (path / _STATE).is_file()]


def _remove_leftovers(folder: Path) -> None:
    remove_leftovers(folder)
    for leftover in folder.parent.glob(f".{folder.name}-*.tmp-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _remove(place: Path) -> None:
    if place.is_symlink():
        place.unlink()
        return
    (place / _STATE).unlink(missing_ok=True)  # first: what is half removed is no checkpoint
    shutil.rmtree(place, ignore_errors=True)


def _numbered(folder: Path) -> list[Path]:
    found = [
        path
        for path in folder.parent.glob(f"{folder.name}-*")
        if path.is_dir() and not path.is_symlink() and _number(path)  # what a link leads to is not ours
    ]
    return sorted(found, key=_step_in_name, reverse=True)


def _number(place: Path) -> str:
    """Return the digits at the end of the name of a checkpoint that was set aside; of another, nothing."""
    number = place.name.rpartition("-")[2]
    return number if number.isascii() and number.isdigit() else ""


def _step_in_name(place: Path) -> int:
    return int(_number(place) or 0)


def _set_aside(folder: Path, *, step: int | None) -> None:
    """Give the checkpoint that is about to be replaced a second place, under the number of its step.

    One of the very step that replaces it needs none.
    """
    try:
        before = _state(folder)["step"]
    except TrainingError:  # there is none, or it is of no use
        return
    aside = folder.with_name(f"{folder.name}-{before:08d}")
    if before == step or (aside / _STATE).is_file():
        return
    with new_folder(aside, force=True) as copy:
        for path in filter(_is_regular, folder.iterdir()):
            try:
                os.link(path, copy / path.name)  # the same file: it is never written to again
            except OSError:  # a file system without links
                shutil.copyfile(path, copy / path.name)


def pack(tree: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """Split nested data into plain JSON data and named tensors, exactly and reversibly.

    Args:
        tree: Mappings, lists, tuples, tensors, numbers, strings, booleans and None, nested at will.

    Raises:
        TrainingError: Something else is in it.
    """
    tensors: dict[str, torch.Tensor] = {}

    def walk(value: Any) -> Any:
        if value is None or isinstance(value, str | bool | int | float):
            return value
        if isinstance(value, torch.Tensor):
            name = str(len(tensors))
            tensors[name] = value
            return {"tensor": name}
        if isinstance(value, list):
            return {"list": [walk(item) for item in value]}
        if isinstance(value, tuple):
            return {"tuple": [walk(item) for item in value]}
        if isinstance(value, dict):
            return {"dict": [[walk(key), walk(item)] for key, item in value.items()]}
        raise TrainingError(
            f"a checkpoint cannot hold a {type(value).__name__}; the optimizer keeps one in its state, so "
            "choose another (adamw, say)"
        )

    return walk(tree), tensors


def unpack(plain: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """Put back together what `pack` split."""
    if not isinstance(plain, dict):
        return plain
    ((kind, value),) = plain.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "list":
        return [unpack(item, tensors) for item in value]
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in value)
    return {unpack(key, tensors): unpack(item, tensors) for key, item in value}


def _places(folder: Path) -> list[Path]:
    """Where one may be: in place, just beside where folders are not swapped in one step, or an older one."""
    return [folder, *sorted(folder.parent.glob(f".{folder.name}.old-*/old")), *older_checkpoints(folder)]


def _damaged(folder: Path, why: str) -> TrainingError:
    return TrainingError(f"the checkpoint {str(folder)!r} is damaged: {why}")
