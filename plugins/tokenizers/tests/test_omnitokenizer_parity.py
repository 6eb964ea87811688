"""The published OmniTokenizer: our parts give the numbers the public code gave.

`golden_omnitokenizer.json` was made by running that code (its commit stands inside) in float64 on the weights
and clips below, which need no random generator.

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
from zoo_quantizers.kl import KL
from zoo_quantizers.vq_cosine import CosineVQ
from zoo_tokenizers.omnitokenizer.model import (
    CausalOmniTokenizerDecoder,
    CausalOmniTokenizerEncoder,
    OmniTokenizerDecoder,
    OmniTokenizerEncoder,
)
from zoo_tokenizers.omnitokenizer.quantizer import UnitEMACodebook
from zoo_tokenizers.omnitokenizer.weights import map_omnitokenizer_state_dict

GOLDEN: dict[str, Any] = load("omnitokenizer")
CASES = [pytest.param(case, id=case["name"]) for case in GOLDEN["cases"]]
SMALL = {"latent_dim": 32, "num_heads": 4, "head_dim": 12, "temporal_depth": 2}
CODES = 64


def public_values(shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Values for names of the public state dict; codes of many lengths, mostly below 1, as trained."""
    values = fill(shapes, scales="weight|gamma|scale")
    codes = "codebook.embeddings"
    return values | ({codes: 0.5 * noise(codes, shapes[codes])} if codes in shapes else {})


class Omni(nn.Module):
    """The parts wired as an autoencoder wires them, under its names."""

    def __init__(
        self, options: dict[str, Any], *, encoder_layers: str, decoder_layers: str, is_vae: bool
    ) -> None:
        super().__init__()
        dim = options["latent_dim"]
        self.encoder = OmniTokenizerEncoder(**options, spatial_layers=encoder_layers)
        self.pre_quant = nn.Conv3d(dim, 16 if is_vae else 8, 1)
        self.quantizer = KL(latent_dim=8) if is_vae else UnitEMACodebook(codebook_size=CODES, latent_dim=8)
        self.post_quant = nn.Conv3d(8, dim, 1)
        self.decoder = OmniTokenizerDecoder(**options, spatial_layers=decoder_layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the reconstruction, what the quantizer gets and the indices."""
        z = self.pre_quant(self.encoder(x))
        quantized = self.quantizer(z)
        return self.decoder(self.post_quant(quantized.z_BDthw)), z, quantized.indices_Bqthw


def published(case: dict[str, Any], **options: Any) -> Omni:
    return Omni(
        options,
        encoder_layers=case["encoder_layers"],
        decoder_layers=case["decoder_layers"],
        is_vae=case["is_vae"],
    )


def public_name(name: str) -> str:
    for ours, theirs in {"pre_quant": "pre_vq_conv.1", "post_quant": "post_vq_conv.1"}.items():
        name = name.replace(ours, theirs)
    return name.replace("quantizer.", "codebook.")


def public_state(model: Omni) -> dict[str, Tensor]:
    """The tensors of our model as the public one holds them, and the codebook that it has as a VAE too."""
    state = {public_name(name): value for name, value in model.state_dict().items()}
    state.pop("codebook.initialized", None)
    state.setdefault("codebook.embeddings", torch.empty(CODES, 8))
    return {k: v.flatten(1) if k.endswith("vq_conv.1.weight") else v for k, v in state.items()}


def golden_model(case: dict[str, Any]) -> Omni:
    options = {key: case[key] for key in ("window_size", "positions", "stride")}
    model = published(case, **SMALL, **options)
    state = public_values({name: value.shape for name, value in public_state(model).items()})
    mapped, unused = map_omnitokenizer_state_dict(state, positions=case["positions"])
    assert unused == (["codebook.embeddings"] if case["is_vae"] else [])
    model.double().load_state_dict(mapped, strict=True)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_outputs_equal_the_public_code(case: dict[str, Any], dtype: torch.dtype) -> None:
    tolerance = 1e-9 if dtype == torch.float64 else 1e-5
    model = golden_model(case).to(dtype)
    with torch.no_grad():
        y, z, indices = model(noise("clip", (2, 3, *case["size"])).to(dtype))
    assert_like(z, case["latent"], tolerance)
    if not case["is_vae"]:
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


def test_codebook_moves_as_the_public_one_does() -> None:
    """After three training steps; the first fills it from the data at random, so it starts filled."""
    golden = GOLDEN["training"]
    quantizer = UnitEMACodebook(codebook_size=CODES, latent_dim=8).double()
    codes = public_values({"codebook.embeddings": torch.Size([CODES, 8])})["codebook.embeddings"]
    for name, value in {"embeddings": codes, "z_avg": codes, "N": 1.0, "initialized": True}.items():
        getattr(quantizer, name).copy_(torch.as_tensor(value))
    for step in range(3):
        z = noise(f"latent {step}", (2, 8, 3, 4, 5)).requires_grad_()
        quantized = quantizer(z)
        (quantized.z_BDthw.square().sum() + quantized.loss).backward()
    assert quantized.loss.item() == pytest.approx(golden["loss"], rel=1e-9)
    assert z.grad is not None
    assert_like(z.grad, golden["gradient"], 1e-9)
    assert_like(quantizer.embeddings, golden["embeddings"], 1e-9)


def test_codes_chosen_by_direction_alone_are_others() -> None:
    """Why the recipes do not take `vq-cosine`: it is the same only where all codes have the same length."""
    z = noise("latent", (2, 8, 3, 4, 5)).float()
    codes = public_values({"codebook.embeddings": torch.Size([CODES, 8])})["codebook.embeddings"].float()
    unit, cosine = (
        UnitEMACodebook(codebook_size=CODES).eval(),
        CosineVQ(codebook_size=CODES, latent_dim=8).eval(),
    )
    differ = []
    for each in (codes, F.normalize(codes, dim=1)):
        unit.embeddings.copy_(each)
        cosine.embeddings.copy_(each)
        differ.append((unit(z).indices_Bqthw != cosine(z).indices_Bqthw).float().mean().item())
    assert differ[0] > 0.1
    assert differ[1] == 0
    torch.testing.assert_close(unit(z).z_BDthw, cosine(z).z_BDthw, rtol=0, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_single_frames_are_the_same_in_the_causal_parts(case: dict[str, Any]) -> None:
    """There the published convolution reads its axes rightly."""
    model = golden_model(case)
    options = {**SMALL, **{key: case[key] for key in ("window_size", "positions", "stride")}}
    encoder = CausalOmniTokenizerEncoder(**options, spatial_layers=case["encoder_layers"]).double()
    decoder = CausalOmniTokenizerDecoder(**options, spatial_layers=case["decoder_layers"]).double()
    encoder.load_state_dict(model.encoder.state_dict())
    decoder.load_state_dict(model.decoder.state_dict())
    x = noise("clip", (2, 3, *case["size"]))
    z = encoder(x[:, :, :1])
    torch.testing.assert_close(z, model.encoder(x[:, :, :1]))
    torch.testing.assert_close(decoder(z), model.decoder(z))
    if case["size"][0] > 1:
        assert not torch.allclose(encoder(x), model.encoder(x))


def dead(model: Omni, *, has_bias: bool) -> dict[str, tuple[int, ...]]:
    """What the public network of the published width stores and never reads, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    bias = {"0.0": (512, 2), "1.0": (512, 512), "2": (8, 512)}
    for name, module in model.named_modules():
        if not hasattr(module, "to_kv"):
            continue
        shapes[f"{name}.context_norm.gamma"] = (512,)
        if "temporal" in name or has_bias:
            for layer, shape in bias.items():
                shapes[f"{name}.spatial_rel_pos_bias.net.{layer}.weight"] = shape
                shapes[f"{name}.spatial_rel_pos_bias.net.{layer}.bias"] = shape[:1]
    return shapes


@pytest.mark.parametrize(
    ("variant", "positions", "stride"),
    [
        ("vq", "rope", [4, 8, 8]),
        ("vae", "rope", [4, 8, 8]),
        ("image", "none", [2, 8, 8]),
        ("image", "bias", [2, 8, 8]),
    ],
)
def test_published_size_and_what_it_never_reads(variant: str, positions: str, stride: list[int]) -> None:
    """Our parameters and those it never reads make the published count; the map tells them apart."""
    case = {"encoder_layers": "ttww", "decoder_layers": "tttt", "is_vae": variant == "vae"}
    with torch.device("meta"):
        model = published(case, positions=positions, stride=stride, latent_dim=512)
        extra = {name: torch.empty(s) for name, s in dead(model, has_bias=positions == "none").items()}
        state = public_state(model)
    ours = sum(parameter.numel() for parameter in model.parameters())
    count = ours + sum(value.numel() for value in extra.values())
    assert count == GOLDEN["public_parameters"][variant]

    whole = {f"vqgan.{name}": value for name, value in (state | extra).items()}
    mapped, unused = map_omnitokenizer_state_dict(whole | {"step": torch.zeros(())}, positions=positions)
    assert mapped.keys() == model.state_dict().keys()
    if case["is_vae"]:
        extra["codebook.embeddings"] = torch.empty(0)
    assert unused == sorted([*(f"vqgan.{name}" for name in extra), "step"])


def test_wrong_weights_are_named() -> None:
    case = {"encoder_layers": "tw", "decoder_layers": "t", "is_vae": False}
    with torch.device("meta"):
        state = public_state(published(case, **SMALL))
        nine = torch.empty(9)
    with pytest.raises(WeightsError, match=r"no OmniTokenizer .* conv\.weight"):
        map_omnitokenizer_state_dict({"conv.weight": nine})
    with pytest.raises(WeightsError, match=r"lack the tensors codebook\.embeddings"):
        map_omnitokenizer_state_dict({k: v for k, v in state.items() if k != "codebook.embeddings"})
    gone = "decoder.dec_temporal_transformer.layers.1.3.4.weight"
    with pytest.raises(WeightsError, match=rf"lack {gone}; .* place: extra"):
        map_omnitokenizer_state_dict({k: v for k, v in state.items() if k != gone} | {"extra": nine})
    with pytest.raises(WeightsError, match=r"pre_vq_conv\.1\.bias is \(9,\) where \(8,\) fits"):
        map_omnitokenizer_state_dict(state | {"pre_vq_conv.1.bias": nine})
    with pytest.raises(WeightsError, match=r"lack .*spatial_rel_pos_bias"):
        map_omnitokenizer_state_dict(state, positions="bias")
