"""One self-contained HTML page about a run: curves, clips that move side by side, numbers, facts.

`write_report` reads a run folder as `zoo.training` writes it (its table of files is in that package's
docstring) at any time, finished or not, and leaves out what is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.report.page import write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    if name != "write_report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zoo.report.page import write_report

    return write_report


def __dir__() -> list[str]:
    return __all__
