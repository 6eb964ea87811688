"""How large a model a recipe may ask for: that of a stranger must not take the machine with it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from zoo.errors import RecipeError

MAX_WEIGHTS = 1_000_000_000_000
"""Numbers in the parameters and buffers of one part."""
MAX_TENSORS = 5_000
"""Parameters and buffers, or modules, of one part."""
MAX_INTEGER = 1 << 24
"""Largest whole number as an option: channels, codes, blocks."""
MAX_VALUES = 10_000
"""Numbers, words and lists in the options of one part."""
MAX_DEPTH = 12
"""Lists and mappings within one another in an option."""
MAX_TEXT = 1000
"""Letters in a word."""


def check_values(options: Mapping[str, Any]) -> None:
    """Refuse options that no model has, before a part sees them.

    Raises:
        RecipeError: A number is not finite or beyond `MAX_INTEGER`, a text too long or not printable, or
            there is too much of it all.
    """
    count = 0
    level: list[tuple[str, Any]] = list(options.items())
    for _ in range(MAX_DEPTH):
        inner: list[tuple[str, Any]] = []
        for name, value in level:
            count += 1
            if isinstance(value, Mapping):
                inner += [(f"{name}.{key}", item) for key, item in value.items()]
            elif isinstance(value, list | tuple):
                inner += [(name, item) for item in value]
            else:
                _check_value(name, value)
        if count + len(inner) > MAX_VALUES:
            raise RecipeError(f"the options hold more than {MAX_VALUES:,} values")
        if not inner:
            return
        level = inner
    raise RecipeError(f"option {level[0][0][:100]} is nested deeper than {MAX_DEPTH} levels")


def _check_value(name: str, value: Any) -> None:
    if isinstance(value, str) and (len(value) > MAX_TEXT or not value.isprintable()):
        raise RecipeError(f"option {name}: a text that cannot be printed, or of over {MAX_TEXT} letters")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        raise RecipeError(f"option {name}: {value:,} is beyond {MAX_INTEGER:,}, the largest whole number")
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"option {name}: {value} is not a finite number")


@contextlib.contextmanager
def limited_size() -> Iterator[None]:
    """Stop a part that grows beyond any model while it is built, on the meta device or a real one.

    Raises:
        RecipeError: More than `MAX_WEIGHTS` numbers or `MAX_TENSORS` tensors or modules were made.
    """
    weights = tensors = modules = 0

    def tensor(_module: nn.Module, _name: str, value: Tensor | None) -> None:
        nonlocal weights, tensors
        if value is not None:
            tensors += 1
            weights += value.numel()
        check()

    def module(_module: nn.Module, _name: str, _child: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        check()

    def check() -> None:
        if weights > MAX_WEIGHTS:
            raise RecipeError(f"asks for more than {MAX_WEIGHTS:,} weights")
        if max(tensors, modules) > MAX_TENSORS:
            raise RecipeError(f"asks for more than {MAX_TENSORS:,} layers")

    with contextlib.ExitStack() as stack:
        stack.enter_context(register_module_parameter_registration_hook(tensor))
        stack.enter_context(register_module_buffer_registration_hook(tensor))
        stack.enter_context(register_module_module_registration_hook(module))
        yield
