"""Discovery: from installed entry points to a catalogue of parts and recipes.

Every plugin is loaded on its own: one that breaks, hangs or lies becomes a `Problem` and never stops
the others. Problems are shown by ``zoo doctor`` and in every not-found error; ``ZOO_STRICT=1`` raises
the first instead. ``ZOO_DISABLE=a,b`` leaves plugins out, ``ZOO_PLUGINS=a,b`` keeps only those named.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import fnmatch
import functools
import importlib.metadata
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from zoo import hookspecs
from zoo.converters import Converter, OfferedConverter
from zoo.errors import PluginError, UnknownNameError, ZooError
from zoo.parts import KINDS, Kind, Part, PartSpec

if TYPE_CHECKING:
    from zoo.recipe_files import RecipeSource

DISTRIBUTION = "zoo-video"
IMPORT_TIMEOUT_S = 5.0
"""Longest import of a manifest that is not ours; the variable ZOO_IMPORT_TIMEOUT_S overrides it."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """Why a plugin, or something it offers, cannot be used."""

    plugin: str
    distribution: str
    stage: str
    error: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r} ({self.distribution}): {self.stage}: {self.error}"


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A plugin that was found, and where it comes from."""

    name: str
    distribution: str
    version: str
    manifest: str
    ours: bool


class Catalogue:
    """Everything the installed plugins offer.

    Attributes:
        plugins: The plugins that loaded, ours first.
        parts: The parts they offer.
        recipes: Recipe sources by name.
        converters: What they convert from weights published elsewhere.
        problems: What could not be used, and why.
    """

    def __init__(self) -> None:
        self.plugins: list[Plugin] = []
        self.parts: list[Part] = []
        self.recipes: dict[str, RecipeSource] = {}
        self.converters: list[OfferedConverter] = []
        self.problems: list[Problem] = []
        self.manager = pluggy.PluginManager("zoo")
        self.manager.add_hookspecs(hookspecs)

    def find(self, kind: Kind, name: str) -> Part:
        """Look a part up by ``name`` or ``plugin:name``.

        Raises:
            UnknownNameError: Nothing installed offers it, or two plugins do and none is ours.
        """
        if kind not in KINDS:
            raise UnknownNameError(f"there is no kind of part {kind!r}; kinds are: {', '.join(KINDS)}")
        plugin, _, bare = name.rpartition(":")
        offers = [p for p in self.parts if p.kind == kind and p.name == bare and plugin in ("", p.plugin)]
        if len(offers) > 1:
            offers = [p for p in offers if p.distribution == DISTRIBUTION] or offers
        if len(offers) == 1:
            return offers[0]
        if offers:
            names = " or ".join(
                f"{p.full_name!r} (from {p.distribution})" for p in sorted(offers, key=lambda p: p.full_name)
            )
            raise UnknownNameError(f"{kind} {name!r} is offered by several plugins; write {names}")
        known = [p.full_name if plugin else p.name for p in self.parts if p.kind == kind]
        elsewhere = sorted({p.kind for p in self.parts if name in (p.name, p.full_name)})
        hint = f" There is a part of that name of kind {', '.join(elsewhere)}." if elsewhere else ""
        raise UnknownNameError(self._not_found(kind, name, known) + hint)

    def bundled_recipes(self) -> list[str]:
        """Return the names of the recipes that come with the zoo, sorted."""
        ours = {"zoo", *(plugin.name for plugin in self.plugins if plugin.ours)}
        return sorted(name for name, source in self.recipes.items() if source.plugin in ours)

    def source(self, name: str) -> RecipeSource:
        """Look a recipe up by name.

        Raises:
            UnknownNameError: No installed plugin ships a recipe of that name.
        """
        try:
            return self.recipes[name]
        except KeyError:
            raise UnknownNameError(self._not_found("recipe", name, self.recipes)) from None

    def resolve_weights(self, reference: str) -> Path | None:
        """Ask the plugins for the folder behind a weights reference; None when none knows it."""
        for _, folder in self.call("zoo_resolve_weights", reference=reference):
            if folder is not None:
                return Path(folder)
        return None

    def call(self, hook: str, **arguments: Any) -> Iterator[tuple[Plugin, Any]]:
        """Call a hook of every plugin that has it, and yield (plugin, result) of those that return."""
        for plugin in self.plugins:
            manifest = self.manager.get_plugin(plugin.name)
            for impl in getattr(self.manager.hook, hook).get_hookimpls():
                if impl.plugin is manifest:
                    outcome = []
                    with isolated(self, plugin, hook):
                        outcome = [impl.function(**{name: arguments[name] for name in impl.argnames})]
                    yield from ((plugin, value) for value in outcome)

    def _not_found(self, what: str, name: str, known: Iterable[str]) -> str:
        known = sorted(set(known))
        message = f"no {what} is called {name!r}"
        close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        message += f"; did you mean {' or '.join(map(repr, close))}?" if close else "."
        message += f" Installed: {', '.join(known) or 'none'}."
        for problem in self.problems:
            message += f"\n  note: {problem}"
        return message


@functools.cache
def catalogue() -> Catalogue:
    """Return the catalogue of this process, discovering plugins on the first call."""
    result = Catalogue()
    disabled, allowed = _names("ZOO_DISABLE"), _names("ZOO_PLUGINS")
    _add_recipe_file(result, Plugin("zoo", DISTRIBUTION, "", "zoo", ours=True), registry_path())
    for entry, distribution, version in _entry_points():
        if entry.name not in disabled and (not allowed or entry.name in allowed):
            ours = _same(distribution, DISTRIBUTION)
            _add(result, Plugin(entry.name, distribution, version, entry.value, ours), entry)
    for plugin, offered in result.call("zoo_parts", api_version=hookspecs.API_VERSION):
        with isolated(result, plugin, "zoo_parts"):
            for spec in _sequence(offered, "zoo_parts", "PartSpec"):
                _add_part(result, plugin, spec)
    for plugin, offered in result.call("zoo_converters", api_version=hookspecs.API_VERSION):
        with isolated(result, plugin, "zoo_converters"):
            for spec in _sequence(offered, "zoo_converters", "Converter"):
                _add_converter(result, plugin, spec)
    for plugin, offered in result.call("zoo_recipes"):
        with isolated(result, plugin, "zoo_recipes"):
            for path in _sequence(offered, "zoo_recipes", "paths"):
                _add_recipe_file(result, plugin, Path(path))
    return result


def registry_path() -> Path:
    """Return the registry of built-in recipes: in the installed package, or at the repository's root."""
    package = Path(__file__).resolve().parent
    shipped = package / "registry.yaml"
    return shipped if shipped.exists() else package.parent / "registry.yaml"


def list_models(pattern: str = "*") -> list[str]:
    """Return the names of recipes that match a shell pattern such as ``vq*-video-*``, sorted."""
    return sorted(fnmatch.filter(catalogue().recipes, pattern))


def list_parts(kind: Kind | None = None) -> list[str]:
    """Return the names of parts of a kind (or of all), sorted; ``plugin:name`` where a name is shared."""
    if kind is not None and kind not in KINDS:
        raise UnknownNameError(f"there is no kind of part {kind!r}; kinds are: {', '.join(KINDS)}")
    parts = [p for p in catalogue().parts if kind in (None, p.kind)]
    names = [(p.kind, p.name) for p in parts]
    return sorted({p.name if names.count((p.kind, p.name)) == 1 else p.full_name for p in parts})


def _names(variable: str) -> set[str]:
    return {name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()}


def _same(a: str, b: str) -> bool:
    return a.lower().replace("_", "-") == b.lower().replace("_", "-")


def _entry_points() -> list[tuple[importlib.metadata.EntryPoint, str, str]]:
    """Entry points of the group with their distribution and version, ours first, then by name."""
    found = []
    for entry in importlib.metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP):
        distribution = entry.dist.name if entry.dist else "unknown"
        found.append((entry, distribution, entry.dist.version if entry.dist else "unknown"))
    return sorted(found, key=lambda item: (not _same(item[1], DISTRIBUTION), item[1], item[0].name))


def _add(result: Catalogue, plugin: Plugin, entry: importlib.metadata.EntryPoint) -> None:
    """Load one plugin and take what it offers; whatever goes wrong becomes a problem."""
    twin = next((p for p in result.plugins if p.name == plugin.name), None)
    if twin is not None:
        if twin.manifest != plugin.manifest:
            with isolated(result, plugin, "register"):
                raise PluginError(f"the name is taken by a plugin of {twin.distribution}; rename one of them")
        return
    manifest = None
    with isolated(result, plugin, "import"):
        manifest = entry.load() if plugin.ours else _within_time(entry.load, _import_timeout_s())
    if manifest is None:
        return
    with isolated(result, plugin, "register"):
        result.manager.register(manifest, name=plugin.name)
        result.plugins.append(plugin)
        callers = result.manager.get_hookcallers(manifest) or []
        unknown = [caller.name for caller in callers if not caller.has_spec()]
        if unknown or not callers:
            known = ", ".join(name for name in vars(hookspecs) if name.startswith("zoo_"))
            raise PluginError(f"implements {', '.join(unknown) or 'nothing'}; the hooks are: {known}")


def _sequence(offered: Any, hook: str, of: str) -> Sequence[Any]:
    if offered is None:
        return ()
    if isinstance(offered, str | bytes | dict) or not isinstance(offered, Iterable):
        raise PluginError(f"{hook} returned {type(offered).__name__}; it must return a list of {of}")
    return list(offered)


def _add_part(result: Catalogue, plugin: Plugin, spec: Any) -> None:
    with isolated(result, plugin, "zoo_parts"):
        if not isinstance(spec, PartSpec):
            raise PluginError(f"zoo_parts returned a {type(spec).__name__}; it must return PartSpec objects")
        part = Part(spec, plugin.name, plugin.distribution, plugin.version)
        for other in result.parts:
            if (other.kind, other.full_name) == (part.kind, part.full_name):
                if other.spec != spec:
                    raise PluginError(
                        f"{part.kind} {part.name!r} is offered twice and differently: by "
                        f"{other.distribution} ({other.spec.target}) and {part.distribution} ({spec.target})"
                    )
                return
        result.parts.append(part)


def _add_converter(result: Catalogue, plugin: Plugin, spec: Any) -> None:
    with isolated(result, plugin, "zoo_converters"):
        if not isinstance(spec, Converter):
            raise PluginError(
                f"zoo_converters returned a {type(spec).__name__}; it must return Converter objects"
            )
        twin = next((other for other in result.converters if other.name == spec.name), None)
        if twin is not None and twin.spec != spec:
            raise PluginError(f"converter {spec.name!r} is taken by {twin.distribution}; rename it")
        if twin is None:
            result.converters.append(OfferedConverter(spec, plugin.name, plugin.distribution))


def _add_recipe_file(result: Catalogue, plugin: Plugin, path: Path) -> None:
    from zoo.recipe_files import read_registry

    with isolated(result, plugin, "zoo_recipes"):
        for name, source in read_registry(path, plugin=plugin.name).items():
            other = result.recipes.setdefault(name, source)
            if other is not source and other.data != source.data:
                with isolated(result, plugin, "zoo_recipes"):
                    raise PluginError(
                        f"recipe {name!r} ({source.where()}) is taken by {other.where()}; rename it"
                    )


@contextlib.contextmanager
def isolated(result: Catalogue, plugin: Plugin, stage: str) -> Iterator[None]:
    """Turn an exception into a problem, and keep what the plugin prints out of our standard output."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as error:
        if os.environ.get("ZOO_STRICT") == "1":
            raise
        text = str(error) if isinstance(error, ZooError) else f"{type(error).__name__}: {error}"
        result.problems.append(Problem(plugin.name, plugin.distribution, stage, text))


def _import_timeout_s() -> float:
    return float(os.environ.get("ZOO_IMPORT_TIMEOUT_S", IMPORT_TIMEOUT_S))


def _within_time(load: Callable[[], Any], timeout_s: float) -> Any:
    """Call `load` in a thread of its own and give up on it after a while."""
    outcome: list[tuple[Any, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((load(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="zoo-plugin-import", daemon=True)
    thread.start()
    thread.join(timeout_s)
    if not outcome:
        raise PluginError(
            f"its manifest did not import within {timeout_s:g} s; a manifest must import no model code "
            "(ZOO_IMPORT_TIMEOUT_S raises the limit)"
        )
    value, error = outcome[0]
    if error is not None:
        raise error if isinstance(error, Exception | SystemExit) else PluginError(repr(error))
    return value
