"""The published Cosmos tokenizers: our parts give the numbers the public code gave.

`golden_cosmos.json` was made by running that code (its commit stands inside) in float64 on the weights,
clips (CV, DV) and images (CI, DI) below, which need no random generator.

Shapes: B batch, C colours, T H W frames and pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden import assert_like, fill, load, noise
from torch import Tensor, nn

from zoo.errors import WeightsError
from zoo_tokenizers.cosmos.image import CosmosImageDecoder, CosmosImageEncoder
from zoo_tokenizers.cosmos.model import CosmosDecoder, CosmosEncoder
from zoo_tokenizers.cosmos.weights import map_cosmos_image_state_dict, map_cosmos_state_dict
from zoo_vqvae.fsq import FSQ

GOLDEN: dict[str, Any] = load("cosmos")
CASES = [
    pytest.param(case, id=f"{case['kind']}{'x'.join(map(str, case['stride']))}") for case in GOLDEN["cases"]
]
LEVELS = [8, 8, 8, 5, 5, 5]


class Cosmos(nn.Module):
    """The parts wired as an autoencoder wires them, under its names; of one frame a clip for images."""

    def __init__(self, kind: str, stride: list[int], base_channels: int) -> None:
        super().__init__()
        self.is_image = kind.endswith("I")
        encoder, decoder = (
            (CosmosImageEncoder, CosmosImageDecoder) if self.is_image else (CosmosEncoder, CosmosDecoder)
        )
        latent_dim = 256 if kind == "DI" else 16
        options: dict[str, Any] = {"stride": stride, "base_channels": base_channels, "latent_dim": latent_dim}
        grown = [2, 4] if (kind, stride[0]) == ("CV", 4) else [2, 4, 4]
        dim = 6 if kind.startswith("D") else 16
        self.encoder = encoder(**options)
        self.pre_quant = nn.Conv3d(latent_dim, dim, 1)
        self.quantizer = FSQ(levels=LEVELS) if kind.startswith("D") else None
        self.post_quant = nn.Conv3d(dim, latent_dim, 1)
        self.decoder = decoder(**options, channel_multipliers=grown)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the reconstruction, the latent before the quantizer and the indices."""
        h = self.encoder(x)
        z = self.pre_quant(h.unsqueeze(2) if self.is_image else h)
        quantized = None if self.quantizer is None else self.quantizer(z)
        h = self.post_quant(z if quantized is None else quantized.z_BDthw)
        y = self.decoder(h.squeeze(2) if self.is_image else h)
        return y, z, None if quantized is None else quantized.indices_Bqthw


def public_name(name: str, *, is_image: bool) -> str:
    for ours, theirs in {"pre_quant": "quant_conv", "post_quant": "post_quant_conv"}.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs if is_image else f"{theirs}.conv3d", 1)
    return name


def public_state(model: Cosmos) -> dict[str, Tensor]:
    """The tensors of our model as the public one holds them: its 1x1 kernels are 2D for images."""
    named = {public_name(name, is_image=model.is_image): v for name, v in model.state_dict().items()}
    return {k: v.squeeze(4) if model.is_image and v.ndim == 5 else v for k, v in named.items()}


def map_state_dict(state: Mapping[str, Tensor], case: dict[str, Any]) -> tuple[dict[str, Tensor], list[str]]:
    of_kind = map_cosmos_image_state_dict if case["kind"].endswith("I") else map_cosmos_state_dict
    return of_kind(state, stride=case["stride"])


def golden_model(case: dict[str, Any]) -> Cosmos:
    model = Cosmos(case["kind"], case["stride"], GOLDEN["base_channels"][case["kind"][1]])
    state = fill({name: value.shape for name, value in public_state(model).items()}, scales=r"\.norm.*weight")
    mapped, unused = map_state_dict(state, case)
    assert unused == []
    model.double().load_state_dict(mapped, strict=True)
    return model


def golden_input(case: dict[str, Any]) -> Tensor:
    return noise("frame" if case["kind"].endswith("I") else "clip", (2, 3, *case["size"]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_public_code(case: dict[str, Any], dtype: torch.dtype) -> None:
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    model = golden_model(case).to(dtype)
    with torch.no_grad():
        y, z, indices = model(golden_input(case).to(dtype))
    assert_like(z, case["latent"], tolerance)
    if case["kind"].startswith("D"):
        assert indices is not None
        assert indices.flatten().tolist() == case["indices"]
    assert_like(y, case["reconstruction"], tolerance)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_public_code(case: dict[str, Any]) -> None:
    """The loss, and its gradients with respect to parameters all over the network."""
    model = golden_model(case)
    x = golden_input(case)
    y, _, _ = model(x)
    loss = F.mse_loss(y, x)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-9)
    loss.backward()
    parameters = {
        public_name(name, is_image=model.is_image): parameter for name, parameter in model.named_parameters()
    }
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
        dead = {} if model.is_image else never_read(kind, stride)
        extra = {name: torch.empty(shape) for name, shape in dead.items()}
    ours = sum(parameter.numel() for parameter in model.parameters())
    count = ours + sum(value.numel() for value in extra.values())
    assert count == GOLDEN["public_parameters"][f"{kind}{'x'.join(map(str, stride))}"]

    state = {f"network.{name}": value for name, value in (public_state(model) | extra).items()}
    mapped, unused = map_state_dict(state | {"step": torch.zeros(())}, case)
    assert mapped.keys() == model.state_dict().keys()
    assert unused == sorted([*(f"network.{name}" for name in dead), "step"])


def test_wrong_weights_are_named() -> None:
    stride = [8, 16, 16]
    with torch.device("meta"):
        model = Cosmos("DV", stride, 4)
        state = public_state(model)
        nine = torch.empty(9)
    with pytest.raises(WeightsError, match=r"no Cosmos video tokenizer .* conv\.weight"):
        map_cosmos_state_dict({"conv.weight": nine}, stride=stride)
    half = {name: value for name, value in state.items() if not name.startswith(("decoder", "post"))}
    with pytest.raises(WeightsError, match=r"lack the tensors .*decoder\.conv_in"):
        map_cosmos_state_dict(half, stride=stride)
    lacking = {k: v for k, v in state.items() if k != "encoder.mid.attn_1.1.q.conv3d.bias"} | {"extra": nine}
    with pytest.raises(WeightsError, match=r"lack encoder\.mid\.attn_1\.1\.q\.conv3d\.bias; .* place: extra"):
        map_cosmos_state_dict(lacking, stride=stride)
    with pytest.raises(WeightsError, match=r"quant_conv\.conv3d\.bias is \(9,\) where \(6,\) fits"):
        map_cosmos_state_dict(state | {"quant_conv.conv3d.bias": nine}, stride=stride)
    with pytest.raises(WeightsError, match=r"stride \[8, 32, 32\] .* takes 4 levels"):
        map_cosmos_state_dict(state, stride=[8, 32, 32])
    with pytest.raises(WeightsError, match=r"no Cosmos image tokenizer"):
        map_cosmos_image_state_dict(state, stride=[1, 8, 8])
