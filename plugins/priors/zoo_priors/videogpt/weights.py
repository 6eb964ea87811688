"""Names of the public VideoGPT weights, turned into ours.

The public model holds the VQ-VAE under `vqvae` and the prior beside it. Ours are `tokenizer` and
`generator`, and the generator has a copy of the codebook.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Size, Tensor

from zoo.converting.public_state import PublicState
from zoo.errors import WeightsError
from zoo_priors.videogpt.prior import VideoGPTPrior
from zoo_vqvae.videogpt_weights import map_videogpt_state_dict

GENERATOR = "generator."
TOKENIZER = "tokenizer."

_VQVAE = "vqvae."
_LAYERS = "attn_stack.attn_nets."
_MASK = f"{_LAYERS}0.attn.attn.mask"
_NEEDED = {
    "attn_stack.right_shift.sos": 1,
    "attn_stack.pos_embd.emb.d_0": 2,
    "attn_stack.pos_embd.emb.d_1": 2,
    "attn_stack.pos_embd.emb.d_2": 2,
    "fc_in.weight": 2,
    "fc_out.weight": 2,
}
_NEEDED_OF_FRAMES = {
    "resnet.stem.0.weight": 5,
    "cond_pos_embd.emb.d_0": 2,
    "cond_pos_embd.emb.d_1": 2,
    "cond_pos_embd.emb.d_2": 2,
}
# Our names, and the public ones whose rows they consist of.
_PUBLIC: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r"codebook_KD", ("vqvae.codebook.embeddings",)),
    (r"start", ("attn_stack.right_shift.sos",)),
    (r"positions\.axes\.(\d+)", (r"attn_stack.pos_embd.emb.d_\1",)),
    (r"frame_positions\.axes\.(\d+)", (r"cond_pos_embd.emb.d_\1",)),
    (r"frame_net\.stem\.weight", ("resnet.stem.0.weight",)),
    (r"frame_net\.stem_norm\.(\w+)", (r"resnet.stem.1.norm.norm.\1",)),
    (
        r"blocks\.(\d+)\.attention\.qkv\.weight",
        tuple(rf"{_LAYERS}\1.attn.{w}.weight" for w in ("w_qs", "w_ks", "w_vs")),
    ),
    (r"blocks\.(\d+)\.attention\.out\.(\w+)", (rf"{_LAYERS}\1.attn.fc.\2",)),
    (r"blocks\.(\d+)\.cross\.q\.weight", (rf"{_LAYERS}\1.enc_attn.w_qs.weight",)),
    (
        r"blocks\.(\d+)\.cross\.kv\.weight",
        tuple(rf"{_LAYERS}\1.enc_attn.{w}.weight" for w in ("w_ks", "w_vs")),
    ),
    (r"blocks\.(\d+)\.cross\.out\.(\w+)", (rf"{_LAYERS}\1.enc_attn.fc.\2",)),
    (r"blocks\.(\d+)\.mlp\.(.+)", (rf"{_LAYERS}\1.fc_block.\2",)),
)
_NORMS = {
    r"blocks\.(\d+)\.attention_norm\.": rf"{_LAYERS}\1.pre_attn_norm.",
    r"blocks\.(\d+)\.cross_norm\.": rf"{_LAYERS}\1.pre_enc_norm.",
    r"blocks\.(\d+)\.mlp_norm\.": rf"{_LAYERS}\1.pre_fc_norm.",
    r"norm\.": "norm.",
}
_OF_RESIDUAL = {
    "projection_norm.": "proj_bnr.norm.norm.",
    "projection.": "proj_conv.",
    "norm1.": "bnr1.norm.norm.",
    "norm2.": "bnr2.norm.norm.",
}


def map_videogpt_prior_state_dict(
    state: Mapping[str, Any], *, attention: str = "full", prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public VideoGPT, with the VQ-VAE in it, to those of our model of both.

    Args:
        state: Names to tensors; or a whole Lightning checkpoint, whose ``state_dict`` is taken.
        attention: What the recipe says, "full" or "sparse": nothing but a stored mask tells them apart.
        prefix: What the names begin with, where there are several models.

    Returns:
        Our names to tensors, complete; and the sorted names of `state` that have no place, the masks of full
        attention among them.

    Raises:
        WeightsError: These are not such weights, names are missing, a shape does not fit, or the attention is
            another than the recipe's.
    """
    public = read_public(state, prefix=prefix)
    stored = "full" if _MASK in public.tensors else "sparse"
    if attention != stored:
        raise WeightsError(
            f"these VideoGPT weights are of {stored} attention ({_MASK} is "
            f"{'there' if stored == 'full' else 'not there'}), and the recipe says {attention}; convert them "
            f"with generator.attention={stored}"
        )
    prior, not_of_prior = map_prior(public)
    tokenizer, not_of_tokenizer = map_videogpt_state_dict(
        state, prefix=None if prefix is None else prefix + _VQVAE
    )
    mapped = {GENERATOR + name: value for name, value in prior.items()}
    mapped |= {TOKENIZER + name: value for name, value in tokenizer.items()}
    return mapped, sorted(set(not_of_prior) & set(not_of_tokenizer))


def read_public(state: Mapping[str, Any], *, prefix: str | None = None) -> PublicState:
    """Find a public VideoGPT in a state dict or checkpoint.

    Raises:
        WeightsError: There is none, or tensors that tell its size are missing.
    """
    public = PublicState(state, family="VideoGPT", needed=_NEEDED, prefix=prefix)
    if "resnet.stem.0.weight" in public.tensors:
        public = PublicState(state, family="VideoGPT", needed=_NEEDED | _NEEDED_OF_FRAMES, prefix=prefix)
    return public


def map_prior(public: PublicState) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of the prior alone; its codebook is read from the VQ-VAE.

    Returns:
        Names of `VideoGPTPrior` to tensors, complete; and the sorted names that have no place in it.

    Raises:
        WeightsError: Names are missing, or a shape does not fit.
    """
    shapes = _our_shapes(public)
    names = {name: public_names(name, has_classes=_num_classes(public) > 0) for name in shapes}
    known, unused = public.take(_public_shapes(public, shapes, names))
    mapped = {}
    for name, theirs in names.items():
        values = [known[their] for their in theirs]
        value = values[0] if len(values) == 1 else torch.cat(values)
        mapped[name] = value.t() if _is_transposed(theirs) else value
    return mapped, unused


def public_names(name: str, *, has_classes: bool) -> tuple[str, ...]:
    """Return the public names of the tensors that one of ours consists of, row after row."""
    for ours, theirs in _PUBLIC:
        if match := re.fullmatch(ours, name):
            return tuple(match.expand(their) for their in theirs)
    for ours, their in _NORMS.items():
        if match := re.match(ours, name):
            words = {"gain": "w.weight", "bias": "wb.weight"} if has_classes else {"gain": "g", "bias": "b"}
            return (match.expand(their) + words[name[match.end() :]],)
    if match := re.fullmatch(r"frame_net\.groups\.(\d+)\.(\d+)\.(.+)", name):
        group, number, rest = int(match[1]) + 1, int(match[2]), match[3]
        for ours, their in _OF_RESIDUAL.items():
            if rest.startswith(ours):
                rest = their + rest.removeprefix(ours)
                break
        block = f"blocks.{number - 1}" if number else "start_block"
        return (f"resnet.group{group}.{block}.{rest}",)
    return (name,)


def _is_transposed(theirs: tuple[str, ...]) -> bool:
    return theirs[0].endswith(("norm.w.weight", "norm.wb.weight"))


def _num_classes(public: PublicState) -> int:
    gain = public.tensors.get("norm.w.weight")
    return 0 if gain is None or gain.ndim != 2 else gain.shape[1]


def _our_shapes(public: PublicState) -> dict[str, Size]:
    """Build the same model on the meta device, and read its names."""
    tensors = public.tensors
    options: dict[str, Any] = {
        "codebook_size": tensors["fc_out.weight"].shape[0],
        "latent_dim": tensors["fc_in.weight"].shape[1],
        "grid": [len(tensors[f"attn_stack.pos_embd.emb.d_{axis}"]) for axis in range(3)],
        "hidden_dim": len(tensors["attn_stack.right_shift.sos"]),
        "num_heads": 1,  # the heads show in no name and no shape
        "num_layers": public.count(r"attn_stack\.attn_nets\.(\d+)\."),
        "num_classes": _num_classes(public),
    }
    if "resnet.stem.0.weight" in tensors:
        frames, rows, columns = (tensors[f"cond_pos_embd.emb.d_{axis}"] for axis in range(3))
        options |= {
            "num_cond_frames": len(frames),
            "in_channels": tensors["resnet.stem.0.weight"].shape[1],
            "cond_size": [4 * len(rows), 4 * len(columns)],
            "cond_base_channels": tensors["resnet.stem.0.weight"].shape[0],
            "cond_dim": 3 * frames.shape[1],
        }
    with torch.device("meta"):
        model = VideoGPTPrior(**options)
    return {name: value.shape for name, value in model.state_dict().items()}


def _public_shapes(
    public: PublicState, shapes: Mapping[str, Size], names: Mapping[str, tuple[str, ...]]
) -> dict[str, Size]:
    expected: dict[str, Size] = {}
    for name, theirs in names.items():
        shape = shapes[name]
        if name.endswith("cross.kv.weight"):
            # Keys are as wide as the layers, values as the features.
            rows = [shape[0] - shape[1], shape[1]]
        else:
            rows = [shape[0] // len(theirs)] * len(theirs)
        for their, number in zip(theirs, rows, strict=True):
            size = Size([number, *shape[1:]])
            expected[their] = Size(reversed(size)) if _is_transposed(theirs) else size
    return expected
