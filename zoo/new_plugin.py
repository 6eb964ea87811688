"""Start a plugin: write a complete package with one working quantizer, from zoo/templates/plugin."""

from __future__ import annotations

import importlib.resources
import keyword
import re
import string
import tempfile
import tomllib
from importlib.resources.abc import Traversable
from pathlib import Path

from zoo.errors import OutputExistsError, ZooError

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_MAX_NAME = 50
_SUFFIX = ".tmpl"


def new_plugin(name: str, folder: Path | None = None, *, force: bool = False) -> Path:
    """Write a plugin package that installs, passes the conformance checks, and is yours to change.

    Args:
        name: Name of the plugin and of its one part: lower-case words joined by ``-``, such as ``my-vq``. The
            package it is in is called ``zoo_my_vq``.
        folder: Where to write it; a folder called `name` in the current one when left out.
        force: Replace the folder when it holds a plugin already.

    Returns:
        The folder, absolute.

    Raises:
        ZooError: The name cannot be used, or the folder cannot be written.
        OutputExistsError: The folder is there, and `force` is not given or it holds no plugin.
    """
    _check_name(name)
    target = (folder or Path(name)).absolute()
    if target.is_symlink() or target.exists():
        _check_replaceable(target, force=force)
    distribution = name if name.startswith("zoo-") else f"zoo-{name}"
    values = {
        "name": name,
        "distribution": distribution,
        "package": distribution.replace("-", "_"),
        "class_name": "".join(word.capitalize() for word in name.split("-")),
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            _write(importlib.resources.files("zoo") / "templates" / "plugin", new, values)
            if target.exists():
                target.rename(old)
            try:
                new.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
    except OSError as error:
        raise ZooError(f"cannot write the plugin to {target}: {error}") from error
    return target


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME:
        close = re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789")[:_MAX_NAME].rstrip("-")
        hint = f"; try {close!r}" if _NAME.fullmatch(close) else ""
        raise ZooError(
            f"plugin name is {name!r}; use lower-case words of letters and digits joined by -, "
            f"at most {_MAX_NAME} characters, such as 'my-vq'{hint}"
        )
    from zoo.discovery import DISTRIBUTION, catalogue

    known = catalogue()
    ours = {plugin.name for plugin in known.plugins if plugin.distribution == DISTRIBUTION}
    ours |= {p.name for p in known.parts if p.kind == "quantizer" and p.distribution == DISTRIBUTION}
    if name in ours or name == "zoo" or keyword.iskeyword(name.replace("-", "_")):
        raise ZooError(f"the name {name!r} is taken by zoo or Python; choose another, such as 'my-{name}'")


def _check_replaceable(target: Path, *, force: bool) -> None:
    if not force:
        raise OutputExistsError(f"{target} is there already; choose another name, or replace it with --force")
    try:
        project = tomllib.loads((target / "pyproject.toml").read_text(encoding="utf-8"))
        plugin = bool(project["project"]["entry-points"]["zoo"])
    except (OSError, ValueError, KeyError, TypeError):
        plugin = False
    if not plugin or target.is_symlink():
        raise OutputExistsError(f"{target} holds no plugin, so it is not replaced; choose another folder")


def _write(source: Traversable, folder: Path, values: dict[str, str]) -> None:
    folder.mkdir()
    for item in source.iterdir():
        if item.is_dir():
            _write(item, folder / (values["package"] if item.name == "package" else item.name), values)
        elif item.name.endswith(_SUFFIX):
            text = string.Template(item.read_text(encoding="utf-8")).substitute(values)
            (folder / item.name.removesuffix(_SUFFIX)).write_text(text, encoding="utf-8")
