"""The published BSQ-ViT: our parts give the numbers the public code gave.

`golden_bsqvit.json` was made by running that code (its commit stands inside) at reduced width in float64, on
the weights, images and clips below, which need no random generator. Its video mask was kept boolean, as the
paper describes it: the public code adds it to the attention as numbers, and so sees the future.

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

GOLDEN: dict[str, Any] = load("bsqvit")
CASES = [pytest.param(case, id=case["name"]) for case in GOLDEN["cases"]]


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
    state = fill(
        {name: value.shape for name, value in public_state(model.state_dict()).items()},
        scales=r"\.ln_.*weight",
        plain="positional",
        gain=9,
    )
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
