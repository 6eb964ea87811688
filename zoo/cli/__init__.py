"""The command line: ``zoo COMMAND``. One thin file per command, each a skin over a public function.

Nothing heavy is imported before a command needs it, so ``zoo list`` and ``zoo --help`` stay fast.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line and leave with its exit code.

    0 fine, 1 the thing asked about is bad, 2 wrong usage (an option, model or part that does not
    exist, an output that would be overwritten), 130 interrupted. `ZOO_DEBUG=1` shows tracebacks.
    """
    import sys

    from zoo.cli.common import keep_stdout
    from zoo.cli.group import cli
    from zoo.global_state import leave

    keep_stdout()
    try:
        cli.main(prog_name="zoo")
    except SystemExit as ended:
        if sys.argv[1:2] != ["train"]:  # the callbacks of plugins may have something to do at the end of it
            leave(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
        raise
