"""Reading recipes from YAML: plain data, with the file and line of every mistake.

A registry file holds one mapping ``recipes:`` of names to recipes. Anchors, aliases, tags, merge keys,
duplicate keys and several documents are refused; numbers and words follow the YAML 1.2 core schema, so
``1e-4`` is a number and ``no`` a word.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from zoo.errors import RecipeError

if TYPE_CHECKING:
    from zoo.recipes import Recipe

MAX_BYTES = 1 << 20
MAX_DEPTH = 12
MAX_EXTENDS = 8
MAX_VALUES = 20_000
MAX_TEXT = 2000
MAX_PROBLEMS = 20
_OF_ONE_MODEL = ("parameters", "results", "published")  # not true of a recipe that extends or changes it
PART_FIELDS = ("encoder", "quantizer", "decoder", "generator", "discriminator")
TOKENIZER_FIELDS = ("encoder", "quantizer", "decoder", "pre_quant", "post_quant")
_NAME = re.compile(r"[a-z0-9]+(?:[-_.][a-z0-9]+)*")

Path_ = tuple[str | int, ...]
Lines = dict[Path_, str]
"""Where each value of a document stands: path in the document -> ``file:line``."""


@dataclasses.dataclass(frozen=True)
class RecipeSource:
    """A recipe as written: unchecked data and where each value stands."""

    name: str
    data: dict[str, Any]
    lines: Lines
    plugin: str

    def where(self, path: Path_ = ()) -> str:
        """Return ``file:line`` of the value at a path, or of the closest one around it."""
        return locate(self.lines, path)


@dataclasses.dataclass(frozen=True)
class Resolved:
    """A checked recipe, after inheritance and overrides, with the lines its values came from."""

    name: str
    recipe: Recipe
    lines: Lines

    def where(self, *path: str | int) -> str:
        return locate(self.lines, path)


def locate(lines: Lines, path: Path_) -> str:
    """Return where a path stands, or the closest path around it; an empty string when unknown."""
    for end in range(len(path), -1, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return ""


def read_registry(path: Path, *, plugin: str = "") -> dict[str, RecipeSource]:
    """Read the recipes of a registry file.

    Raises:
        RecipeError: The file cannot be read or is not a registry; the message has the line.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise RecipeError(f"{path}: not a regular file")
        if size > MAX_BYTES:
            raise RecipeError(f"{path}: {size:,} bytes; a registry file has at most {MAX_BYTES:,}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    data, lines = parse_yaml(text, path.name)
    top = data.get("recipes") if isinstance(data, dict) else None
    if not isinstance(data, dict) or set(data) != {"recipes"} or not isinstance(top, dict):
        raise RecipeError(
            f"{path.name}:1: a registry file holds one mapping 'recipes:' of recipe names to recipes"
        )
    inside: dict[str, Lines] = {name: {} for name in top}
    for at, line in lines.items():
        if len(at) >= 2:
            inside[str(at[1])][at[2:]] = line
    result = {}
    for name, fields in top.items():
        where = lines["recipes", name]
        if not _NAME.fullmatch(name) or len(name) > 100:
            raise RecipeError(
                f"{where}: recipe name {name[:100]!a}: use lower-case letters and digits joined by -"
            )
        if not isinstance(fields, dict):
            raise RecipeError(f"{where}: recipe {name!r} must be a mapping; found {fields!r}")
        result[name] = RecipeSource(name, fields, inside[name], plugin)
    return result


def resolve(
    source: RecipeSource, overrides: Mapping[str, Any], parents: Mapping[str, RecipeSource]
) -> Resolved:
    """Apply inheritance and overrides to a recipe, then check it.

    Args:
        source: The recipe as written.
        overrides: Changes in the recipe's own words, such as ``{"quantizer": "fsq"}``.
        parents: Recipes that `extends` may name.

    Raises:
        RecipeError: Anything is not as the schema says, with file, line and path.
    """
    data, lines = _inherited(source, parents)
    for path, _ in _walk(overrides):
        lines[path] = "override"
    if any(field in overrides for field in (*PART_FIELDS, *TOKENIZER_FIELDS, "tokenizer", "clip")):
        # What was counted and measured is no longer true of the changed model.
        data = {k: v for k, v in data.items() if k not in _OF_ONE_MODEL}
    data = {k: v for k, v in merge(data, overrides).items() if k != "extends"}
    data = _with_tokenizer(data, lines, parents)
    return Resolved(source.name, validate(data, lines), lines)


def _inherited(source: RecipeSource, parents: Mapping[str, RecipeSource]) -> tuple[dict[str, Any], Lines]:
    """Merge a recipe into those that it extends."""
    chain = [source]
    while (parent := chain[-1].data.get("extends")) is not None:
        place = f"{where}: " if (where := chain[-1].where(("extends",))) else ""
        if not isinstance(parent, str) or parent not in parents:
            raise RecipeError(f"{place}extends {parent!r}, which is not known{_closest(parent, parents)}")
        if any(parent == s.name for s in chain) or len(chain) > MAX_EXTENDS:
            names = " -> ".join([*(s.name for s in chain), parent])
            raise RecipeError(f"{place}extends goes in a circle or too deep: {names}")
        chain.append(parents[parent])
    data: dict[str, Any] = {}
    lines: Lines = {}
    for ancestor in reversed(chain):
        own = {k: v for k, v in ancestor.data.items() if k not in _OF_ONE_MODEL}
        data = merge(data, own if ancestor is not source else ancestor.data)
        lines |= ancestor.lines
    return data, lines


def _with_tokenizer(
    data: dict[str, Any], lines: Lines, parents: Mapping[str, RecipeSource]
) -> dict[str, Any]:
    """Take what a recipe leaves out of its tokenizer from the recipe that it names for it."""
    named = _as_part(data.get("tokenizer"))
    if not isinstance(named, Mapping) or not isinstance(named.get("use"), str):
        return data
    if "train" in named and all(field in data for field in ("encoder", "quantizer", "decoder")):
        return data  # saved with a model: what the recipe of that name is today does not matter
    if named["use"] not in parents:
        where = locate(lines, ("tokenizer",))
        raise RecipeError(
            f"{where + ': ' if where else ''}tokenizer {named['use']!r} is not known"
            f"{_closest(named['use'], parents)}"
        )
    theirs, _ = _inherited(parents[named["use"]], parents)
    if theirs.get("assembly") != "autoencoder":
        raise RecipeError(
            f"tokenizer {named['use']!r} is a {theirs.get('assembly')}; a tokenizer is an autoencoder. See: "
            "zoo list"
        )
    stage: dict[str, Any] = {key: theirs[key] for key in ("train", "discriminator") if key in theirs}
    base = {key: theirs[key] for key in (*TOKENIZER_FIELDS, "clip") if key in theirs}
    return merge(base, {**data, "tokenizer": merge(stage, named)})


def _closest(name: Any, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=3)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` changed by `over`: mappings merge, a part with another `use` starts clean."""
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        if key in PART_FIELDS or key == "tokenizer":
            result[key] = _merge_part(old, value)
        elif isinstance(old, Mapping) and isinstance(value, Mapping):
            result[key] = _merge_plain(old, value)
        else:
            result[key] = value
    return result


def _merge_plain(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        # What an augmentation takes depends on its `use`, as a part's options do.
        mixed = _merge_part if key == "augment" else _merge_plain
        result[key] = mixed(old, value) if both else value  # type: ignore[arg-type]
    return result


def _merge_part(old: Any, value: Any) -> Any:
    value, old = _as_part(value), _as_part(old)
    if isinstance(old, list) and isinstance(value, Mapping):
        return _merge_into_list(old, value)
    if not isinstance(value, Mapping) or not isinstance(old, Mapping):
        return value
    if value.get("use", old.get("use")) != old.get("use"):
        return dict(value)
    return {**old, **value}


def _as_part(value: Any) -> Any:
    return {"use": value} if isinstance(value, str) else value


def _merge_into_list(old: list[Any], value: Mapping[str, Any]) -> list[Any]:
    """Change one of several parts: by its number as in ``{"1": {...}}``, or the only one there is."""
    if len(old) == 1 and not all(str(key).isdecimal() for key in value):
        return [_merge_part(old[0], value)]
    result = list(old)
    for key, change in value.items():
        if not str(key).isdecimal() or int(key) >= len(old):
            last = len(old) - 1
            raise RecipeError(
                f"override: there are {len(old)} discriminators: change one by its number, such as "
                f"discriminator.{last}.weight, or give a list of all; found {key!r}"
            )
        result[int(key)] = _merge_part(old[int(key)], change)
    return result


def validate(data: Mapping[str, Any], lines: Lines) -> Recipe:
    """Check plain data against the schema.

    Raises:
        RecipeError: One line per mistake: where, path, what was found and what is allowed.
    """
    from pydantic import ValidationError

    from zoo.recipes import Recipe

    try:
        return Recipe.model_validate(dict(data))
    except ValidationError as error:
        problems = []
        for item in error.errors(include_url=False):
            path = tuple(item["loc"])
            where = locate(lines, path)
            text = f"{where + ': ' if where else ''}{'.'.join(map(str, path)) or 'recipe'}: "
            problems.append(text + _sentence(item, path))
        if len(problems) > MAX_PROBLEMS:
            problems[MAX_PROBLEMS:] = [f"... and {len(problems) - MAX_PROBLEMS} more"]
        raise RecipeError("\n".join(problems)) from None


def _sentence(item: Any, path: Path_) -> str:
    if item["type"] == "extra_forbidden":
        allowed = sorted(_allowed_fields(path[:-1]))
        close = difflib.get_close_matches(str(path[-1]), allowed, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        return f"unknown field{hint} Allowed: {', '.join(allowed)}"
    if item["type"] == "missing":
        return "is missing"
    message = item["msg"][0].lower() + item["msg"][1:]
    found = repr(item["input"])
    return f"{message}; found {found if len(found) < 80 else found[:77] + '...'}"


def _allowed_fields(path: Path_) -> list[str]:
    from pydantic import BaseModel

    from zoo.recipes import Recipe

    model: type[BaseModel] = Recipe
    choices: dict[str, type[BaseModel]] = {}
    for step in path:
        field = model.model_fields.get(str(step))
        if field is None:
            model = choices.get(str(step), model)
            continue
        inner = [m for m in _models_in(field.annotation) if issubclass(m, BaseModel)]
        choices = {
            str(use): m
            for m in inner
            if "use" in m.model_fields
            for use in _words(m.model_fields["use"].annotation)
        }
        model = inner[0] if inner else model
    return list(model.model_fields)


def _words(annotation: Any) -> tuple[Any, ...]:
    """Return what a `Literal` allows; nothing of another type."""
    return getattr(annotation, "__args__", ())


def _models_in(annotation: Any) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _models_in(argument)


def _walk(data: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    if path:
        yield path, data
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _walk(value, (*path, key))


def parse_yaml(text: str, name: str) -> tuple[Any, Lines]:
    """Parse one YAML document into plain data and the line of every value.

    Raises:
        RecipeError: Not YAML, or YAML with anything beyond plain mappings, lists and scalars.
    """
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        return _Builder(name, yaml.parse(text, Loader=loader)).document()
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise RecipeError(
            f"{name}:{line}: not valid YAML: {getattr(error, 'problem', None) or error}"
        ) from None


class _Builder:
    """Builds data from parser events, refusing everything that is not plain data."""

    def __init__(self, name: str, events: Iterator[yaml.Event]) -> None:
        self.name = name
        self.events = events
        self.lines: Lines = {}
        self.count = 0

    def fail(self, event: yaml.Event, message: str) -> RecipeError:
        return RecipeError(f"{self.name}:{_line(event)}: {message}")

    def document(self) -> tuple[Any, Lines]:
        data: Any = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self.fail(event, "a second document; a file holds one")
                data = self.value(next(self.events), ())
        return data, self.lines

    def value(self, event: yaml.Event, path: Path_) -> Any:
        if len(path) > MAX_DEPTH:
            raise self.fail(event, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise self.fail(event, "anchors and aliases are not allowed; write the value out")
        if getattr(event, "tag", None):
            raise self.fail(event, f"the tag {event.tag!r} is not allowed; use plain values")  # type: ignore[attr-defined]
        self.lines[path] = f"{self.name}:{_line(event)}"
        self.count += 1
        if self.count > MAX_VALUES:
            raise self.fail(event, f"more than {MAX_VALUES:,} values; a registry file has fewer")
        if isinstance(event, yaml.ScalarEvent):
            return self.scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
                items.append(self.value(event, (*path, len(items))))
            return items
        mapping: dict[str, Any] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self.key(event, mapping)
            mapping[key] = self.value(next(self.events), (*path, key))
            self.lines[*path, key] = f"{self.name}:{_line(event)}"
        return mapping

    def scalar(self, event: yaml.ScalarEvent) -> Any:
        """Return what a text, number or word means."""
        self.text(event)
        value = _scalar(event.value) if event.implicit[0] else event.value
        if isinstance(value, float) and not math.isfinite(value):
            raise self.fail(event, f"the number {event.value} is too large")
        return value

    def text(self, event: yaml.ScalarEvent) -> None:
        """Refuse what a terminal would not show as it is, and what is too long for a recipe."""
        if len(event.value) > MAX_TEXT:
            raise self.fail(event, f"a text of {len(event.value):,} letters; at most {MAX_TEXT:,} are read")
        if not event.value.replace("\n", "").isprintable():
            raise self.fail(
                event, f"letters that cannot be seen, or that move a cursor: {event.value[:100]!a}"
            )

    def key(self, event: yaml.Event, mapping: dict[str, Any]) -> str:
        if not isinstance(event, yaml.ScalarEvent) or event.tag or event.anchor:
            raise self.fail(event, "a key must be a plain word")
        self.text(event)
        if event.value in mapping:
            raise self.fail(event, f"the key {event.value!r} stands twice")
        if event.value == "<<":
            raise self.fail(event, "merge keys are not allowed; use `extends`")
        return str(event.value)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


_INT = re.compile(r"[-+]?[0-9]{1,19}")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,4})?")
_WORDS: dict[str, Any] = {"~": None, "": None}
for _word, _value in (("null", None), ("true", True), ("false", False)):
    _WORDS |= {_word: _value, _word.capitalize(): _value, _word.upper(): _value}


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
