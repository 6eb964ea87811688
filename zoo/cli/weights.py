"""``zoo weights check``: say whether a model folder or weights file is whole and safe to load."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from zoo.cli.common import ExistingPath, json_option, print_json


@click.group("weights")
def weights() -> None:
    """Work with weights.

    \b
    Example:
      zoo weights check runs/first
    """


@weights.command("check")
@click.argument("path", type=ExistingPath)
@json_option
def check(path: Path, as_json: bool) -> int:
    """Check a model folder (config, hashes, names, shapes) or one safetensors file.

    Nothing in it is executed. Leaves with 1 when it must not be loaded.

    \b
    Example:
      zoo weights check runs/first/model
      zoo weights check model.safetensors --json
    """
    from zoo.weights import check as check_weights

    found = check_weights(path)
    if as_json:
        print_json({**dataclasses.asdict(found), "valid": not found.problems})
        return 1 if found.problems else 0
    for problem in found.problems:
        click.echo(f"BAD  {problem}")
    for warning in found.warnings:
        click.echo(f"odd  {warning}")
    if not found.problems:
        click.echo(f"good {found.path}: {found.num_tensors} tensors, {found.num_values:,} numbers")
    return 1 if found.problems else 0
