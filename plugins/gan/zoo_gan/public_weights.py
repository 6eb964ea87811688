"""What reading the weights of public GANs has in common."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from zoo.errors import WeightsError, ZooError

M = TypeVar("M", bound=nn.Module)


def averaged_prefix(state: Mapping[str, Any], landmark: str) -> str | None:
    """Return the prefix of the generator with averaged weights (``G_ema.``), if there is exactly one."""
    pattern = rf"G_ema\.(.*\.)?{re.escape(landmark)}$"
    found = [name.removesuffix(landmark) for name in state if re.search(pattern, name)]
    return found[0] if len(found) == 1 else None


def built_on_meta(build: Callable[[], M], family: str) -> M:
    """Build, on the meta device, the part that weights are for.

    Raises:
        WeightsError: The options that were read off the weights make no such part.
    """
    try:
        with torch.device("meta"):
            return build()
    except ZooError as error:
        raise WeightsError(f"these {family} weights are of no size that can be built: {error}") from None
