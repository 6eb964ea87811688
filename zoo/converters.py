"""Converters: what a plugin says about weights published elsewhere, and which recipes they are for."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from zoo.errors import PluginError
from zoo.parts import NAME, TARGET, import_target, is_line

_ARGUMENT = re.compile(r"[a-z_]+\.[a-z_0-9]+")


@dataclasses.dataclass(frozen=True)
class Converter:
    """What a plugin says about one family of published weights, without importing anything.

    Attributes:
        name: Lower-case name of the family, such as ``cosmos``; unique among all plugins.
        target: ``package.module:function``, imported on first use. It is called as
            ``function(state, **arguments)`` with names to tensors, and `prefix` when the user gives one, and
            returns our names to tensors, complete, and the public names that have no place. Tensors are
            best passed on, or views: then the report can say which public name became which of ours.
        recipes: Names of recipes, or shell patterns such as ``cosmos-video-*``, the weights may fit.
        summary: One line on what is converted.
        source: Where the weights, or the code that makes them, are published.
        arguments: Keyword arguments of the function that no tensor tells, and where the recipe says them:
            ``{"stride": "encoder.stride"}``; ``quantizer.use`` is the name of the part. An option that the
            recipe leaves out has its default.
    """

    name: str
    target: str
    recipes: tuple[str, ...]
    summary: str
    source: str
    arguments: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if type(self.name) is not str or not NAME.fullmatch(self.name):
            raise PluginError(
                f"converter name is {self.name!r}; use lower-case letters and digits joined by - _ or ."
            )
        if type(self.target) is not str or not TARGET.fullmatch(self.target):
            raise PluginError(
                f"target of converter {self.name!r} is {self.target!r}; "
                "it must look like 'package.module:function'"
            )
        if isinstance(self.recipes, str) or not self.recipes or not all(map(is_line, self.recipes)):
            raise PluginError(f"converter {self.name!r}: recipes must be a list of names or patterns")
        for field in ("summary", "source"):
            text = getattr(self, field)
            if not is_line(text) or not text.strip():
                raise PluginError(
                    f"{field} of converter {self.name!r} is missing or not one line of at most 500 letters"
                )
        for argument, path in dict(self.arguments).items():
            if not is_line(argument) or type(path) is not str or not _ARGUMENT.fullmatch(path):
                raise PluginError(
                    f"converter {self.name!r}: argument {argument!r} comes from {path!r}; "
                    "it must look like 'encoder.stride'"
                )
        object.__setattr__(self, "recipes", tuple(self.recipes))
        object.__setattr__(self, "arguments", MappingProxyType(dict(self.arguments)))


@dataclasses.dataclass(frozen=True)
class OfferedConverter:
    """A converter together with who offers it."""

    spec: Converter
    plugin: str
    distribution: str

    @property
    def name(self) -> str:
        return self.spec.name

    def among(self, recipes: Iterable[str]) -> list[str]:
        """Return those of the recipes that these weights may fit, sorted."""
        return sorted(
            recipe
            for recipe in recipes
            if any(fnmatch.fnmatchcase(recipe, pattern) for pattern in self.spec.recipes)
        )

    def load(self) -> Callable[..., Any]:
        """Import the function.

        Raises:
            PluginError: Its module cannot be imported or has no such function.
        """
        try:
            function = import_target(self.spec.target)
        except (Exception, SystemExit) as error:
            raise PluginError(
                f"converter {self.name!r} (from {self.distribution}) cannot be imported from "
                f"{self.spec.target!r}: {type(error).__name__}: {error}"
            ) from error
        if not callable(function):
            raise PluginError(f"converter {self.name!r}: {self.spec.target!r} is not a function")
        return function
