"""Full precision inside any autocast, for quantizers and whatever else drifts without it."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> contextlib.AbstractContextManager[object]:
    """Switch autocast off for the device of a tensor.

    Casting the inputs stays with the caller, since only it knows which of them may be lower.
    """
    device = tensor.device.type
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Return the tensor as float32, or as it is when already wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
