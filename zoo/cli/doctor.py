"""``zoo doctor``: what is installed, and which plugins and recipes do not work and why."""

from __future__ import annotations

from typing import Any

import click

from zoo.cli.common import json_option, print_json, print_table
from zoo.errors import plain


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
    import zoo

    findings = zoo.doctor()
    if as_json:
        print_json(findings)
    else:
        _print(findings)
    return 0 if findings["healthy"] else 1


def _print(findings: dict[str, Any]) -> None:
    from zoo.diagnosis import OPTIONAL

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
        origin = f"{problem['plugin']} ({problem['distribution']})"
        click.echo(plain(f"\nPROBLEM {origin}, {problem['stage']}:\n  {problem['error']}"))
    click.echo("\nNo problems." if findings["healthy"] else f"\n{len(findings['problems'])} problem(s).")
