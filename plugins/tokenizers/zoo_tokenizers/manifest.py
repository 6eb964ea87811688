"""What this plugin offers. Imports no torch, so that listing parts stays quick.

Each family is a folder: its parts are listed in its ``__init__``, its recipes in its ``recipes.yaml``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from zoo.hookspecs import hookimpl
from zoo.parts import PartSpec
from zoo_tokenizers import cosmos, taming, tats

_FAMILIES = (cosmos, taming, tats)


@hookimpl
def zoo_parts(api_version: int) -> Iterable[PartSpec]:
    """Offer the parts of every family."""
    return [spec for family in _FAMILIES for spec in family.PARTS]


@hookimpl
def zoo_recipes() -> Iterable[Path]:
    """Offer the recipes of every family."""
    return [
        Path(__file__).parent / family.__name__.rpartition(".")[2] / "recipes.yaml" for family in _FAMILIES
    ]
