"""``zoo list``: what can be built, without importing any of it."""

from __future__ import annotations

import fnmatch
from typing import Any

import click

from zoo.cli.common import json_option, print_json, print_table
from zoo.parts import KINDS, Part


@click.command("list")
@click.argument("pattern", default="*")
@click.option("--kind", type=click.Choice(["model", *KINDS]), help="Only models, or parts of one kind.")
@json_option
def list_command(pattern: str, kind: str | None, as_json: bool) -> None:
    """List the models (recipes) and parts that are installed.

    PATTERN is a shell pattern on the name, such as "vq*-video-*".

    \b
    Example:
      zoo list
      zoo list "vq*-video-*"
      zoo list --kind quantizer --json
    """
    from zoo.discovery import catalogue

    found = catalogue()
    models = [
        _model(found.recipes[name])
        for name in sorted(fnmatch.filter(found.recipes, pattern))
        if kind in (None, "model")
    ]
    parts = [
        part
        for part in sorted(found.parts, key=lambda part: (KINDS.index(part.kind), part.full_name))
        if kind in (None, part.kind) and _matches(part, pattern)
    ]
    if as_json:
        problems = [str(problem) for problem in found.problems]
        print_json({"models": models, "parts": [_part(part) for part in parts], "problems": problems})
        return
    if models:
        click.echo("Models")
        print_table([(model["name"], model["summary"]) for model in models])
    for title in KINDS:
        rows = [(part.name, part.plugin, part.spec.summary) for part in parts if part.kind == title]
        if rows:
            click.echo(f"\n{title.capitalize()}s")
            print_table(rows)
    if not models and not parts:
        click.echo(f"Nothing is called {pattern!r}. Type: zoo list", err=True)
    if found.problems:
        click.echo(f"\n{len(found.problems)} plugin problem(s). Type: zoo doctor", err=True)


def _matches(part: Part, pattern: str) -> bool:
    return fnmatch.fnmatch(part.name, pattern) or fnmatch.fnmatch(part.full_name, pattern)


def _model(source: Any) -> dict[str, Any]:
    """Describe a recipe as far as its file says, without resolving it."""
    return {
        "name": source.name,
        "summary": str(source.data.get("summary", "")),
        "extends": source.data.get("extends"),
        "parameters": source.data.get("parameters"),
        "plugin": source.plugin,
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "kind": part.kind,
        "name": part.name,
        "plugin": part.plugin,
        "distribution": part.distribution,
        "version": part.version,
        "summary": part.spec.summary,
        "paper": part.spec.paper,
        "license": part.spec.license,
    }
