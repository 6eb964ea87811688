"""What a check is, what it says when a promise is broken, and how its outcome is told."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from zoo.parts import Kind

if TYPE_CHECKING:
    from zoo.testing.subject import Subject

Status = Literal["passed", "failed", "skipped"]


class CheckFailure(AssertionError):
    """A broken promise: what was promised, what was found and what to do about it."""

    def __init__(self, *, promised: str, found: str, todo: str) -> None:
        self.promised, self.found, self.todo = promised, found, todo
        super().__init__(f"promised: {promised}\nfound: {found}\nto do: {todo}")

    @classmethod
    def from_text(cls, text: str) -> CheckFailure:
        """Make the error again from its own message."""
        failure = cls.__new__(cls)
        AssertionError.__init__(failure, text)
        return failure


class CheckSkipped(Exception):
    """A check that says nothing about this part, and why."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One promise of the part contract.

    Attributes:
        name: The function's name without ``check_``; unique within a kind.
        promise: What is promised, the first line of the function's docstring.
        run: The check itself; raises `CheckFailure` or `CheckSkipped`.
        slow: Takes seconds and runs on demand only.
        may_skip: Applies to some parts only (such as the causal ones). Any other check that skips fails.
    """

    name: str
    promise: str
    run: Callable[[Subject], None]
    slow: bool = False
    may_skip: bool = False


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """The outcome of one check on one part.

    Attributes:
        kind: Kind of the part.
        part: ``plugin:name`` of the part.
        check: Name of the check.
        status: passed, failed or skipped.
        reason: Why it failed or was skipped; empty when it passed.
        seconds: Wall-clock time it took.
    """

    kind: Kind
    part: str
    check: str
    status: Status
    reason: str
    seconds: float


def fail(promised: str, found: str, todo: str) -> CheckFailure:
    """Make the error to raise for a broken promise."""
    return CheckFailure(promised=promised, found=found, todo=todo)


def checks(*functions: Callable[[Subject], None], slow: bool = False, may_skip: bool = False) -> list[Check]:
    """Describe check functions by their own names and docstrings."""
    return [
        Check(
            name=function.__name__.removeprefix("check_"),
            promise=(inspect.getdoc(function) or "").partition("\n")[0].rstrip("."),
            run=function,
            slow=slow,
            may_skip=may_skip,
        )
        for function in functions
    ]
