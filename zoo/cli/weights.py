"""``zoo weights``: check that weights are whole and safe to load, and convert published ones."""

from __future__ import annotations

import collections
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.common import (
    ExistingFile,
    ExistingPath,
    count,
    force_option,
    json_option,
    print_json,
    print_table,
    set_option,
)
from zoo.errors import plain

if TYPE_CHECKING:
    from zoo.converting import Conversion


@click.group("weights")
def weights() -> None:
    """Work with weights.

    \b
    Example:
      zoo weights check runs/first
      zoo weights convert model.ckpt --as vqgan-image-f16 --out models/vqgan
    """


@weights.command("check")
@click.argument("path", type=ExistingPath)
@json_option
def check(path: Path, as_json: bool) -> int:
    """Check a model folder (config, hashes, names, shapes) or one safetensors file.

    Nothing in it is executed. Leaves with 1 when it must not be loaded.

    \b
    Example:
      zoo weights check runs/first/model
      zoo weights check model.safetensors --json
    """
    from zoo.weights import check as check_weights

    found = check_weights(path)
    if as_json:
        print_json({**dataclasses.asdict(found), "valid": not found.problems})
        return 1 if found.problems else 0
    for problem in found.problems:
        click.echo(plain(f"BAD  {problem}"))
    for warning in found.warnings:
        click.echo(plain(f"odd  {warning}"))
    if not found.problems:
        click.echo(f"good {found.path}: {found.num_tensors} tensors, {found.num_values:,} numbers")
    return 1 if found.problems else 0


@weights.command("convert")
@click.argument("files", nargs=-1, type=ExistingFile, metavar="FILE...")
@click.option("--as", "name", metavar="NAME", help="A recipe (cosmos-video-dv4x8x8) or a family (cosmos).")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="The model folder to write.")
@click.option("--prefix", metavar="TEXT", help="What the names begin with, where a file has several models.")
@click.option("--dry-run", is_flag=True, help="Report and write nothing.")
@click.option(
    "--report", type=click.Path(path_type=Path), metavar="FILE", help="Write the whole report as JSON."
)
@click.option("--list", "as_list", is_flag=True, help="Show the families, and where their weights are.")
@set_option
@force_option
@json_option
def convert(
    files: tuple[Path, ...],
    name: str | None,
    out: Path | None,
    prefix: str | None,
    dry_run: bool,
    report: Path | None,
    as_list: bool,
    assignments: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> int:
    """Turn published weights into a model folder.

    FILE is a safetensors, .pt, .pth, .ckpt or TorchScript file; give several when they make up one model
    (encoder and decoder, shards). Nothing in them is executed. Of a family, the one recipe is taken whose
    every tensor fits. Leaves with 1, and writes nothing, when a tensor is missing or does not fit.

    \b
    Example:
      zoo weights convert --list
      zoo weights convert encoder.jit decoder.jit --as cosmos --out models/cosmos
      zoo weights convert last.ckpt --as vqgan-image-f16 --dry-run --json
      zoo weights convert vqgan.ckpt --as tats --set clip.num_frames=32 --out models/tats
    """
    if as_list:
        return _show_families(as_json)
    for given, what in ((files, "FILE"), (name, "--as NAME"), (out or dry_run, "--out DIR (or --dry-run)")):
        if not given:
            raise click.UsageError(f"{what} is missing; zoo weights convert --list shows what there is.")
    from zoo.cli.overrides import parse_overrides
    from zoo.converting import examine
    from zoo.files import new_file, refuse_existing

    assert name is not None
    if out is not None and not dry_run:
        refuse_existing(out, force=force)
    if report is not None:
        refuse_existing(report, force=force)
    found = examine(files, name, prefix=prefix, **parse_overrides(assignments))
    if out is not None and not dry_run and not found.problems:
        found = found.write(out, force=force)
    if report is not None:
        with new_file(report, force=force) as temporary:
            temporary.write_text(json.dumps(found.document(), indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(found.document())
    else:
        _show(found)
    for problem in found.problems:
        click.echo(plain(f"Error: {problem}"), err=True)
    return 1 if found.problems else 0


def _show(found: Conversion) -> None:
    """Print what became of the tensors, a line for each kind."""
    for file in found.files:
        aside = f"; not read: {', '.join(file.aside)}" if file.aside else ""
        click.echo(f"{file.path.name}: {file.kind}, {len(file.tensors)} tensors{aside}")
    click.echo(f"as {found.recipe}, by the converter {found.converter!r} of {found.distribution}")
    made = [tensor.name for tensor in found.mapped if tensor.public is None]
    unused = collections.Counter(_group(tensor.name) for tensor in found.unused)
    rows = [
        ["mapped", str(len(found.mapped)), _named(made, "made by the converter: ")],
        ["unused", str(len(found.unused)), _named([f"{k} ({n})" for k, n in unused.most_common()])],
        ["missing", str(len(found.missing)), _named(list(found.missing))],
    ]
    print_table(rows)
    if found.without_discriminators and not found.problems:
        click.echo("  the recipe's discriminators are left out: the files have no weights for them")
    click.echo(f"wrote {found.folder}" if found.folder else "nothing written")


def _group(name: str) -> str:
    head, dot, _ = name.partition(".")
    return f"{head}.*" if dot else name


def _named(names: list[str], label: str = "", most: int = 4) -> str:
    from zoo.converting.report import printable

    more = f" and {len(names) - most} more" if len(names) > most else ""
    return label + ", ".join(map(printable, names[:most])) + more if names else ""


def _show_families(as_json: bool) -> int:
    from zoo.discovery import catalogue

    known = catalogue()
    families: list[dict[str, Any]] = [
        {
            "name": offered.name,
            "summary": offered.spec.summary,
            "source": offered.spec.source,
            "recipes": offered.among(known.recipes),
            "provided_by": offered.distribution,
        }
        for offered in sorted(known.converters, key=lambda offered: offered.name)
    ]
    if as_json:
        print_json(families)
        return 0
    for family in families:
        recipes = family["recipes"]
        click.echo(f"{family['name']}: {family['summary']}")
        click.echo(f"  {count(len(recipes))} recipes: {_named(recipes) or 'none installed'}")
        click.echo(f"  {family['source']}")
    return 0
