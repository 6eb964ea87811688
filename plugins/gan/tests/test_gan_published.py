"""Our networks are the published ones: same names, same parameters, same numbers.

`published.json` holds fingerprints that the authors' own code gave, at the commits it names, in
float64 with weights and inputs from a sine formula (`_pattern`, `_fill`): mean, standard deviation and up
to eight evenly spaced values of outputs and of gradients, in eval and in train mode.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import WeightsError
from zoo_gan import mocogan, patchgan
from zoo_gan.mocogan.discriminators import (
    ImageDiscriminator,
    PatchImageDiscriminator,
    PatchVideoDiscriminator,
    VideoDiscriminator,
)
from zoo_gan.mocogan.generator import MoCoGANGenerator
from zoo_gan.mocogan.weights import map_mocogan_state_dict, read_discriminator, read_generator
from zoo_gan.patchgan.patch3d import Patch3D

PUBLISHED = json.loads((Path(__file__).parent / "published.json").read_text())
CLASSES: dict[str, Callable[..., nn.Module]] = {
    "mocogan-image": ImageDiscriminator,
    "mocogan-patch-image": PatchImageDiscriminator,
    "mocogan-video": VideoDiscriminator,
    "mocogan-patch-video": PatchVideoDiscriminator,
    "patch3d": Patch3D,
}
MOCOGAN = sorted(set(CLASSES) - {"patch3d"})


def _pattern(shape: tuple[int, ...], phase: float) -> Tensor:
    k = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(k * 0.7391 + (k % 7) * 1.13 + phase).reshape(shape)


@torch.no_grad()
def _fill(module: nn.Module) -> nn.Module:
    module.double()
    for number, (name, tensor) in enumerate(sorted(module.state_dict().items())):
        if name.endswith("num_batches_tracked"):
            continue
        wave = _pattern(tuple(tensor.shape), float(number))
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.5 * wave)
        elif tensor.ndim > 1:
            tensor.copy_(wave * (3 / tensor[0].numel()) ** 0.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.copy_(0.1 * wave)
        elif name.startswith("recurrent"):
            tensor.copy_(0.3 * wave)
        else:
            tensor.copy_(1 + 0.3 * wave)
    return module


def _fingerprint(tensor: Tensor) -> list[float]:
    flat = tensor.detach().reshape(-1)
    spread = flat[:: max(1, flat.numel() // 8)][:8]
    return [flat.mean().item(), flat.std().item(), *spread.tolist()]


def _assert_same(tensor: Tensor, published: list[float]) -> None:
    ours, theirs = torch.tensor(_fingerprint(tensor)), torch.tensor(published)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9 * theirs.abs().max().item())


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_generator_gives_the_published_clip_and_gradients(mode: str) -> None:
    options = {"base_channels": 4, "content_dim": 7, "motion_dim": 5, "num_categories": 3}
    generator = _fill(MoCoGANGenerator(**options)).train(mode == "train")
    assert sorted(generator.state_dict()) == PUBLISHED["names"]["mocogan"]
    noise = {
        "content": _pattern((2, 7), 0.1).requires_grad_(),
        "motion_start": _pattern((2, 5), 0.2),
        "motion": _pattern((2, 4, 5), 0.3).requires_grad_(),
        "category": torch.tensor([[0, 1.0, 0], [0, 0, 1.0]], dtype=torch.float64),
    }
    x_BCTHW = generator(noise)
    assert x_BCTHW.shape == (2, 3, 4, 64, 64)
    (x_BCTHW * _pattern(tuple(x_BCTHW.shape), 0.4)).sum().backward()
    published = PUBLISHED["generator"][mode]
    _assert_same(x_BCTHW, published["video"])
    _assert_same(_grad(noise["motion"]), published["grad_motion"])
    _assert_same(_grad(noise["content"]), published["grad_content"])


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", CLASSES)
def test_discriminator_gives_the_published_scores_and_gradients(name: str, mode: str) -> None:
    published = PUBLISHED["discriminators"][name]
    discriminator = _fill(CLASSES[name](base_channels=4)).train(mode == "train")
    assert sorted(discriminator.state_dict()) == PUBLISHED["names"][name]
    x = _pattern(tuple(published["shape"]), 0.5).requires_grad_()
    (logits,) = discriminator(x).logits
    (logits.reshape(-1) * _pattern((logits.numel(),), 0.6)).sum().backward()
    _assert_same(logits, published[mode]["logits"])
    _assert_same(_grad(x), published[mode]["grad"])


def _grad(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def test_defaults_have_the_published_number_of_parameters() -> None:
    counts = {}
    for spec in (*mocogan.PARTS, *(spec for spec in patchgan.PARTS if spec.name == "patch3d")):
        module_name, _, class_name = spec.target.partition(":")
        cls = getattr(__import__(module_name, fromlist=[class_name]), class_name)
        with torch.device("meta"):
            counts[spec.name] = sum(weight.numel() for weight in cls().parameters())
    assert counts == PUBLISHED["parameters"]


def test_generator_weights_tell_their_options() -> None:
    options = {
        "out_channels": 1,
        "image_size": 32,
        "base_channels": 4,
        "content_dim": 9,
        "motion_dim": 5,
        "num_categories": 2,
    }
    theirs = MoCoGANGenerator(**options)
    found = read_generator(theirs.state_dict(), num_categories=2)
    assert (found.kind, found.name, found.options) == ("generator", "mocogan", options)
    with pytest.raises(WeightsError, match="num_categories=11"):
        read_generator(theirs.state_dict(), num_categories=11)


@pytest.mark.parametrize("name", MOCOGAN)
def test_discriminator_weights_tell_their_part(name: str) -> None:
    state = CLASSES[name](in_channels=1, base_channels=4).state_dict()
    old = {key: tensor for key, tensor in state.items() if not key.endswith("num_batches_tracked")}
    found = read_discriminator(old)
    assert (found.kind, found.name) == ("discriminator", name)
    rebuilt = CLASSES[name](**found.options)
    rebuilt.load_state_dict(found.weights)
    assert all(torch.equal(rebuilt.state_dict()[key], tensor) for key, tensor in state.items())


def test_published_rows_that_name_categories_are_kept_or_left_out_as_the_recipe_says() -> None:
    judge = VideoDiscriminator(base_channels=4, num_categories=6)
    plain = VideoDiscriminator(**read_discriminator(judge.state_dict()).options | {"num_categories": 0})
    state = {f"video.{name}": tensor for name, tensor in judge.state_dict().items()}
    made = MoCoGANGenerator(base_channels=4).state_dict()
    state |= {f"generator.{name}": tensor for name, tensor in made.items()}
    for model, named in ((judge, [6]), (plain, [None]), (plain, None)):
        mapped, rest = map_mocogan_state_dict(state, discriminators=["mocogan-video"], named=named)
        start = "discriminator.0."
        model.load_state_dict(
            {k.removeprefix(start): tensor for k, tensor in mapped.items() if k.startswith(start)}
        )
        assert not rest
    x = torch.randn(2, 3, 17, 64, 80, generator=torch.Generator().manual_seed(0))
    verdict = judge.eval()(x)
    assert torch.equal(verdict.logits[0], plain.eval()(x).logits[0])
    # As published: of the last layer's rows the first is the score and the others are the categories.
    rows = judge.main(x)
    assert torch.equal(verdict.logits[0], rows[:, :1])
    torch.testing.assert_close(judge.classify(verdict.features), rows[:, 1:].mean((2, 3, 4)))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda state: state.pop("main.5.bias"), r"missing \['main.5.bias'\]"),
        (lambda state: state.update(extra=torch.zeros(1)), r"unknown \['extra'\]"),
        (lambda state: state.update({"main.5.bias": torch.zeros(3)}), r"main.5.bias \(3,\) instead of"),
        (lambda state: state.clear(), "found nothing"),
    ],
)
def test_other_weights_are_refused(damage: Callable[[dict[str, Any]], Any], complaint: str) -> None:
    state = dict(ImageDiscriminator(base_channels=4).state_dict())
    damage(state)
    with pytest.raises(WeightsError, match=complaint):
        read_discriminator(state)
    with pytest.raises(WeightsError, match="not a MoCoGAN generator"):
        read_generator(state)
