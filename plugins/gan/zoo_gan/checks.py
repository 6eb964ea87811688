"""Checks of options and inputs that the parts of this plugin share."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.checks import is_power_of_two
from zoo.errors import PortError, ZooError


def check_counts(part: str, /, **options: int) -> None:
    """Refuse options that have to be whole numbers above 0.

    Raises:
        ZooError: One is not, named with its value.
    """
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ZooError(f"{part}: {name} is {value!r}; give a whole number of 1 or more")


def check_natural(part: str, /, **options: int) -> None:
    """Refuse options that have to be whole numbers, 0 for none.

    Raises:
        ZooError: One is not, named with its value.
    """
    for name, value in options.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ZooError(f"{part}: {name} is {value!r}; give a whole number, 0 for none")


def check_image_size(part: str, image_size: int) -> None:
    """Refuse a side of a frame that is not a power of two of at least 16 pixels.

    Raises:
        ZooError: It is not.
    """
    check_counts(part, image_size=image_size)
    if image_size < 16 or not is_power_of_two(image_size):
        raise ZooError(
            f"{part}: image_size is {image_size}; give a power of two of 16 or more: 16, 32, 64, ..."
        )


def num_halvings(part: str, /, *, image_size: int) -> int:
    """Return how often a frame of `image_size` pixels is halved until it is 4 wide.

    Raises:
        ZooError: `image_size` is not a power of two of at least 16.
    """
    check_image_size(part, image_size)
    return image_size.bit_length() - 3


def run_of_frames(part: str, times_BT: Tensor, *, num_clips: int) -> tuple[int, int]:
    """Return the first frame and one past the last of the frames that are asked for.

    Raises:
        PortError: They are no run of whole frames, the same in every row.
    """
    found = find_run(times_BT, num_clips)
    if found is None:
        raise PortError(
            f"{part} makes runs of whole frames: times_BT has to be ({num_clips}, frames) with the same "
            f"numbers n, n + 1, ... in every row; it was given shape {tuple(times_BT.shape)}: "
            f"{times_BT.flatten()[:4].tolist()}, ..."
        )
    return found


def find_run(times_BT: Tensor, num_clips: int) -> tuple[int, int] | None:
    """Return the first frame and one past the last; None where it is no run of whole frames in every row."""
    if times_BT.ndim != 2 or times_BT.shape[0] != num_clips or not times_BT.shape[1]:
        return None
    start = int(times_BT[0, 0])
    end = start + times_BT.shape[1]
    run_T = torch.arange(start, end, device=times_BT.device, dtype=times_BT.dtype)
    return (start, end) if bool((times_BT == run_T).all()) else None


def drawn_run(part: str, times_BT: Tensor, *, num_clips: int, num_frames: int) -> tuple[int, int]:
    """Return the first frame and one past the last, out of the frames that noise was drawn for.

    Raises:
        PortError: They are no run of whole frames, or not of those.
    """
    start, end = run_of_frames(part, times_BT, num_clips=num_clips)
    if start < 0 or end > num_frames:
        raise PortError(
            f"{part} was asked for frames {start} to {end - 1} with noise of {num_frames} frames; draw noise "
            f"for {max(end, 1)}, and count from 0"
        )
    return start, end


def check_input(x: Tensor, *, part: str, in_channels: int, min_size: tuple[int, int, int], axes: str) -> None:
    """Refuse an input that a discriminator cannot judge.

    Args:
        x: Shaped as `axes` says.
        part: Name of the part, for the message.
        in_channels: Colour channels that the part was built for.
        min_size: Smallest (T, H, W).
        axes: ``BCHW`` or ``BCTHW``.

    Raises:
        PortError: Wrong number of axes, wrong channels or a side below `min_size`.
    """
    shape = tuple(x.shape)
    if len(shape) != len(axes):
        raise PortError(f"{part} reads a tensor of axes {axes}; it was given one of shape {shape}")
    if shape[1] != in_channels:
        raise PortError(
            f"{part} was built for {in_channels} channels and was given {shape[1]} (shape {shape}); "
            f"build it with in_channels={shape[1]}"
        )
    least = dict(zip("THW", min_size, strict=True))
    short = [axis for axis, side in zip(axes, shape, strict=True) if side < least.get(axis, 0)]
    if short:
        wanted = ", ".join(f"{axis} >= {least[axis]}" for axis in axes if axis in least)
        raise PortError(
            f"{part} needs {wanted}; it was given {axes} = {shape}, too small in {', '.join(short)}"
        )


def check_whole_clip(x: Tensor, *, part: str, in_channels: int, size_THW: tuple[int, int, int]) -> None:
    """Refuse all but clips x_BCTHW of one length and size, for a discriminator that judges no others.

    Raises:
        PortError: Wrong number of axes, wrong channels or another length or size.
    """
    check_input(x, part=part, in_channels=in_channels, min_size=size_THW, axes="BCTHW")
    if tuple(x.shape[2:]) != size_THW:
        raise PortError(
            f"{part} was built for clips of {size_THW} (frames, height, width) and was given "
            f"{tuple(x.shape[2:])}; build it with that num_frames, height and width"
        )


def check_timed_frames(x_BCTHW: Tensor, times_BT: Tensor, *, part: str, shape_CTHW: tuple[int, ...]) -> None:
    """Refuse all but frames of one number and size, and their times.

    Raises:
        PortError: Frames or times have another shape.
    """
    if x_BCTHW.ndim != 5 or tuple(x_BCTHW.shape[1:]) != shape_CTHW:
        raise PortError(
            f"{part} judges clips of (B, {', '.join(map(str, shape_CTHW))}), axes BCTHW; it was given "
            f"{tuple(x_BCTHW.shape)}"
        )
    wanted = (x_BCTHW.shape[0], shape_CTHW[1])
    if tuple(times_BT.shape) != wanted:
        raise PortError(f"{part} needs times_BT of shape {wanted}; it was given {tuple(times_BT.shape)}")
