"""Reads ``--set path=value`` into the nested mapping that recipes are overridden with."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from typing import Any

import click

from zoo.errors import RecipeError
from zoo.recipe_files import parse_yaml

EXAMPLE = "--set quantizer=fsq, --set 'quantizer.levels=[8,5,5,5]' or --set train.optimizer.lr=1e-3"


def parse_value(text: str) -> Any:
    """Return the value that a word of the command line means, by the rules of recipe files.

    ``1e-3`` is a number, ``[8,5]`` a list, ``fsq`` a word, ``{use: fsq}`` a mapping, ``null`` nothing,
    ``"8"`` in quotes a word, and no text at all the empty word.

    Raises:
        RecipeError: The text is not a plain YAML or JSON value.
    """
    return parse_yaml(text, "value")[0] if text.strip() else ""


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """Return nested overrides from ``path=value`` words; later words win.

    ``quantizer=fsq`` and ``quantizer.levels=[8,5,5,5]`` together give
    ``{"quantizer": {"use": "fsq", "levels": [8, 5, 5, 5]}}``, in either order.

    Raises:
        click.UsageError: A word is not ``path=value``, no field of a recipe, or contradicts another one.
    """
    from zoo.recipes import Recipe

    overrides: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = [key.strip() for key in path.split(".")]
        if not equals or not all(keys):
            raise click.UsageError(f"--set {assignment!r} is not PATH=VALUE. Write for example {EXAMPLE}.")
        if keys[0] not in Recipe.model_fields:
            close = difflib.get_close_matches(keys[0], Recipe.model_fields, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            known = ", ".join(Recipe.model_fields)
            raise click.UsageError(
                f"--set {assignment!r}: a recipe has no field {keys[0]!r}.{hint} Fields: {known}."
            )
        try:
            value = parse_value(text)
        except RecipeError as error:
            raise click.UsageError(
                f"--set {assignment!r}: the value cannot be read: {error}. Write for example {EXAMPLE}."
            ) from None
        for key in reversed(keys):
            value = {key: value}
        _merge(overrides, value, assignment)
    return overrides


def _merge(into: dict[str, Any], new: dict[str, Any], assignment: str) -> None:
    """Merge as recipes do: a part that is chosen anew starts clean, a field of the same part is added."""
    for key, value in new.items():
        old = into.get(key)
        chosen = value if isinstance(value, str) else value.get("use") if isinstance(value, dict) else None
        if isinstance(old, dict) and chosen is not None and old.get("use", chosen) != chosen:
            into[key] = value
        elif isinstance(old, dict) and isinstance(value, str):
            old["use"] = value
        elif isinstance(old, dict | str) and isinstance(value, dict):
            nested = {"use": old} if isinstance(old, str) else old
            into[key] = nested
            _merge(nested, value, assignment)
        elif old is not None and isinstance(value, dict):
            raise click.UsageError(
                f"--set {assignment!r} goes into {key!r}, which another --set made {json.dumps(old)}."
            )
        else:
            into[key] = value
