"""The published BSQ-ViT: our parts give the numbers the public code gave.

`golden_bsqvit.json` was made by running that code (its commit stands inside) at reduced width in float64, on
the weights, images and clips below, which need no random generator. Its video mask was kept boolean, as the
paper describes it: the public code adds it to the attention as numbers, and so sees the future.

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

import zoo
from zoo.errors import WeightsError
from zoo_quantizers.bsq import BSQ
from zoo_tokenizers.bsqvit.model import (
    BSQViTDecoder,
    BSQViTEncoder,
    BSQViTImageDecoder,
    BSQViTImageEncoder,
)
from zoo_tokenizers.bsqvit.weights import map_bsqvit_state_dict

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_bsqvit.json").read_text())
CASES = [pytest.param(case, id=case["name"]) for case in GOLDEN["cases"]]


def noise(name: str, shape: Iterable[int]) -> Tensor:
    """Numbers in [-1, 1) that depend on name and position only, float64; no random generator."""
    shape = tuple(shape)
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    hashed = (i * 12.9898 + zlib.crc32(name.encode()) % 10_007 * 0.613).sin() * 43758.5453
    return ((hashed - hashed.floor()) * 2 - 1).reshape(shape)


def fill(shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Values for names of the public state dict, float64; positions as large as what they join."""
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        value = noise(name, shape)
        if len(shape) > 1 and "positional" not in name:
            value = value * (9 / math.prod(shape[1:])) ** 0.5
        elif ".ln_" in name and name.endswith("weight"):
            value = 1 + 0.3 * value
        elif len(shape) == 1:
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


class BSQViT(nn.Module):
    """The parts wired as an autoencoder wires them, under its names."""

    def __init__(self, case: dict[str, Any]) -> None:
        super().__init__()
        options, bits = dict(case["options"]), case["bits"]
        self.is_image = "num_frames" not in options
        encoder, decoder = (
            (BSQViTImageEncoder, BSQViTImageDecoder) if self.is_image else (BSQViTEncoder, BSQViTDecoder)
        )
        self.encoder = encoder(**options)
        self.pre_quant = nn.Conv3d(options["width"], bits, 1)
        self.quantizer = BSQ(num_bits=bits, num_codebooks=bits // 18, group_size=9)
        self.post_quant = nn.Conv3d(bits, options["width"], 1)
        self.decoder = decoder(**options, head_width=case["head_width"])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction, the latent before the quantizer and the indices."""
        h = self.encoder(x)
        z = self.pre_quant(h.unsqueeze(2) if self.is_image else h)
        quantized = self.quantizer(z)
        h = self.post_quant(quantized.z_BDthw)
        return self.decoder(h.squeeze(2) if self.is_image else h), z, quantized.indices_Bqthw


def public_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors as the public model holds them: its projections are linear layers."""
    renamed = {
        name.replace("pre_quant.", "quant_embed.").replace("post_quant.", "post_quant_embed."): value
        for name, value in state.items()
    }
    return {name: value.flatten(1) if value.ndim == 5 else value for name, value in renamed.items()}


def golden_model(case: dict[str, Any]) -> BSQViT:
    model = BSQViT(case)
    state = fill({name: value.shape for name, value in public_state(model.state_dict()).items()})
    mapped, unused = map_bsqvit_state_dict(state)
    assert unused == []
    model.double().load_state_dict(mapped, strict=True)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_public_code(case: dict[str, Any], dtype: torch.dtype) -> None:
    """One public index of 36 bits is two of ours, the high half first."""
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    model = golden_model(case).to(dtype).eval()
    with torch.no_grad():
        y, z, indices = model(noise("clip", (2, 3, *case["size"])).to(dtype))
    assert_like(z, case["latent"], tolerance)
    whole = sum(part << (18 * (indices.shape[1] - 1 - i)) for i, part in enumerate(indices.unbind(1)))
    assert isinstance(whole, Tensor)
    assert whole.flatten().tolist() == case["indices"]
    assert_like(y, case["reconstruction"], tolerance)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_public_code(case: dict[str, Any]) -> None:
    """The loss, and its gradients with respect to parameters all over the network.

    Through the signs the public code sends the gradient divided by sqrt(D), `bsq` as it is.
    """
    model = golden_model(case).eval()
    x = noise("clip", (2, 3, *case["size"]))
    loss = F.mse_loss(model(x)[0], x)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-9)
    loss.backward()
    names = public_state(dict(model.named_parameters()))
    gradients = {name: p.grad for name, p in zip(names, model.parameters(), strict=True)}
    for name, gradient in case["gradients"].items():
        before_the_signs = name.startswith(("encoder", "quant_embed"))
        assert_like(gradients[name] * (case["bits"] ** -0.5 if before_the_signs else 1), gradient, 1e-8)


@pytest.mark.parametrize(("name", "count"), GOLDEN["public_parameters"].items())
def test_published_size(name: str, count: int) -> None:
    """Recipes have the published number of parameters, and a map from the names of a public checkpoint."""
    model = zoo.build(name, device="meta")
    assert model.num_parameters() == count
    named = public_state(model.state_dict())
    basis = torch.empty(18, device="meta")
    plain = {f"module.{k}": v for k, v in named.items()} | {"module.quantize.basis": basis}
    averaged = {f"module.module.{k}": v for k, v in named.items()} | {"module.module.quantize.basis": basis}
    for checkpoint, unused in (
        ({"epoch": 1, "state_dict": plain, "ema_state_dict": None}, "module.quantize.basis"),
        ({"epoch": 1, "state_dict": plain, "ema_state_dict": averaged}, "module.module.quantize.basis"),
    ):
        mapped, left = map_bsqvit_state_dict(checkpoint)
        assert {k: v.shape for k, v in mapped.items()} == {k: v.shape for k, v in model.state_dict().items()}
        assert left == [unused]


def test_wrong_weights_are_named() -> None:
    state = public_state(golden_model(GOLDEN["cases"][0]).state_dict())
    with pytest.raises(WeightsError, match=r"no BSQ-ViT .* conv\.weight"):
        map_bsqvit_state_dict({"conv.weight": torch.empty(9)})
    half = {name: value for name, value in state.items() if not name.startswith(("decoder", "post"))}
    with pytest.raises(WeightsError, match=r"lack the tensors .*decoder\.conv_out"):
        map_bsqvit_state_dict(half)
    lacking = {k: v for k, v in state.items() if k != "decoder.ffn.0.bias"}
    with pytest.raises(WeightsError, match=r"lack decoder\.ffn\.0\.bias"):
        map_bsqvit_state_dict(lacking)
    with pytest.raises(WeightsError, match=r"quant_embed\.bias is \(9,\) where \(18,\) fits"):
        map_bsqvit_state_dict(state | {"quant_embed.bias": torch.empty(9)})
