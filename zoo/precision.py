"""Full precision inside any autocast, for quantizers and whatever else drifts without it; and lower precision
for inference."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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


class FullPrecisionConv3d(TorchFunctionMode):
    """Within it, 3D convolutions on a processor leave autocast: in bf16, oneDNN's gradients may be wrong.

    With torch 2.13, that of the weights of a 4x4x4 kernel on one frame is 0 where it is 50, and there are
    processors on which even outputs are not finite (`zoo.testing.subject.without_onednn`).
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in (F.conv3d, F.conv_transpose3d) or not torch.is_autocast_enabled("cpu"):
            return func(*args, **kwargs)
        given = [*args, *kwargs.values()]
        if any(isinstance(value, Tensor) and value.device.type != "cpu" for value in given):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_in_full, args), **{name: _in_full(value) for name, value in kwargs.items()})


def _in_full(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value


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
