"""What several commands share: options, tables and JSON on stdout."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from zoo.errors import plain

Function = TypeVar("Function", bound=Callable[..., Any])

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells use for SIGINT."""

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
force_option = click.option("--force", is_flag=True, help="Overwrite an output that exists.")
device_option = click.option(
    "--device", metavar="NAME", help="Where to compute: cpu, cuda, cuda:1. The GPU when there is one."
)
coder_option = click.option(
    "--coder",
    type=click.Choice(["packed", "static", "prior"]),
    help="How codes become bytes; static when left out, prior with --prior.",
)
prior_option = click.option(
    "--prior", metavar="FOLDER", help="A trained prior of this model's codes, whose odds code them."
)
set_option = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change one field of the recipe. The value is a YAML word, number, list or mapping. Repeatable.",
)
ExistingPath = click.Path(exists=True, path_type=Path)
ExistingFile = click.Path(exists=True, dir_okay=False, path_type=Path)


_own_stdout: int | None = None


def keep_stdout() -> None:
    """Remember where JSON goes before code of strangers, which may bend standard output, is imported."""
    global _own_stdout
    with contextlib.suppress(OSError):  # it is closed
        _own_stdout = os.dup(1)


def print_json(document: Any) -> None:
    """Print a document as JSON that every parser reads: no NaN, UTF-8, one final newline."""
    sys.stdout.flush()
    if _own_stdout is None:
        sys.stdout.buffer.write(_json(document))
        return
    left = memoryview(_json(document))
    while left:
        left = left[os.write(_own_stdout, left) :]


def write_json(path: Path, document: Any, *, force: bool = False) -> None:
    """Write a document to a file, as `print_json` prints it; a file that is there stays whole until then.

    Raises:
        OutputExistsError: The file exists and `force` is off.
    """
    from zoo.files import new_file

    with new_file(path, force=force) as temporary:
        temporary.write_bytes(_json(document))


def _json(document: Any) -> bytes:
    text = json.dumps(_plain(document), indent=2, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode("utf-8", errors="backslashreplace")  # half a character, as JSON writes it


def _plain(value: Any) -> Any:
    """Return a value in JSON's own types; a number that is not finite becomes null."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if hasattr(value, "items"):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable):
        return [_plain(item) for item in value]
    return str(value)


def words(listed: str | None) -> list[str] | None:
    """Split what an option lists, such as ``a,b``; None where it was left out."""
    return None if listed is None else [word.strip() for word in listed.split(",") if word.strip()]


def with_interval(value: float, interval: Mapping[str, Any] | None) -> str:
    """Write a figure with the interval behind it, where it has one."""
    told = f"{value:.4g}"
    return f"{told}  ({interval['low']:.4g} to {interval['high']:.4g})" if interval else told


def print_table(rows: Sequence[Sequence[str]], *, indent: int = 2) -> None:
    """Print rows in aligned columns, the last one cut to the width of the terminal."""
    if not rows:
        return
    rows = [[plain(cell).replace("\n", "\\n") for cell in row] for row in rows]
    width = _terminal_width()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(size) for cell, size in zip(row[:-1], widths, strict=True)]
        line = " " * indent + "  ".join([*cells, row[-1]])
        if width and len(line) > width:
            line = line[: width - 1] + "…"
        click.echo(line.rstrip())


def _terminal_width() -> int | None:
    """Return the width of the terminal, or None when stdout is a file or a pipe."""
    import shutil

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def count(number: int) -> str:
    """Return a count in short form: 21.1M, 8.9k, 512.

    >>> count(21_100_000)
    '21.1M'
    """
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
