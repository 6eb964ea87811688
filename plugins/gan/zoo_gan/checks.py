"""Checks of options and inputs that the parts of this plugin share."""

from __future__ import annotations

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


def num_halvings(part: str, /, *, image_size: int) -> int:
    """Return how often a frame of `image_size` pixels is halved until it is 4 wide.

    Raises:
        ZooError: `image_size` is not a power of two of at least 16.
    """
    check_counts(part, image_size=image_size)
    if image_size < 16 or not is_power_of_two(image_size):
        raise ZooError(
            f"{part}: image_size is {image_size}; give a power of two of 16 or more: 16, 32, 64, ..."
        )
    return image_size.bit_length() - 3


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
