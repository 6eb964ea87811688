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
