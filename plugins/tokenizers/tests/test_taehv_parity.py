"""The published TAEHV: our parts give the numbers the public code gave.

`golden_taehv.json` was made by running that code (its commits stand inside) at reduced width in float64, on
the weights and clips below, which need no random generator.

Shapes: B batch, C colours, T H W frames and pixels.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden import assert_like, fill, load, noise
from torch import nn

import zoo
from zoo.errors import WeightsError
from zoo_tokenizers.taehv.model import TAEHVDecoder, TAEHVEncoder, TAEHVSuperDecoder
from zoo_tokenizers.taehv.weights import map_taehv_state_dict

GOLDEN: dict[str, Any] = load("taehv")
CASES = [pytest.param(case, id=case["file"]) for case in GOLDEN["cases"]]


def golden_model(case: dict[str, Any]) -> nn.ModuleDict:
    options = {"latent_dim": case["latent_dim"], "stride": case["stride"]}
    is_super = "super" in case["file"]
    grown = {"widths": case["widths"]} | ({"block": "wide"} if "wide" in case["file"] else {})
    decoder = (TAEHVSuperDecoder if is_super else TAEHVDecoder)(**options, **grown)
    encoder = TAEHVEncoder(**options, base_channels=8, alignment=case["alignment"])
    model = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    state = fill({name.replace(".layers.", ".", 1): v.shape for name, v in model.state_dict().items()})
    mapped, unused = map_taehv_state_dict(state)
    assert unused == []
    model.double().load_state_dict(mapped, strict=True)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_public_code(case: dict[str, Any], dtype: torch.dtype) -> None:
    """Public video is in [0, 1] and clamped there; the latent has no bounds."""
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    model = golden_model(case).to(dtype)
    with torch.no_grad():
        z = model["encoder"](noise("clip", (2, 3, *case["size"])).to(dtype))
        y = model["decoder"](z)
    assert_like(z, case["latent"], tolerance)
    assert_like(((y + 1) / 2).clamp(0, 1), case["video"], tolerance)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_public_code(case: dict[str, Any]) -> None:
    """Of the sum of squares of the latent and of the video before it is clamped."""
    model = golden_model(case)
    z = model["encoder"](noise("clip", (2, 3, *case["size"])))
    loss = z.square().sum() + ((model["decoder"](z) + 1) / 2).square().sum()
    assert loss.item() == pytest.approx(case["loss"], rel=1e-9)
    loss.backward()
    parameters = {name.replace(".layers.", ".", 1): each for name, each in model.named_parameters()}
    for name, gradient in case["gradients"].items():
        assert_like(parameters[name].grad, gradient, 1e-8)


@pytest.mark.parametrize(("name", "count"), GOLDEN["public_parameters"].items())
def test_published_size(name: str, count: int) -> None:
    """Recipes have the published number of parameters, and a map from the public names."""
    model = zoo.build(name, device="meta")
    assert model.num_parameters() == count
    state = {f"tae.{k.replace('.layers.', '.', 1)}": v for k, v in model.state_dict().items()}
    mapped, unused = map_taehv_state_dict(state | {"step": torch.zeros(())})
    assert {k: v.shape for k, v in mapped.items()} == {k: v.shape for k, v in model.state_dict().items()}
    assert unused == ["step"]


def test_layers_for_more_frames_give_their_last_ones() -> None:
    """As the public code loads files whose decoder makes more frames than its settings ask for."""
    model = golden_model(GOLDEN["cases"][0])
    state = {name.replace(".layers.", ".", 1): value for name, value in model.state_dict().items()}
    grow = state["decoder.7.conv.weight"]
    mapped, _ = map_taehv_state_dict(state | {"decoder.7.conv.weight": torch.cat([grow + 1, grow])})
    assert torch.equal(mapped["decoder.layers.7.conv.weight"], grow)


def test_wrong_weights_are_named() -> None:
    model = golden_model(GOLDEN["cases"][0])
    state = {name.replace(".layers.", ".", 1): value for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=r"no TAEHV .* conv\.weight"):
        map_taehv_state_dict({"conv.weight": torch.empty(9)})
    half = {name: value for name, value in state.items() if not name.startswith("decoder")}
    with pytest.raises(WeightsError, match=r"lack the tensors decoder\.22\.weight"):
        map_taehv_state_dict(half)
    lacking = {k: v for k, v in state.items() if k != "encoder.4.conv.2.bias"}
    with pytest.raises(WeightsError, match=r"lack encoder\.4\.conv\.2\.bias"):
        map_taehv_state_dict(lacking)
    with pytest.raises(WeightsError, match=r"decoder\.1\.bias is \(9,\) where"):
        map_taehv_state_dict(state | {"decoder.1.bias": torch.empty(9)})
