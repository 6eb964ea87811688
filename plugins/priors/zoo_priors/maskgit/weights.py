"""Names of the public MAGVIT transformers (Flax), turned into ours.

Kernels are stored as (in, out); those of attention are split into heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.converting.public_state import PublicState
from zoo.errors import WeightsError

_FAMILY = "MAGVIT transformer"
_QUERY = "BertLayer_0.BertAttention_0.self_attention.query.kernel"
_ROWS = "BertEmbed_0.word_embeddings.embedding"
_PLACES = "BertEmbed_0.position_embeddings.embedding"
_INSIDE = "BertLayer_0.BertMlp_0.intermediate_output.kernel"
_NEEDED = {_QUERY: 3, _ROWS: 2, _PLACES: 2, _INSIDE: 2}
_DENSE = {"attention.out": "BertAttention_0.self_attention.out", "mlp_in": "BertMlp_0.intermediate_output"}
_DENSE |= {"mlp_out": "BertMlp_0.layer_output"}
_NORMS = {
    "attention_norm": "BertAttention_0.attention_output_ln",
    "mlp_norm": "BertMlp_0.layer_output_ln",
}


def map_magvit_prior_state_dict(
    state: Mapping[str, Any], *, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the parameters of a public MAGVIT transformer to those of our prior, and turn its kernels.

    The result is for ``load_state_dict`` of the part: the public code keeps the tokenizer's weights apart,
    so there is no whole model to convert. The prior needs the public one's grid, tasks and classes. Public
    multi-task transformers tell inpainting by the token of outpainting, so let them inpaint by
    ``fill(..., task="outpainting_central")``.

    Args:
        state: Names to tensors: the tree of parameters, flattened with "/" or "." between its levels.
        prefix: Which parameters to take where there are several (raw and averaged, say), with "." between
            levels.

    Returns:
        Our names to tensors, complete for a prior; and the sorted names of `state` that have no place.

    Raises:
        WeightsError: These are not such weights, names are missing, or a shape does not fit.
    """
    dotted = {name.replace("/", "."): name for name in state}
    public = PublicState(
        {new: state[name] for new, name in dotted.items()}, family=_FAMILY, needed=_NEEDED, prefix=prefix
    )
    num_layers = public.count(r"BertLayer_(\d+)\.")
    known, unused = public.take(_shapes(public.tensors, num_layers))
    mapped = {f"bert.{name}": tensor for name, tensor in _turned(known, num_layers)}
    return mapped, sorted(dotted[name] for name in unused)


def _shapes(tensors: Mapping[str, Tensor], num_layers: int) -> dict[str, torch.Size]:
    num_rows, dim = tensors[_ROWS].shape
    _, heads, width = tensors[_QUERY].shape
    inside = tensors[_INSIDE].shape[1]
    if heads * width != dim:
        raise WeightsError(f"{_FAMILY} weights: {heads} heads of {width} do not make the width {dim}")
    shapes: dict[str, tuple[int, ...]] = {_ROWS: (num_rows, dim), _PLACES: tuple(tensors[_PLACES].shape)}
    shapes |= {"BertMlmLayer_0.mlm_dense.kernel": (dim, dim), "BertMlmLayer_0.mlm_dense.bias": (dim,)}
    shapes["BertMlmLayer_0.mlm_bias.bias"] = (num_rows,)
    norms = ["BertEmbed_0.embeddings_ln", "BertMlmLayer_0.mlm_ln"]
    for n in range(num_layers):
        layer = f"BertLayer_{n}"
        attention, mlp = f"{layer}.BertAttention_0.self_attention", f"{layer}.BertMlp_0"
        for each in ("query", "key", "value"):
            shapes[f"{attention}.{each}.kernel"] = (dim, heads, width)
            shapes[f"{attention}.{each}.bias"] = (heads, width)
        shapes |= {f"{attention}.out.kernel": (heads, width, dim), f"{attention}.out.bias": (dim,)}
        shapes |= {
            f"{mlp}.intermediate_output.kernel": (dim, inside),
            f"{mlp}.intermediate_output.bias": (inside,),
            f"{mlp}.layer_output.kernel": (inside, dim),
            f"{mlp}.layer_output.bias": (dim,),
        }
        norms += [f"{layer}.{name}" for name in _NORMS.values()]
    for norm in norms:
        shapes |= {f"{norm}.scale": (dim,), f"{norm}.bias": (dim,)}
    return {name: torch.Size(shape) for name, shape in shapes.items()}


def _turned(known: Mapping[str, Tensor], num_layers: int) -> Iterator[tuple[str, Tensor]]:
    def dense(ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
        bias = known[f"{theirs}.bias"]
        yield f"{ours}.weight", known[f"{theirs}.kernel"].reshape(-1, len(bias)).T
        yield f"{ours}.bias", bias

    def norm(ours: str, theirs: str) -> Iterator[tuple[str, Tensor]]:
        yield f"{ours}.weight", known[f"{theirs}.scale"]
        yield f"{ours}.bias", known[f"{theirs}.bias"]

    yield "embedding.weight", known[_ROWS]
    yield "position.weight", known[_PLACES]
    yield from norm("embedding_norm", "BertEmbed_0.embeddings_ln")
    for n in range(num_layers):
        attention = f"BertLayer_{n}.BertAttention_0.self_attention"
        parts = [f"{attention}.{each}" for each in ("query", "key", "value")]
        yield (
            f"blocks.{n}.attention.qkv.weight",
            torch.cat([known[f"{p}.kernel"].flatten(1).T for p in parts]),
        )
        yield f"blocks.{n}.attention.qkv.bias", torch.cat([known[f"{p}.bias"].flatten() for p in parts])
        for ours, theirs in _DENSE.items():
            yield from dense(f"blocks.{n}.{ours}", f"BertLayer_{n}.{theirs}")
        for ours, theirs in _NORMS.items():
            yield from norm(f"blocks.{n}.{ours}", f"BertLayer_{n}.{theirs}")
    yield from dense("head", "BertMlmLayer_0.mlm_dense")
    yield from norm("head_norm", "BertMlmLayer_0.mlm_ln")
    yield "head_bias", known["BertMlmLayer_0.mlm_bias.bias"]
