"""``zoo check``: run the conformance checks on a plugin's parts."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

import click

from zoo.cli.common import json_option, print_json, print_table

if TYPE_CHECKING:
    from zoo.testing import CheckResult


@click.command("check")
@click.argument("plugin")
@click.option("--slow", is_flag=True, help="Run the checks that take minutes too.")
@json_option
def check(plugin: str, slow: bool, as_json: bool) -> int:
    """Check that the parts of a plugin keep the contract.

    PLUGIN is an installed plugin, a part, or plugin:part. Leaves with 1 when a check fails.

    \b
    Example:
      zoo check vqvae
      zoo check fsq --json
    """
    from tqdm import tqdm

    from zoo.testing import check_plugin

    with tqdm(desc="checks", unit=" check", leave=False, disable=None) as bar:

        def progress(result: CheckResult) -> None:
            bar.set_postfix_str(f"{result.part} {result.check}", refresh=False)
            bar.update()

        results = check_plugin(plugin, slow=slow, progress=progress)
    failed = [result for result in results if result.status == "failed"]
    if as_json:
        tally = Counter(result.status for result in results)
        print_json(
            {
                "name": plugin,
                **{status: tally[status] for status in ("passed", "failed", "skipped")},
                "results": [dataclasses.asdict(result) for result in results],
            }
        )
    else:
        _print(results, failed)
    return 1 if failed else 0


def _print(results: list[CheckResult], failed: list[CheckResult]) -> None:
    tallies: dict[tuple[str, str], Counter[str]] = {}
    for result in results:
        tallies.setdefault((result.kind, result.part), Counter())[result.status] += 1
    print_table(
        [
            (kind, part, ", ".join(f"{number} {status}" for status, number in sorted(tally.items())))
            for (kind, part), tally in tallies.items()
        ]
    )
    for result in failed:
        reason = result.reason.replace("\n", "\n  ")
        click.echo(f"\nFAILED {result.kind} {result.part}: {result.check}\n  {reason}")
    ran = sum(result.status != "skipped" for result in results)
    seconds = sum(result.seconds for result in results)
    skipped = len(results) - ran
    click.echo(f"\n{ran} checks ran, {len(failed)} failed, {skipped} skipped, {seconds:.1f} s")
