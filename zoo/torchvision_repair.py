"""Import timm where torchvision's compiled operators are missing.

The torchvision wheel of PyPI links CUDA libraries. Beside a CPU build of torch it cannot load them, so its
operators are never defined, and ``import torchvision`` (hence ``import timm``) fails with "operator
torchvision::nms does not exist". timm needs transforms and layers of torchvision, no compiled operator: it is
enough to define the names. Where torchvision works, nothing here does anything.
"""

from __future__ import annotations

import importlib
import re
import sys
import threading
from types import ModuleType

_BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_SCHEMAS = {"nms": _BOXES, "qnms": _BOXES}
_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_lock = threading.RLock()


def repair_torchvision() -> ModuleType:
    """Import torchvision, defining the operators it misses if, and only if, it fails for want of them.

    The operators get a name and no implementation: calling one still raises torch's NotImplementedError.

    Returns:
        The torchvision module.

    Raises:
        Exception: Whatever else importing torchvision raises, unchanged.
    """
    with _lock:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            missing = _MISSING.fullmatch(str(error))
            if missing is None or missing[1] not in _SCHEMAS:
                raise
        _forget("torchvision")
        _define_operators()
        return importlib.import_module("torchvision")


def import_timm() -> ModuleType:
    """Import timm, repairing torchvision first where that is needed.

    Returns:
        The timm module.

    Raises:
        Exception: Whatever importing torchvision or timm raises that the repair does not cure, unchanged.
    """
    repair_torchvision()
    return importlib.import_module("timm")


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]


def _define_operators() -> None:
    import torch

    for name, schema in _SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema)
