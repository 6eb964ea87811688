"""``zoo report``: write the HTML page of a run."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("run", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report(run: Path) -> None:
    """Write the HTML page of a run anew.

    RUN/report.html, from the numbers and clips that are there, at any time.

    \b
    Example:
      zoo report runs/first
    """
    from zoo.report import write_report

    click.echo(write_report(run))
