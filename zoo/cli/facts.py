"""Facts about models and parts as plain data, for ``zoo info`` and the model table of the README."""

from __future__ import annotations

import inspect
import math
import re
from typing import TYPE_CHECKING, Any

from zoo.parts import Part

if TYPE_CHECKING:
    from zoo.building import Plan


def part_facts(part: Part) -> dict[str, Any]:
    """Describe a part: who offers it, and every option with its type, default and meaning."""
    cls = part.load()
    meanings: dict[str, str] = {}
    for ancestor in reversed(cls.__mro__):  # a variant of a part inherits what its options mean
        meanings |= option_docs(ancestor.__doc__) | option_docs(vars(ancestor).get("__init__").__doc__)
    options = []
    for parameter in inspect.signature(cls).parameters.values():
        required = parameter.default is parameter.empty
        options.append(
            {
                "name": parameter.name,
                "type": _type_name(parameter.annotation),
                "required": required,
                "default": None if required else parameter.default,
                "doc": meanings.get(parameter.name, ""),
            }
        )
    return {
        "type": "part",
        "kind": part.kind,
        "name": part.name,
        "plugin": part.plugin,
        "distribution": part.distribution,
        "version": part.version,
        "target": part.spec.target,
        "summary": part.spec.summary,
        "paper": part.spec.paper,
        "license": part.spec.license,
        "options": options,
    }


def option_docs(docstring: str | None) -> dict[str, str]:
    """Return the meaning of each argument from the ``Args:`` section of a Google docstring."""
    match = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", inspect.cleandoc(docstring or ""), re.MULTILINE)
    if match is None:
        return {}
    found: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(match[1]).splitlines():
        # Names stand at the margin; what continues a meaning is indented below it.
        head = re.match(r"(\w+)(?: \([^)]*\))?:\s*(.*)", line)
        if head:
            name = head[1]
            found[name] = head[2]
        elif name and line.strip():
            found[name] = f"{found[name]} {line.strip()}".strip()
    return found


def _type_name(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


def model_facts(name: str, **overrides: Any) -> dict[str, Any]:
    """Describe a recipe after inheritance and overrides, without allocating a weight.

    Raises:
        ZooError: The recipe is unknown or not valid.
    """
    import torch

    from zoo.building import plan

    checked = plan(name, **overrides)
    with torch.device("meta"):
        model = checked.make()
    recipe = checked.recipe
    parts = [
        {
            "field": planned.field,
            "use": planned.part.full_name,
            "distribution": f"{planned.part.distribution} {planned.part.version}",
            "options": planned.options,
            "parameters": sum(weight.numel() for weight in model.part(planned.field).parameters()),
        }
        for planned in checked.parts
    ]
    return {
        "type": "model",
        "name": checked.name,
        "summary": recipe.summary,
        "assembly": recipe.assembly,
        "family": family(checked),
        "paper": recipe.paper,
        "clip": recipe.clip.model_dump(),
        "parameters": model.num_parameters(),
        "compression": compression(checked),
        "tokenizer": recipe.tokenizer.model_dump(include={"use", "every"}) if recipe.tokenizer else None,
        "parts": parts,
        "pre_quant": recipe.pre_quant,
        "post_quant": recipe.post_quant,
        "train": recipe.train.model_dump(exclude_none=True),
        "results": [result.model_dump() for result in recipe.results],
        "published": [published.model_dump() for published in recipe.published],
    }


def family(checked: Plan) -> str:
    """Return what the field calls a model of such parts: VQ-VAE, VQGAN, VAE, VAE-GAN, GAN, prior, ..."""
    if checked.recipe.assembly != "autoencoder":
        return {"gan": "GAN", "latent-gan": "latent GAN"}.get(checked.recipe.assembly, "prior")
    quantizer = next(planned.ports for planned in checked.parts if planned.field == "quantizer")
    judged = bool(checked.recipe.discriminator)
    if quantizer.continuous:
        return "VAE-GAN" if judged else "VAE"
    return "VQGAN" if judged else "VQ-VAE"


def compression(checked: Plan) -> dict[str, Any] | None:
    """Return what an autoencoder makes of a clip of its recipe's size, or None for other models.

    Returns:
        ``stride`` (time, height, width), ``latent`` (t, h, w), ``causal`` for encoder and decoder, the
        ``numbers`` or codes of a latent position, ``bits`` of the tokens by
        `zoo.metrics.baselines.stored_bits`, ``raw_bits`` of the clip at 8 bits a channel, and ``ratio``.
    """
    from zoo.assemblies.padding import latent_size
    from zoo.metrics.baselines import raw_bits, stored_bits

    ports = {planned.field: planned.ports for planned in checked.parts}
    if "quantizer" not in ports:
        return None
    clip = checked.recipe.clip
    size_THW = (clip.num_frames, clip.height, clip.width)
    encoder, quantizer = ports["encoder"], ports["quantizer"]
    latent = latent_size(size_THW, encoder.stride, lead_frame=encoder.lead_frame)
    numbers = quantizer.latent_dim if quantizer.continuous else quantizer.num_codebooks
    bits = stored_bits(math.prod(latent) * numbers, quantizer.codebook_size)
    raw = raw_bits(math.prod(size_THW), channels=clip.channels)
    return {
        "stride": list(encoder.stride),
        "latent": list(latent),
        "causal": {field: ports[field].causal for field in ("encoder", "decoder")},
        "continuous": quantizer.continuous,
        "numbers": numbers,
        "codebook_size": quantizer.codebook_size,
        "num_codebooks": quantizer.num_codebooks,
        "bits": bits,
        "raw_bits": raw,
        "ratio": raw / bits,
    }
