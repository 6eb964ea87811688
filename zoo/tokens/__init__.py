"""Videos as tokens on disk: what a prior is trained on.

`tokenize` turns a source of videos into a Hugging Face dataset of code numbers, `TokenClips` reads windows
from it, `iter_batches` makes batches of them. Names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.tokens.batches import TokenBatch, iter_batches
    from zoo.tokens.dataset import TokenClips, TokenItem
    from zoo.tokens.metadata import Metadata
    from zoo.tokens.tokenizing import tokenize

_HOME = {
    "Metadata": "metadata",
    "TokenBatch": "batches",
    "TokenClips": "dataset",
    "TokenItem": "dataset",
    "iter_batches": "batches",
    "tokenize": "tokenizing",
}

__all__ = ["Metadata", "TokenBatch", "TokenClips", "TokenItem", "iter_batches", "tokenize"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo.tokens' has no attribute {name!r}")
    return getattr(importlib.import_module(f"zoo.tokens.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
