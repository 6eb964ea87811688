"""The hooks a plugin may implement. Their docstrings are the plugin contract.

A plugin is an installed package with an entry point in group ``zoo`` that names a *manifest*: a
module that imports neither torch nor its own model code, and implements one or more of these hooks
with the ``hookimpl`` marker::

    from zoo.hookspecs import hookimpl
    from zoo.parts import PartSpec

    @hookimpl
    def zoo_parts(api_version):
        return [PartSpec("quantizer", "my-vq", "my_package.my_vq:MyVQ", "One line.", example={})]
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from zoo.converters import Converter
    from zoo.parts import PartSpec

API_VERSION = 2
"""Version of this contract. It grows when a hook or a part attribute is added or changed."""

ENTRY_POINT_GROUP = "zoo"

hookspec = pluggy.HookspecMarker("zoo")
hookimpl = pluggy.HookimplMarker("zoo")


@hookspec
def zoo_parts(api_version: int) -> Iterable[PartSpec]:  # type: ignore[empty-body]
    """Offer parts.

    Args:
        api_version: `API_VERSION` of the running zoo; a plugin may offer less to an older one.

    Returns:
        One `PartSpec` per part. Targets are strings and are imported on first use.
    """


@hookspec
def zoo_recipes() -> Iterable[Path]:  # type: ignore[empty-body]
    """Offer recipes.

    Returns:
        Paths of registry files (YAML, see docs/recipe-schema.md) inside the plugin's package.
    """


@hookspec
def zoo_converters(api_version: int) -> Iterable[Converter]:  # type: ignore[empty-body]
    """Offer converters of weights that are published elsewhere (since version 2).

    Args:
        api_version: `API_VERSION` of the running zoo; a plugin may offer less to an older one.

    Returns:
        One `zoo.converters.Converter` per family. Targets are strings and are imported on first use.
    """


@hookspec(firstresult=True)
def zoo_resolve_weights(reference: str) -> Path | None:
    """Turn a weights reference such as ``my-scheme://name`` into a local folder.

    Returns:
        The folder, or None when the reference is not of this plugin's scheme. The first plugin
        with an answer wins.
    """


@hookspec
def zoo_callbacks(config: dict[str, Any]) -> Iterable[Any]:  # type: ignore[empty-body]
    """Offer training callbacks.

    Args:
        config: The resolved recipe of the run, as plain data.

    Returns:
        Objects with any of the methods of `zoo.training.callbacks.Callback`.
    """
