"""Every small part as a `Part`: the good ones, and for each check the ones that break it."""

from __future__ import annotations

from typing import Any

import broken_by_kind
import broken_everywhere

from zoo.parts import Kind, Part, PartSpec
from zoo.testing.runner import Family

EXAMPLE: dict[str, dict[str, Any]] = {"encoder": {"widths": [8, 4]}}


def part(family: Family, target: str, **changes: Any) -> Part:
    """A part of these modules, whose spec is valid but for the changes."""
    module, _, cls = target.partition(":")
    kind: Kind = "generator" if family == "prior" else family
    fields = {"summary": "A small part.", "example": EXAMPLE.get(kind, {})} | changes
    return Part(PartSpec(kind, cls.lower(), f"{module}:{cls}", **fields), "t", "t", "0")


GOOD = [
    part("encoder", "good_parts:Encoder"),
    part("encoder", "good_parts:CausalEncoder"),
    part("encoder", "good_parts:ImageEncoder", example={}),
    part("decoder", "good_parts:Decoder"),
    part("decoder", "good_parts:CausalDecoder"),
    part("quantizer", "good_parts:Quantizer"),
    part("quantizer", "good_parts:Continuous"),
    part("generator", "good_parts:Generator"),
    part("prior", "good_parts:Prior"),
    part("prior", "good_parts:Prior", example={"num_codebooks": 1, "num_classes": 0, "grid": [1, 2, 3]}),
    part("prior", "good_parts:AnyOrderPrior"),
    part("discriminator", "good_parts:Discriminator"),
    part("discriminator", "good_parts:ImageDiscriminator"),
]
"""Parts that keep every promise."""

_FROM_MODULES = [
    (family, check, part(family, f"{module.__name__}:{cls}"), None)
    for module in (broken_everywhere, broken_by_kind)
    for family, check, cls in module.BROKEN
]
_GOOD_ENCODER = "good_parts:Encoder"
BROKEN: list[tuple[Family, str, Part, str | None]] = [
    *_FROM_MODULES,
    ("encoder", "spec_valid", part("encoder", _GOOD_ENCODER, summary="Long. " * 40), None),
    ("encoder", "spec_valid", part("encoder", _GOOD_ENCODER, paper="see the readme"), None),
    ("encoder", "example_is_json", part("encoder", _GOOD_ENCODER, example={"widths": (8, 4)}), None),
    ("encoder", "example_fits_signature", part("encoder", _GOOD_ENCODER, example={}), None),
    (
        "encoder",
        "example_fits_signature",
        part("encoder", _GOOD_ENCODER, example={"widths": [4], "norm": 1}),
        None,
    ),
    ("encoder", "manifest_is_light", part("encoder", _GOOD_ENCODER), "heavy_manifest"),
    ("encoder", "manifest_is_light", part("encoder", _GOOD_ENCODER), "light_manifest"),
]
"""Family, check, a part that breaks it, and the manifest that offers it if the check reads one."""
