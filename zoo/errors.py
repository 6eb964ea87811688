"""Errors a user can cause. Each says what was asked, what exists and what to type next."""

from __future__ import annotations

from collections.abc import Iterable


def plain(text: str) -> str:
    """Return a text with what would move a terminal's cursor or turn its writing round written out.

    >>> plain("a\\x1b[2Jb")
    'a\\\\x1b[2Jb'
    """
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)


class ZooError(ValueError):
    """Base of every error that is the caller's to mend; the command line prints it without a traceback."""


class UnknownNameError(ZooError, LookupError):
    """A part, recipe or plugin name that nothing installed offers."""


class PluginError(ZooError):
    """A plugin that cannot be loaded, or whose part breaks its contract."""


class PortError(ZooError):
    """Two parts that do not fit together."""


class RecipeError(ZooError):
    """A recipe, an override or a registry file that is not valid."""


class WeightsError(ZooError):
    """A weights file or folder that is damaged, foreign or does not match the model."""


class MissingTensorsError(WeightsError):
    """Weights that lack tensors.

    Attributes:
        names: Every name that is missing, as the file would have it.
    """

    def __init__(self, message: str, names: Iterable[str]) -> None:
        super().__init__(message)
        self.names = tuple(names)


class DataError(ZooError):
    """A data source, clip or video file that cannot be used."""


class OutputExistsError(ZooError, FileExistsError):
    """An output that is there already and would be overwritten."""


class TrainingError(ZooError):
    """A run that cannot start or cannot go on."""
