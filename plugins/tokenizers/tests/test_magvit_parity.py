"""Published MAGVIT 3D-VQ and Open-MAGVIT2: our parts give the numbers the public code gave.

`golden_open_magvit2.json` and `golden_magvit.json` were made by running that code (its commit stands inside)
in float64 on the weights and clips below, which need no random generator.

Shapes: B batch, C colours, T H W frames and pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden import assert_like, fill, load, noise
from torch import Tensor, nn

from zoo.errors import WeightsError
from zoo_quantizers.lfq import LFQ
from zoo_quantizers.vq import VQ
from zoo_tokenizers.magvit.model import MAGVITDecoder, MAGVITEncoder
from zoo_tokenizers.magvit.weights import map_magvit_state_dict
from zoo_tokenizers.open_magvit2.model import (
    OpenMagvit2CausalDecoder,
    OpenMagvit2CausalEncoder,
    OpenMagvit2Decoder,
    OpenMagvit2Encoder,
)
from zoo_tokenizers.open_magvit2.weights import map_open_magvit2_state_dict

FAMILIES = ("open_magvit2", "magvit")
GOLDEN: dict[str, Any] = {family: load(family) for family in FAMILIES}
CASES = [
    pytest.param(family, case, id=f"{family}-{'x'.join(map(str, case['size']))}")
    for family in FAMILIES
    for case in GOLDEN[family]["cases"]
]


def build(family: str, options: dict[str, Any], codebook_size: int = 64) -> nn.ModuleDict:
    """Wire the parts under an autoencoder's names."""
    if family == "open_magvit2":
        return nn.ModuleDict(
            {
                "encoder": OpenMagvit2Encoder(**options),
                "quantizer": LFQ(num_bits=options.get("latent_dim", 18)),
                "decoder": OpenMagvit2Decoder(**options),
            }
        )
    return nn.ModuleDict(
        {
            "encoder": MAGVITEncoder(**options),
            "quantizer": VQ(codebook_size=codebook_size, latent_dim=options.get("latent_dim", 256)),
            "decoder": MAGVITDecoder(**options),
        }
    )


def public_values(shapes: Mapping[str, Iterable[int]]) -> dict[str, Tensor]:
    """Values for names of the public state dict; the codebook's as large as latents."""
    values = fill(shapes, scales=r"scale|\.norm.*weight")
    codebooks = {name: shape for name, shape in shapes.items() if name.endswith("codebook")}
    return values | {name: 0.5 * noise(name, shape) for name, shape in codebooks.items()}


def golden_model(family: str, case: dict[str, Any]) -> nn.ModuleDict:
    model = build(family, case["options"])
    if family == "open_magvit2":
        mapped, unused = map_open_magvit2_state_dict(
            public_values({name: value.shape for name, value in model.state_dict().items()})
        )
    else:
        mapped, unused = map_magvit_state_dict(
            public_values(case["shapes"]), num_residual_blocks=case["options"]["num_residual_blocks"]
        )
    assert unused == []
    model.double().load_state_dict(mapped, strict=True)
    return model.eval()


def public_indices(family: str, indices_Bqthw: Tensor, num_bits: int) -> Tensor:
    """Bit j weighs 2^j in public Open-MAGVIT2, where `lfq` counts the first bit as the highest."""
    if family == "magvit":
        return indices_Bqthw
    bits = (indices_Bqthw[..., None] >> torch.arange(num_bits)) & 1
    return (bits << torch.arange(num_bits - 1, -1, -1)).sum(-1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("family", "case"), CASES)
def test_outputs_equal_the_public_code(family: str, case: dict[str, Any], dtype: torch.dtype) -> None:
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    model = golden_model(family, case).to(dtype)
    with torch.no_grad():
        z = model["encoder"](noise("clip", (2, 3, *case["size"])).to(dtype))
        quantized = model["quantizer"](z)
        y = model["decoder"](quantized.z_BDthw)
    assert_like(z, case["latent"], tolerance)
    indices = public_indices(family, quantized.indices_Bqthw, z.shape[1])
    assert indices.flatten().tolist() == case["indices"]
    assert_like(y, case["reconstruction"], tolerance)


@pytest.mark.parametrize(("family", "case"), CASES)
def test_gradients_equal_the_public_code(family: str, case: dict[str, Any]) -> None:
    """The loss, and its gradients with respect to parameters all over the network."""
    model = golden_model(family, case)
    x = noise("clip", (2, 3, *case["size"]))
    z = model["encoder"](x)
    q = model["quantizer"](z).z_BDthw
    y = model["decoder"](z + (q - z).detach())
    loss = F.mse_loss(y, x)
    assert loss.item() == pytest.approx(case["loss"], rel=1e-9)
    loss.backward()
    for name, gradient in case["gradients"].items():
        assert_like(model.get_parameter(name).grad, gradient, 1e-8)


def test_published_sizes() -> None:
    """Those of MAGVIT with their codebook of 1,024 codes; Open-MAGVIT2 has none."""
    with torch.device("meta"):
        for family, base_channels in (("open_magvit2", 128), ("magvit", 64), ("magvit", 128)):
            model = build(family, {"base_channels": base_channels}, codebook_size=1024)
            count = sum(p.numel() for p in model.parameters())
            assert count == GOLDEN[family]["public_parameters"][str(base_channels)]


def test_open_magvit2_averages_are_taken_where_there_are_any() -> None:
    options = {"base_channels": 32, "channel_multipliers": [1, 2], "temporal_stride": 1, "latent_dim": 5}
    options["num_residual_blocks"] = 1
    with torch.device("meta"):
        model = build("open_magvit2", options)
    last = {name: torch.zeros(value.shape) for name, value in model.state_dict().items()}
    averages = {f"model_ema.{name.replace('.', '')}": value + 1 for name, value in last.items()}
    averages |= {"model_ema.decay": torch.tensor(0.999), "loss.discriminator.w": torch.zeros(1)}
    checkpoint = {"state_dict": last | averages, "epoch": 3}
    mapped, unused = map_open_magvit2_state_dict(checkpoint)
    assert mapped.keys() == last.keys()
    assert all(bool((value == 1).all()) for value in mapped.values())
    assert unused == sorted([*last, "model_ema.decay", "loss.discriminator.w"])
    mapped, _ = map_open_magvit2_state_dict(checkpoint, weights="last")
    assert not any(bool(value.any()) for value in mapped.values())
    with pytest.raises(WeightsError, match=r"lack model_ema\."):
        map_open_magvit2_state_dict(last, weights="averaged")
    causal = nn.ModuleDict(
        {"encoder": OpenMagvit2CausalEncoder(**options), "decoder": OpenMagvit2CausalDecoder(**options)}
    )
    causal.load_state_dict(mapped, strict=True)


def test_magvit_names_its_missing_tensors() -> None:
    case = GOLDEN["magvit"]["cases"][0]
    options = {"num_residual_blocks": case["options"]["num_residual_blocks"]}
    state = {f"params/{name}": torch.empty(shape) for name, shape in case["shapes"].items()}
    mapped, unused = map_magvit_state_dict(state | {"step/a": torch.zeros(())}, **options, quantizer="vq-ema")
    assert unused == ["step/a"]
    assert "quantizer.z_avg" in mapped
    assert len(mapped) == len(state) + 3
    del state["params/decoder/GroupNorm_0/scale"]
    with pytest.raises(WeightsError, match=r"lack params\.decoder\.GroupNorm_0\.scale"):
        map_magvit_state_dict(state, **options)
    with pytest.raises(WeightsError, match="no MAGVIT 3D-VQ"):
        map_magvit_state_dict({"conv.weight": torch.zeros(9)})
