"""The published Cosmos video tokenizers: our parts give the numbers the public code gave.

`golden_cosmos.json` was made by running that code (its commit stands inside) in float64 on the weights and
clips below, which need no random generator.

Shapes: B batch, C colours, T H W frames and pixels.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import RecipeError, WeightsError
from zoo_tokenizers.cosmos import CosmosDecoder, CosmosEncoder
from zoo_tokenizers.cosmos_weights import map_cosmos_state_dict
from zoo_vqvae.fsq import FSQ

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_cosmos.json").read_text())
CASES = [
    pytest.param(case, id=f"{case['kind']}{'x'.join(map(str, case['stride']))}") for case in GOLDEN["cases"]
]
LEVELS = [8, 8, 8, 5, 5, 5]
PUBLIC = {"pre_quant.": "quant_conv.conv3d.", "post_quant.": "post_quant_conv.conv3d."}


def noise(name: str, shape: Iterable[int]) -> Tensor:
    """Numbers in [-1, 1) that depend on name and position only, float64; no random generator."""
    shape = tuple(shape)
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    hashed = (i * 12.9898 + zlib.crc32(name.encode()) % 10_007 * 0.613).sin() * 43758.5453
    return ((hashed - hashed.floor()) * 2 - 1).reshape(shape)


def fill(shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Values for names of the public state dict, float64."""
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        value = noise(name, shape)
        if len(shape) > 1:
            value = value * (3 / math.prod(shape[1:])) ** 0.5
        elif ".norm" in name and name.endswith("weight"):
            value = 1 + 0.3 * value
        else:
            value = 0.1 * value
        state[name] = value
    return state


def fingerprint(tensor: Tensor) -> list[float]:
    """Root mean square, and three weighed sums scaled alike."""
    flat = tensor.detach().double().flatten()
    sums = [float((flat * noise(f"sum {i}", flat.shape)).sum()) / len(flat) ** 0.5 for i in range(3)]
    return [float(flat.square().mean().sqrt()), *sums]


def assert_like(tensor: Tensor, expected: list[float], tolerance: float) -> None:
    assert fingerprint(tensor) == pytest.approx(expected, rel=0, abs=tolerance * expected[0])


class Cosmos(nn.Module):
    """The parts wired as an autoencoder wires them, under its names."""

    def __init__(self, kind: str, stride: list[int], base_channels: int) -> None:
        super().__init__()
        options: dict[str, Any] = {"stride": stride, "base_channels": base_channels}
        grown = [2, 4] if (kind, stride[0]) == ("CV", 4) else [2, 4, 4]
        dim = 6 if kind == "DV" else 16
        self.encoder = CosmosEncoder(**options)
        self.pre_quant = nn.Conv3d(16, dim, 1)
        self.quantizer = FSQ(levels=LEVELS) if kind == "DV" else None
        self.post_quant = nn.Conv3d(dim, 16, 1)
        self.decoder = CosmosDecoder(**options, channel_multipliers=grown)

    def forward(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the reconstruction, the latent before the quantizer and the indices."""
        z = self.pre_quant(self.encoder(x_BCTHW))
        if self.quantizer is None:
            return self.decoder(self.post_quant(z)), z, None
        quantized = self.quantizer(z)
        return self.decoder(self.post_quant(quantized.z_BDthw)), z, quantized.indices_Bqthw


def public_name(name: str) -> str:
    for ours, theirs in PUBLIC.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def public_state(model: nn.Module) -> dict[str, Tensor]:
    return fill({public_name(name): value.shape for name, value in model.state_dict().items()})


def golden_model(case: dict[str, Any]) -> Cosmos:
    model = Cosmos(case["kind"], case["stride"], GOLDEN["base_channels"])
    mapped, unused = map_cosmos_state_dict(public_state(model), stride=case["stride"])
    assert unused == []
    model.double().load_state_dict(mapped, strict=True)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_public_code(case: dict[str, Any], dtype: torch.dtype) -> None:
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    model = golden_model(case).to(dtype)
    with torch.no_grad():
        y, z, indices = model(noise("clip", (2, 3, *case["size"])).to(dtype))
    assert_like(z, case["latent"], tolerance)
    if case["kind"] == "DV":
        assert indices is not None
        assert indices.flatten().tolist() == case["indices"]
    assert_like(y, case["reconstruction"], tolerance)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_public_code(case: dict[str, Any]) -> None:
    """The loss, and its gradients with respect to parameters all over the network."""
    model = golden_model(case)
    x = noise("clip", (2, 3, *case["size"]))
    y, _, _ = model(x)
    loss = F.mse_loss(y, x)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-9)
    loss.backward()
    parameters = {public_name(name): parameter for name, parameter in model.named_parameters()}
    for name, gradient in case["gradients"].items():
        assert_like(parameters[name].grad, gradient, 1e-8)


def never_read(kind: str, stride: list[int]) -> dict[str, tuple[int, ...]]:
    """Convolutions at the published width that the public network stores for steps that it does not take."""
    shapes = {"conv_t": (3, 1, 1), "conv_hw": (1, 3, 3), "conv_1": (1, 1, 1)}
    down, up = ("conv_hw", "conv_t", "conv_1"), ("conv_t", "conv_hw", "conv_1")
    dead: dict[str, tuple[int, ...]] = {}

    def add(prefix: str, dim: int, order: tuple[str, ...], kept: set[str]) -> None:
        for i, conv in enumerate(order, start=1):
            if conv not in kept:
                dead[f"{prefix}.conv{i}.conv3d.weight"] = (dim, dim, *shapes[conv])
                dead[f"{prefix}.conv{i}.conv3d.bias"] = (dim,)

    time, wide = stride[0] == 8, stride[1] == 16
    every = {"conv_t", "conv_hw", "conv_1"}
    sides = {"conv_hw", "conv_1"}
    add("encoder.down.0.downsample", 256, down, every if time else sides)
    add("encoder.down.1.downsample", 512, down, sides if wide else set())
    if (kind, time) == ("CV", False):
        add("decoder.up.1.upsample", 512, up, sides)
    else:
        add("decoder.up.2.upsample", 512, up, sides if wide or not time else set())
        add("decoder.up.1.upsample", 512, up, every if time else set())
    return dead


@pytest.mark.parametrize("case", CASES)
def test_published_size_and_what_it_never_reads(case: dict[str, Any]) -> None:
    """Our parameters and those it never reads make the published count; the map tells them apart."""
    kind, stride = case["kind"], case["stride"]
    with torch.device("meta"):
        model = Cosmos(kind, stride, 128)
        dead = {name: torch.empty(shape) for name, shape in never_read(kind, stride).items()}
    ours = sum(parameter.numel() for parameter in model.parameters())
    count = ours + sum(value.numel() for value in dead.values())
    assert count == GOLDEN["public_parameters"][f"{kind} {'x'.join(map(str, stride))}"]

    state = {public_name(name): value for name, value in model.state_dict().items()}
    mapped, unused = map_cosmos_state_dict(
        {f"network.{name}": value for name, value in (state | dead).items()} | {"step": torch.zeros(())},
        stride=stride,
    )
    assert mapped.keys() == model.state_dict().keys()
    assert unused == sorted([*(f"network.{name}" for name in dead), "step"])


def test_wrong_weights_are_named() -> None:
    stride = [8, 16, 16]
    with torch.device("meta"):
        model = Cosmos("DV", stride, 4)
        state = {public_name(name): value for name, value in model.state_dict().items()}
        nine = torch.empty(9)
    with pytest.raises(WeightsError, match=r"no Cosmos video tokenizer .* conv\.weight"):
        map_cosmos_state_dict({"conv.weight": nine}, stride=stride)
    half = {name: value for name, value in state.items() if not name.startswith(("decoder", "post"))}
    with pytest.raises(WeightsError, match=r"lack the tensors .*decoder\.conv_in.* halves"):
        map_cosmos_state_dict(half, stride=stride)
    lacking = {k: v for k, v in state.items() if k != "encoder.mid.attn_1.1.q.conv3d.bias"} | {"extra": nine}
    with pytest.raises(WeightsError, match=r"lack encoder\.mid\.attn_1\.1\.q\.conv3d\.bias; .* place: extra"):
        map_cosmos_state_dict(lacking, stride=stride)
    with pytest.raises(WeightsError, match=r"quant_conv\.conv3d\.bias is \(9,\) where \(6,\) fits"):
        map_cosmos_state_dict(state | {"quant_conv.conv3d.bias": nine}, stride=stride)
    with pytest.raises(RecipeError, match=r"stride \[8, 32, 32\] .* takes 4 levels"):
        map_cosmos_state_dict(state, stride=[8, 32, 32])
