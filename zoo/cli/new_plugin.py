"""``zoo new-plugin``: start a package that offers parts of your own."""

from __future__ import annotations

import click


@click.command("new-plugin")
@click.argument("name")
def new_plugin(name: str) -> None:
    """Start a plugin package of your own.

    Writes a complete one, ready to install and check, into a folder called NAME.

    \b
    Example:
      zoo new-plugin my-quantizer
      pip install -e my-quantizer
      zoo check my-quantizer
    """
    raise NotImplementedError
