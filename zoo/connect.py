"""Whether the parts of a recipe fit together, told in sentences before a weight is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from zoo.assemblies.padding import latent_size
from zoo.errors import PortError
from zoo.ports import Ports
from zoo.recipes import Recipe

Where = Callable[..., str]
"""Maps a path in the recipe to ``file:line``, or to an empty string."""


class _Made(NamedTuple):
    """What a model makes and its discriminators judge: clips, or latents as clips."""

    what: str
    channels: int
    num_frames: int
    height: int
    width: int

    def fields(self, *names: str) -> str:
        """Name the fields of the recipe that decide on these sides."""
        if self.what == "clips":
            return " and ".join(f"clip.{name}" for name in names)
        return "the tokenizer's parts"


def connect(recipe: Recipe, ports: Sequence[Ports], where: Where) -> None:
    """Check that the parts of a recipe fit each other and the clips they are meant for.

    Raises:
        PortError: One sentence for every mismatch, naming both sides and the recipe line.
    """
    by_kind = {p.kind: p for p in ports}
    judges = [p for p in ports if p.kind == "discriminator"]
    mismatches: list[tuple[str, str]] = []
    made = _Made("clips", recipe.clip.channels, recipe.clip.num_frames, recipe.clip.height, recipe.clip.width)
    if "encoder" in by_kind:
        encoder, quantizer = by_kind["encoder"], by_kind["quantizer"]
        mismatches += _autoencoder(recipe, encoder, quantizer, by_kind["decoder"])
        if recipe.assembly == "token-prior":
            mismatches += _prior(recipe, encoder, quantizer, by_kind["generator"])
        elif "generator" in by_kind:
            grid = latent_size(made[2:], encoder.stride, lead_frame=encoder.lead_frame)
            made = _Made("latents", quantizer.latent_dim, *grid)
    if "generator" in by_kind and recipe.assembly != "token-prior":
        mismatches += _generator(made, by_kind["generator"])
        mismatches += _labels(recipe, by_kind["generator"], judges)
    for judge in judges:
        mismatches += _judged(made, judge)
    if mismatches:
        raise PortError("\n".join(f"{prefix(where(field))}{sentence}" for field, sentence in mismatches))


def prefix(line: str) -> str:
    """Return a place in a file as the beginning of a message; nothing for an unknown one."""
    return f"{line}: " if line else ""


def _autoencoder(
    recipe: Recipe, encoder: Ports, quantizer: Ports, decoder: Ports
) -> Iterator[tuple[str, str]]:
    if encoder.in_channels != recipe.clip.channels:
        yield (
            "encoder",
            f"clips have {recipe.clip.channels} channels but {encoder} takes {encoder.in_channels}; "
            "set clip.channels or encoder.in_channels",
        )
    if decoder.out_channels != encoder.in_channels:
        yield (
            "decoder",
            f"{encoder} takes {encoder.in_channels} channels but {decoder} makes "
            f"{decoder.out_channels}; set decoder.out_channels",
        )
    if encoder.stride != decoder.stride:
        yield (
            "decoder",
            f"{encoder} shrinks time, height and width by {_by(encoder.stride)} but {decoder} "
            f"grows them by {_by(decoder.stride)}; give both the same stride",
        )
    elif encoder.lead_frame != decoder.lead_frame and encoder.stride[0] > 1:
        leads, other = (encoder, decoder) if encoder.lead_frame else (decoder, encoder)
        yield (
            "decoder",
            f"{leads} makes the first frame a latent frame of its own (1 + {encoder.stride[0]}k frames) but "
            f"{other} does not ({encoder.stride[0]}k frames); use two of a kind",
        )
    for source, target, taken, field in (
        (encoder, quantizer, quantizer.input_dim, "pre_quant"),
        (quantizer, decoder, decoder.latent_dim, "post_quant"),
    ):
        if getattr(recipe, field) is None and source.latent_dim != taken:
            yield (
                target.kind,
                f"{source} emits {source.latent_dim} latent channels but {target} takes "
                f"{taken}; set `{field}: conv1x1x1` or make the widths equal",
            )


def _prior(recipe: Recipe, encoder: Ports, quantizer: Ports, prior: Ports) -> Iterator[tuple[str, str]]:
    every = recipe.tokenizer.every if recipe.tokenizer is not None else 1
    clip = recipe.clip
    latent, _, _ = latent_size(
        (clip.num_frames, clip.height, clip.width), encoder.stride, lead_frame=encoder.lead_frame
    )
    if every >= latent and every > 1:
        yield (
            "tokenizer",
            f"clips of {clip.num_frames} frames are {latent} latent frames, of which tokenizer.every = "
            f"{every} leaves one; set clip.num_frames to {1 + every * encoder.stride[0]} or more",
        )
    if quantizer.continuous:
        yield (
            "quantizer",
            f"{quantizer} is continuous and has no codes for a prior; take a tokenizer with a codebook",
        )
    elif prior.emits != "indices":
        yield (
            "generator",
            f"{prior} emits {prior.emits}; a prior over tokens emits indices (gpt, maskgit). For this one "
            "take assembly: latent-gan, or gan",
        )
    elif (prior.codebook_size, prior.num_codebooks) != (quantizer.codebook_size, quantizer.num_codebooks):
        yield (
            "generator",
            f"{quantizer} has {quantizer.num_codebooks} codebook(s) of {quantizer.codebook_size} codes but "
            f"{prior} makes {prior.num_codebooks} of {prior.codebook_size}; leave generator.codebook_size "
            "and generator.num_codebooks out",
        )


def _generator(made: _Made, generator: Ports) -> Iterator[tuple[str, str]]:
    if generator.emits != "video":
        yield (
            "generator",
            f"{generator} emits {generator.emits}; a GAN takes video. For a prior over tokens take assembly: "
            "token-prior",
        )
        return
    if generator.out_channels != made.channels:
        yield (
            "generator",
            f"{made.what} have {made.channels} channels but {generator} makes {generator.out_channels}; "
            f"set {made.fields('channels')} or generator.out_channels",
        )
    if generator.size_HW not in (None, (made.height, made.width)):
        height, width = generator.size_HW
        yield (
            "generator",
            f"{made.what} are {made.height}x{made.width} but {generator} makes {height}x{width}; "
            f"set {made.fields('height', 'width')}, or the generator's size",
        )


def _labels(recipe: Recipe, generator: Ports, judges: Sequence[Ports]) -> Iterator[tuple[str, str]]:
    made = generator.num_classes
    told = [judge for judge in judges if judge.num_classes]
    for judge in told:
        if judge.num_classes != made:
            yield (
                "discriminator",
                f"{generator} makes clips of {made} labels but {judge} reads {judge.num_classes}; set "
                "num_classes of both to what the data has, or to 0",
            )
    adversarial = recipe.train.objective.adversarial
    names_kinds = adversarial is not None and adversarial.categories is not None
    if made and judges and not told and not names_kinds:
        yield (
            "generator",
            f"{generator} makes clips of {made} labels and no discriminator reads them, so nothing teaches "
            "it what they mean; set num_classes of a discriminator that has it (dvd-spatial), or "
            "train.objective.adversarial.categories, or make clips without labels",
        )


def _judged(made: _Made, judge: Ports) -> Iterator[tuple[str, str]]:
    if judge.in_channels != made.channels:
        yield (
            "discriminator",
            f"{made.what} have {made.channels} channels but {judge} takes {judge.in_channels}; set its "
            "in_channels",
        )
    size = made[2:]
    low = (1, *judge.min_size[1:]) if judge.consumes == "image" or judge.draws_frames else judge.min_size
    if any(have < need for have, need in zip(size, low, strict=True)):
        yield (
            "discriminator",
            f"{made.what} of {_by(size)} (frames, height, width) are smaller than the {_by(low)} that "
            f"{judge} needs; make the clip larger or take a discriminator with fewer layers",
        )
    elif judge.size_HW not in (None, size[1:]):
        yield (
            "discriminator",
            f"{made.what} are {_by(size[1:])} (height, width) but {judge} judges {_by(judge.size_HW)} only; "
            "set its size or the clip's",
        )
    if not judge.draws_frames and judge.consumes == "video" and judge.num_frames not in (None, size[0]):
        yield (
            "discriminator",
            f"{made.what} have {size[0]} frames but {judge} judges {judge.num_frames}; set clip.num_frames",
        )


def _by(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))
