"""Checks of options that the parts of DVD-GAN share. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.errors import ZooError


def check_choice(part: str, name: str, value: str, choices: Sequence[str]) -> None:
    """Refuse an option that is none of its choices.

    Raises:
        ZooError: It is none of them.
    """
    if value not in choices:
        raise ZooError(f"{part}: {name} is {value!r}; give {' or '.join(map(repr, choices))}")


def check_classes(part: str, num_classes: int) -> None:
    """Refuse a number of classes that is not a whole number of 0 or more.

    Raises:
        ZooError: It is not.
    """
    if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 0:
        raise ZooError(f"{part}: num_classes is {num_classes!r}; give a whole number, 0 for none")
