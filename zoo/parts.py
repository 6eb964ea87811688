"""Parts: the named, swappable modules that plugins offer."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, get_args

from zoo.errors import PluginError

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["encoder", "quantizer", "decoder", "generator", "discriminator"]
KINDS: tuple[Kind, ...] = get_args(Kind)

NAME = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*")
TARGET = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_line(text: Any) -> bool:
    """Whether it is a text of one line that can be shown as it is."""
    return type(text) is str and text.isprintable() and len(text) <= 500


def import_target(target: str) -> Any:
    """Import what ``package.module:name`` names."""
    module_name, _, name = target.partition(":")
    return getattr(importlib.import_module(module_name), name)


@dataclasses.dataclass(frozen=True)
class PartSpec:
    """What a plugin says about one part, without importing it.

    Attributes:
        kind: One of `KINDS`.
        name: Lower-case name, unique per kind, such as ``vq-ema``.
        target: ``package.module:Class``, a `torch.nn.Module`; imported on first use.
        summary: One line for ``zoo list``.
        example: Options that build the real class at a tiny size; the conformance checks use them.
        paper: Link to the paper the part is published in.
        license: SPDX name of the licence the part's code is under.
        requires: Distributions the part needs beyond those zoo installs.
    """

    kind: Kind
    name: str
    target: str
    summary: str
    example: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    paper: str | None = None
    license: str | None = None
    requires: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if type(self.kind) is not str or self.kind not in KINDS:
            raise PluginError(f"part kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        if type(self.name) is not str or not NAME.fullmatch(self.name):
            raise PluginError(
                f"part name is {self.name!r}; use lower-case letters and digits joined by - _ or ."
            )
        if type(self.target) is not str or not TARGET.fullmatch(self.target):
            raise PluginError(
                f"target of {self.kind} {self.name!r} is {self.target!r}; "
                "it must look like 'package.module:Class'"
            )
        if not isinstance(self.summary, str) or not self.summary.strip():
            raise PluginError(f"{self.kind} {self.name!r} has no summary")
        for field in ("summary", "paper", "license"):
            text = getattr(self, field)
            if text is not None and not is_line(text):
                raise PluginError(
                    f"{field} of {self.kind} {self.name!r} must be one line of at most 500 letters"
                )
        if not isinstance(self.example, Mapping):
            raise PluginError(f"example of {self.kind} {self.name!r} must be a mapping of options")
        object.__setattr__(self, "example", MappingProxyType(dict(self.example)))
        object.__setattr__(self, "requires", tuple(self.requires))
        if not all(map(is_line, self.requires)):
            raise PluginError(f"requires of {self.kind} {self.name!r} must be names of distributions")


@dataclasses.dataclass(frozen=True)
class Part:
    """A part together with who offers it."""

    spec: PartSpec
    plugin: str
    distribution: str
    version: str

    @property
    def kind(self) -> Kind:
        return self.spec.kind

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def full_name(self) -> str:
        """``plugin:name``, which is unique per kind."""
        return f"{self.plugin}:{self.spec.name}"

    def load(self) -> type[nn.Module]:
        """Import the part's class.

        Raises:
            PluginError: The module cannot be imported or has no such class.
        """
        try:
            cls = import_target(self.spec.target)
        except (Exception, SystemExit) as error:
            needs = f" It needs: pip install {' '.join(self.spec.requires)}." if self.spec.requires else ""
            raise PluginError(
                f"{self.kind} {self.full_name!r} (from {self.distribution} {self.version}) cannot be "
                f"imported from {self.spec.target!r}: {type(error).__name__}: {error}.{needs}"
            ) from error
        if not isinstance(cls, type):
            raise PluginError(f"{self.kind} {self.full_name!r}: {self.spec.target!r} is not a class")
        return cls
