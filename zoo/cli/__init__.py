"""The command line: ``zoo COMMAND``. One thin file per command, each a skin over a public function.

Nothing heavy is imported before a command needs it, so ``zoo list`` and ``zoo --help`` stay fast.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line and leave with its exit code.

    0 fine, 1 the thing asked about is bad, 2 wrong usage (an option, model or part that does not
    exist, an output that would be overwritten), 130 interrupted. `ZOO_DEBUG=1` shows tracebacks.
    """
    from zoo.cli.group import cli

    cli.main(prog_name="zoo")
