"""What happens beside training: trackers and whatever else wants to look on."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import TrainingError

if TYPE_CHECKING:
    from zoo.training.trainer import TrainResult


class Callback:
    """Looks on while a model is trained. Derive from it, or have any of its methods.

    A callback that raises stops the run, unless a plugin brought it: those are dropped with a warning.
    """

    def on_start(self, folder: Path, recipe: Mapping[str, Any], step: int) -> None:
        """The run in `folder` starts, or goes on from `step`."""

    def on_log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Numbers of the last steps were logged (`train.log_every`)."""

    def on_eval(self, step: int, numbers: Mapping[str, float]) -> None:
        """The model was measured on held-out clips."""

    def on_save(self, step: int, folder: Path) -> None:
        """A checkpoint and a model were saved in the run's `folder`."""

    def on_end(self, result: TrainResult) -> None:
        """The run is over, or was interrupted (`result.interrupted`)."""

    def close(self) -> None:
        """Let go of files: called last, also when the run was stopped by an error."""


class TensorBoard(Callback):
    """Writes every number to ``tensorboard/`` in the run's folder: ``tensorboard --logdir DIR``.

    Raises:
        TrainingError: tensorboard is not installed.
    """

    def __init__(self) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                f"the callback 'tensorboard' needs tensorboard: pip install 'zoo-video[train]' ({error})"
            ) from error
        self._make: Any = SummaryWriter
        self._writer: Any = None

    def on_start(self, folder: Path, recipe: Mapping[str, Any], step: int) -> None:
        # Steps after the checkpoint that a resumed run takes again are hidden.
        self._writer = self._make(str(folder / "tensorboard"), purge_step=step or None)

    def on_log(self, step: int, numbers: Mapping[str, float]) -> None:
        self._add("train", step, numbers)

    def on_eval(self, step: int, numbers: Mapping[str, float]) -> None:
        self._add("eval", step, numbers)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _add(self, kind: str, step: int, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)


NAMED: dict[str, type[Callback]] = {"tensorboard": TensorBoard}
"""Callbacks that can be asked for by name."""


class Callbacks:
    """Calls every callback that has the method.

    Args:
        asked: Callbacks, or names in `NAMED`.
        offered: Pairs of a plugin's name and a callback it brought.

    Raises:
        TrainingError: No callback has such a name.
    """

    def __init__(self, asked: Iterable[Any], offered: Iterable[tuple[str, Any]] = ()) -> None:
        self._items: list[tuple[str | None, Any]] = []
        for item in asked:
            if isinstance(item, str) and item not in NAMED:
                raise TrainingError(
                    f"no callback is called {item!r}; there is {', '.join(NAMED)}, or pass an object"
                )
            self._items.append((None, NAMED[item]() if isinstance(item, str) else item))
        self._items += offered

    def call(self, method: str, *arguments: Any) -> None:
        """Call `method` of every callback that has it, in order."""
        for plugin, item in list(self._items):
            function = getattr(item, method, None)
            if function is None:
                continue
            try:
                function(*arguments)
            except (Exception, SystemExit) as error:
                if plugin is None:
                    raise
                self._items.remove((plugin, item))
                warnings.warn(
                    f"plugin {plugin!r}: its callback {type(item).__name__} broke in {method} and is left "
                    f"out from here on: {type(error).__name__}: {error}",
                    stacklevel=2,
                )

    def close(self) -> None:
        """Close every callback. One that breaks is named in a warning: it must not hide how the run ended."""
        for plugin, item in self._items:
            try:
                getattr(item, "close", lambda: None)()
            except (Exception, SystemExit) as error:
                who = f"plugin {plugin!r}: its" if plugin else "the"
                warnings.warn(f"{who} callback {type(item).__name__} broke in close: {error}", stacklevel=2)


def callbacks_of_plugins(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Ask every plugin for its callbacks; one that breaks is left out with a warning."""
    from zoo.discovery import catalogue, isolated

    known, found = catalogue(), list[tuple[str, Any]]()
    problems = len(known.problems)
    for plugin, offered in known.call("zoo_callbacks", config=recipe):
        with isolated(known, plugin, "zoo_callbacks"):
            found += [(plugin.name, item) for item in offered or ()]
    for problem in known.problems[problems:]:
        warnings.warn(str(problem), stacklevel=2)
    return found
