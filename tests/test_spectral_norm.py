"""Spectral norm of whole discriminators: what is normalised, to what, how often, and that it is saved."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from training.squares import GAN

import zoo
from zoo.spectral_norm import _SpectralNorm, normalize_weights
from zoo.training.loop import training_step
from zoo.training.run import Labelled, start
from zoo_gan.longvideogan.discriminator import Convolution
from zoo_gan.r3gan.layers import TemporalConv
from zoo_gan.stylegan2.layers import Conv2dLayer, FullyConnectedLayer

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "linear": (nn.Linear(7, 5), (1, 7)),
    "3d": (nn.Conv3d(3, 6, (2, 3, 1)), (1, 3, 2, 3, 1)),
    "groups": (nn.Conv2d(6, 9, 3, groups=3), (1, 6, 3, 3)),
    "equalised": (Conv2dLayer(4, 6, 1), (1, 4, 1, 1)),
    "equalised and slow": (FullyConnectedLayer(8, 5, lr_multiplier=0.01), (1, 8)),
    "equalised 3d": (Convolution(4, 7, (1, 1, 1), bias=False), (1, 4, 1, 1, 1)),
    "temporal": (TemporalConv(5), (1, 3, 5, 1, 1)),
}
"""Layers, and an input that they make one place of."""


@pytest.mark.parametrize("name", LAYERS)
def test_no_layer_stretches_its_input_and_some_direction_keeps_its_length(name: str) -> None:
    torch.manual_seed(0)
    layer, shape = copy.deepcopy(LAYERS[name])
    parameter = dict(layer.named_parameters())["weight"]
    nn.init.normal_(parameter, 0.0, 3.0)
    normalize_weights(layer)
    for _ in range(60):
        layer(torch.randn(shape))
    slope = torch.autograd.functional.jacobian(layer, torch.randn(shape))
    matrix = slope.reshape(-1, torch.Size(shape).numel())
    assert float(torch.linalg.matrix_norm(matrix, ord=2)) == pytest.approx(1, abs=1e-3)


def test_a_weight_that_starts_at_zero_is_held_once_it_learns() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    nn.init.zeros_(layer.weight)
    parameter = layer.weight
    normalize_weights(layer)
    layer(torch.randn(3, 6)).square().sum().backward()
    assert float(layer.weight.detach().abs().max()) == 0
    assert parameter.grad is not None
    assert 0 < float(parameter.grad.norm()) < math.inf
    with torch.no_grad():
        parameter.copy_(100 * torch.randn(4, 6))
    for _ in range(30):
        layer(torch.randn(3, 6))
    assert float(torch.linalg.matrix_norm(layer.weight.detach(), ord=2)) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("name", zoo.list_parts("discriminator"))
def test_every_weight_of_a_bundled_discriminator_that_learns_is_normalised_once(name: str) -> None:
    with torch.device("meta"):
        discriminator = zoo.build_part("discriminator", name)
        before = sum(parameter.numel() for parameter in discriminator.parameters())
        normalize_weights(discriminator)
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == before
    normed = 0
    for path, module in discriminator.named_modules():
        if isinstance(module, parametrize.ParametrizationList):
            assert len(module) == 1, path
            normed += 1
        elif not path.endswith("parametrizations.weight"):
            for key, parameter in module.named_parameters(recurse=False):
                bare = key == "weight" and parameter.ndim > 1 and parameter.requires_grad
                assert not bare, f"{path}.{key}"
    assert normed


def recipe(**adversarial: object) -> dict[str, object]:
    made = copy.deepcopy(GAN)
    size = {"num_frames": 4, "height": 16, "width": 16}
    made["discriminator"] = [{"use": "stylegan3d", **size, "base_channels": 4, "channel_multipliers": [1, 2]}]
    made["train"]["objective"]["adversarial"] |= adversarial
    return made


def clips() -> Iterator[Labelled]:
    rng = torch.Generator().manual_seed(0)
    while True:
        yield Labelled(torch.rand(4, 3, 4, 16, 16, generator=rng) * 2 - 1)


def test_a_pass_is_one_iteration_and_real_and_made_clips_are_one_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = start(
        zoo.build(recipe(spectral_norm=True, r1={"weight": 1.0, "every": 2}), seed=0), torch.device("cpu")
    )
    counted: list[int] = []
    step = _SpectralNorm._step

    def counting(self: _SpectralNorm, matrix_GOI: Tensor) -> None:
        counted.append(id(self))
        step(self, matrix_GOI)

    monkeypatch.setattr(_SpectralNorm, "_step", counting)
    data = clips()
    for passes in (3, 2):  # the model's, then real and made apart for R1; the model's, then both in one
        counted.clear()
        training_step(run, data)
        assert {counted.count(one) for one in counted} == {passes}


def test_what_is_saved_loads_again_and_without_the_option_names_are_the_published_ones(
    tmp_path: Path,
) -> None:
    plain = zoo.build(recipe(), seed=0)
    assert not any("parametrizations" in name for name in plain.state_dict())
    model = zoo.build(recipe(spectral_norm=True), seed=0)
    same = {name: value for name, value in model.state_dict().items() if name in plain.state_dict()}
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in same.items())
    assert {name for name in plain.state_dict() if name.startswith("generator.")} <= same.keys()
    run = start(model, torch.device("cpu"))
    training_step(run, clips())
    zoo.save(run.model.eval(), tmp_path / "model")
    again = zoo.load(tmp_path / "model")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in run.model.state_dict().items())
    x = next(clips()).x_BCTHW
    assert torch.equal(run.model.judge(x)[0].logits[0], again.judge(x)[0].logits[0])
