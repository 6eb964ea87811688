"""Weights: a folder of config.json, model.safetensors and a card. Checked first, loaded second.

``config.json`` holds the resolved recipe, who provides each part, and the SHA-256 of every weights file.
Nothing in a folder is ever executed; a file that is damaged, foreign or of another model is refused
before a model changes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from zoo import plain_json
from zoo.assemblies import Assembly
from zoo.building import Plan, plan
from zoo.discovery import DISTRIBUTION, catalogue
from zoo.errors import UnknownNameError, WeightsError, ZooError
from zoo.files import new_folder, sha256
from zoo.model_files import compare_hash, inside, not_finite, open_files, places_of, read_verified
from zoo.precision import lower_precision
from zoo.recipe_files import PART_FIELDS
from zoo.safetensors_files import Place, SafetensorsFile

FORMAT = 1
CONFIG = "config.json"
CARD = "README.md"
MAX_SHARD_BYTES = 5_000_000_000
MAX_CONFIG_BYTES = 4 << 20
_HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)@(?P<revision>[0-9a-f]{40})")


def save(model: Assembly, folder: str | Path, *, force: bool = False, card: str | None = None) -> Path:
    """Write a model folder, all of it or nothing.

    Args:
        model: What `zoo.build`, `zoo.load` or `zoo.train` returned.
        folder: Where to; replaced in one step when it exists and `force` is on.
        force: Replace an existing model folder.
        card: Markdown put into the folder's README.md under the facts that are always there.

    Raises:
        OutputExistsError: The folder exists and `force` is off.
        WeightsError: The folder exists and holds something else than a model, which is never deleted; or the
            model was lowered to bfloat16, which lost digits of its weights.
    """
    folder = Path(folder)
    if any(parameter.dtype == torch.bfloat16 for parameter in model.parameters()):
        raise WeightsError(f"{model.name} is in bfloat16, for inference; load it without dtype= to save it")
    if folder.exists() and not (folder / CONFIG).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise WeightsError(f"{folder} exists and is not a model folder; it will not be replaced")
    tensors = saveable(model.state_dict())
    try:
        _write(model, tensors, folder, force=force, card=card)
    except (SafetensorError, OSError) as error:
        if isinstance(error, ZooError):
            raise
        raise WeightsError(f"{folder} cannot be written: {error}; what was there before is whole") from error
    return folder


def _write(
    model: Assembly, tensors: dict[str, Tensor], folder: Path, *, force: bool, card: str | None
) -> None:
    with new_folder(folder, force=force) as temporary:
        files = {}
        for name, shard in _shards(tensors):
            save_file(shard, temporary / name, metadata={"format": "pt"})
            files[name] = sha256(temporary / name)
        config = {
            "format": FORMAT,
            "name": model.name,
            "zoo_version": importlib.metadata.version(DISTRIBUTION),
            "provided_by": model.provided_by,
            "recipe": model.recipe.model_dump(mode="json", exclude_unset=True),
            "labels": model.labels,
            "weights": files,
        }
        (temporary / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        (temporary / CARD).write_text(_card(model, files, card), encoding="utf-8")


def load(
    reference: str | Path,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Assembly:
    """Load a model, in evaluation mode.

    Args:
        reference: A model folder, a run folder that holds one, ``hf://owner/name@<40-digit commit>``, or
            a scheme that a plugin resolves.
        device: Where the weights go; the CPU when left out.
        dtype: ``"bfloat16"`` lets an autoencoder's encoder and decoder compute in it, for inference;
            what goes in and comes out stays float32.

    Raises:
        WeightsError: The folder is not a model, is damaged, or does not fit its own recipe.
    """
    folder = find_folder(reference)
    config = read_config(folder)
    checked = _plan(folder, config)
    checked = dataclasses.replace(checked, name=config["name"])
    with open_files(folder, config["weights"]) as files:
        with torch.device("meta"):
            model = checked.make()
        _check_same(places_of(files), model.state_dict(), str(folder))
        tensors = read_verified(files, config["weights"])
    # The weights are built for real, not assigned over meta tensors: a part may hold tensors that are
    # not in its state dict.
    with torch.random.fork_rng(devices=[]):
        model = checked.make()
    model.load_state_dict(tensors)
    model.labels = [str(label) for label in config.get("labels", [])]
    if dtype is not None:
        lower_precision(model, dtype)
    return model.to(device) if device is not None else model


def _plan(folder: Path, config: Mapping[str, Any]) -> Plan:
    """Plan the model of a folder, naming the folder, and what to install, when that fails."""
    try:
        return plan(not_pretrained(config["recipe"]))
    except UnknownNameError as error:
        raise WeightsError(f"{folder}: {error}\n{_install_line(config)}") from error
    except ZooError as error:
        raise WeightsError(f"{folder / CONFIG}: {error}") from error


def not_pretrained(recipe: dict[str, Any]) -> dict[str, Any]:
    """Switch off the option `pretrained` of every part: its weights are about to be replaced anyway."""

    def switch(part: Any) -> Any:
        if isinstance(part, list):
            return [switch(item) for item in part]
        return {**part, "pretrained": False} if isinstance(part, dict) and "pretrained" in part else part

    return {field: switch(value) if field in PART_FIELDS else value for field, value in recipe.items()}


def load_weights(model: Assembly, reference: str | Path) -> None:
    """Load the weights of a folder into a model of the same recipe; the model changes last.

    Raises:
        WeightsError: As `load`, or the tensors are not those of the model. The model is as it was.
    """
    folder = find_folder(reference)
    digests = read_config(folder)["weights"]
    with open_files(folder, digests) as files:
        _check_same(places_of(files), model.state_dict(), str(folder))
        tensors = read_verified(files, digests)
    model.load_state_dict(tensors)


def load_parts(model: Assembly, init: Mapping[str, str | Path]) -> None:
    """Load parts of other models into a model that shares them; the model changes last.

    Args:
        model: The model to change.
        init: Model folders by sub-module: ``{"encoder": folder, "quantizer": folder}``; ``tokenizer`` of a
            latent GAN is the whole model in its folder.

    Raises:
        WeightsError: A sub-module is not in one of the two models, or has other tensors there. The
            model is as it was.
    """
    found: dict[str, Tensor] = {}
    for part, reference in init.items():
        own = {k: v for k, v in model.state_dict().items() if k.startswith(f"{part}.")}
        if not own:
            names = ", ".join(name for name, child in model.named_children() if child.state_dict())
            raise WeightsError(f"init: this model has no part {part!r} with weights; it has: {names}")
        folder = find_folder(reference)
        digests = read_config(folder)["weights"]
        with open_files(folder, digests) as files:
            tensors = read_verified(files, digests)
        if part == "tokenizer":  # a whole model there is a part here
            tensors = {f"tokenizer.{k}": v for k, v in tensors.items() if not k.startswith("discriminator.")}
        theirs = {k: v for k, v in tensors.items() if k.startswith(f"{part}.")}
        _check_same(theirs, own, f"{folder}: {part}")
        found |= theirs
    model.load_state_dict(found, strict=False)


def find_folder(reference: str | Path) -> Path:
    """Turn a weights reference into a local model folder.

    Raises:
        WeightsError: Nothing is there; the message says what references look like. Or a link leads out.
    """
    folder = Path(reference)
    if folder.is_dir():
        is_run = not (folder / CONFIG).exists() and (folder / "model").is_dir()
        return inside(folder, "model") if is_run else folder
    text = str(reference)
    if hub := _HUB.fullmatch(text):
        from huggingface_hub import snapshot_download

        try:
            return Path(
                snapshot_download(
                    hub["repo"],
                    revision=hub["revision"],
                    allow_patterns=[CONFIG, CARD, "*.safetensors"],
                )
            )
        except Exception as error:
            raise WeightsError(f"{text} cannot be fetched: {type(error).__name__}: {error}") from error
    if (resolved := catalogue().resolve_weights(text)) is not None:
        return resolved
    hint = ""
    if text in catalogue().recipes:
        hint = f" {text!r} is a recipe and has no weights yet: zoo train {text} --data FOLDER."
    raise WeightsError(
        f"no model at {text!r}.{hint} A model is a folder with {CONFIG}, or "
        "hf://owner/name@<40-digit commit>."
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check the config.json of a model folder.

    Raises:
        WeightsError: It is missing, too large, not JSON, of a newer format or lacks a field.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise WeightsError(f"{folder} is not a model folder: it has no {CONFIG}")
    inside(folder, CONFIG)
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise WeightsError(f"{path}: larger than {MAX_CONFIG_BYTES:,} bytes")
    try:
        config = plain_json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise WeightsError(f"{path}: not valid JSON: {error}") from error
    fields = {"format": int, "name": str, "recipe": dict, "provided_by": dict, "weights": dict}
    for field, kind in fields.items():
        if not isinstance(config, dict) or not isinstance(config.get(field), kind):
            raise WeightsError(f"{path}: {field!r} is missing or not a {kind.__name__}")
    if not isinstance(config.get("labels", []), list):
        raise WeightsError(f"{path}: 'labels' is not a list")
    if type(config["format"]) is not int or config["format"] != FORMAT:
        raise WeightsError(
            f"{path}: format {config['format']}; this version reads {FORMAT}: pip install -U {DISTRIBUTION}"
        )
    return config


@dataclasses.dataclass(frozen=True)
class WeightsReport:
    """What `check` found in a weights file or model folder.

    Attributes:
        path: What was checked.
        problems: Why it must not be loaded; empty when it is fine.
        warnings: What is odd but loads, such as NaN weights.
        num_tensors: Tensors read.
        num_values: Numbers in them.
    """

    path: str
    problems: list[str]
    warnings: list[str]
    num_tensors: int
    num_values: int


def check(path: str | Path) -> WeightsReport:
    """Check a model folder or a single safetensors file without building a model on real memory."""
    path = Path(path)
    warnings: list[str] = []
    places: dict[str, Place] = {}
    try:
        with contextlib.ExitStack() as stack:
            if path.is_dir():
                folder = find_folder(path)
                config = read_config(folder)
                files = stack.enter_context(open_files(folder, config["weights"]))
                places = places_of(files)
                with torch.device("meta"):
                    model = _plan(folder, config).make()
                _check_same(places, model.state_dict(), str(folder))
                for file in files:
                    compare_hash(file, file.sha256(), config["weights"])
            else:
                files = [stack.enter_context(SafetensorsFile(path))]
                places = places_of(files)
            warnings += [
                f"{name} holds NaN or infinite values" for file in files for name in not_finite(file)
            ]
    except WeightsError as error:
        return WeightsReport(str(path), str(error).split("\n"), [], len(places), _values(places))
    return WeightsReport(str(path), [], warnings, len(places), _values(places))


def _values(places: Mapping[str, Place]) -> int:
    return sum(math.prod(place.shape) for place in places.values())


def _numel(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def saveable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU that share no memory, which safetensors asks for."""
    result: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        address = value.untyped_storage().data_ptr()
        result[name] = value.clone() if address in seen else value
        seen.add(address)
    return result


def _shards(tensors: dict[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Split tensors, in order, into files of at most `MAX_SHARD_BYTES` (one tensor is never split)."""
    groups: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if groups[-1] and size + tensor.nbytes > MAX_SHARD_BYTES:
            groups.append({})
            size = 0
        groups[-1][name] = tensor
        size += tensor.nbytes
    if len(groups) == 1:
        yield "model.safetensors", groups[0]
        return
    for i, group in enumerate(groups, start=1):
        yield f"model-{i:05d}-of-{len(groups):05d}.safetensors", group


def _check_same(found: Mapping[str, Tensor | Place], wanted: Mapping[str, Tensor], label: str) -> None:
    """Refuse tensors whose names, shapes or dtypes are not exactly those wanted."""
    problems = []
    if missing := wanted.keys() - found.keys():
        problems.append(f"{label}: {len(missing)} tensors are missing: {_some(missing)}")
    if extra := found.keys() - wanted.keys():
        problems.append(f"{label}: {len(extra)} tensors are not of this model: {_some(extra)}")
    for name in sorted(wanted.keys() & found.keys()):
        a, b = found[name], wanted[name]
        if tuple(a.shape) != tuple(b.shape) or a.dtype != b.dtype:
            problems.append(
                f"{label}: {name} is {a.dtype} {tuple(a.shape)}; the model has {b.dtype} {tuple(b.shape)}"
            )
    if problems:
        more = [f"... and {len(problems) - 8} more"] if len(problems) > 8 else []
        raise WeightsError("\n".join(problems[:8] + more))


def _some(names: Any, most: int = 4) -> str:
    ordered = [
        ascii(name)[1:-1] for name in sorted(names)
    ]  # a look-alike letter shows, an escape does nothing
    return ", ".join(ordered[:most]) + (", ..." if len(ordered) > most else "")


def _install_line(config: Mapping[str, Any]) -> str:
    """Say which distributions the parts of a folder came from."""
    by = config["provided_by"]
    given = {str(p.get("distribution")) for p in by.values() if isinstance(p, dict)} - {DISTRIBUTION}
    safe = sorted(name for name in given if re.fullmatch(r"[\w.-]+", name))
    return (
        f"The model was saved with parts of: {', '.join(safe)}. Try: pip install {' '.join(safe)}"
        if safe
        else ""
    )


def _card(model: Assembly, files: Mapping[str, str], extra: str | None) -> str:
    """Describe a model in Markdown: what it is, who provides it, its hashes."""
    recipe, clip = model.recipe, model.recipe.clip
    size = f"{clip.num_frames} frames of {clip.height}x{clip.width}, {clip.channels} channels"
    facts = [f"Parameters: {model.num_parameters():,}"]
    if recipe.discriminator:
        facts.append(
            f"Parameters of the discriminators: {_numel(dict(model.discriminator.named_parameters())):,}"
        )
    facts.append(f"Clips: {size}, in [-1, 1]")
    for field, by in model.provided_by.items():
        facts.append(f"{field}: {model.recipe_part(field)} ({by['distribution']} {by['version']})")
    if recipe.paper:
        facts.append(f"Paper: {recipe.paper}")
    facts += [f"SHA-256 of {name}: {digest}" for name, digest in files.items()]
    use = '```python\nimport zoo\n\nmodel = zoo.load("path/to/this/folder")\n```'
    listed = "\n".join(f"- {fact}" for fact in facts)
    sections = [f"# {model.name}", recipe.summary, use, listed, (extra or "").strip()]
    return "\n\n".join(section for section in sections if section) + "\n"
