"""The published VidTok tokenizers: our parts give the numbers the public code gave.

`golden_vidtok.json` was made by running that code (its commit stands inside) in float64 on the weights and
clips below, which need no random generator.

Shapes: B batch, C colours, T H W frames and pixels.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden import assert_like, fill, load, noise

import zoo
from zoo.assemblies import Autoencoder
from zoo.discovery import catalogue
from zoo.errors import WeightsError
from zoo_tokenizers.vidtok.weights import map_vidtok_state_dict

GOLDEN: dict[str, Any] = load("vidtok")
CASES = [pytest.param(case, id=case["name"]) for case in GOLDEN["cases"]]


def recipe_of(public_name: str) -> str:
    """The recipe whose summary names a public checkpoint."""
    rest = public_name.removeprefix("vidtok_").replace("v1_1", "v1.1").replace("_", "-")
    name = f"vidtok-video-{rest}"
    assert f" {public_name}," in f" {catalogue().recipes[name].data['summary']}"
    return name


def build(public_name: str, **options: Any) -> Autoencoder:
    model = zoo.build(recipe_of(public_name), discriminator=None, **options)
    assert isinstance(model, Autoencoder)
    return model


def golden_model(case: dict[str, Any]) -> Autoencoder:
    """The recipe's model at reduced width, with what the key map makes of the public weights."""
    options = {"base_channels": GOLDEN["base_channels"]}
    model = build(case["name"], encoder=options, decoder=options).double().eval()
    assert model.quantizer.latent_dim == model.decoder.latent_dim
    state = fill(
        {name: value.shape for name, value in model.state_dict().items()},
        scales=r"\.norm\.weight",
        plain="mix_factor$",
    )
    mapped, unused = map_vidtok_state_dict(state)
    assert unused == []
    model.load_state_dict(mapped, strict=True)
    return model


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_the_public_code(case: dict[str, Any], dtype: torch.dtype) -> None:
    """Latents, codes, reconstruction, loss, and its gradients with respect to parameters all over."""
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    model = golden_model(case).to(dtype)
    x = noise("clip", (2, 3, *case["size"])).to(dtype)
    z = model.encoder(x)
    assert_like(z, case["latent"], tolerance)
    reconstructed = model(x)
    if "indices" in case:
        assert reconstructed.quantized.indices_Bqthw.flatten().tolist() == case["indices"]
    assert_like(reconstructed.x_BCTHW, case["reconstruction"], tolerance)
    loss = F.mse_loss(reconstructed.x_BCTHW, x)
    assert loss.item() == pytest.approx(case["loss"], rel=10 * tolerance)
    if dtype == torch.float64:
        loss.backward()
        for name, gradient in case["gradients"].items():
            assert_like(model.get_parameter(name).grad, gradient, 1e-8)


def test_every_published_checkpoint_has_a_recipe_of_its_size() -> None:
    recipes = {
        name for name in catalogue().recipes if name.startswith("vidtok-video-") and "tiny" not in name
    }
    assert recipes == {recipe_of(name) for name in GOLDEN["public_parameters"]}
    for name, count in GOLDEN["public_parameters"].items():
        # What the recipe states is counted in test_manifest.py.
        assert catalogue().recipes[recipe_of(name)].data["parameters"] == count


@pytest.mark.parametrize("name", ["vidtok_kl_causal_444_4chn", "vidtok_fsq_noncausal_41616_262144"])
def test_whole_checkpoints_are_mapped(name: str) -> None:
    """Of any stride and width, with losses, averages and codebook beside it, and compiled."""
    model = build(name, device="meta")
    own = model.state_dict()
    tensor = torch.empty(1, device="meta")
    others = ["loss.logvar", "loss.discriminator.main.0.weight", "model_ema.encoderconv_inconvweight"]
    others += ["regularization.implicit_codebook", "regularization.zero"]
    state = dict.fromkeys(others, tensor) | own
    for checkpoint in (
        {"state_dict": state, "epoch": 3},
        {f"first_stage.{name}": value for name, value in state.items()},
        {name.replace("encoder.", "encoder._orig_mod.", 1): value for name, value in state.items()},
    ):
        mapped, unused = map_vidtok_state_dict(checkpoint)
        assert {name: value.shape for name, value in mapped.items()} == {k: v.shape for k, v in own.items()}
        assert len(unused) == len(others)
        assert all(name in checkpoint.get("state_dict", checkpoint) for name in unused)


def test_wrong_weights_are_named() -> None:
    state = build("vidtok_kl_causal_488_4chn", device="meta").state_dict()
    nine = torch.empty(9, device="meta")
    with pytest.raises(WeightsError, match=r"no VidTok in these weights"):
        map_vidtok_state_dict({"conv.weight": nine})
    half = {name: value for name, value in state.items() if not name.startswith("decoder")}
    with pytest.raises(WeightsError, match=r"lack the tensors decoder\.conv_in\.conv\.weight"):
        map_vidtok_state_dict(half)
    lacking = {k: v for k, v in state.items() if k != "encoder.mid.attn_1.q.conv.bias"} | {"extra": nine}
    with pytest.raises(WeightsError, match=r"lack encoder\.mid\.attn_1\.q\.conv\.bias; .* place: extra"):
        map_vidtok_state_dict(lacking)
    with pytest.raises(WeightsError, match=r"mix_factor is \(9,\) where \(1,\) fits"):
        map_vidtok_state_dict(state | {"decoder.up_temporal.1.upsample.mix_factor": nine})
    # Halved at other levels than any published model: no stride of ours says so.
    moved = {
        k.replace("down_temporal.1.downsample", "down_temporal.0.downsample"): v for k, v in state.items()
    }
    with pytest.raises(WeightsError, match=r"lack encoder\.down_temporal\.1\.downsample"):
        map_vidtok_state_dict(moved)
