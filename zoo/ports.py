"""Ports: what a part consumes and emits, read from plain attributes of the module.

A part is a `torch.nn.Module` whose ``__init__`` takes explicit keyword-only options with JSON-able
values and sets the attributes below. Video is float in [-1, 1]. `stride` is (s_t, s_h, s_w).

Encoder: ``x_BCTHW -> z_BDthw``; in_channels, latent_dim, stride, causal, [lead_frame],
[max_frames], [consumes].

Quantizer: ``z_BDthw -> Quantized`` and ``lookup(indices_Bqthw) -> z_BDthw``; latent_dim, codebook_size,
num_codebooks, continuous, [input_dim].

Decoder: ``z_BDthw -> x_BCTHW``; latent_dim, out_channels, stride, causal, last_layer,
[lead_frame], [max_frames], [emits].

Generator: ``noise, [times_BT], [size_HW] -> x_BCTHW`` and ``draw_noise(num, num_frames, generator=, device=)
-> noise``; noise_dim, emits, conditions, out_channels, size_HW, last_layer, [time], [num_classes],
[compiles], ``[own_loss(noise) -> scalar]``, ``[walked(noise) -> noise]``.

Prior, a generator that emits "indices": ``indices_Bqthw, [label_B=] -> logits``, ``loss(indices_Bqthw,
label_B=, generator=) -> scalar``, ``frames(noise, sampling, given_Bqthw=) -> Iterator[indices_Bqhw]`` and,
where `order` is "any", ``fill(indices_Bqthw, known_Bqthw, noise, sampling) -> indices_Bqthw``; conditions,
codebook_size, num_codebooks, grid_thw, order, [num_classes], [max_frames].

Discriminator: ``x, [times_BT=], [label_B=] -> Judged`` of raw scores, ``[draw_frames(num, num_frames,
generator=) -> frames_BK]``; consumes, in_channels, min_size, [num_frames], [size_HW], [conditions],
[num_classes], [mixes_batch], [reference_frames], ``[project(features) -> (B, projection_dim)]``,
``[classify(features) -> logits_BN]`` of [num_categories].

Attributes in brackets may be left out. `causal` promises that no frame depends on a later one, and that
the part streams (see `zoo.streaming`). `lead_frame` says that the first frame is a latent frame of its own:
T = 1 + k*s_t frames are t = 1 + k; otherwise T = k*s_t are t = k. Left out, it is what `causal` is.
`max_frames` is how many frames a clip or a stream may have, where learned positions in time end; None, as
when it is left out, is without end. `input_dim` is the width of the latents that a quantizer takes; left out,
it is `latent_dim`, the width of those it gives. `consumes` and `emits` are "video" (the default) or "image":
a 2D part says "image", works on x_BCHW (or z_BDhw) and is applied per frame by the assembly.
A continuous quantizer has codebook_size and num_codebooks 0 and no `lookup`.
`last_layer` is the decoder's (or generator's) last weight, for the adaptive adversarial weight.
Noise is a dict of tensors, batch first, so that a clip is the same whatever batch it is made in.
`min_size` is the smallest (T, H, W) a discriminator can judge; T is 1 when it judges images.
`own_loss(noise)` of a generator, where there is one, is a scalar that it is trained with beside what the
discriminators say, weighed inside; it is called after `forward` of the same noise, in training only.
`walked(noise)`, where there is one, does once what each run of frames would begin with (a recurrent walk from
the first frame), and returns what `forward` takes in the place of the noise. Samples are made from it.
`size_HW` is the only frame size a generator can make or a discriminator can judge, or None when any is right;
such a generator makes the size it is asked for by ``size_HW=``.
`compiles`, True when left out, is whether `train.compile` makes a program of a generator: one whose shapes
are drawn by chance in each pass would need a program for each of them.

Time in a generator is counted in frames: frame k of a clip is at time k. `time` says which moments can be
made without the rest of the clip: "clip" (the default) none, "frames" any run of whole frames (the rows of
times_BT are the same consecutive whole numbers), "continuous" any real times, other ones in each row. Left
out, `times_BT` is every frame that the noise was drawn for.

A prior makes the codes of a tokenizer: indices_Bqthw in [0, codebook_size), of num_codebooks codebooks, on a
grid of which `grid_thw` is the window it was trained on. Its options `codebook_size`, `num_codebooks` and
`grid` are given by the assembly where the recipe leaves them out, and so is `latent_dim`, the width of the
codes' vectors, for a prior that has that option. `order` is "raster" where each code depends on those before
it (frame by frame, row by row, codebook by codebook), and "any" where any of them can be given and the others
filled in. `frames` goes on from the frames given, without end or up to `max_frames` in all, and needs no more
memory for a long video than for a short one. Its noise is a dict with "seed", an int64 for each clip, and
with what `conditions` names; `zoo.sampling` draws from such seeds. `forward` gives the logits that `loss` is
made of, whatever their shape. A prior that reads the codes' vectors takes them by
``set_codebook(vectors_KD)`` into a buffer of its own.

`conditions` of a generator names what its noise holds beyond chance: "label", int64 in [0, num_classes),
which `draw_noise` draws and a caller may overwrite. Kinds that are no labels are a one-hot "category" of
[num_categories]. `conditions` of a discriminator names what it is told
with the clips: "times" (times_BT, in frames) and "label" (label_B). `draw_frames` gives int64 numbers,
ascending, of the frames of each clip that it wants to see; without it, it sees all of them, or, where it
consumes images, one by chance. `num_frames` is the only number of frames it can judge, None is any.
`mixes_batch` says that in training its scores of a clip depend on the other clips (batch norm, minibatch
standard deviation); the others may judge real and made clips in one batch. `reference_frames` is how many of
the frames that it draws, the first of them, are its reference: of made clips these are real to it and the
others are not, and of real clips it sees nothing. `project` turns the features of a verdict into what the
objective's contrastive term compares, and `classify` into logits of the kinds of clip that its categories
term is about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo.errors import PluginError
from zoo.parts import Kind

if TYPE_CHECKING:
    from torch import nn

MEDIA = ("video", "image")
EMITS = ("video", "latent", "indices")
TIMES = ("clip", "frames", "continuous")
ORDERS = ("raster", "any")
TOLD = ("times", "label")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_size(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(map(_is_count, value))


def _video(_: dict[str, Any]) -> str:
    return "video"


_COUNT = (_is_count, "a positive int")
_NATURAL = (_is_natural, "an int of 0 or more")
_SIZE = (_is_size, "a tuple of three positive ints (time, height, width)")
_LIMIT = (lambda value: value is None or _is_count(value), "a positive int or None")
_BOOL = (lambda value: isinstance(value, bool), "a bool")
_PRESENT = (lambda value: value is not None, "its last weight, a parameter")
_MEDIUM = (lambda value: value in MEDIA, f"one of {MEDIA}")
_PLANE = (
    lambda value: (
        value is None or (isinstance(value, tuple) and len(value) == 2 and all(map(_is_count, value)))
    ),
    "(height, width) or None",
)

_Rule = tuple[Callable[[Any], bool], str]
ATTRIBUTES: dict[Kind, dict[str, _Rule]] = {
    "encoder": {"in_channels": _COUNT, "latent_dim": _COUNT, "stride": _SIZE, "causal": _BOOL},
    "quantizer": {
        "latent_dim": _COUNT,
        "codebook_size": _NATURAL,
        "num_codebooks": _NATURAL,
        "continuous": _BOOL,
    },
    "decoder": {
        "latent_dim": _COUNT,
        "out_channels": _COUNT,
        "stride": _SIZE,
        "causal": _BOOL,
        "last_layer": _PRESENT,
    },
    "generator": {
        "noise_dim": _COUNT,
        "emits": (lambda value: value in EMITS, f"one of {EMITS}"),
        "conditions": (lambda value: isinstance(value, tuple), "a tuple of names"),
        "out_channels": _COUNT,
        "size_HW": _PLANE,
        "last_layer": _PRESENT,
    },
    "discriminator": {"consumes": _MEDIUM, "in_channels": _COUNT, "min_size": _SIZE},
}
_PRIOR: dict[str, _Rule] = {
    "emits": (lambda value: value == "indices", "'indices'"),
    "conditions": ATTRIBUTES["generator"]["conditions"],
    "codebook_size": _COUNT,
    "num_codebooks": _COUNT,
    "grid_thw": _SIZE,
    "order": (lambda value: value in ORDERS, f"one of {ORDERS}"),
}
# What may be left out, with its default, made of the values before it.
OPTIONAL: dict[Kind, dict[str, tuple[Callable[[dict[str, Any]], Any], _Rule]]] = {
    "encoder": {
        "lead_frame": (lambda values: values["causal"], _BOOL),
        "max_frames": (lambda values: None, _LIMIT),
        "consumes": (_video, _MEDIUM),
    },
    "quantizer": {"input_dim": (lambda values: values["latent_dim"], _COUNT)},
    "decoder": {
        "lead_frame": (lambda values: values["causal"], _BOOL),
        "max_frames": (lambda values: None, _LIMIT),
        "emits": (_video, _MEDIUM),
    },
    "generator": {
        "time": (lambda values: "clip", (lambda value: value in TIMES, f"one of {TIMES}")),
        "num_classes": (lambda values: 0, _NATURAL),
        "max_frames": (lambda values: None, _LIMIT),
        "compiles": (lambda values: True, _BOOL),
    },
    "discriminator": {
        "num_frames": (lambda values: None, _LIMIT),
        "size_HW": (lambda values: None, _PLANE),
        "conditions": (
            lambda values: (),
            (lambda value: isinstance(value, tuple) and set(value) <= set(TOLD), f"a tuple out of {TOLD}"),
        ),
        "num_classes": (lambda values: 0, _NATURAL),
        "mixes_batch": (lambda values: False, _BOOL),
    },
}
_MAY_BE_NONE = ("size_HW", "max_frames", "num_frames")


@dataclasses.dataclass(frozen=True)
class Ports:
    """The checked port attributes of one part, reachable as attributes of this object."""

    kind: Kind
    name: str
    values: dict[str, Any]

    def __getattr__(self, attribute: str) -> Any:
        try:
            return self.values[attribute]
        except KeyError:
            raise AttributeError(attribute) from None

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


def ports_of(kind: Kind, name: str, module: nn.Module) -> Ports:
    """Read and check the port attributes of a module.

    Raises:
        PluginError: An attribute is missing or has a value outside its range.
    """
    values: dict[str, Any] = {}
    optional = OPTIONAL.get(kind, {})
    is_prior = kind == "generator" and getattr(module, "emits", None) == "indices"
    rules = (_PRIOR if is_prior else ATTRIBUTES[kind]) | {
        attribute: rule for attribute, (_, rule) in optional.items()
    }
    for attribute, (accepts, wanted) in rules.items():
        value = getattr(module, attribute, None)
        if value is None and attribute in optional:
            value = optional[attribute][0](values)
        if value is None and attribute not in _MAY_BE_NONE:
            raise PluginError(f"{kind} {name!r} has no attribute {attribute!r}; it must be {wanted}")
        if not accepts(value):
            raise PluginError(f"{kind} {name!r} says {attribute} = {value!r}; it must be {wanted}")
        values[attribute] = value
    if kind == "quantizer" and values["continuous"] == bool(values["codebook_size"]):
        raise PluginError(
            f"quantizer {name!r} says continuous = {values['continuous']} and codebook_size = "
            f"{values['codebook_size']}; a continuous one has 0 codes, a discrete one more"
        )
    if values.get("num_classes") and "label" not in values["conditions"]:
        raise PluginError(
            f"{kind} {name!r} says num_classes = {values['num_classes']}, so its conditions must name 'label'"
        )
    if kind == "discriminator":
        values["draws_frames"] = callable(getattr(module, "draw_frames", None))
    return Ports(kind, name, values)
