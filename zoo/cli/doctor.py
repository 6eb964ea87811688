"""``zoo doctor``: what is installed, and which plugins and recipes do not work and why."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import Any

import click

from zoo.cli.common import json_option, print_json, print_table
from zoo.errors import ZooError

REQUIRED = ("torch", "timm", "einops", "datasets", "av", "safetensors", "pydantic", "pluggy", "numpy")
OPTIONAL = {
    "torchvision": "torchvision",
    "tensorboard": "zoo-video[train]",
    "torchcodec": "zoo-video[torchcodec]",
}
"""Packages that zoo can do without, and what to install to have them."""


@click.command("doctor")
@json_option
def doctor(as_json: bool) -> int:
    """Say what is installed, what does not work, and why.

    Versions, plugins, recipes. Leaves with 1 when something does not work. Imports neither torch nor any
    model code.

    \b
    Example:
      zoo doctor
      zoo doctor --json
    """
    findings = diagnose()
    if as_json:
        print_json(findings)
    else:
        _print(findings)
    return 0 if findings["healthy"] else 1


def diagnose() -> dict[str, Any]:
    """Return the state of the installation as plain data.

    Returns:
        ``healthy``, ``versions`` (None for what is missing), ``gpu``, ``plugins``, ``parts`` and
        ``recipes`` (how many), and ``problems``: plugin, distribution, stage and error of each.
    """
    from zoo.discovery import catalogue

    found = catalogue()
    problems = [
        {"plugin": p.plugin, "distribution": p.distribution, "stage": p.stage, "error": p.error}
        for p in found.problems
    ]
    problems += _recipe_problems(found)
    versions = {name: _version(name) for name in (*REQUIRED, *OPTIONAL)}
    for name in REQUIRED:
        if versions[name] is None:
            problems.append(
                {
                    "plugin": "zoo",
                    "distribution": "zoo-video",
                    "stage": "install",
                    "error": f"the package {name} is missing; type: pip install {name}",
                }
            )
    return {
        "healthy": not problems,
        "zoo": _version("zoo-video"),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "prefix": sys.prefix,
        "gpu": _nvidia_driver(),
        "versions": versions,
        "plugins": [
            {"name": p.name, "distribution": p.distribution, "version": p.version, "manifest": p.manifest}
            for p in found.plugins
        ],
        "parts": len(found.parts),
        "recipes": len(found.recipes),
        "problems": problems,
    }


def _recipe_problems(found: Any) -> list[dict[str, str]]:
    """Check every recipe against the schema, and that the parts it names are installed."""
    from zoo.recipe_files import resolve

    problems = []
    for source in found.recipes.values():
        try:
            recipe = resolve(source, {}, found.recipes).recipe
            for kind in ("encoder", "quantizer", "decoder", "generator"):
                if (choice := getattr(recipe, kind)) is not None:
                    found.find(kind, choice.use)
            for choice in recipe.discriminator:
                found.find("discriminator", choice.use)
        except ZooError as error:
            text = str(error).split("\n  note:")[0]
            problems.append(
                {
                    "plugin": source.plugin,
                    "distribution": "",
                    "stage": f"recipe {source.name} ({source.where()})",
                    "error": text,
                }
            )
    return problems


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _nvidia_driver() -> str | None:
    """Return the version of the NVIDIA driver, or None without one; asks no library."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return None


def _print(findings: dict[str, Any]) -> None:
    gpu = f"NVIDIA driver {findings['gpu']}" if findings["gpu"] else "no NVIDIA driver"
    click.echo(
        f"zoo {findings['zoo'] or '(not installed)'}, Python {findings['python']}, "
        f"{findings['platform']}, {gpu}\n"
    )
    rows = []
    for name, version in findings["versions"].items():
        note = f"to have it: pip install '{OPTIONAL[name]}'" if version is None and name in OPTIONAL else ""
        rows.append((name, version or "not installed", note))
    print_table(rows)
    click.echo(f"\n{findings['recipes']} models and {findings['parts']} parts from these plugins")
    print_table(
        [(p["name"], f"{p['distribution']} {p['version']}", p["manifest"]) for p in findings["plugins"]]
    )
    for problem in findings["problems"]:
        origin = f"{problem['plugin']} ({problem['distribution']})".replace(" ()", "")
        click.echo(f"\nPROBLEM {origin}, {problem['stage']}:\n  {problem['error']}")
    click.echo("\nNo problems." if findings["healthy"] else f"\n{len(findings['problems'])} problem(s).")
