"""A manifest as it should be, which offers one quantizer (and so does not offer other parts)."""

from __future__ import annotations

from zoo.hookspecs import hookimpl
from zoo.parts import PartSpec


@hookimpl
def zoo_parts(api_version: int) -> list[PartSpec]:
    return [
        PartSpec("quantizer", "quantizer", "good_parts:Quantizer", "A small part."),
        PartSpec("quantizer", "learnsineval", "broken_by_kind:LearnsInEval", "A broken part."),
    ]
