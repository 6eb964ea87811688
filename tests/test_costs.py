"""What is counted on the meta device is what a model does, and the page says what the code does today."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

import zoo
from zoo.assemblies import Autoencoder
from zoo.cli.facts import model_facts
from zoo.costs import costs, parts_key
from zoo.discovery import catalogue

MEASURED = Path(__file__).resolve().parent.parent / "docs" / "tokenizers-measured.json"


def model(name: str, device: str | None = None) -> Autoencoder:
    built = zoo.build(name, seed=0, device=device) if device is None else zoo.build(name, device=device)
    assert isinstance(built, Autoencoder)
    return built.eval()


@pytest.mark.parametrize(
    "name", ["zoo-causal-video-tiny", "bsqvit-video-tiny", "cosmos-video-dv8x16x16-tiny"]
)
def test_streams_on_the_meta_device_keep_what_real_ones_keep(name: str) -> None:
    counted, real = costs(model(name, "meta")), costs(model(name))
    assert (counted.encoder, counted.decoder) == (real.encoder, real.decoder)
    # Fused attention on the processor is not counted by torch, and fast paths do less.
    assert 0.3 * counted.encode_flops < real.encode_flops <= counted.encode_flops
    assert 0.3 * counted.decode_flops < real.decode_flops <= counted.decode_flops


def test_operations_are_those_counted_by_hand() -> None:
    """A convolution of k taps from c to d channels is 2 c d k operations an output position."""
    found = costs(model("vqvae-video-tiny", "meta"))
    counted = 0
    built = model("vqvae-video-tiny", "meta").encoder

    def add(layer: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        nonlocal counted
        if isinstance(layer, torch.nn.Conv3d):
            counted += 2 * layer.weight.numel() * math.prod(out.shape[2:])

    for layer in built.modules():
        layer.register_forward_hook(add)
    with torch.no_grad():
        built(torch.zeros(1, 3, 16, 64, 64, device="meta"))
    assert 0.5 * found.encode_flops < counted <= found.encode_flops


def test_what_grows_is_told_from_what_does_not() -> None:
    whole_past = costs(model("bsqvit-video-tiny", "meta")).encoder
    window = costs(model("zoo-causal-video-tiny", "meta")).encoder
    assert whole_past is not None
    assert window is not None
    # Keys and values of 4 layers of width 96 for 8x8 tokens, in fp32.
    assert whole_past.growth == 2 * 4 * 96 * 64 * 4
    assert window.growth == 0 < window.late
    assert costs(model("vqvae-video-tiny", "meta")).encoder is None


def test_the_counts_on_the_page_are_those_of_the_code() -> None:
    kept = json.loads(MEASURED.read_text(encoding="utf-8"))["recipes"]
    checked = 0
    for name in (
        "bsqvit-video-tiny",
        "zoo-causal-video-tiny",
        "cosmos-video-dv4x8x8-tiny",
        "taehv-video-tiny",
    ):
        if kept[name]["fingerprint"] == parts_key(model_facts(name)):
            checked += 1
            assert kept[name]["costs"] == dataclasses.asdict(costs(model(name, "meta"))), (
                f"{name}: run python -m benchmarks.tokenizer_table --limit 0"
            )
    assert checked


def test_figures_of_others_are_for_the_recipe_that_names_them_only() -> None:
    known = catalogue().recipes
    with_figures = {name for name, source in known.items() if "published" in source.data}
    assert len(with_figures) > 40
    for name in ("omnitokenizer-video-causal", "vidtok-video-tiny", "vqgan-image-tiny"):
        assert model_facts(name)["published"] == []
    (found,) = model_facts("vidtok-video-fsq-causal-488-32768")["published"]
    assert found["figures"]["psnr_db"] == 29.16
    assert model_facts("vidtok-video-fsq-causal-488-32768", clip={"num_frames": 9})["published"] == []


def test_recipes_for_published_weights_are_found_by_what_they_take() -> None:
    known = catalogue()
    for name, source in known.recipes.items():
        if "published" in source.data or any(offered.among([name]) for offered in known.converters):
            assert "-video-" in name or "-image-" in name, name
