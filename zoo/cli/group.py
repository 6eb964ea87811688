"""The ``zoo`` command: finds sub-commands on first use and turns errors into messages and exit codes."""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

import click

from zoo.cli.common import INTERRUPTED
from zoo.errors import OutputExistsError, RecipeError, UnknownNameError, ZooError, plain

COMMANDS = {
    "list": "zoo.cli.list:list_command",
    "info": "zoo.cli.info:info",
    "train": "zoo.cli.train:train",
    "reconstruct": "zoo.cli.reconstruct:reconstruct",
    "encode": "zoo.cli.encode:encode",
    "decode": "zoo.cli.decode:decode",
    "tokenize": "zoo.cli.tokenize:tokenize",
    "sample": "zoo.cli.sample:sample",
    "predict": "zoo.cli.predict:predict",
    "interpolate": "zoo.cli.interpolate:interpolate",
    "inpaint": "zoo.cli.inpaint:inpaint",
    "eval": "zoo.cli.eval:eval_command",
    "compare": "zoo.cli.compare:compare_command",
    "report": "zoo.cli.report:report",
    "bench": "zoo.cli.bench:bench_command",
    "check": "zoo.cli.check:check",
    "doctor": "zoo.cli.doctor:doctor",
    "new-plugin": "zoo.cli.new_plugin:new_plugin",
    "recipe": "zoo.cli.recipe:recipe",
    "weights": "zoo.cli.weights:weights",
    "data": "zoo.cli.data:data",
    "metrics": "zoo.cli.metrics:metrics",
}
"""Every command, in the order of ``zoo --help``, and where it lives."""


OVERRIDE = "override"
"""Where errors place a value that came from ``--set`` and not from a line of a file."""


class ZooGroup(click.Group):
    """A group whose commands are imported on first use, and whose errors are one clear message."""

    def __init__(self, *args: Any, targets: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.targets = targets

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*self.targets]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.targets:
            return None
        module_name, _, attribute = self.targets[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module_name), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.targets and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], self.targets, n=3, cutoff=0.5)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(
                f"There is no command {args[0]!r}.{hint} Commands: {', '.join(self.targets)}.", ctx=ctx
            )
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        """Run the command; an int it returns is the exit code."""
        try:
            code = super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("\nInterrupted.", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            message = explain(error)
            if message is None or os.environ.get("ZOO_DEBUG", "0") not in ("", "0"):
                raise
            click.echo(f"Error: {plain(message)}", err=True)
            ctx.exit(exit_code(error))
        ctx.exit(code if isinstance(code, int) else 0)


def explain(error: Exception) -> str | None:
    """Return what to tell the user, or None for an error that is not theirs to mend."""
    if isinstance(error, ZooError):
        return re.sub(rf"^{OVERRIDE}: ", "--set: ", str(error), flags=re.MULTILINE)
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}"
    if type(error).__name__ == "OutOfMemoryError":
        return "Out of GPU memory. Use a smaller batch (--set train.batch_size=1) or clip, or --device cpu."
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != "zoo":
        return f"The package {error.name!r} is not installed in {sys.prefix}. Type: pip install {error.name}"
    return None


def exit_code(error: Exception) -> int:
    """Return 2 when the words on the command line are wrong, 1 when the thing they name is."""
    if isinstance(error, RecipeError) and str(error).startswith(f"{OVERRIDE}: "):
        return 2
    return 2 if isinstance(error, UnknownNameError | OutputExistsError) else 1


@click.group(
    cls=ZooGroup,
    targets=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="zoo-video", prog_name="zoo")
def cli() -> None:
    """Models for video generation and compression: GANs, VQ-VAEs and mixes of them.

    \b
    Example:
      zoo list "vq*-video-*"
      zoo train vqvae-video-tiny --data clips/ --out runs/first
      zoo reconstruct runs/first in.mp4 out.mp4 --side-by-side

    Exit codes: 0 fine, 1 the thing asked about is bad, 2 wrong usage (an unknown command, option, model
    or part, or an output that exists), 130 interrupted. ZOO_DEBUG=1 shows tracebacks.
    """
