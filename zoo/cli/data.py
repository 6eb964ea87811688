"""``zoo data check``: say what a data source holds, and what of it cannot be used."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from zoo.cli.common import json_option, print_json, print_table
from zoo.errors import plain

if TYPE_CHECKING:
    from zoo.data import FileReport


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
    """Read every video to its end and say which cannot be used.

    PATH is a folder of videos, one video, a folder that datasets.save_to_disk wrote, parquet, or demo. Leaves
    with 1 when a video cannot be used.

    \b
    Example:
      zoo data check clips/
      zoo data check clips/ --json
    """
    from tqdm import tqdm

    from zoo.data import iter_check

    reports = list(tqdm(iter_check(source), desc="reading", unit=" videos", leave=False, disable=None))
    bad = [report for report in reports if not report.ok]
    if as_json:
        print_json({"source": source, "valid": not bad, "videos": [report.as_dict() for report in reports]})
    else:
        _print(reports, bad)
    return 1 if bad else 0


def _print(reports: list[FileReport], bad: list[FileReport]) -> None:
    good = [report for report in reports if report.ok]
    for report in bad:
        click.echo(plain(f"BAD  {report.source}\n  {report.reason}"))
    for report in good:
        if report.notes:
            click.echo(plain(f"odd  {report.source}: {'; '.join(report.notes)}"))
    minutes = sum(report.duration_s for report in good) / 60
    frames = sum(report.num_frames for report in good)
    click.echo(f"\n{len(good)} of {len(reports)} videos are usable: {frames:,} frames, {minutes:.1f} minutes")
    sizes = Counter(f"{report.width}x{report.height} at {report.fps:.3g} frames a second" for report in good)
    print_table([(f"{number}", size) for size, number in sizes.most_common(10)])
