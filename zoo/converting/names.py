"""The names of the tensors in what a foreign file holds: a state dict, a checkpoint or a pickled module."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from zoo.converting.pickles import Inert
from zoo.converting.torch_files import TensorRef
from zoo.errors import WeightsError

_NOT_WEIGHTS = re.compile(r"(.*_)?(optim|optimizer|scheduler|callbacks|loops|hyper_parameters)\w*")
_MAX_DEPTH = 64
_MAX_NODES = 500_000
_MAX_NAME = 1000


def name_tensors(root: Any) -> tuple[dict[str, TensorRef], list[str]]:
    """Name every tensor of the weights in `root` as ``state_dict()`` would.

    Of a checkpoint with a ``state_dict`` only that is taken, and what is called alike (``ema_state_dict``);
    elsewhere all but optimizers and schedulers. Several models get their keys as prefixes. Of a pickled
    module (whole, or in TorchScript) names follow from the tree of its attributes.

    Returns:
        Names to tensors, and the keys of the checkpoint that were left aside.

    Raises:
        WeightsError: There is no tensor, two have one name, or the tree is too deep or large.
    """
    aside: list[str] = []
    if isinstance(root, dict):
        is_checkpoint = isinstance(root.get("state_dict"), dict)
        keys = [key for key in root if isinstance(key, str)]
        aside = sorted(
            key
            for key in keys
            if _NOT_WEIGHTS.fullmatch(key) or (is_checkpoint and not key.endswith("state_dict"))
        )
        root = {key: value for key, value in root.items() if key not in aside}
        if is_checkpoint and len(root) == 1:
            root = root["state_dict"]
    named: dict[str, TensorRef] = {}
    for num, (name, value) in enumerate(_walk(root, "", ())):
        if num > _MAX_NODES:
            raise WeightsError("the file holds more values than weights have")
        if isinstance(value, TensorRef) and named.setdefault(name, value) is not value:
            raise WeightsError(f"two tensors are called {name!r}")
    if not named:
        held = sorted(key[:80] for key in root if isinstance(key, str)) if isinstance(root, dict) else []
        raise WeightsError(f"no tensors in it; it holds {', '.join(held[:8]) or 'no names of any'}")
    return named, aside


def _walk(value: Any, name: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    yield name, value
    if isinstance(value, TensorRef) or id(value) in above:
        return
    children = list(_children(value))
    if children and len(above) >= _MAX_DEPTH:
        raise WeightsError(f"values are nested more than {_MAX_DEPTH} deep at {name[:200]!r}")
    for key, child in children:
        full = f"{name}.{key}" if name else str(key)
        if len(full) > _MAX_NAME:
            raise WeightsError(f"a name of more than {_MAX_NAME} letters: {full[:80]!r}...")
        yield from _walk(child, full, (*above, id(value)))


def _is_name(key: Any) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and abs(key) < 1 << 63)


def _children(value: Any) -> Iterator[tuple[str | int, Any]]:
    if isinstance(value, dict):
        yield from ((key, child) for key, child in value.items() if _is_name(key))
    elif isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, Inert) and isinstance(value.state, Mapping):
        attributes = value.state
        if isinstance(attributes.get("_modules"), dict):
            for field in ("_parameters", "_buffers", "_modules"):
                if isinstance(attributes.get(field), dict):
                    yield from _children(attributes[field])
        else:
            yield from _children(attributes)
    elif isinstance(value, Inert):
        yield from _children(value.pairs)
