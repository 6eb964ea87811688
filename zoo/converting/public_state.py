"""Reading state dicts of public code: what is there, what fits, what is missing and what has no place."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Size, Tensor

from zoo.errors import MissingTensorsError, WeightsError


class PublicState:
    """The tensors of one public model, by their names without the prefix they share.

    Args:
        state: Names to tensors; or a whole Lightning checkpoint, whose ``state_dict`` is taken.
        family: What the model is called in errors.
        needed: Tensors without which the size of the model cannot be told: name to number of axes. The
            first is looked for at the end of longer names too, which gives the prefix.
        prefix: The prefix, where several models are in one state dict.

    Attributes:
        tensors: What stands under the prefix, by the name without it.

    Raises:
        WeightsError: The needed tensors are not there, or several models are.
    """

    def __init__(
        self, state: Mapping[str, Any], *, family: str, needed: Mapping[str, int], prefix: str | None = None
    ) -> None:
        inner = state.get("state_dict")
        if isinstance(inner, Mapping):
            state = inner
        self._family = family
        self._prefix = self._find_prefix(state, next(iter(needed))) if prefix is None else prefix
        self.tensors: dict[str, Tensor] = {}
        self._others: list[str] = []
        for name, value in state.items():
            if name.startswith(self._prefix) and isinstance(value, Tensor):
                self.tensors[name.removeprefix(self._prefix)] = value
            else:
                self._others.append(name)
        lacking = [self._prefix + name for name in needed if name not in self.tensors]
        if lacking:
            raise WeightsError(
                f"{family} weights lack the tensors {listing(lacking)}; there are {listing(state)}"
            )
        for name, num_axes in needed.items():
            shape = self.tensors[name].shape
            if len(shape) != num_axes or 0 in shape:
                raise WeightsError(
                    f"{family} weights: {self._prefix}{name} is {tuple(shape)}; it must have {num_axes} axes"
                )

    def _find_prefix(self, state: Mapping[str, Any], landmark: str) -> str:
        found = [name for name in state if name == landmark or name.endswith("." + landmark)]
        if not found:
            raise WeightsError(
                f"no {self._family} in these weights: no name ends in {landmark!r}; "
                f"there are {listing(state)}"
            )
        prefixes = sorted(name.removesuffix(landmark) for name in found)
        if len(prefixes) > 1:
            raise WeightsError(
                f"these weights hold {len(prefixes)} models of the kind {self._family}; choose one by "
                f"prefix={prefixes[0]!r} (there are {', '.join(map(repr, prefixes))})"
            )
        return prefixes[0]

    def count(self, pattern: str) -> int:
        """Return how many numbers from 0 on, without a gap, the pattern's group takes among the names."""
        matches = (re.match(pattern, name) for name in self.tensors)
        found = {match[1] for match in matches if match}
        return next(n for n in itertools.count() if str(n) not in found)

    def take(self, expected: Mapping[str, Size]) -> tuple[dict[str, Tensor], list[str]]:
        """Return the tensors of the expected names, and the sorted full names of all else.

        Raises:
            WeightsError: A name is missing, or a shape differs.
        """
        unused = self._others + [self._prefix + name for name in self.tensors if name not in expected]
        missing = [self._prefix + name for name in expected if name not in self.tensors]
        if missing:
            raise MissingTensorsError(
                f"{self._family} weights lack {listing(missing)}; names without a place: {listing(unused)}",
                sorted(missing),
            )
        wrong = [
            f"{self._prefix}{name} is {tuple(self.tensors[name].shape)} where {tuple(shape)} fits"
            for name, shape in expected.items()
            if self.tensors[name].shape != shape
        ]
        if wrong:
            raise WeightsError(f"{self._family} weights do not fit together: {listing(wrong)}")
        return {name: self.tensors[name] for name in expected}, sorted(unused)


def listing(names: Iterable[str], most: int = 8) -> str:
    """Return the first names in order, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "none"
