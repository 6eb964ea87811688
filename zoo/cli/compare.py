"""``zoo compare``: figures of several measurements side by side, if they were measured alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.common import ExistingFile, json_option, print_json, print_table, with_interval, words
from zoo.errors import ZooError, plain

if TYPE_CHECKING:
    from zoo.metrics.protocol import Row


_MAX_BYTES = 64 << 20


@click.command("compare")
@click.argument("files", nargs=-1, required=True, type=ExistingFile, metavar="A.json B.json...")
@click.option("--metrics", metavar="A,B", help="Figures to compare; all when left out.")
@click.option("--apart", is_flag=True, help="Show figures of different protocols in groups, not refuse them.")
@json_option
def compare_command(files: tuple[Path, ...], metrics: str | None, apart: bool, as_json: bool) -> None:
    """Put what zoo eval --out wrote side by side.

    Figures that were measured in different ways (other clips, frames, frame rate, numbers of clips, resizing,
    network or seed) are refused, and the fields that differ are named. Leaves with 1 then.

    \b
    Example:
      zoo compare before.json after.json
      zoo compare a.json b.json c.json --metrics fvd,kvd
      zoo compare a.json b.json --apart --json
    """
    from zoo.metrics import compare

    wanted = words(metrics)
    groups = compare({str(path): _read(path) for path in files}, metrics=wanted, apart=apart)
    if as_json:
        print_json(
            {metric: [[row._asdict() for row in g] for g in found] for metric, found in groups.items()}
        )
    else:
        _print(groups)


def _read(path: Path) -> Any:
    from zoo import plain_json
    from zoo.files import read_regular

    try:
        return plain_json.loads(read_regular(path, most=_MAX_BYTES))
    except ValueError as error:
        raise ZooError(
            f"{path} is no JSON file: {error}. Type: zoo eval MODEL --data X --out {path}"
        ) from None


def _print(groups: dict[str, list[list[Row]]]) -> None:
    from zoo.metrics.protocol import differences

    for metric, found in groups.items():
        for number, group in enumerate(found):
            fields = differences(found[0][0].protocol, group[0].protocol)
            told = ", ".join(f"{name} {two!r}, not {one!r}" for name, (one, two) in fields.items())
            told = metric if not number else f"{metric}, not comparable with the above: {told}"
            click.echo(plain(told))
            print_table([(row.document, _told(row)) for row in group])


def _told(row: Row) -> str:
    if row.value is None:
        return "not finite"
    return with_interval(row.value, row.interval)
