"""Where to compute: the device asked for, or the GPU when there is one."""

from __future__ import annotations

import torch

from zoo.errors import ZooError


class DeviceError(ZooError):
    """A device that does not exist or cannot be used here."""


def pick_device(asked: str | torch.device | None) -> torch.device:
    """Return the device asked for; when left out, a CUDA device if there is one, or else the CPU.

    Raises:
        DeviceError: It cannot be used here; the message says what there is.
    """
    if asked is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(asked)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        reason = str(error).split("\n")[0]
        raise DeviceError(
            f"device {str(asked)!r} cannot be used: {reason}. There is {', '.join(there)}"
        ) from error
    return found
