"""A model zoo for video GANs, VQ-VAEs and every mix of the two, assembled from plugins.

The names below are imported on first use: ``import zoo`` imports neither torch nor a plugin.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.building import build as build
    from zoo.building import build_part as build_part
    from zoo.diagnosis import doctor as doctor
    from zoo.discovery import list_models as list_models
    from zoo.discovery import list_parts as list_parts
    from zoo.errors import ZooError as ZooError
    from zoo.outputs import Judged as Judged
    from zoo.outputs import Quantized as Quantized
    from zoo.outputs import Tokens as Tokens
    from zoo.parts import PartSpec as PartSpec
    from zoo.recipes import Recipe as Recipe
    from zoo.training import train as train
    from zoo.weights import load as load
    from zoo.weights import save as save

_HOME = {
    "Judged": "zoo.outputs",
    "PartSpec": "zoo.parts",
    "Quantized": "zoo.outputs",
    "Recipe": "zoo.recipes",
    "Tokens": "zoo.outputs",
    "ZooError": "zoo.errors",
    "build": "zoo.building",
    "build_part": "zoo.building",
    "doctor": "zoo.diagnosis",
    "list_models": "zoo.discovery",
    "list_parts": "zoo.discovery",
    "load": "zoo.weights",
    "save": "zoo.weights",
    "train": "zoo.training",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
