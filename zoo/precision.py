"""Full precision inside any autocast, for quantizers and whatever else drifts without it; and lower precision
for inference."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ZooError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


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


def lower_precision(model: nn.Module, dtype: str | torch.dtype) -> None:
    """Let an autoencoder's encoder and decoder compute in another precision, for inference.

    All the model takes and gives stays float32, and so do the projections and the quantizer. Weights of the
    two parts are rounded in place: a model that is to be trained or saved must not be lowered.

    Raises:
        ZooError: The precision is none of `DTYPES`, or the model is no autoencoder.
    """
    wanted = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if wanted not in DTYPES.values():
        raise ZooError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    if wanted == torch.float32:
        return
    parts = [getattr(model, name, None) for name in ("encoder", "decoder")]
    if not all(isinstance(part, nn.Module) for part in parts):
        raise ZooError(f"dtype={dtype!r} is for autoencoders; this model has no encoder and decoder")

    def lower(part: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(a.to(wanted) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)

    def restore(part: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return output.float()

    for part in parts:
        assert isinstance(part, nn.Module)
        part.to(wanted)
        part.register_forward_pre_hook(lower)
        part.register_forward_hook(restore)
