"""Reading pickles without running them: a pickle is a program, and here it can only build plain data.

Python's own unpickler imports what a pickle names and calls it. This one has no way to: whatever is named
becomes a `Global`, and calling one gives an `Inert`, which remembers what was asked for.
"""

from __future__ import annotations

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple, cast

from zoo.errors import WeightsError

MAX_PICKLE_BYTES = 256 << 20
"""Longest pickle that is read, tensors apart: real ones have a few megabytes."""

MAX_OPCODES = 400_000
"""Steps of one pickle: a tensor takes about 40."""


class Global(NamedTuple):
    """The name of a class or function, which is never looked up."""

    module: str
    name: str


@dataclasses.dataclass(eq=False, repr=False, slots=True)
class Inert:
    """What a pickle wanted to make by a call that was not made. It has no repr, which might never end.

    Attributes:
        called: What it wanted to call: mostly a `Global`.
        args: With what.
        state: What the object was to be filled with.
        pairs: What was to be set in it by key.
        items: What was to be appended to it.
    """

    called: Any
    args: Any = ()
    state: Any = None
    pairs: dict[Any, Any] = dataclasses.field(default_factory=dict)
    items: list[Any] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False, repr=False, slots=True)
class ForeignKey:
    """A key of a dictionary that is no plain value, kept by identity: hashing it may never end."""

    value: Any


def is_plain_key(key: Any) -> bool:
    """Whether a key is a plain value whose hash nobody can choose, as that of large integers can be."""
    if isinstance(key, int):
        return abs(key) < 1 << 60
    return key is None or isinstance(key, str | float | bytes)


class Capped:
    """A stream that refuses to give more than a number of bytes, however long the lines in it."""

    def __init__(self, stream: BinaryIO, most: int) -> None:
        self._stream = stream
        self._end = stream.tell() + most

    def tell(self) -> int:
        return self._stream.tell()

    def read(self, size: int) -> bytes:
        self._check(size)
        return self._stream.read(size)

    def readline(self) -> bytes:
        line = self._stream.readline(self._end - self._stream.tell() + 1)
        self._check(0)
        return line

    def _check(self, size: int) -> None:
        if size < 0 or self._stream.tell() + size > self._end:
            raise ValueError("it asks for more bytes than a pickle of weights has")


def read_pickle(
    stream: BinaryIO,
    *,
    call: Callable[[Global, tuple[Any, ...]], Any],
    persistent: Callable[[Any], Any],
    most: int = MAX_PICKLE_BYTES,
) -> Any:
    """Read one pickle into plain values, `Inert` objects and what `call` and `persistent` make.

    Args:
        stream: Where it begins; left just after its end.
        call: Makes something of a call that the pickle asks for, or an `Inert`. It must do nothing else.
        persistent: Makes something of a persistent id.
        most: Longest pickle in bytes.

    Raises:
        WeightsError: It is damaged, cut short, too long, or uses what no file of weights uses.
    """
    machine = _Machine(call, persistent)
    count = 0
    try:
        for opcode, arg, _ in pickletools.genops(cast(BinaryIO, Capped(stream, most))):
            count += 1
            if count > MAX_OPCODES:
                raise WeightsError("the pickle has more steps than one of weights has")
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, arg)
    except WeightsError:
        raise
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        AttributeError,
        RecursionError,
    ) as error:
        raise WeightsError(
            f"the pickle is damaged or cut short after {count:,} steps: {type(error).__name__}: {error}"
        ) from error
    raise WeightsError(f"the pickle has no end after {count:,} steps")


class _Machine:
    """The stack machine that a pickle is a program for, less everything that acts."""

    def __init__(
        self, call: Callable[[Global, tuple[Any, ...]], Any], persistent: Callable[[Any], Any]
    ) -> None:
        self.call = call
        self.persistent = persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        """Return what lies above the last mark, and take it off."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def step(self, name: str, arg: Any) -> None:
        """Run one opcode."""
        push = self.stack.append
        match name:
            case "PROTO" | "FRAME":
                pass
            case (
                "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT"
                | "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8"
                | "BYTEARRAY8" | "UNICODE" | "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8"
            ):  # fmt: skip
                push(arg)
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(name == "NEWTRUE")
            case "MARK":
                self.marks.append(self.stack)
                self.stack = []
            case "POP":
                if self.stack:
                    self.stack.pop()
                else:
                    self.pop_mark()
            case "POP_MARK":
                self.pop_mark()
            case "DUP":
                push(self.stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                if not is_plain_key(arg):
                    raise ValueError("a place in its memo beyond any that a pickle needs")
                self.memo[arg] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self.memo[arg])
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = 0 if name == "EMPTY_TUPLE" else int(name[-1])
                items = tuple(self.stack[len(self.stack) - size :])
                if len(items) < size:
                    raise IndexError("a tuple of more than there is")
                del self.stack[len(self.stack) - size :]
                self.stack.append(items)
            case "TUPLE" | "LIST" | "FROZENSET":
                made = self.pop_mark()
                self.stack.append(tuple(made) if name == "TUPLE" else made)
            case "EMPTY_LIST" | "EMPTY_SET":
                push([])
            case "EMPTY_DICT":
                push({})
            case "DICT":
                pairs = self.pop_mark()
                self.stack.append({})
                self._set(pairs)
            case "APPEND":
                item = self.pop()
                self._extend([item])
            case "APPENDS" | "ADDITEMS":
                self._extend(self.pop_mark())
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self._set([key, value])
            case "SETITEMS":
                self._set(self.pop_mark())
            case "GLOBAL":
                push(Global(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute, module = self.pop(), self.pop()
                if not isinstance(attribute, str) or not isinstance(module, str):
                    raise TypeError("a name that is no text")
                push(Global(module, attribute))
            case "REDUCE" | "NEWOBJ":
                args, called = self.pop(), self.pop()
                push(self._made(called, args))
            case "NEWOBJ_EX":
                named, args, called = self.pop(), self.pop(), self.pop()
                push(Inert(called, (args, named)))
            case "OBJ":
                called, *args = self.pop_mark()
                self.stack.append(self._made(called, tuple(args)))
            case "INST":
                made = self.pop_mark()
                self.stack.append(self._made(Global(*arg.split(" ", 1)), tuple(made)))
            case "BUILD":
                state = self.pop()
                if isinstance(self.stack[-1], Inert):
                    self.stack[-1].state = state
            case "PERSID" | "BINPERSID":
                push(self.persistent(arg if name == "PERSID" else self.pop()))
            case _:
                raise WeightsError(f"the pickle uses {name}, which no file of weights does; it is not read")

    def _made(self, called: Any, args: Any) -> Any:
        if isinstance(called, Global) and isinstance(args, tuple):
            return self.call(called, args)
        return Inert(called, args)

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list | Inert):
            raise TypeError(f"items for a {type(target).__name__}")
        (target.items if isinstance(target, Inert) else target).extend(items)

    def _set(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict | Inert):
            raise TypeError(f"keys for a {type(target).__name__}")
        pairs = target.pairs if isinstance(target, Inert) else target
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            pairs[key if is_plain_key(key) else ForeignKey(key)] = value
