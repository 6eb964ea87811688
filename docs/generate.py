"""Writes the pages that follow from the code: docs/cli.md, docs/recipe-schema.md, the tables in README.md,
docs/tokenizers.md, docs/gans.md, docs/weights.md, docs/performance.md and docs/reliability.md.

``python docs/generate.py`` writes them; with ``--check`` it leaves with 1 when one of them is out of date,
which tests/test_docs.py holds too.
"""

from __future__ import annotations

import ast
import functools
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from pydantic import BaseModel

from zoo import recipes
from zoo.cli.common import count
from zoo.cli.facts import model_facts
from zoo.cli.group import cli
from zoo.discovery import catalogue

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "docs"), str(ROOT)]
from gans_page import gan_table  # noqa: E402 - a file beside this one, however this one is run
from reliability_page import reliability_table  # noqa: E402 - alike
from tokenizers_page import tokenizer_tables  # noqa: E402 - alike

from benchmarks.options import OUTPUT as PERFORMANCE  # noqa: E402 - a folder beside this one
from benchmarks.options import table as performance_table  # noqa: E402 - alike
from benchmarks.stabilisers import OUTPUT as STABILITY  # noqa: E402 - alike
from benchmarks.stabilisers import table as stability_table  # noqa: E402 - alike

NOTE = "<!-- Written by docs/generate.py. Do not edit. -->"

SHORT_FORMS = {
    "PartChoice": "A part may be written as its name alone: `quantizer: fsq` is `quantizer: {use: fsq}`.",
    "DiscriminatorChoice": "One discriminator may be written without the list, and by its name alone.",
}


PART_FIELDS = {
    "encoder": "Turns clips into latents; `autoencoder` only.",
    "quantizer": "Turns latents into codes, or into a continuous bottleneck; `autoencoder` only.",
    "decoder": "Turns what the quantizer emits into clips; `autoencoder` only.",
    "generator": "Makes clips from noise; `gan` only.",
    "discriminator": "Judge clips while training; any number of them.",
}
"""Meaning of the fields that hold parts."""


def pages() -> dict[Path, str]:
    """Return the text that each generated file should hold, by path."""
    return {
        ROOT / "docs" / "cli.md": cli_page(),
        ROOT / "docs" / "recipe-schema.md": schema_page(),
        ROOT / "docs" / "recipe.schema.json": json.dumps(json_schema(), indent=2) + "\n",
        **{
            path: with_parts(path, **parts)
            for path, parts in {
                ROOT / "README.md": {"models": model_table()},
                ROOT / "docs" / "weights.md": {"converters": converter_table()},
                ROOT / "docs" / "tokenizers.md": {"tokenizers": tokenizer_tables(facts_of)},
                ROOT / "docs" / "gans.md": {"gans": gan_table(facts_of)},
                ROOT / "docs" / "gan-stability.md": {
                    data: stability_table(found["rows"])
                    for data, found in json.loads(STABILITY.read_text(encoding="utf-8")).items()
                },
                ROOT / "docs" / "performance.md": {
                    "options": performance_table(json.loads(PERFORMANCE.read_text(encoding="utf-8")))
                },
                ROOT / "docs" / "reliability.md": {"reliability": reliability_table()},
            }.items()
        },
    }


@functools.cache
def facts_of(name: str) -> dict[str, Any]:
    """Return `model_facts` of a recipe; several tables show them."""
    return model_facts(name)


def commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, by its full name, in the order of ``zoo --help``."""
    context = click.Context(cli, info_name="zoo")
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            inner = click.Context(command, info_name=name, parent=context)
            for sub in command.list_commands(inner):
                found = command.get_command(inner, sub)
                assert found is not None
                yield f"{name} {sub}", found
        else:
            yield name, command


def cli_page() -> str:
    """Return the page on the command line, from the commands themselves."""
    lines = [NOTE, "", "# The command line", "", *_help(cli), ""]
    lines += [f"- [`zoo {name}`](#zoo-{name.replace(' ', '-')})" for name, _ in commands()]
    for name, command in commands():
        arguments = " ".join(_argument(p) for p in command.params if isinstance(p, click.Argument))
        lines += [
            "",
            f"## zoo {name}",
            "",
            "```text",
            f"zoo {name} {arguments}".strip() + " [OPTIONS]",
            "```",
            "",
        ]
        lines += _help(command)
        options = [p for p in command.params if isinstance(p, click.Option)]
        if options:
            lines += ["", "| option | meaning |", "|---|---|"]
            lines += [f"| `{_option(option)}` | {_cell(_meaning(option))} |" for option in options]
    return "\n".join(lines) + "\n"


def _help(command: click.Command) -> list[str]:
    """Return a command's help as Markdown: paragraphs on one line, the example as a code block."""
    lines: list[str] = []
    for block in inspect.cleandoc(command.help or "").split("\n\n"):
        if block.startswith("\b\n"):
            title, *example = block.removeprefix("\b\n").splitlines()
            code = textwrap.dedent("\n".join(example))
            lines += ["", title, "", "```sh", code, "```"]
        else:
            lines += ["", " ".join(block.split())]
    return lines[1:]


def _argument(argument: click.Argument) -> str:
    name = argument.metavar or str(argument.name).upper()
    return name if argument.required else f"[{name}]"


def _option(option: click.Option) -> str:
    flags = ", ".join(option.opts)
    if option.is_flag:
        return flags
    if isinstance(option.type, click.Choice):
        return f"{flags} {'/'.join(map(str, option.type.choices))}"
    return f"{flags} {option.metavar or option.type.name.upper()}"


def _meaning(option: click.Option) -> str:
    required = " Required." if option.required else ""
    default = f" {option.default} when left out." if option.show_default else ""
    return f"{option.help}{required}{default}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("``", "`")


def models() -> list[type[BaseModel]]:
    """List the classes of the recipe schema: Recipe first, then each where it is first used."""
    found: list[type[BaseModel]] = []
    waiting: list[type[BaseModel]] = [recipes.Recipe]
    while waiting:
        model = waiting.pop(0)
        if model not in found:
            found.append(model)
            inner = [cls for field in model.model_fields.values() for cls in _inner_models(field.annotation)]
            waiting = [*inner, *waiting]
    return found


def _inner_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in getattr(annotation, "__args__", ()) for model in _inner_models(argument)]


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring under each field of a class and of its bases, or else of what the field holds."""
    docs = dict(PART_FIELDS) if model is recipes.Recipe else {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel:
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(body, ast.ClassDef)
        previous: ast.stmt | None = None
        for statement in body.body:
            if (
                isinstance(previous, ast.AnnAssign)
                and isinstance(previous.target, ast.Name)
                and isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
            ):
                docs[previous.target.id] = inspect.cleandoc(str(statement.value.value))
            previous = statement
    for name, field in model.model_fields.items():
        if name not in docs and (inner := _inner_models(field.annotation)):
            docs[name] = _paragraph(inner[0])
    return docs


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a registry file, for editors that check YAML while one types."""
    schema = recipes.Recipe.model_json_schema()
    definitions: dict[str, Any] = schema.pop("$defs")
    definitions["Recipe"] = schema
    for model in models():
        definition = definitions[model.__name__]
        definition["description"] = _paragraph(model)
        docs = field_docs(model)
        for name, field in definition["properties"].items():
            field.pop("title", None)
            if name in docs:
                field["description"] = docs[name]
    word = {"type": "string", "description": "Name of the part."}
    for choice in ("PartChoice", "DiscriminatorChoice", "FirstStage"):
        # Left out, `use` is the one of the recipe that this one extends.
        definitions[choice].pop("required", None)
    for choice in ("PartChoice", "DiscriminatorChoice"):
        definitions[choice]["additionalProperties"] = True
    for kind in ("encoder", "quantizer", "decoder", "generator"):
        schema["properties"][kind]["anyOf"].insert(0, word)
    schema["properties"]["tokenizer"]["anyOf"].insert(0, {**word, "description": "Name of the recipe."})
    one = {"anyOf": [word, {"$ref": "#/$defs/DiscriminatorChoice"}]}
    discriminator = schema["properties"]["discriminator"]
    schema["properties"]["discriminator"] = {
        **{key: discriminator[key] for key in ("description", "default") if key in discriminator},
        "anyOf": [*one["anyOf"], {"type": "array", "items": one, "maxItems": discriminator["maxItems"]}],
    }
    required = schema.pop("required")
    schema["anyOf"] = [{"required": ["extends"]}, {"required": required}]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Registry of zoo recipes",
        "type": "object",
        "properties": {"recipes": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Recipe"}}},
        "required": ["recipes"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _paragraph(model: type[BaseModel]) -> str:
    return " ".join(inspect.cleandoc(model.__doc__ or "").split("\n\n")[0].split())


def schema_page() -> str:
    """Return the page on the fields of a recipe, from the schema's own classes."""
    lines = [
        NOTE,
        "",
        "# The recipe schema",
        "",
        "A registry file holds one mapping, `recipes:`, of recipe names to recipes. Every field is listed",
        "here; any other is an error, which names the file and the line. [add-a-recipe.md](add-a-recipe.md)",
        "shows how to write one, and `zoo recipe check FILE` checks it. Editors complete and check a file",
        "that begins with `# yaml-language-server: $schema=PATH/recipe.schema.json`, a copy of",
        "[recipe.schema.json](recipe.schema.json).",
        "",
        "A recipe that `extends` another holds only what differs. Anchors, aliases, tags, merge keys and",
        "duplicate keys are refused.",
    ]
    for model in models():
        docs = field_docs(model)
        schema = model.model_json_schema()
        lines += ["", f"## {model.__name__}", "", _paragraph(model)]
        if model.__name__ in SHORT_FORMS:
            lines += ["", SHORT_FORMS[model.__name__]]
        lines += ["", "| field | value | left out | meaning |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            value = _value(schema["properties"][name], schema.get("$defs", {}))
            default = (
                "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
            )
            lines.append(f"| `{name}` | {_cell(value)} | {default} | {_cell(docs.get(name, ''))} |")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its defaults"
    return f"`{json.dumps(value)}`"


def _value(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return what a field may hold, in words, from its JSON Schema."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_value(s, definitions) for s in schema["anyOf"] if s.get("type") != "null")
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        length = f", {schema['minItems']} of them" if schema.get("minItems") else ""
        most = f", at most {schema['maxItems']}" if schema.get("maxItems") and not length else ""
        return f"list of {_value(schema['items'], definitions)}{length}{most}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"mapping of names to {_value(schema['additionalProperties'], definitions)}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    limits = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {_number(schema[key])}" for key, sign in limits.items() if key in schema]
    return " ".join([words[schema["type"]], *([", ".join(bounds)] if bounds else [])])


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def model_table() -> str:
    """Return the table of the models that train in minutes, as Markdown."""
    lines = [
        "| model | family | clip | parameters | compression | measured | paper |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in (name for name in catalogue().bundled_recipes() if name.endswith("-tiny")):
        facts = facts_of(name)
        clip = facts["clip"]
        size = f"{clip['num_frames']}×{clip['height']}×{clip['width']}"
        small = facts["compression"]
        ratio = f"{small['ratio']:.0f}:1 at stride {'×'.join(map(str, small['stride']))}" if small else "–"
        figures = facts["results"][-1]["figures"] if facts["results"] else {}
        measured = ", ".join(f"{key} {value:g}" for key, value in figures.items()) or "no run yet"
        paper = f"[link]({facts['paper']})" if facts["paper"] else ""
        cells = (f"`{name}`", facts["family"], size, count(facts["parameters"]), ratio, measured, paper)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def converter_table() -> str:
    """Return the table of published weights that can be converted, as Markdown."""
    lines = ["| family | what | recipes | published at |", "|---|---|---|---|"]
    known = catalogue()
    ours = {plugin.name for plugin in known.plugins if plugin.ours}
    for offered in sorted(known.converters, key=lambda offered: offered.name):
        if offered.plugin in ours:
            spec = offered.spec
            patterns = ", ".join(f"`{pattern}`" for pattern in spec.recipes)
            link = f"[{urlsplit(spec.source).hostname}]({spec.source})"
            lines.append(f"| `{spec.name}` | {_cell(spec.summary)} | {patterns} | {link} |")
    return "\n".join(lines)


def with_parts(path: Path, **made: str) -> str:
    """Return the text of a page with what was made put between its two marks, each under its name."""
    text = path.read_text(encoding="utf-8")
    for name, part in made.items():
        opening, closing = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
        before, start, rest = text.partition(opening)
        _, end, after = rest.partition(closing)
        if not start or not end:
            raise SystemExit(f"{path.name} has no {opening} and {closing} to put the tables between")
        text = f"{before}{opening}\n{part}\n{closing}{after}"
    return text


def main() -> int:
    """Write the generated pages, or with ``--check`` say which are out of date."""
    stale = []
    for path, text in pages().items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path)
            if "--check" not in sys.argv[1:]:
                path.write_text(text, encoding="utf-8")
    for path in stale:
        print(f"{'out of date' if '--check' in sys.argv[1:] else 'written'}: {path.relative_to(ROOT)}")
    return 1 if stale and "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
