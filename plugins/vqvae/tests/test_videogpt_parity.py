"""The published VideoGPT VQ-VAE: our parts give the numbers its public code gave.

`golden_videogpt.json` was made by running that code (its commit stands inside) in float64 on the
weights and clips below, which need no random generator.

Shapes: B batch, C colours, T H W frames and pixels.
"""

from __future__ import annotations

import copy
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import WeightsError
from zoo.outputs import Quantized
from zoo_vqvae.videogpt import VideoGPTDecoder, VideoGPTEncoder
from zoo_vqvae.videogpt_weights import map_videogpt_state_dict
from zoo_vqvae.vq_ema import EMACodebook

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_videogpt.json").read_text())
CASES = [pytest.param(case, id="x".join(map(str, case["stride"]))) for case in GOLDEN["cases"]]
PUBLIC = {"pre_quant.": "pre_vq_conv.conv.", "post_quant.": "post_vq_conv.conv.", "quantizer.": "codebook."}


def noise(name: str, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Numbers in [-1, 1) that depend on name and position only, float64; no random generator."""
    i = torch.arange(math.prod(shape), dtype=torch.float64)
    hashed = (i * 12.9898 + zlib.crc32(name.encode()) % 10_007 * 0.613).sin() * 43758.5453
    return ((hashed - hashed.floor()) * 2 - 1).reshape(shape)


def fill(shapes: Mapping[str, torch.Size], codebook: list[list[float]] | None = None) -> dict[str, Tensor]:
    """Values for every name of the public state dict, float64, with the given codes if any."""
    state: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        value = noise(name, shape)
        if name.endswith("num_batches_tracked"):
            value = torch.zeros(shape, dtype=torch.long)
        elif name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
            value = 1 + 0.3 * value
        elif name.endswith(("bias", "running_mean")):
            value = 0.1 * value
        elif name.endswith("weight"):
            value = value * (3 / math.prod(shape[1:])) ** 0.5
        state[name] = value
    if codebook is not None:
        state["codebook.embeddings"] = torch.tensor(codebook, dtype=torch.float64)
    # Counts that stay above 1 for a few steps: no code is restarted, so no random number is drawn.
    state["codebook.N"] = 3 + noise("N", shapes["codebook.N"])
    state["codebook.z_avg"] = state["codebook.embeddings"] * state["codebook.N"][:, None]
    return state


def fingerprint(tensor: Tensor) -> list[float]:
    """Root mean square, and three weighed sums scaled alike."""
    flat = tensor.detach().double().flatten()
    sums = [float((flat * noise(f"sum {i}", flat.shape)).sum()) / len(flat) ** 0.5 for i in range(3)]
    return [float(flat.square().mean().sqrt()), *sums]


class VQVAE(nn.Module):
    """The parts wired as an autoencoder wires them, under its names."""

    def __init__(
        self, stride: list[int], hidden_dim: int, num_blocks: int, codes: int, latent_dim: int
    ) -> None:
        super().__init__()
        options = {"hidden_dim": hidden_dim, "num_residual_blocks": num_blocks, "stride": stride}
        self.encoder = VideoGPTEncoder(**options)
        self.pre_quant = nn.Conv3d(hidden_dim, latent_dim, 1)
        self.quantizer = EMACodebook(codebook_size=codes, latent_dim=latent_dim)
        self.post_quant = nn.Conv3d(latent_dim, hidden_dim, 1)
        self.decoder = VideoGPTDecoder(**options)

    def forward(self, x_BCTHW: Tensor) -> tuple[Tensor, Quantized]:
        quantized = self.quantizer(self.pre_quant(self.encoder(x_BCTHW)))
        return self.decoder(self.post_quant(quantized.z_BDthw)), quantized


def public_name(name: str) -> str:
    for ours, theirs in PUBLIC.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return name


def public_state(model: VQVAE, codebook: list[list[float]] | None = None) -> dict[str, Tensor]:
    shapes = {public_name(name): value.shape for name, value in model.state_dict().items()}
    del shapes["codebook.initialized"]
    return fill(shapes, codebook)


def golden_model(case: dict[str, Any]) -> VQVAE:
    sizes = (GOLDEN[key] for key in ("hidden_dim", "num_residual_blocks", "codebook_size", "latent_dim"))
    model = VQVAE(case["stride"], *sizes)
    mapped, unused = map_videogpt_state_dict(public_state(model, case["codebook"]))
    assert unused == []
    model.double().load_state_dict(mapped, strict=True)
    return model


def published_loss(y_BCTHW: Tensor, x_BCTHW: Tensor) -> Tensor:
    """Squared error of video in [-0.5, 0.5], over the data variance 0.06 that the authors took."""
    return F.mse_loss(y_BCTHW / 2, x_BCTHW / 2) / 0.06


def assert_like(tensor: Tensor, expected: list[float], tolerance: float) -> None:
    assert fingerprint(tensor) == pytest.approx(expected, rel=0, abs=tolerance * expected[0])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", CASES)
def test_evaluation_equals_the_public_code(
    case: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    model, expected = golden_model(case).to(dtype).eval(), case["eval"]
    x = noise("clip", (2, 3, *case["size"])).to(dtype)
    with torch.no_grad():
        assert_like(model.encoder(x), expected["encoder"], tolerance)
        assert_like(model.pre_quant(model.encoder(x)), expected["latent"], tolerance)
        y, quantized = model(x)
    assert quantized.indices_Bqthw.flatten().tolist() == expected["indices"]
    assert_like(y, expected["reconstruction"], tolerance)
    assert published_loss(y, x).item() == pytest.approx(expected["recon_loss"], rel=tolerance)
    assert quantized.loss.item() == pytest.approx(expected["commitment"], rel=tolerance)
    # perplexity is a statistic, float32 throughout
    assert float(quantized.stats["perplexity"]) == pytest.approx(expected["perplexity"], rel=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_training_equals_the_public_code(case: dict[str, Any]) -> None:
    """Losses, gradients, batch norm and codebook over three steps of SGD."""
    model = golden_model(case).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    parameters = {public_name(name): parameter for name, parameter in model.named_parameters()}
    for step, expected in enumerate(case["steps"]):
        x = noise(f"clip {step}", (2, 3, *case["size"]))
        y, quantized = model(x)
        loss = published_loss(y, x)
        optimizer.zero_grad()
        (loss + quantized.loss).backward()
        assert quantized.indices_Bqthw.flatten().tolist() == expected["indices"]
        assert loss.item() == pytest.approx(expected["recon_loss"], rel=1e-8)
        assert quantized.loss.item() == pytest.approx(expected["commitment"], rel=1e-8)
        for name, gradient in expected["gradients"].items():
            assert_like(parameters[name].grad, gradient, 1e-7)
        assert model.quantizer.N.tolist() == pytest.approx(expected["N"], rel=1e-12)
        assert_like(model.quantizer.z_avg, expected["z_avg"], 1e-8)
        assert_like(model.quantizer.embeddings, expected["embeddings"], 1e-8)
        optimizer.step()


def test_published_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = VQVAE([4, 4, 4], 240, 4, 2048, 256)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count == GOLDEN["parameters_published"] == 21_141_619


def test_key_map_is_complete_and_takes_checkpoints() -> None:
    model = VQVAE([2, 4, 4], 8, 1, 6, 4)
    state = public_state(model)
    mapped, unused = map_videogpt_state_dict(state)
    assert mapped.keys() == model.state_dict().keys()
    assert unused == []
    assert bool(mapped["quantizer.initialized"])

    prior = {f"vqvae.{name}": value for name, value in state.items()} | {"fc_in.weight": torch.zeros(2)}
    mapped_again, unused = map_videogpt_state_dict({"state_dict": prior, "epoch": 3})
    assert unused == ["fc_in.weight"]
    assert all(mapped_again[name] is mapped[name] for name in mapped if name != "quantizer.initialized")


def test_wrong_weights_are_named() -> None:
    state = public_state(VQVAE([2, 4, 4], 8, 1, 6, 4))
    with pytest.raises(WeightsError, match=r"no VideoGPT VQ-VAE .* conv\.weight"):
        map_videogpt_state_dict({"conv.weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match=r"lack the tensors codebook\.embeddings"):
        map_videogpt_state_dict({k: v for k, v in state.items() if k != "codebook.embeddings"})
    lacking = {k: v for k, v in state.items() if k != "decoder.convts.1.convt.bias"} | {
        "extra": torch.zeros(1)
    }
    with pytest.raises(WeightsError, match=r"lack decoder\.convts\.1\.convt\.bias; .* place: extra"):
        map_videogpt_state_dict(lacking)
    with pytest.raises(WeightsError, match=r"post_vq_conv\.conv\.bias is \(9,\) where \(8,\) fits"):
        map_videogpt_state_dict(state | {"post_vq_conv.conv.bias": torch.zeros(9)})


def test_deepcopy_trains_apart() -> None:
    model = golden_model(GOLDEN["cases"][1]).float().train()
    twin = copy.deepcopy(model)
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    x = noise("clip", (2, 3, *GOLDEN["cases"][1]["size"])).float()
    y, quantized = model(x)
    y_twin, _ = copy.deepcopy(twin)(x)
    assert torch.equal(y, y_twin)
    (y.square().mean() + quantized.loss).backward()
    assert all(torch.equal(before[name], value) for name, value in twin.state_dict().items())
    assert not torch.equal(model.quantizer.embeddings, twin.quantizer.embeddings)
