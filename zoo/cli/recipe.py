"""``zoo recipe check``: say whether a recipe file is valid, with the line of every mistake."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.common import ExistingFile, count, json_option, print_json
from zoo.errors import RecipeError, ZooError, plain

if TYPE_CHECKING:
    from zoo.recipe_files import Resolved


@click.group("recipe")
def recipe() -> None:
    """Work with recipe files.

    \b
    Example:
      zoo recipe check my-recipes.yaml
    """


@recipe.command("check")
@click.argument("file", type=ExistingFile)
@json_option
def check(file: Path, as_json: bool) -> int:
    """Check the recipes in FILE: fields, parts, options, and that the parts fit together.

    Every recipe is run once without allocating a weight. Leaves with 1 when one of them is not valid.

    \b
    Example:
      zoo recipe check my-recipes.yaml
      zoo recipe check my-recipes.yaml --json
    """
    try:
        recipes, error = _check_all(file), None
    except RecipeError as problem:
        if not as_json:
            raise
        recipes, error = [], str(problem)
    bad = [found for found in recipes if found["error"]]
    valid = not bad and error is None
    if as_json:
        print_json({"file": str(file), "valid": valid, "error": error, "recipes": recipes})
        return 0 if valid else 1
    for found in recipes:
        if found["error"]:
            click.echo(plain(f"BAD  {found['name']}\n  {found['error']}"))
        else:
            click.echo(f"good {found['name']}: {count(found['parameters'])} parameters")
    return 1 if bad else 0


def _check_all(file: Path) -> list[dict[str, Any]]:
    """Return the name of each recipe in a file with its parameter count, or with its error.

    Raises:
        RecipeError: The file as a whole is not a registry.
    """
    from zoo.discovery import catalogue
    from zoo.recipe_files import read_registry, resolve

    sources = read_registry(file)
    if not sources:
        raise RecipeError(f"{file.name}:1: there is no recipe in it")
    parents = {**catalogue().recipes, **sources}
    recipes = []
    for name, source in sources.items():
        parameters, error = None, None
        try:
            parameters = _parameters(resolve(source, {}, parents))
        except ZooError as problem:
            error = str(problem)
        recipes.append({"name": name, "parameters": parameters, "error": error})
    return recipes


def _parameters(resolved: Resolved) -> int:
    """Return how many weights a recipe's model has, after checking that its parts fit together."""
    import torch

    from zoo.building import plan

    with torch.device("meta"):
        return plan(resolved).make().num_parameters()
