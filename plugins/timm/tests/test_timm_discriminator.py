"""The discriminator `timm-features`: what learns, what stays, and that it can be penalised and learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import ZooError
from zoo_timm.discriminator import TimmFeatures


def frames(number: int, height: int = 32, width: int = 48) -> Tensor:
    return torch.rand(number, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_vit"])
def test_one_map_of_logits_for_each_stage(backbone: str) -> None:
    judge = TimmFeatures(backbone=backbone, stages=[0, 1, 2], width=4)
    x_BCHW = frames(2, 64, 96)
    judged = judge(x_BCHW)
    reductions = judge.backbone.reductions
    assert [tuple(l_B1hw.shape) for l_B1hw in judged.logits] == [(2, 1, 64 // r, 96 // r) for r in reductions]
    assert [f.shape[1] for f in judged.features] == judge.backbone.channels
    assert all(
        f.shape[-2:] == logits.shape[-2:] for f, logits in zip(judged.features, judged.logits, strict=True)
    )


def test_a_frozen_backbone_stays_as_it_is_and_the_heads_learn() -> None:
    judge = TimmFeatures(backbone="test_resnet", stages=[0, 1], width=4).train()
    assert not judge.backbone.training
    assert judge.heads.training
    before = {name: tensor.clone() for name, tensor in judge.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in judge.parameters() if p.requires_grad], lr=0.1)
    sum(logits.mean() for logits in judge(frames(2)).logits).backward()
    optimizer.step()
    changed = {name for name, tensor in judge.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("heads.") for name in changed)
    assert {name for name, p in judge.named_parameters() if p.requires_grad} <= changed


def test_a_trainable_backbone_learns_whole_even_from_one_smallest_frame() -> None:
    judge = TimmFeatures(backbone="test_resnet", stages=[0, 2], width=4, freeze_backbone=False).train()
    _, height, width = judge.min_size
    sum(logits.square().mean() for logits in judge(frames(1, height, width)).logits).backward()
    assert judge.backbone.training
    assert [name for name, p in judge.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("freeze_backbone", [True, False])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_efficientnet", "test_vit"])
def test_a_gradient_penalty_on_the_input_reaches_the_heads(backbone: str, freeze_backbone: bool) -> None:
    judge = TimmFeatures(backbone=backbone, stages=[0, 1], width=4, freeze_backbone=freeze_backbone)
    x_BCHW = frames(2).requires_grad_()
    scores = torch.stack([logits.sum() for logits in judge(x_BCHW).logits]).sum()
    (grad,) = torch.autograd.grad(scores, x_BCHW, create_graph=True)
    grad.square().sum().backward()
    heads = [p for name, p in judge.heads.named_parameters() if name.endswith("original")]
    assert heads
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in heads)


def test_it_learns_to_tell_noise_from_smooth_frames() -> None:
    torch.manual_seed(0)
    judge = TimmFeatures(backbone="test_resnet", stages=[0, 1, 2], width=16)
    optimizer = torch.optim.Adam(judge.heads.parameters(), lr=2e-3, betas=(0.0, 0.99))

    def pair() -> tuple[Tensor, Tensor]:
        noise = torch.rand(8, 3, 32, 32) * 2 - 1
        return F.interpolate(noise[..., :4, :4], (32, 32), mode="bilinear"), noise

    for _ in range(60):
        real, fake = (judge(x).logits for x in pair())
        loss = sum(F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = (judge.eval()(x).logits for x in pair())
    real_SB, fake_SB = (torch.stack([logits.mean((1, 2, 3)) for logits in x]) for x in (real, fake))
    assert (real_SB.amin(1) > fake_SB.amax(1)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": []}, "give indices in rising order"),
        ({"stages": [2, 1]}, "give indices in rising order"),
        ({"stages": [0, 7]}, "0: 64 channels"),
        ({"width": 0}, "width .* must be 1 or more"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(options: dict[str, object], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        TimmFeatures(**options)  # type: ignore[arg-type]


def test_a_frame_too_small_or_of_other_channels_is_refused() -> None:
    judge = TimmFeatures(backbone="test_resnet", stages=[0, 1, 2], width=4)
    assert judge.min_size == (1, 8, 8)
    judge(frames(1, 8, 8))
    with pytest.raises(ZooError, match="judges frames of 8x8 or more; got 7x8"):
        judge(frames(1, 7, 8))
    with pytest.raises(ZooError, match="in_channels=3; the frame has 1"):
        judge(torch.zeros(1, 1, 16, 16))
