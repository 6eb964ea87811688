"""Training: one loop for every family of models. `zoo.train` is `zoo.training.trainer.train`.

A run folder holds:

| path                       | what                                                                      |
|----------------------------|---------------------------------------------------------------------------|
| ``model/``                 | weights folder (`zoo.load`), of the moving average where there is one     |
| ``checkpoint/``            | everything that going on needs                                            |
| ``checkpoint-00000100/``   | with ``keep``, the checkpoints before it                                  |
| ``metrics.jsonl``          | an object a line: ``step``, ``kind`` ("train" or "eval"), numbers by name |
| ``run.json``               | facts of the run: ``status``, ``recipe``, ``data``, ``evaluation``, ...   |
| ``samples/original/``      | ``0.mp4``, ...: a few held-out clips (none for a GAN)                     |
| ``samples/step-00000100/`` | ``0.mp4``, ...: their reconstructions, or a GAN's samples of one noise    |
| ``report.html``            | the same as a page                                                        |
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.training.callbacks import Callback, TensorBoard
    from zoo.training.trainer import TrainResult, train

_HOMES = {"Callback": "callbacks", "TensorBoard": "callbacks", "TrainResult": "trainer", "train": "trainer"}

__all__ = ["Callback", "TensorBoard", "TrainResult", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
