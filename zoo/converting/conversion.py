"""Foreign tensors to a model of the zoo: which converter, which recipe, what fits, what is left."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.building import Plan, plan, resolve_recipe
from zoo.converters import OfferedConverter
from zoo.converting.files import ForeignFile, merge, read_file
from zoo.converting.report import card, document
from zoo.discovery import Catalogue, catalogue
from zoo.errors import MissingTensorsError, PluginError, UnknownNameError, WeightsError, ZooError
from zoo.parts import KINDS
from zoo.recipe_files import Resolved
from zoo.recipes import Recipe
from zoo.weights import not_pretrained, save

_MAX_COPIES = 256 << 20
"""Bytes that copies of tensors in shared memory may take beyond what the file holds."""


@dataclasses.dataclass(frozen=True)
class PublicTensor:
    """A tensor of a foreign file that has no place here."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class MappedTensor:
    """A tensor of the model and where it comes from.

    Attributes:
        name: In our model.
        public: In the file; None when the converter made it, such as a count that files do not hold.
        shape: In our model; the file may have it with fewer axes.
        dtype: In the file; the model keeps its own.
    """

    name: str
    public: str | None
    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What became, or would become, of foreign weights.

    Attributes:
        recipe: The recipe they are fitted to.
        converter: The family, such as ``cosmos``.
        distribution: The package that brings the converter.
        source: Where such weights are published.
        files: What was read.
        mapped: Every tensor of ours that was filled.
        unused: Every tensor of the files that has no place here.
        missing: Tensors that the file lacks, by the name it would have them under, or that nothing fills.
        problems: Why this cannot be written; empty when it can.
        without_discriminators: Whether the recipe has discriminators and the files have no weights for them:
            the model is written without.
        folder: Where it was written, once it was.
    """

    recipe: str
    converter: str
    distribution: str
    source: str
    files: tuple[ForeignFile, ...]
    mapped: tuple[MappedTensor, ...]
    unused: tuple[PublicTensor, ...]
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    without_discriminators: bool
    folder: Path | None = None
    _plan: Plan | None = dataclasses.field(default=None, repr=False)
    _tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict, repr=False)

    def document(self) -> dict[str, Any]:
        """Return the account of every tensor as plain data."""
        return document(self)

    def write(self, folder: str | Path, *, force: bool = False) -> Conversion:
        """Write the model folder, all of it or nothing, and return this conversion with its place.

        Raises:
            WeightsError: There are problems, or the folder holds something else.
            OutputExistsError: The folder exists and `force` is off.
        """
        if self.problems or self._plan is None:
            raise WeightsError("\n".join(self.problems))
        with torch.random.fork_rng(devices=[]):
            model = self._plan.make()
        model.load_state_dict(dict(self._tensors))
        return dataclasses.replace(self, folder=save(model, folder, force=force, card=card(self)))


def convert(
    files: str | Path | Sequence[str | Path],
    name: str,
    out: str | Path,
    *,
    prefix: str | None = None,
    force: bool = False,
    **overrides: Any,
) -> Conversion:
    """Turn published weights into a model folder that `zoo.load` takes. Nothing in them is executed.

    Args:
        files: A safetensors, ``.pt``, ``.pth``, ``.ckpt`` or TorchScript file, or several that make up one
            model: encoder and decoder, generator and discriminators, shards.
        name: A recipe, such as ``cosmos-video-dv4x8x8``; or a family, such as ``cosmos``: then its one recipe
            that takes every tensor by name and shape.
        out: The model folder to write.
        prefix: What the names begin with, where a file holds several models.
        force: Replace a model folder that is there.
        **overrides: Changes of the recipe, as for `zoo.build`, for weights that were trained differently.

    Returns:
        The account of every tensor.

    Raises:
        UnknownNameError: There is no such recipe or family.
        WeightsError: A file is damaged or foreign, tensors are missing or do not fit, or none or several
            recipes of a family fit. Nothing was written.
        OutputExistsError: The folder exists and `force` is off.
    """
    return examine(files, name, prefix=prefix, **overrides).write(out, force=force)


def examine(
    files: str | Path | Sequence[str | Path], name: str, *, prefix: str | None = None, **overrides: Any
) -> Conversion:
    """Say what `convert` would do, and write nothing; what does not fit is in `Conversion.problems`.

    Raises:
        UnknownNameError: There is no such recipe or family.
        WeightsError: A file is damaged or foreign, or none or several recipes of a family fit.
    """
    pairs = candidates(name)
    paths = [files] if isinstance(files, str | Path) else list(files)
    read = tuple(read_file(path) for path in paths)
    state = _apart(merge(list(read)))
    results: list[Conversion] = []
    alike: dict[str, Conversion] = {}
    for converter, recipe in pairs:
        resolved = resolve_recipe(recipe, overrides)
        # Recipes of the same parts, for files trained on other data, fit alike: try one of them.
        parts = resolved.recipe.model_dump_json(
            exclude={"summary", "parameters", "train", "results", "published"}
        )
        key = f"{converter.name} {parts}"
        if key not in alike:
            alike[key] = _attempt(read, state, converter, resolved, prefix)
        results.append(dataclasses.replace(alike[key], recipe=resolved.name))
    if len(results) == 1:
        return results[0]
    fitting = [result for result in results if not result.problems]
    if len(fitting) == 1:
        return fitting[0]
    where = ", ".join(str(path) for path in paths)
    if not fitting:
        reasons = [f"  {result.recipe} ({result.converter}): {_first(result.problems)}" for result in results]
        raise WeightsError(
            f"{where}: fits none of the {len(results)} recipes of {name!r}:\n" + "\n".join(reasons)
        )
    names = [result.recipe for result in fitting]
    raise WeightsError(
        f"{where}: fits {len(fitting)} recipes of {name!r} by names and shapes: {', '.join(names)}. "
        f"Say which it is (their summaries name the files: zoo list {names[0]}): --as {names[0]}"
    )


def candidates(name: str) -> list[tuple[OfferedConverter, str]]:
    """Return the converters and recipes that a recipe's or family's name stands for.

    Raises:
        UnknownNameError: It is neither, or a recipe that no converter is for.
    """
    known = catalogue()
    families = [converter for converter in known.converters if converter.name == name]
    if families:
        pairs = [(c, recipe) for c in families for recipe in c.among(known.recipes)]
        if pairs:
            return pairs
        raise UnknownNameError(
            f"converter {name!r} is for recipes {', '.join(families[0].spec.recipes)}, and none is installed"
        )
    if name in known.recipes:
        pairs = [(c, name) for c in known.converters if c.among([name])]
        if pairs:
            return pairs
        raise UnknownNameError(f"no converter gives recipe {name!r}; {_listed(known)}")
    names = {*known.recipes, *(converter.name for converter in known.converters)}
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise UnknownNameError(f"no recipe or family is called {name!r}.{hint} {_listed(known).capitalize()}")


def _listed(known: Catalogue) -> str:
    names = ", ".join(sorted({converter.name for converter in known.converters})) or "none"
    notes = "".join(f"\n  note: {problem}" for problem in known.problems)
    return f"families that can be converted: {names} (zoo weights convert --list){notes}"


def _attempt(
    files: tuple[ForeignFile, ...],
    state: Mapping[str, Tensor],
    converter: OfferedConverter,
    resolved: Resolved,
    prefix: str | None,
) -> Conversion:
    """Fit tensors to one recipe; what goes wrong is told in the result."""
    mapped: dict[str, Tensor] = {}
    unused: list[str] = sorted(state)
    problems: list[str] = []
    checked: Plan | None = None
    wanted: dict[str, Tensor] = {}
    missing: list[str] = []
    recipe, found = resolved.name, resolved.recipe
    try:
        mapped, unused = _call(converter, state, found, prefix)
        without = bool(found.discriminator) and not any(n.startswith("discriminator.") for n in mapped)
        checked = _plan(recipe, found, with_discriminators=not without)
        with torch.device("meta"):
            wanted = checked.make().state_dict()
    except ZooError as error:
        without = bool(found.discriminator)
        problems.append(str(error))
        missing = list(error.names) if isinstance(error, MissingTensorsError) else []
    missing += sorted(wanted.keys() - mapped.keys())
    if checked is not None:
        problems += _misfits(mapped, wanted, missing)
    origins = _origins(mapped, state)
    return Conversion(
        recipe=recipe,
        converter=converter.name,
        distribution=converter.distribution,
        source=converter.spec.source,
        files=files,
        mapped=tuple(
            MappedTensor(name, origins[name], tuple(tensor.shape), _dtype(tensor))
            for name, tensor in sorted(mapped.items())
        ),
        unused=tuple(PublicTensor(name, tuple(state[name].shape), _dtype(state[name])) for name in unused),
        missing=tuple(missing),
        problems=tuple(problems),
        without_discriminators=without,
        _plan=checked,
        _tensors=mapped,
    )


def _call(
    converter: OfferedConverter, state: Mapping[str, Tensor], recipe: Recipe, prefix: str | None
) -> tuple[dict[str, Tensor], list[str]]:
    """Call a converter's function with what the recipe says, and hold it to what it promises.

    Raises:
        ZooError: The weights are not its, or it breaks.
    """
    function = converter.load()
    arguments = {name: recipe_option(recipe, path) for name, path in converter.spec.arguments.items()}
    if prefix is not None:
        if "prefix" not in inspect.signature(function).parameters:
            raise WeightsError(f"converter {converter.name!r} takes no prefix; leave it out")
        arguments["prefix"] = prefix
    label = f"converter {converter.name!r} (from {converter.distribution})"
    try:
        result = function(dict(state), **arguments)
    except ZooError:
        raise
    except Exception as error:
        raise PluginError(f"{label} broke on these weights: {type(error).__name__}: {error}") from error
    match result:
        case (dict() as mapped, list() as unused) if all(isinstance(v, Tensor) for v in mapped.values()):
            return mapped, sorted(name for name in unused if name in state)
    raise PluginError(f"{label} must return a dict of tensors and a list of unused names")


def recipe_option(recipe: Recipe, path: str) -> Any:
    """Return what a recipe says at ``encoder.stride``, or the part's default.

    Raises:
        PluginError: The recipe has no such part, or the part no such option.
    """
    field, _, option = path.partition(".")
    choice = getattr(recipe, field, None) if field in KINDS else None
    if choice is None:
        raise PluginError(f"a converter asks the recipe for {path!r}, and it has no {field}")
    if isinstance(choice, list):
        return [item.use if option == "use" else item.options.get(option) for item in choice]
    if option == "use" or option in choice.options:
        return choice.use if option == "use" else choice.options[option]
    kind = next(kind for kind in KINDS if kind == field)
    parameter = inspect.signature(catalogue().find(kind, choice.use).load()).parameters.get(option)
    if parameter is None or parameter.default is parameter.empty:
        raise PluginError(f"a converter asks the recipe for {path!r}, and {choice.use!r} has no such option")
    return parameter.default


def _plan(name: str, recipe: Recipe, *, with_discriminators: bool) -> Plan:
    fields = not_pretrained(recipe.model_dump(mode="json", exclude_unset=True))
    if not with_discriminators:
        fields["discriminator"] = []
    return dataclasses.replace(plan(fields), name=name)


def _misfits(mapped: Mapping[str, Tensor], wanted: Mapping[str, Tensor], missing: Sequence[str]) -> list[str]:
    problems = []
    if missing:
        problems.append(f"{len(missing)} tensors of the model are missing: {_some(missing)}")
    if extra := sorted(mapped.keys() - wanted.keys()):
        problems.append(f"{len(extra)} tensors have no place in the model of this recipe: {_some(extra)}")
    for name in sorted(mapped.keys() & wanted.keys()):
        theirs, ours = mapped[name], wanted[name]
        if theirs.shape != ours.shape:
            problems.append(f"{name} is {tuple(theirs.shape)} where the model has {tuple(ours.shape)}")
        elif theirs.is_floating_point() != ours.is_floating_point() or theirs.is_complex():
            problems.append(f"{name} is {_dtype(theirs)} where the model has {_dtype(ours)}")
    return problems


def _apart(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors, each in memory of its own, by which `_origins` knows them again.

    Raises:
        WeightsError: Apart they would take far more memory than together.
    """
    seen: set[int] = set()
    result = {}
    left = sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in state.values()}.values()
    )
    left += _MAX_COPIES
    for name, tensor in state.items():
        address = tensor.untyped_storage().data_ptr()
        if address in seen:
            left -= tensor.nbytes
        if left < 0:
            raise WeightsError("its tensors share memory, and apart they would take far more than the file")
        result[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return result


def _origins(mapped: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, str | None]:
    """Tell the public name of every mapped tensor that is a public one, or a view into one."""
    by_address = {t.untyped_storage().data_ptr(): name for name, t in state.items() if t.numel()}
    return {name: by_address.get(t.untyped_storage().data_ptr()) for name, t in mapped.items()}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _first(problems: Sequence[str]) -> str:
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return problems[0].partition("\n")[0] + more


def _some(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
