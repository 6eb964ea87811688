"""Diagnosis: what is installed, and which plugins and recipes do not work and why. Imports no model code."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.discovery import DISTRIBUTION, catalogue
from zoo.errors import ZooError

if TYPE_CHECKING:
    from zoo.discovery import Catalogue

REQUIRED = ("torch", "timm", "einops", "datasets", "av", "safetensors", "pydantic", "pluggy", "numpy")
OPTIONAL = {
    "torchvision": "torchvision",
    "tensorboard": "zoo-video[train]",
    "torchcodec": "zoo-video[torchcodec]",
}
"""Packages that zoo can do without, and what to install to have them."""


def doctor() -> dict[str, Any]:
    """Return the state of the installation as plain data.

    Returns:
        ``healthy``, ``versions`` (None for what is missing), ``gpu``, ``plugins``, ``parts`` and
        ``recipes`` (how many), and ``problems``: plugin, distribution, stage and error of each.
    """
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
                    "distribution": DISTRIBUTION,
                    "stage": "install",
                    "error": f"the package {name} is missing; type: pip install {name}",
                }
            )
    return {
        "healthy": not problems,
        "zoo": _version(DISTRIBUTION),
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


def _recipe_problems(found: Catalogue) -> list[dict[str, str]]:
    """Check every recipe against the schema, and that the parts it names are installed."""
    from zoo.recipe_files import resolve

    owners = {plugin.name: plugin.distribution for plugin in found.plugins}
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
                    "distribution": owners.get(source.plugin, DISTRIBUTION),
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
