"""Equality with vector-quantize-pytorch 1.32.0 over five training steps, held as numbers it gave.

`golden_codebooks.json` has, per part, its loss of each step, the indices of each step, the gradient of
the latent in the last one and the codebook after it. Its learned codebook moves both sides with one
term mean (z - code)^2: the same gradients as ours at commitment 1, half the loss.

Shapes: B batch, D channels, t h w the latent grid, K codes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo_quantizers.simvq import SimVQ
from zoo_quantizers.vq import VQ
from zoo_quantizers.vq_cosine import CosineVQ
from zoo_quantizers.vq_rotation import RotationVQ

GOLDEN = json.loads((Path(__file__).parent / "golden_codebooks.json").read_text())
CODES, LATENT = (6, 3), (2, 3, 1, 2, 4)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def started(name: str) -> nn.Module:
    sizes = {"codebook_size": CODES[0], "latent_dim": CODES[1]}
    codes_KD = normal(7, *CODES)
    part: nn.Module
    if name == "simvq":
        part = SimVQ(**sizes)
        state = {"frozen": codes_KD, "projection.weight": normal(8, CODES[1], CODES[1])}
    elif name == "vq-cosine":
        part = CosineVQ(**sizes, commitment=1.0, decay=0.8, kmeans_steps=0, restart_below=0.0)
        state = {"embeddings": F.normalize(codes_KD, dim=1), "z_avg": F.normalize(codes_KD, dim=1)}
    else:
        part = {"vq": VQ, "vq-rotation": RotationVQ}[name](**sizes, commitment=1.0, kmeans_steps=0)
        state = {"embeddings": codes_KD}
    part.load_state_dict(part.state_dict() | state)
    return part.train()


@pytest.mark.parametrize("name", GOLDEN)
def test_five_training_steps_are_the_peers(name: str) -> None:
    part, golden = started(name), GOLDEN[name]
    parameters = list(part.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.5) if parameters else None
    for step in range(5):
        z = normal(step, *LATENT).requires_grad_()
        out = part(z)
        ((out.z_BDthw * normal(100 + step, *LATENT)).sum() + out.loss).backward()
        assert out.indices_Bqthw.flatten().tolist() == golden["indices"][step]
        assert out.loss.item() == pytest.approx(golden["losses"][step], rel=1e-5)
        if optimizer:
            optimizer.step()
            optimizer.zero_grad()
    assert z.grad is not None
    torch.testing.assert_close(z.grad.flatten(), torch.tensor(golden["gradient"]), rtol=1e-5, atol=1e-5)
    every = torch.arange(CODES[0]).view(1, 1, 1, 1, -1)
    codes_KD = part.lookup(every)[0, :, 0, 0].t().flatten()
    torch.testing.assert_close(codes_KD, torch.tensor(golden["codebook"]), rtol=1e-5, atol=1e-5)
