"""``zoo info``: everything about one model or part."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import click

from zoo.cli.common import count, json_option, print_json, print_table, set_option
from zoo.errors import UnknownNameError
from zoo.parts import KINDS, Part


@click.command("info")
@click.argument("name")
@click.option("--kind", type=click.Choice(["model", *KINDS]), help="Which one, where a name is used twice.")
@set_option
@json_option
def info(name: str, kind: str | None, assignments: tuple[str, ...], as_json: bool) -> None:
    """Show everything about the model (recipe) or part NAME.

    A model: its parts, parameters, compression, training, what real runs gave and what others report of the
    published weights. A part: who offers it, and its options with their defaults. --set shows what a changed
    recipe would be.

    \b
    Example:
      zoo info vqvae-video-base
      zoo info vqvae-video-base --set quantizer=fsq
      zoo info fsq --json
    """
    from zoo.discovery import catalogue

    found = catalogue()
    if (name in found.recipes or name.endswith((".yaml", ".yml"))) and kind in (None, "model"):
        from zoo.cli.facts import model_facts
        from zoo.cli.overrides import parse_overrides

        facts = model_facts(name, **parse_overrides(assignments))
        if as_json:
            print_json(facts)
        else:
            _print_model(facts)
        return
    parts = [
        part for part in found.parts if name in (part.name, part.full_name) and kind in (None, part.kind)
    ]
    if not parts:
        raise UnknownNameError(_unknown(name, kind, found))
    if assignments:
        raise click.UsageError(f"--set changes a recipe; {name} is a part.")
    _show_parts(parts, as_json=as_json)


def _show_parts(parts: list[Part], *, as_json: bool) -> None:
    from zoo.cli.facts import part_facts

    described = [part_facts(part) for part in parts]
    if as_json:
        print_json(described[0] if len(described) == 1 else {"type": "parts", "parts": described})
        return
    for number, facts in enumerate(described):
        if number:
            click.echo()
        _print_part(facts)


def _unknown(name: str, kind: str | None, found: Any) -> str:
    if Path(name).exists():
        return (
            f"zoo info describes recipes and parts by their names, and {name!r} is a file or a folder. Which "
            "recipe a run has stands in its run.json"
        )
    models = list(found.recipes) if kind in (None, "model") else []
    parts = [part.name for part in found.parts if kind in (None, part.kind)]
    close = difflib.get_close_matches(name, sorted({*models, *parts}), n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    notes = "".join(f"\n  note: {problem}" for problem in found.problems)
    what = kind or "model or part"
    return f"no {what} is called {name!r}.{hint} Type: zoo list{notes}"


def _print_model(facts: dict[str, Any]) -> None:
    clip, train = facts["clip"], facts["train"]
    click.echo(f"{facts['name']} ({facts['family']})\n  {facts['summary']}")
    rows = [("parameters", f"{count(facts['parameters'])} ({facts['parameters']:,})")]
    fps = f", {clip['fps']:g} frames a second" if clip["fps"] else ""
    frames = f"{clip['num_frames']}x{clip['height']}x{clip['width']}"
    rows.append(("clip", f"{frames} (frames, height, width), {clip['channels']} channels{fps}"))
    if facts["compression"]:
        rows += _compression_rows(facts["compression"])
    if facts["tokenizer"]:
        use, every = facts["tokenizer"]["use"], facts["tokenizer"]["every"]
        rows.append(("tokenizer", use if every == 1 else f"{use}, 1 of {every} of its latent frames"))
    if facts["paper"]:
        rows.append(("paper", facts["paper"]))
    objective = ", ".join(
        f"{term} ({', '.join(f'{key} {value}' for key, value in fields.items())})"
        for term, fields in train["objective"].items()
    )
    optimizer = train["optimizer"]
    rows.append(("training", f"{train['steps']:,} steps of {train['batch_size']} clips"))
    rows.append(("optimizer", f"{optimizer['use']}, lr {optimizer['lr']:g}, {train['schedule']['use']}"))
    rows.append(("objective", objective or "none"))
    click.echo()
    print_table(rows)
    click.echo("\nParts")
    print_table(
        [
            (p["field"], p["use"], p["distribution"], count(p["parameters"]), _options(p))
            for p in facts["parts"]
        ]
    )
    for result in facts["results"]:
        figures = ", ".join(f"{name} {value:g}" for name, value in result["figures"].items())
        click.echo(f"\nResult: {figures}")
        print_table([(key, f"{result[key]}") for key in ("command", "data", "hardware", "hours")])
    for published in facts["published"]:
        figures = ", ".join(f"{name} {value:g}" for name, value in published["figures"].items())
        click.echo(f"\nPublished: {figures}")
        print_table([(key, published[key]) for key in ("data", "source")])


def _compression_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    stride, latent = ("x".join(map(str, facts[key])) for key in ("stride", "latent"))
    if facts["continuous"]:
        code = "continuous, counted at 16 bits a number"
    else:
        code = f"{facts['num_codebooks']} codebook(s) of {facts['codebook_size']:,}"
    kib, raw_kib = facts["bits"] / 8192, facts["raw_bits"] / 8192
    return [
        ("stride", f"{stride} (time, height, width), latent grid {latent}, {code}"),
        ("compression", f"{facts['ratio']:.0f} to 1: a clip of {raw_kib:.1f} KiB takes {kib:.2f} KiB"),
    ]


def _options(part: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in part["options"].items()) or "default options"


def _print_part(facts: dict[str, Any]) -> None:
    click.echo(f"{facts['name']} ({facts['kind']})\n  {facts['summary']}\n")
    provider = f"plugin {facts['plugin']} of {facts['distribution']} {facts['version']}"
    rows = [("provided by", provider), ("class", facts["target"])]
    rows += [(key, facts[key]) for key in ("paper", "license") if facts[key]]
    print_table(rows)
    click.echo("\nOptions" if facts["options"] else "\nNo options.")
    print_table(
        [
            (
                option["name"],
                option["type"],
                "required" if option["required"] else f"= {option['default']!r}",
                option["doc"],
            )
            for option in facts["options"]
        ]
    )
