"""Building: recipe -> parts -> ports -> model. Nothing is allocated before everything fits."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from zoo.assemblies import ASSEMBLIES, Assembly
from zoo.connect import connect, prefix
from zoo.discovery import Catalogue, catalogue
from zoo.errors import PluginError, PortError, RecipeError, ZooError
from zoo.parts import Kind, Part
from zoo.ports import Ports, ports_of
from zoo.precision import lower_precision
from zoo.recipe_files import RecipeSource, Resolved, read_registry, resolve
from zoo.recipes import PartChoice, Recipe
from zoo.size_limits import check_values, limited_size
from zoo.spectral_norm import normalize_weights


@dataclasses.dataclass(frozen=True)
class PlannedPart:
    """A part of a recipe, found and checked, with the ports it will have."""

    field: str
    part: Part
    cls: type[nn.Module]
    options: dict[str, Any]
    ports: Ports

    def make(self) -> nn.Module:
        """Build the part on torch's current default device."""
        return self.cls(**_offline(self.options))


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked recipe: every part is there, takes its options and fits its neighbours."""

    name: str
    recipe: Recipe
    parts: tuple[PlannedPart, ...]

    def make(self) -> Assembly:
        """Build the model on torch's current default device."""
        modules = {p.field: p.make() for p in self.parts if p.part.kind != "discriminator"}
        model = ASSEMBLIES[self.recipe.assembly](self.recipe, **modules)
        # Discriminators come last, so that a seed gives the same model with and without them.
        model.discriminator.extend(p.make() for p in self.parts if p.part.kind == "discriminator")
        adversarial = self.recipe.train.objective.adversarial
        if adversarial is not None and adversarial.spectral_norm:
            normalize_weights(model.discriminator)
        model.name = self.name
        model.provided_by = {
            p.field: {
                "plugin": p.part.plugin,
                "distribution": p.part.distribution,
                "version": p.part.version,
            }
            for p in self.parts
        }
        return model.eval()


def build(
    recipe: str | Path | Recipe | Mapping[str, Any],
    *,
    init: Mapping[str, str | Path] | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    **overrides: Any,
) -> Assembly:
    """Build a model, in evaluation mode.

    Args:
        recipe: Name of a recipe, a file that holds one recipe, a `Recipe`, or its fields as a mapping.
        init: Model folders to take the weights of parts from, by part: ``{"encoder": folder}``.
        seed: Seed of the initial weights, leaving torch's global generator alone; when left out the
            global generator is used.
        device: Where the weights live; ``"meta"`` allocates none.
        dtype: ``"bfloat16"`` lets an autoencoder's encoder and decoder compute in it, for inference;
            what goes in and comes out stays float32.
        **overrides: Changes in the recipe's own words: ``quantizer="fsq"``,
            ``quantizer={"use": "fsq", "levels": [8, 5, 5, 5]}``, ``clip={"num_frames": 8}``.

    Raises:
        ZooError: A name is unknown, an option wrong, or parts do not fit together.
    """
    checked = plan(recipe, **overrides)
    with _seeded(seed), torch.device(device or "cpu"):
        model = checked.make()
    if init:
        from zoo.weights import load_parts

        load_parts(model, init)
    if dtype is not None:
        lower_precision(model, dtype)
    return model


def build_part(kind: Kind, name: str, **options: Any) -> nn.Module:
    """Build one part by kind and name, in evaluation mode, with the given options.

    Raises:
        ZooError: The name is unknown or an option wrong.
    """
    part = catalogue().find(kind, name)
    cls = part.load()
    check_options(part, cls, options, "")
    return _make(part, cls, options, "").eval()


def plan(recipe: str | Path | Recipe | Mapping[str, Any] | Resolved, **overrides: Any) -> Plan:
    """Check a recipe to the end without allocating a weight.

    Args:
        recipe: As for `build`, or a recipe already resolved, which takes no overrides.
        **overrides: As for `build`.

    Raises:
        ZooError: As `build`.
    """
    known = catalogue()
    resolved = recipe if isinstance(recipe, Resolved) else resolve_recipe(recipe, overrides)
    _check_fields(resolved)
    parts: list[PlannedPart] = []
    assembly = ASSEMBLIES[resolved.recipe.assembly]
    found: list[tuple[str, Kind, PartChoice, str, Part]] = []
    for field, kind, choice, where in _choices(resolved):
        try:
            found.append((field, kind, choice, where, known.find(kind, choice.use)))
        except ZooError as error:
            raise type(error)(f"{where}{error}") from None
    for field, kind, choice, where, part in found:  # all names are known before a part is imported
        cls = part.load()
        check_options(part, cls, choice.options, where)
        offered = assembly.offers(resolved.recipe, kind, {p.part.kind: p.ports for p in parts})
        taken = inspect.signature(cls).parameters
        options = {name: value for name, value in offered.items() if name in taken} | choice.options
        with torch.device("meta"), limited_size():
            module = _make(part, cls, options, where)
        parts.append(PlannedPart(field, part, cls, options, ports_of(kind, choice.use, module)))
    connect(resolved.recipe, [p.ports for p in parts], resolved.where)
    checked = Plan(resolved.name, resolved.recipe, tuple(parts))
    _dry_run(checked)
    return checked


def resolve_recipe(
    recipe: str | Path | Recipe | Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> Resolved:
    """Find a recipe, apply inheritance and overrides, and check it against the schema.

    A string names a recipe, or a file when it ends in ``.yaml`` or ``.yml``.

    Raises:
        ZooError: The recipe is unknown or not valid.
    """
    known: Catalogue = catalogue()
    overrides = overrides or {}
    if isinstance(recipe, Recipe):
        recipe = recipe.model_dump(exclude_unset=True)
    if isinstance(recipe, Mapping):
        return resolve(RecipeSource("custom", dict(recipe), {}, ""), overrides, known.recipes)
    if isinstance(recipe, Path) or recipe.endswith((".yaml", ".yml")):
        found = read_registry(Path(recipe))
        if len(found) != 1:
            raise RecipeError(
                f"{recipe}: holds {len(found)} recipes ({', '.join(found) or 'none'}); "
                "a file to build from holds one"
            )
        source = next(iter(found.values()))
    else:
        source = known.source(recipe)
    return resolve(source, overrides, known.recipes)


def check_options(part: Part, cls: type[nn.Module], options: Mapping[str, Any], where: str) -> None:
    """Refuse options that the part's class does not take, lacks, or takes with another type.

    Raises:
        RecipeError: With the closest name and all that exist.
    """
    parameters = inspect.signature(cls).parameters
    label = f"{where}{part.kind} {part.name!r}"
    for name in options:
        if name not in parameters:
            close = difflib.get_close_matches(name, parameters, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            allowed = ", ".join(
                f"{p.name}={p.default!r}" if p.default is not p.empty else p.name for p in parameters.values()
            )
            raise RecipeError(f"{label} has no option {name!r}{hint} Options: {allowed or 'none'}")
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in options]
    if missing:
        raise RecipeError(f"{label} needs the option {', '.join(map(repr, missing))}")
    try:
        check_values(options)
    except RecipeError as error:
        raise RecipeError(f"{label}: {error}") from None
    try:
        hints = typing.get_type_hints(cls.__init__)
    except NameError:  # a type imported for type checkers only
        hints = {}
    for name, value in options.items():
        try:
            TypeAdapter(hints.get(name, Any)).validate_python(value, strict=True)
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"]
            raise RecipeError(
                f"{label}: option {name}: {message[0].lower()}{message[1:]}; found {value!r}"
            ) from None


def _make(part: Part, cls: type[nn.Module], options: Mapping[str, Any], where: str) -> nn.Module:
    label = f"{where}{part.kind} {part.name!r}"
    try:
        return cls(**_offline(options))
    except ZooError as error:
        raise type(error)(f"{label}: {error}") from error
    except (ValueError, TypeError) as error:
        given = ", ".join(f"{k}={v!r}" for k, v in options.items()) or "its defaults"
        raise RecipeError(f"{label} refuses {given}: {error}") from error
    except Exception as error:
        raise PluginError(
            f"{label} (from {part.distribution} {part.version}) broke while it was built: "
            f"{type(error).__name__}: {error}"
        ) from error


def _offline(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Switch off the option `pretrained` on the meta device, where weights have no values to be fetched."""
    on_meta = torch.get_default_device().type == "meta"
    return {**options, "pretrained": False} if on_meta and options.get("pretrained") else options


def _check_fields(resolved: Resolved) -> None:
    """Refuse a recipe that lacks a part of its assembly, or names one that the assembly has no place for."""
    recipe = resolved.recipe
    assembly = ASSEMBLIES[recipe.assembly]
    needs = assembly.needs
    missing = [kind for kind in needs if getattr(recipe, kind) is None]
    if missing:
        raise RecipeError(
            f"{prefix(resolved.where())}recipe {resolved.name!r}: assembly {recipe.assembly!r} is made of "
            f"{', '.join(needs)}; {', '.join(missing)} is missing"
        )
    places = {*needs, *assembly.projections}
    for field in ("encoder", "quantizer", "decoder", "generator", "pre_quant", "post_quant"):
        if getattr(recipe, field) is not None and field not in places:
            raise RecipeError(
                f"{prefix(resolved.where(field))}recipe {resolved.name!r}: assembly {recipe.assembly!r} has "
                f"no place for {field}; remove it"
            )
    stage = recipe.tokenizer
    if stage is not None and recipe.assembly != "token-prior" and (stage.every, stage.starts) != (1, "auto"):
        raise RecipeError(
            f"{prefix(resolved.where('tokenizer'))}recipe {resolved.name!r}: tokenizer.every and "
            f"tokenizer.starts say which codes a prior over tokens learns; a {recipe.assembly} learns none: "
            "leave them out"
        )


def _choices(resolved: Resolved) -> Iterator[tuple[str, Kind, PartChoice, str]]:
    """Yield (field, kind, choice, where) of every part, in the order data flows."""
    for kind in ASSEMBLIES[resolved.recipe.assembly].needs:
        yield kind, kind, getattr(resolved.recipe, kind), prefix(resolved.where(kind))
    for i, choice in enumerate(resolved.recipe.discriminator):
        where = prefix(resolved.where("discriminator", i))
        yield f"discriminator.{i}", "discriminator", choice, where


def _dry_run(checked: Plan) -> None:
    """Run the whole model once on the meta device, where shapes are computed and nothing else."""
    clip = checked.recipe.clip
    shape = (1, clip.channels, clip.num_frames, clip.height, clip.width)
    labels = " -> ".join(str(p.ports) for p in checked.parts)
    try:
        with torch.device("meta"), torch.no_grad():
            model = checked.make()
            made = model.rehearse(shape)
            model.judge(model.shown(torch.empty(shape)), label_B=torch.zeros(1, dtype=torch.int64))
    except Exception as error:
        raise PortError(
            f"recipe {checked.name!r}: {labels} does not run on a clip of shape {shape}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if tuple(made.shape) != shape:
        raise PortError(
            f"recipe {checked.name!r}: {labels} turns a clip of shape {shape} into {tuple(made.shape)}"
        )


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
