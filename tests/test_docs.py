"""The generated pages are true, the README's Python runs, links lead somewhere, commands exist."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

from zoo.building import resolve_recipe

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "docs" / "generate.py"))


def test_generated_pages_are_what_the_code_says(generator: dict[str, Any]) -> None:
    stale = [
        path.name for path, text in generator["pages"]().items() if path.read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run: python docs/generate.py"


def test_every_field_and_option_is_explained(generator: dict[str, Any]) -> None:
    for model in generator["models"]():
        undocumented = set(model.model_fields) - set(generator["field_docs"](model))
        assert undocumented == set(), model.__name__
    for name, command in generator["commands"]():
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or parameter.help, (name, parameter.name)


def test_the_json_schema_knows_every_field_that_recipes_use(generator: dict[str, Any]) -> None:
    from zoo.discovery import catalogue

    definitions = generator["json_schema"]()["$defs"]

    def names(schema: dict[str, Any]) -> Any:
        """What `use` has to say for this one of several schemas."""
        schema = definitions.get(schema.get("$ref", "").rpartition("/")[2], schema)
        return schema.get("properties", {}).get("use", {}).get("const")

    def check(data: Any, schema: dict[str, Any], where: str) -> None:
        if "$ref" in schema:
            return check(data, definitions[schema["$ref"].rsplit("/", 1)[1]], where)
        if "anyOf" in schema and "properties" not in schema:
            options = [s for s in schema["anyOf"] if s.get("type") != "null"]
            wanted = {str: "string", list: "array"}.get(type(data))
            fitting = [s for s in options if wanted is None or s.get("type") == wanted]
            assert fitting, where
            named = [s for s in fitting if isinstance(data, dict) and names(s) == data.get("use")]
            return check(data, (named or fitting)[-1], where)
        if isinstance(data, list):
            return [check(item, schema["items"], f"{where}.{n}") for n, item in enumerate(data)]
        if isinstance(data, dict) and "properties" in schema:
            for key, value in data.items():
                if key in schema["properties"]:
                    check(value, schema["properties"][key], f"{where}.{key}")
                else:
                    assert schema["additionalProperties"] is True, f"{where}.{key}"
        return None

    assert catalogue().recipes
    for name, source in catalogue().recipes.items():
        check(source.data, definitions["Recipe"], name)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(
        rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = blocks(ROOT / "README.md", "python")
    assert found
    for block in found:
        exec(compile(block, "README.md", "exec"), {})
    assert (tmp_path / "my-model" / "model.safetensors").is_file()


def test_the_recipe_of_add_a_recipe_is_valid(tmp_path: Path) -> None:
    from zoo.building import plan

    for block in blocks(ROOT / "docs" / "add-a-recipe.md", "yaml"):
        file = tmp_path / "mine.yaml"
        file.write_text(block)
        assert plan(file).recipe.clip.channels == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_the_pages_exist_with_their_options(page: Path) -> None:
    from zoo.cli.group import cli

    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["zoo"]:
                continue
            command: click.Command | None = cli
            context = click.Context(cli)
            words = words[1:]
            while isinstance(command, click.Group):
                command = command.get_command(context, words.pop(0))
            assert command is not None, line
            known = {opt for parameter in command.params for opt in parameter.opts}
            unknown = {word for word in words if word.startswith("--")} - known
            assert unknown == set(), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_on_the_pages_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target
    for path in re.findall(r"`((?:zoo|plugins|docs|tests)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_formulas_name_functions_that_exist() -> None:
    text = (ROOT / "docs" / "formulas.md").read_text(encoding="utf-8")
    source = (ROOT / "zoo" / "training" / "objectives.py").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+_(?:loss|term|weight))`", text)) - {"kl_weight"}
    assert len(named) >= 8
    for name in named:
        assert f"def {name}(" in source, name


def test_the_schema_is_json() -> None:
    schema = json.loads((ROOT / "docs" / "recipe.schema.json").read_text(encoding="utf-8"))
    assert schema["$defs"]["Recipe"]["properties"]["encoder"]["anyOf"][0]["type"] == "string"


def test_the_page_on_gans_lists_gans_alone_and_says_of_each_what_is_published_and_what_is_not() -> None:
    page = (ROOT / "docs" / "gans.md").read_text(encoding="utf-8")
    names = re.findall(r"^\| `([\w-]+)` \| \[paper\]", page, flags=re.MULTILINE)
    assert {resolve_recipe(name).recipe.assembly for name in names} == {"gan", "latent-gan"}
    told = [
        text
        for text in re.split(r"^## ", page, flags=re.MULTILINE)
        if "\n- Published" in text and re.search(r"\n- (Different|Ours)", text)
    ]
    for name in names:
        # A section names its recipes in full or by their endings: `gan-video-digan`, `-tiny`.
        families = [set(re.findall(r"`([\w-]*gan-video-[\w-]+)`", text)) for text in told]
        found = [heads for heads in families if any(f"{name}-".startswith(f"{head}-") for head in heads)]
        assert found, f"no section of docs/gans.md says what is published of {name} and what is not"
