"""``zoo new-plugin``: start a package that offers parts of your own."""

from __future__ import annotations

import click

from zoo.cli.common import force_option


@click.command("new-plugin")
@click.argument("name")
@force_option
def new_plugin(name: str, force: bool) -> None:
    """Start a plugin package of your own.

    Writes a complete one, with a working quantizer called NAME to change, into a folder called NAME.

    \b
    Example:
      zoo new-plugin my-vq
      pip install -e my-vq
      zoo check my-vq
    """
    from zoo.new_plugin import new_plugin as write_plugin

    folder = write_plugin(name, force=force)
    click.echo(folder)
    click.echo(f"Install and check it:\n  pip install -e {name}\n  zoo check {name}", err=True)
