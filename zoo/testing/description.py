"""Checks of what a part says about itself, before any tensor flows: all kinds."""

from __future__ import annotations

import functools
import inspect
import json
import os
import subprocess
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from zoo.parts import PartSpec
from zoo.ports import ports_of
from zoo.testing.results import CheckSkipped, checks, fail
from zoo.testing.subject import Subject

BLOCKED = ("torch", "torchvision", "timm", "datasets", "numpy")
_PROBE = """
import importlib, json, sys
blocked = set(sys.argv[2].split(","))
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"the manifest imports {name}")
sys.meta_path.insert(0, Blocker())
module, _, attribute = sys.argv[1].partition(":")
manifest = importlib.import_module(module)
manifest = getattr(manifest, attribute) if attribute else manifest
from zoo.hookspecs import API_VERSION
parts = getattr(manifest, "zoo_parts", lambda api_version: [])(api_version=API_VERSION)
print("\\n" + json.dumps([[spec.kind, spec.name] for spec in parts]))
"""


def check_spec_valid(subject: Subject) -> None:
    """The spec has a one-line summary, a link or nothing as paper, and names of distributions as requires."""
    spec = subject.part.spec
    promised = "a PartSpec that `zoo list` and `zoo info` can print"
    if not isinstance(spec, PartSpec):
        raise fail(promised, f"a {type(spec).__name__}", "give a zoo.parts.PartSpec")
    if len(spec.summary) > 160:
        raise fail(promised, f"a summary of {len(spec.summary)} characters", "shorten it")
    if spec.paper is not None and not spec.paper.startswith("https://"):
        raise fail(promised, f"paper = {spec.paper!r}", "give an https:// link, or leave it out")
    if spec.license is not None and not spec.license.strip():
        raise fail(promised, f"license = {spec.license!r}", "give the SPDX name, or leave it out")
    if not all(isinstance(name, str) and name.strip() for name in spec.requires):
        raise fail(promised, f"requires = {spec.requires!r}", "list names that pip can install")


@functools.cache
def _offered_by(manifest: str) -> tuple[str, list[list[str]]]:
    """What went wrong and what is offered when a manifest is imported with heavy packages blocked."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", _PROBE, manifest, ",".join(BLOCKED)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
    )
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1], []
    return "", json.loads(done.stdout.strip().splitlines()[-1])


def check_manifest_is_light(subject: Subject) -> None:
    """The manifest imports without torch, torchvision, timm, datasets and numpy, and offers the part."""
    if subject.manifest is None:
        raise CheckSkipped("no installed plugin offers this part, so there is no manifest to import")
    promised = f"manifest {subject.manifest!r} imports with {', '.join(BLOCKED)} blocked, and offers the part"
    error, offered = _offered_by(subject.manifest)
    if error:
        raise fail(promised, error, "import heavy packages in the part's own module, which is loaded on use")
    if [subject.kind, subject.part.name] not in offered:
        raise fail(promised, f"it offers {offered}", "return the part's spec from zoo_parts")


def check_target_is_module(subject: Subject) -> None:
    """The target is a class derived from torch.nn.Module."""
    cls = subject.part.load()
    if not issubclass(cls, nn.Module):
        bases = ", ".join(base.__name__ for base in cls.__bases__)
        raise fail("the target derives from nn.Module", f"a class of {bases}", "derive it from nn.Module")


def check_signature_is_explicit(subject: Subject) -> None:
    """Every option is keyword-only, annotated with a JSON type, and defaults to a JSON value."""
    promised = "__init__(self, *, option: type = default, ...) with JSON-able options only"
    cls = subject.part.load()
    init: Any = cls.__init__
    if init is nn.Module.__init__:
        raise fail(promised, "no __init__ of its own", "write one, if only __init__(self)")
    try:
        hints = typing.get_type_hints(init)
    except Exception as error:
        raise fail(
            promised, f"unreadable annotations: {error}", "import the names outside TYPE_CHECKING"
        ) from None
    for name, parameter in list(inspect.signature(init).parameters.items())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise fail(promised, f"option {parameter}", "name every option in place of *args and **kwargs")
        if parameter.kind is not parameter.KEYWORD_ONLY:
            raise fail(promised, f"option {name!r} is positional", "put `*,` before the first option")
        if name not in hints:
            raise fail(promised, f"option {name!r} has no annotation", "annotate it")
        if not _is_json_type(hints[name]):
            raise fail(
                promised, f"option {name!r}: {hints[name]}", "use str, int, float, bool, None, list, dict"
            )
        if parameter.default is not parameter.empty and not _is_json(parameter.default):
            raise fail(
                promised, f"option {name!r} = {parameter.default!r}", "use a default that JSON can hold"
            )


def _is_json_type(annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return all(isinstance(value, (str, int, bool, type(None))) for value in arguments)
    if origin in (typing.Union, types.UnionType, list, dict, Sequence, Mapping):
        return all(map(_is_json_type, arguments))
    if origin is typing.Annotated:
        return _is_json_type(arguments[0])
    return annotation in (str, int, float, bool, None, type(None), list, dict)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def check_example_is_json(subject: Subject) -> None:
    """The example options survive JSON unchanged."""
    promised = "example options are JSON: str, numbers, bool, None, lists and string-keyed dicts"
    options = subject.options
    if not _is_json(options):
        raise fail(promised, f"{options!r}", "write the options as they would stand in registry.yaml")
    if (back := json.loads(json.dumps(options))) != options:
        raise fail(promised, f"{options!r} comes back as {back!r}", "use lists, not tuples, and string keys")


def check_example_fits_signature(subject: Subject) -> None:
    """The example names options that exist, and all that have no default."""
    parameters = list(inspect.signature(subject.part.load().__init__).parameters.values())[1:]
    known = {p.name for p in parameters}
    required = {p.name for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY}
    promised = "example options are options of the class, with all the required ones"
    if unknown := sorted(subject.options.keys() - known):
        raise fail(promised, f"unknown {unknown}", f"the class takes {sorted(known)}")
    if missing := sorted(required - subject.options.keys()):
        raise fail(promised, f"missing {missing}", "add them to the example")


def check_example_builds(subject: Subject) -> None:
    """The example builds on the CPU, in training mode, with at most 50 million parameters."""
    module = subject.build()
    promised = "the example builds a small module in training mode"
    if not module.training:
        raise fail(promised, "it is in evaluation mode", "do not call .eval() in the constructor")
    if (size := sum(p.numel() for p in module.parameters())) > 50_000_000:
        raise fail(promised, f"{size:,} parameters", "choose smaller example options")


def check_config_round_trip(subject: Subject) -> None:
    """Options that went through JSON build the same structure, and are not changed by it."""
    promised = "the part can be built again from its recorded options"
    options = json.loads(json.dumps(subject.options))
    module = subject.part.load()(**options)
    if options != subject.options:
        raise fail(
            promised, f"the constructor changed its options to {options}", "copy lists before editing them"
        )
    if _structure(module) != _structure(again := subject.build()):
        differs = {name for name, _ in _structure(module) ^ _structure(again)}
        raise fail(
            promised, f"different weights: {sorted(differs)[:5]}", "let options alone decide the structure"
        )


def _structure(module: nn.Module) -> set[tuple[str, str]]:
    state = module.state_dict().items()
    return {(name, f"{tuple(value.shape)} {value.dtype}") for name, value in state}


def check_seeded_build(subject: Subject) -> None:
    """Weights are drawn from torch's global generator: the same seed gives the same weights."""
    first, second = subject.build(seed=3).state_dict(), subject.build(seed=3).state_dict()
    for name, value in first.items():
        if name not in second or not torch.equal(value, second[name]):
            raise fail(
                "the same torch seed gives the same weights",
                f"{name} differs between two builds",
                "draw initial weights from torch's global generator only",
            )


def check_ports_present(subject: Subject) -> None:
    """Every port attribute of the kind is there, with a value of its type."""
    ports_of(subject.kind, subject.part.full_name, subject.build())


CHECKS = [
    *checks(
        check_spec_valid,
        check_target_is_module,
        check_signature_is_explicit,
        check_example_is_json,
        check_example_fits_signature,
        check_example_builds,
        check_config_round_trip,
        check_seeded_build,
        check_ports_present,
    ),
    *checks(check_manifest_is_light, may_skip=True),
]
