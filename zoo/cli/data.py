"""``zoo data check``: say what a data source holds, and what of it cannot be used."""

from __future__ import annotations

import click

from zoo.cli.common import json_option, print_json


@click.group("data")
def data() -> None:
    """Work with videos to train on.

    \b
    Example:
      zoo data check clips/
    """


@data.command("check")
@click.argument("source", metavar="PATH")
@json_option
def check(source: str, as_json: bool) -> int:
    """Read every video of PATH and say what is there, and which files cannot be used and why.

    PATH is anything zoo train takes for --data. Leaves with 1 when a file cannot be used.

    \b
    Example:
      zoo data check clips/
      zoo data check clips/ --json
    """
    raise NotImplementedError(print_json)
