"""JSON from strangers: one meaning for each document, or none."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

MAX_DEPTH = 32


def loads(data: bytes) -> Any:
    """Parse UTF-8 JSON that every parser reads alike, and refuse the rest.

    Raises:
        ValueError: Not JSON; or a key stands twice, a number is not finite or an integer of more than 19
            digits, text holds half a character, or values are nested more than `MAX_DEPTH` deep.
    """
    text = data.decode("utf-8")
    try:
        value = json.loads(
            text, object_pairs_hook=_once, parse_constant=_refuse, parse_int=_integer, parse_float=_finite
        )
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    _check_depth(value)
    if "\\u" in text:  # half a pair, written as an escape, is no character
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def forgiving(data: bytes) -> Any:
    """Parse JSON that runs of ours wrote and anything may have happened to since.

    Numbers that are not finite and half characters stay, an integer of more than 19 digits becomes a float.

    Raises:
        ValueError: Not JSON, or values are nested more than `MAX_DEPTH` deep.
    """
    try:
        value = json.loads(data.decode("utf-8", errors="replace"), parse_int=_number)
    except RecursionError:
        raise ValueError(f"nested more than {MAX_DEPTH} deep") from None
    _check_depth(value)
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name[:100]!r} stands twice")
        found[name] = value
    return found


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number in JSON")


def _integer(digits: str) -> int:
    if len(digits) > 20 or digits == "-0":
        raise ValueError(f"the number {digits[:24]} is too large, or no integer")
    return int(digits)


def _number(digits: str) -> int | float:
    return int(digits) if len(digits) < 20 else float(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:24]} is not finite")
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                inner += [child for child in item.values() if isinstance(child, dict | list)]
            elif isinstance(item, list):
                inner += [child for child in item if isinstance(child, dict | list)]
        if not inner:
            return
        level = inner
    raise ValueError(f"nested more than {MAX_DEPTH} deep")
