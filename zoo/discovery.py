"""Discovery: from installed entry points to a catalogue of parts and recipes.

Every plugin is loaded on its own: one that breaks, hangs or lies becomes a `Problem` and never stops
the others. Problems are shown by ``zoo doctor`` and in every not-found error; ``ZOO_STRICT=1`` raises
the first instead. ``ZOO_DISABLE=a,b`` leaves plugins out, ``ZOO_PLUGINS=a,b`` keeps only those named.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import difflib
import fnmatch
import functools
import importlib.metadata
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from zoo import hookspecs
from zoo.converters import Converter, OfferedConverter
from zoo.errors import PluginError, UnknownNameError, ZooError, plain
from zoo.foreign_code import Clock, LateError, within_time
from zoo.global_state import kept, own_stdout, stdout_to_stderr
from zoo.parts import KINDS, NAME, Kind, Part, PartSpec

if TYPE_CHECKING:
    from zoo.recipe_files import RecipeSource

DISTRIBUTION = "zoo-video"
IMPORT_TIMEOUT_S = 0.8
"""Time that all manifests which are not ours have to load; the variable ZOO_IMPORT_TIMEOUT_S overrides it."""
LATE_S = 10.0
"""Longest wait for manifests that were late, once something is asked for that only they may have."""
_MAX_OFFERED = 10_000
_LIBRARIES = frozenset(
    ("zoo", "torch", "torchvision", "timm", "einops", "pluggy", "safetensors", "datasets", "huggingface_hub")
) | {"pydantic", "yaml", "click", "tqdm", "jinja2", "numpy", "av", "constriction"}


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
        self._known: dict[tuple[str, str], Part] = {}
        self._late: list[_Late] = []
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
        offers = self._offers(kind, plugin, bare)
        if not offers and self._wait_for_late():
            offers = self._offers(kind, plugin, bare)
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

    def _offers(self, kind: Kind, plugin: str, name: str) -> list[Part]:
        return [p for p in self.parts if p.kind == kind and p.name == name and plugin in ("", p.plugin)]

    def bundled_recipes(self) -> list[str]:
        """Return the names of the recipes that come with the zoo, sorted."""
        ours = {"zoo", *(plugin.name for plugin in self.plugins if plugin.ours)}
        return sorted(name for name, source in self.recipes.items() if source.plugin in ours)

    def source(self, name: str) -> RecipeSource:
        """Look a recipe up by name.

        Raises:
            UnknownNameError: No installed plugin ships a recipe of that name.
        """
        if name not in self.recipes:
            self._wait_for_late()
        try:
            return self.recipes[name]
        except KeyError:
            raise UnknownNameError(self._not_found("recipe", name, self.recipes)) from None

    def _wait_for_late(self) -> bool:
        """Give manifests that did not load in time some more; say whether one has loaded since."""
        waiting, self._late = self._late, []
        before = len(self.plugins)
        deadline = time.monotonic() + LATE_S
        for late in waiting:
            late.thread.join(max(0.0, deadline - time.monotonic()))
            if not late.thread.is_alive():  # those that still are have had their chance
                self.problems.remove(late.problem)
                _take(self, late.plugin, late.result)
        return len(self.plugins) > before

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

    def offered(self, plugin: Plugin, hook: str, of: str, **arguments: Any) -> list[Any]:
        """Call a hook of a plugin that lists what it offers; in time, if the plugin is not ours."""
        manifest = self.manager.get_plugin(plugin.name)
        found: list[Any] = []

        def call() -> None:
            for impl in getattr(self.manager.hook, hook).get_hookimpls():
                if impl.plugin is manifest:
                    made = impl.function(**{name: arguments[name] for name in impl.argnames})
                    found.extend(map(_own, _sequence(made, hook, of)))

        with isolated(self, plugin, hook):
            if plugin.ours:
                call()
            else:
                within_time(call, Clock.least(), f"{hook} did not return")
            return found
        return []

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
    Clock.start(_import_timeout_s())
    for entry, distribution, version in _entry_points(result):
        if entry.name not in disabled and (not allowed or entry.name in allowed):
            ours = _same(distribution, DISTRIBUTION)
            _add(result, Plugin(plain(entry.name), distribution, version, plain(entry.value), ours), entry)
    own_stdout()
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
    names = collections.Counter((p.kind, p.name) for p in parts)
    return sorted({p.name if names[p.kind, p.name] == 1 else p.full_name for p in parts})


def _names(variable: str) -> set[str]:
    return {name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()}


def _same(a: str, b: str) -> bool:
    return a.lower().replace("_", "-") == b.lower().replace("_", "-")


def _entry_points(result: Catalogue) -> list[tuple[importlib.metadata.EntryPoint, str, str]]:
    """Entry points of the group with their distribution and version, ours first, then by name."""
    entries: list[importlib.metadata.EntryPoint] = []
    try:
        entries += importlib.metadata.entry_points(group=hookspecs.ENTRY_POINT_GROUP)
    except Exception:  # the files of one distribution are damaged: read the others
        for one in importlib.metadata.distributions():
            where = str(getattr(one, "_path", "unknown"))
            with isolated(result, Plugin("unknown", where, "", "", ours=False), "metadata"):
                entries += one.entry_points.select(group=hookspecs.ENTRY_POINT_GROUP)
    found = []
    for entry in entries:
        distribution, version = "unknown", "unknown"
        with contextlib.suppress(Exception):  # what is not told is unknown
            if entry.dist is not None:
                distribution, version = str(entry.dist.name), str(entry.dist.version)
        found.append((entry, plain(distribution), plain(version)))
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
        if not NAME.fullmatch(plugin.name):
            raise PluginError("use lower-case letters and digits joined by - _ or . as the plugin's name")
        if plugin.ours:
            manifest = entry.load()
        else:
            _check_module(entry.value)
            manifest = _foreign(result, plugin, entry.load)
    if manifest is not None:
        _take_manifest(result, plugin, manifest)


def _check_module(manifest: str) -> None:
    """Refuse a manifest in a module of Python's or a library's name, which is not the plugin's to fill."""
    top = manifest.partition(":")[0].partition(".")[0]
    if top in sys.stdlib_module_names or top in _LIBRARIES:
        raise PluginError(f"its manifest is in {manifest!r}, and {top} is the name of a library; rename it")


def _foreign(result: Catalogue, plugin: Plugin, load: Callable[[], Any]) -> Any:
    """Import a manifest that is not ours: in time, and what it changes of the process is put back."""
    with kept() as changed:
        try:
            manifest = within_time(load, Clock.least(), "its manifest did not import")
        except LateError as late:
            result.problems.append(Problem(plugin.name, plugin.distribution, "import", str(late)))
            result._late.append(_Late(plugin, late.thread, late.result, result.problems[-1]))
            manifest = None
    if changed:
        what = ", ".join(sorted(changed)[:8])
        text = f"importing it changed {what}; that was put back, and a manifest must change nothing"
        result.problems.append(Problem(plugin.name, plugin.distribution, "import", text))
    return manifest


def _take(result: Catalogue, plugin: Plugin, outcome: Callable[[], Any]) -> None:
    """Take a manifest that has loaded at last."""
    manifest = None
    with isolated(result, plugin, "import"):
        manifest = outcome()
    if manifest is not None:
        Clock.start(_import_timeout_s())
        _take_manifest(result, plugin, manifest)


def _take_manifest(result: Catalogue, plugin: Plugin, manifest: Any) -> None:
    """Register a manifest and take what it offers."""
    with isolated(result, plugin, "register"):
        result.manager.register(manifest, name=plugin.name)
        result.plugins.append(plugin)
        callers = result.manager.get_hookcallers(manifest) or []
        unknown = [caller.name for caller in callers if not caller.has_spec()]
        if unknown or not callers:
            known = ", ".join(name for name in vars(hookspecs) if name.startswith("zoo_"))
            raise PluginError(f"implements {', '.join(unknown) or 'nothing'}; the hooks are: {known}")
    if plugin not in result.plugins:
        return
    version = hookspecs.API_VERSION
    for spec in result.offered(plugin, "zoo_parts", "PartSpec", api_version=version):
        _add_part(result, plugin, spec)
    for spec in result.offered(plugin, "zoo_converters", "Converter", api_version=version):
        _add_converter(result, plugin, spec)
    for path in result.offered(plugin, "zoo_recipes", "paths"):
        _add_recipe_file(result, plugin, path)


def _sequence(offered: Any, hook: str, of: str) -> Sequence[Any]:
    if offered is None:
        return ()
    if isinstance(offered, str | bytes | dict) or not isinstance(offered, Iterable):
        raise PluginError(f"{hook} returned {type(offered).__name__}; it must return a list of {of}")
    listed = list(itertools.islice(offered, _MAX_OFFERED + 1))
    if len(listed) > _MAX_OFFERED:
        raise PluginError(f"{hook} returned more than {_MAX_OFFERED:,} {of}")
    return listed


def _own(offer: Any) -> Any:
    """Return a part or converter as an object of our class, whose fields run no code of the plugin's."""
    cls = next((cls for cls in (PartSpec, Converter) if isinstance(offer, cls)), None)
    if cls is None:
        return offer
    return cls(**{field.name: getattr(offer, field.name) for field in dataclasses.fields(cls)})


def _add_part(result: Catalogue, plugin: Plugin, spec: Any) -> None:
    with isolated(result, plugin, "zoo_parts"):
        if not isinstance(spec, PartSpec):
            raise PluginError(f"zoo_parts returned a {type(spec).__name__}; it must return PartSpec objects")
        part = Part(spec, plugin.name, plugin.distribution, plugin.version)
        other = result._known.setdefault((part.kind, part.full_name), part)
        if other is part:
            result.parts.append(part)
        elif other.spec != spec:
            raise PluginError(
                f"{part.kind} {part.name!r} is offered twice and differently: by "
                f"{other.distribution} ({other.spec.target}) and {part.distribution} ({spec.target})"
            )


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


def _add_recipe_file(result: Catalogue, plugin: Plugin, path: str | Path) -> None:
    from zoo.recipe_files import read_registry

    with isolated(result, plugin, "zoo_recipes"):
        for name, source in read_registry(Path(path), plugin=plugin.name).items():
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
        with contextlib.nullcontext() if plugin.ours else stdout_to_stderr():
            yield
    except (Exception, SystemExit) as error:
        if os.environ.get("ZOO_STRICT") == "1":
            raise
        text = str(error) if isinstance(error, ZooError) else first_words(error)
        result.problems.append(Problem(plugin.name, plugin.distribution, stage, plain(text)))


def first_words(error: BaseException) -> str:
    """Say what a plugin raised; what it says may break too."""
    try:
        return f"{type(error).__name__}: {error}"[:2000]
    except Exception:
        return type(error).__name__


def _import_timeout_s() -> float:
    told = os.environ.get("ZOO_IMPORT_TIMEOUT_S", str(IMPORT_TIMEOUT_S))
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(told)) <= threading.TIMEOUT_MAX:
            return seconds
    raise PluginError(f"ZOO_IMPORT_TIMEOUT_S is {told!r}; it must be a number of seconds, such as 5")


@dataclasses.dataclass(frozen=True)
class _Late:
    """A manifest that is still loading."""

    plugin: Plugin
    thread: threading.Thread
    result: Callable[[], Any]
    problem: Problem
