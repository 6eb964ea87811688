"""The published VQGANs of taming-transformers and TATS: our parts give the numbers their public code gave.

`golden_taming_tats.json` was made by running that code (commits stand inside) in float64 on the weights
and clips below, which need no random generator.

Shapes: B batch, C colours, T H W frames and pixels, D latent channels, K codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden import assert_like, fill, load, noise
from torch import Tensor

import zoo
from zoo.assemblies import Autoencoder
from zoo.errors import WeightsError
from zoo_tokenizers.taming.weights import map_taming_state_dict
from zoo_tokenizers.tats.weights import map_tats_state_dict

GOLDEN: dict[str, Any] = load("taming_tats")
TAMING = [pytest.param(case, id=case["name"]) for case in GOLDEN["taming"]]
TATS = [pytest.param(case, id=case["name"]) for case in GOLDEN["tats"]]
PUBLIC = {
    "taming": {
        "pre_quant.": "quant_conv.",
        "post_quant.": "post_quant_conv.",
        "quantizer.embeddings": "quantize.embedding.weight",
    },
    "tats": {
        "pre_quant.": "pre_vq_conv.conv.",
        "post_quant.": "post_vq_conv.conv.",
        "quantizer.": "codebook.",
    },
}


def public_values(shapes: Mapping[str, torch.Size], codes: list[list[float]]) -> dict[str, Tensor]:
    """Values for every name of a public state dict, float64, with the given codes."""
    state = fill(shapes, scales="running_var|weight")
    state |= {n: torch.zeros((), dtype=torch.long) for n in shapes if n.endswith("num_batches_tracked")}
    book_KD = torch.tensor(codes, dtype=torch.float64)
    if "codebook.N" in state:
        state |= {"codebook.embeddings": book_KD, "codebook.N": 3 + noise("N", (len(book_KD),))}
        state["codebook.z_avg"] = book_KD * state["codebook.N"][:, None]
    else:
        state["quantize.embedding.weight"] = book_KD
    return state


def build(family: str, case: dict[str, Any]) -> Autoencoder:
    quantizer: dict[str, Any] = {"use": "vq", "kmeans_steps": 0, "commitment": 4.0}
    if family == "tats":
        quantizer = {"use": "vq-ema", "restart_below": 0.0}
    quantizer |= {"codebook_size": len(case["codes"]), "latent_dim": len(case["codes"][0])}
    T, H, W = case["size"]
    model = zoo.build(
        {
            "summary": "A small one of its family.",
            "assembly": "autoencoder",
            "clip": {"num_frames": T, "height": max(H, 8), "width": max(W, 8)},
            "encoder": {"use": f"tokenizers:{family}", **case["options"]},
            "pre_quant": "conv1x1x1",
            "quantizer": quantizer,
            "post_quant": "conv1x1x1",
            "decoder": {"use": f"tokenizers:{family}", **case["options"]},
        }
    )
    assert isinstance(model, Autoencoder)
    return model


def public_name(family: str, name: str) -> str:
    for ours, theirs in PUBLIC[family].items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def public_state(family: str, model: Autoencoder, codes: list[list[float]]) -> dict[str, Tensor]:
    left_out = {"quantizer.initialized"}
    if family == "taming":
        left_out |= {"quantizer.N"}
    shapes = {n: value.shape for n, value in model.state_dict().items() if n not in left_out}
    if family == "taming":
        for name in ("pre_quant.weight", "post_quant.weight"):
            shapes[name] = shapes[name][:-1]
    return public_values({public_name(family, name): shape for name, shape in shapes.items()}, codes)


def golden_model(family: str, case: dict[str, Any]) -> Autoencoder:
    model = build(family, case)
    state = public_state(family, model, case["codes"])
    if family == "taming":
        mapped, unused = map_taming_state_dict(state)
    else:
        mapped, unused = map_tats_state_dict(state)
    assert unused == []
    model.double().load_state_dict(mapped, strict=True)
    return model


def gradients(family: str, model: Autoencoder) -> dict[str, Tensor]:
    return {public_name(family, name): p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", TAMING)
def test_taming_equals_the_public_code(case: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    """Latents, codes and frames of a whole clip; gradients in float64. The public code sees single frames."""
    model = golden_model("taming", case).to(dtype).eval()
    x = noise("clip", (2, 3, *case["size"])).to(dtype)
    expected = case["eval"]
    tokens = model.encode(x)
    assert tokens.indices_Bqthw is not None
    assert tokens.indices_Bqthw.flatten().tolist() == expected["indices"]
    # The golden numbers are of frames in a row, (B T) C H W.
    latents = [model.pre_quant(model.encoder(frame)[:, :, None])[:, :, 0] for frame in _frames(x)]
    assert_like(torch.stack(latents, 1).flatten(0, 1), expected["latent"], tolerance)
    y, quantized = model(x)
    assert_like(y.movedim(2, 1).flatten(0, 1), expected["reconstruction"], tolerance)
    if dtype == torch.float64:
        # The public code weighs the codebook's term by 0.25 and the commitment by 1.
        loss = F.l1_loss(y, x) + 0.25 * quantized.loss
        loss.backward()
        assert loss.item() == pytest.approx(case["loss"], rel=1e-9)
        found = gradients("taming", model)
        for name, gradient in case["gradients"].items():
            assert_like(found[name], gradient, 1e-7)


def _frames(x_BCTHW: Tensor) -> list[Tensor]:
    return list(x_BCTHW.unbind(2))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", TATS)
def test_tats_equals_the_public_code(case: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    model, expected = golden_model("tats", case).to(dtype).eval(), case["eval"]
    x = noise("clip", (2, 3, *case["size"])).to(dtype)
    with torch.no_grad():
        assert_like(model.encoder(x), expected["encoder"], tolerance)
        assert_like(model.pre_quant(model.encoder(x)), expected["latent"], tolerance)
        y, quantized = model(x)
    assert quantized.indices_Bqthw is not None
    assert quantized.indices_Bqthw.flatten().tolist() == expected["indices"]
    assert_like(y, expected["reconstruction"], tolerance)
    assert quantized.loss.item() == pytest.approx(expected["commitment"], rel=tolerance)


@pytest.mark.parametrize("case", TATS)
def test_tats_trains_as_the_public_code(case: dict[str, Any]) -> None:
    """Loss, gradients, batch norm and codebook of one training step."""
    model, expected = golden_model("tats", case).train(), case["train"]
    x = noise("clip", (2, 3, *case["size"]))
    y, quantized = model(x)
    # The public loss is of video in [-0.5, 0.5].
    loss = F.l1_loss(y / 2, x / 2) * 4 + quantized.loss
    loss.backward()
    assert loss.item() == pytest.approx(expected["loss"], rel=1e-9)
    found = gradients("tats", model)
    for name, gradient in expected["gradients"].items():
        assert_like(found[name], gradient, 1e-7)
    assert_like(model.quantizer.embeddings, expected["codes"], 1e-9)
    state = model.state_dict()
    for name, value in expected["running"].items():
        assert_like(state[name], value, 1e-9)


@pytest.mark.parametrize(
    ("recipe", "parameters"),
    [("vqgan-image-f16", GOLDEN["taming_parameters"]), ("tats-video-base", GOLDEN["tats_parameters"])],
)
def test_published_size_has_the_published_number_of_parameters(recipe: str, parameters: int) -> None:
    """As counted in the public model, without codebook, discriminators and LPIPS: 71.9 and 23.7 million."""
    named = zoo.build(recipe, device="meta").named_parameters()
    counted = {name: p.numel() for name, p in named if not name.startswith(("quantizer.", "discriminator."))}
    assert sum(counted.values()) == parameters


@pytest.mark.parametrize("family", ["taming", "tats"])
def test_key_map_is_complete_and_takes_checkpoints(family: str) -> None:
    case = GOLDEN[family][0]
    model = build(family, case)
    state = public_state(family, model, case["codes"])
    convert = map_taming_state_dict if family == "taming" else map_tats_state_dict
    mapped, unused = convert(state)
    assert unused == []
    assert mapped.keys() == model.state_dict().keys()
    assert bool(mapped["quantizer.initialized"])

    whole = {f"first_stage_model.{name}": value for name, value in state.items()}
    whole["first_stage_model.loss.discriminator.main.0.weight"] = torch.zeros(1)
    whole["transformer.pos_emb"] = torch.zeros(2)
    again, unused = convert({"state_dict": whole, "epoch": 3})
    assert unused == ["first_stage_model.loss.discriminator.main.0.weight", "transformer.pos_emb"]
    assert all(torch.equal(again[name], mapped[name]) for name in mapped)

    both = whole | {f"cond_stage_model.{name}": value for name, value in state.items()}
    with pytest.raises(WeightsError, match=r"hold 2 models .* prefix='cond_stage_model\.'"):
        convert(both)
    again, _ = convert(both, prefix="first_stage_model.")
    assert again.keys() == mapped.keys()


def test_taming_quantizers_of_every_kind_are_taken() -> None:
    case = GOLDEN["taming"][0]
    state = public_state("taming", build("taming", case), case["codes"])
    K, D = state["quantize.embedding.weight"].shape
    averages = {
        "quantize.embedding.cluster_size": noise("size", (K,)),
        "quantize.embedding.embed_avg": noise("avg", (K, D)),
    }
    mapped, unused = map_taming_state_dict(state | averages, quantizer="vq-ema")
    assert unused == []
    assert mapped["quantizer.N"] is averages["quantize.embedding.cluster_size"]
    assert mapped["quantizer.z_avg"] is averages["quantize.embedding.embed_avg"]

    del state["quantize.embedding.weight"]
    state["quantize.embed.weight"] = noise("embed", (K, D))
    state["quantize.proj.weight"] = noise("proj", (K, D, 1, 1))
    state["quantize.proj.bias"] = noise("bias", (K,))
    mapped, unused = map_taming_state_dict(state)
    assert unused == []
    assert mapped["quantizer.embeddings"] is state["quantize.embed.weight"]
    z_D = noise("z", (D,))
    logits_K = mapped["quantizer.logits.weight"] @ z_D + mapped["quantizer.logits.bias"]
    public_K = F.conv2d(
        z_D.view(1, D, 1, 1), state["quantize.proj.weight"], state["quantize.proj.bias"]
    ).flatten()
    torch.testing.assert_close(logits_K, public_K)


@pytest.mark.parametrize("family", ["taming", "tats"])
def test_wrong_weights_are_named(family: str) -> None:
    case = GOLDEN[family][0]
    state = public_state(family, build(family, case), case["codes"])
    convert = map_taming_state_dict if family == "taming" else map_tats_state_dict
    last = "decoder.conv_out.bias" if family == "taming" else "decoder.conv_last.conv.bias"
    codes = public_name(family, "quantizer.embeddings")
    with pytest.raises(WeightsError, match=r"^no .* VQGAN in these weights: .* conv\.weight"):
        convert({"conv.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=rf"lack .*{codes}"):
        convert({name: value for name, value in state.items() if name != codes})
    odd = {name: value for name, value in state.items() if name != last} | {"extra": torch.zeros(1)}
    with pytest.raises(WeightsError, match=rf"lack {last}; names without a place: extra$"):
        convert(odd)
    with pytest.raises(WeightsError, match=rf"{last} is \(9,\) where \(3,\) fits"):
        convert(state | {last: torch.zeros(9)})
    first = "encoder.conv_in.weight" if family == "taming" else "encoder.conv_first.conv.weight"
    with pytest.raises(WeightsError, match=r"is \(3,\); it must have \d axes"):
        convert(state | {first: torch.zeros(3)})
    blocks = "encoder.down." if family == "taming" else "encoder.conv_blocks."
    with pytest.raises(WeightsError, match="of no size that can be built"):
        convert({name: value for name, value in state.items() if not name.startswith(blocks)})
