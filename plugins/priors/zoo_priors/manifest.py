"""What this plugin offers. Imports no torch.

Each family is a folder: its parts are listed in its ``__init__``, its recipes in its ``recipes.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from zoo.converters import Converter
from zoo.hookspecs import hookimpl
from zoo.parts import PartSpec
from zoo_priors import gpt, maskgit, videogpt

_FAMILIES = (gpt, maskgit, videogpt)


@hookimpl
def zoo_parts(api_version: int) -> Iterable[PartSpec]:
    """Offer the parts of every family."""
    return [spec for family in _FAMILIES for spec in family.PARTS]


@hookimpl
def zoo_converters(api_version: int) -> Iterable[Converter]:
    """Offer the converters of the families that have any."""
    return [converter for family in _FAMILIES for converter in getattr(family, "CONVERTERS", ())]


@hookimpl
def zoo_recipes() -> Iterable[Path]:
    """Offer the recipes of the families that have any."""
    folders = [Path(str(family.__file__)).parent for family in _FAMILIES]
    return [folder / "recipes.yaml" for folder in folders if (folder / "recipes.yaml").exists()]
