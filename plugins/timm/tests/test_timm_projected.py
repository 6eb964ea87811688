"""The discriminator `timm-projected`: the published numbers, what is fixed and what learns.

`golden_projected.json` was made by running the public code of Projected GAN (its commit stands inside) in
float64 on the weights and frames below, which need no random generator.

Shapes: B batch, C colours, H W pixels.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import assert_like, fill, noise
from torch import Tensor
from torch.nn import functional as F

from zoo.errors import PortError, ZooError
from zoo_timm.projected import ProjectedDiscriminator, RandomMixing

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_projected.json").read_text())
CASES = [pytest.param(case, id=name) for name, case in GOLDEN["cases"].items()]
SMALL: dict[str, Any] = {
    "backbone": "test_efficientnet",
    "stages": [0, 1, 2],
    "mixing_width": 4,
    "width": 16,
    "resize": 32,
}


def filled(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """Values for names as our discriminator has them; spectral norms know their largest direction."""
    shapes = {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}
    state = fill(shapes, scales=r"(bn\d?|downsample\.1|main\.\d+\.[12])\.weight|running_var|std")
    for name, weight in state.items():
        if name.endswith("parametrizations.weight.original"):
            u, v = (name.replace("original", f"0._{letter}") for letter in "uv")
            for _ in range(2):
                state[v] = F.normalize(weight.flatten(1).T @ state[u], dim=0)
                state[u] = F.normalize(weight.flatten(1) @ state[v], dim=0)
    return state


def golden_model(case: dict[str, Any]) -> ProjectedDiscriminator:
    judge = ProjectedDiscriminator(**case["options"]).double()
    own = judge.state_dict()
    judge.load_state_dict(own | filled({n: list(v.shape) for n, v in own.items() if n not in CONSTANT}))
    return judge


CONSTANT = ("backbone.mean", "backbone.std")


def golden_frames(case: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    label_B = torch.tensor([2, 0]) if case["options"].get("num_classes") else None
    side = 160 if case["options"].get("resize") == 0 else 48
    return noise("frames", (2, 3, side, side)), label_B


def golden_mode(judge: torch.nn.Module, mode: str) -> None:
    """Evaluation; or batch norms in training, and spectral norms as they are.

    The public code's spectral norm and ours are two of torch's, which order a power iteration differently.
    """
    for module in judge.modules():
        module.training = mode == "train" and isinstance(module, torch.nn.BatchNorm2d)


@pytest.mark.parametrize(
    ("case", "dtype", "tolerance"),
    [
        pytest.param(GOLDEN["cases"]["strided"], torch.float64, 1e-9, id="strided-float64"),
        pytest.param(GOLDEN["cases"]["separable-labels"], torch.float64, 1e-9, id="separable-labels-float64"),
        pytest.param(GOLDEN["cases"]["separable-labels"], torch.float32, 2e-5, id="separable-labels-float32"),
    ],
)
def test_scores_equal_the_public_code(case: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    judge = golden_model(case).to(dtype)
    x_BCHW, label_B = golden_frames(case)
    with torch.no_grad():
        features = judge.mixing(judge.backbone(judge._enlarged(x_BCHW.to(dtype))))
        for f_BDhw, expected in zip(features, case["features"], strict=True):
            assert_like(f_BDhw, expected, tolerance)
        for mode in ("eval", "train"):
            golden_mode(judge.heads, mode)
            for head, f_BDhw, expected in zip(judge.heads, features, case[mode], strict=True):
                l_B1hw = head(f_BDhw, label_B)
                assert l_B1hw.shape == (2, 1, *case["grid"])
                assert_like(l_B1hw, expected, tolerance)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_the_public_code(case: dict[str, Any]) -> None:
    judge = golden_model(case).eval()
    x_BCHW, label_B = golden_frames(case)
    x_BCHW.requires_grad_()
    sum(l_B1hw.sin().sum() for l_B1hw in judge(x_BCHW, label_B).logits).backward()
    assert_like(x_BCHW.grad, case["frame_gradient"], 1e-9)
    for name, gradient in case["gradients"].items():
        assert_like(judge.get_parameter(name).grad, gradient, 1e-9)


@pytest.mark.parametrize("case", CASES)
def test_published_size(case: dict[str, Any]) -> None:
    with torch.device("meta"):
        judge = ProjectedDiscriminator(**case["options"])
    for name, count in case["parameters"].items():
        assert sum(weight.numel() for weight in judge.get_submodule(name).parameters()) == count


def frames(num: int, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(num, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_only_heads_learn_and_mixing_is_kept_in_the_state_dict() -> None:
    torch.manual_seed(0)
    judge = ProjectedDiscriminator(**SMALL, num_classes=3).train()
    assert not any(module.training for module in judge.backbone.modules())
    before = {name: tensor.clone() for name, tensor in judge.state_dict().items()}
    assert {"mixing.across_channels.0.weight", "mixing.across_scales.2.bias"} <= before.keys()
    trained = {name: weight for name, weight in judge.named_parameters() if weight.requires_grad}
    assert all(name.startswith("heads.") for name in trained)
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    scores = judge(frames(2), torch.tensor([0, 2])).logits
    sum(score.square().mean() for score in scores).backward()
    optimizer.step()
    after = judge.state_dict()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert all(name.startswith("heads.") for name in changed)
    assert {name for name in trained if not name.endswith(".bias")} <= changed


def test_every_mixed_stage_sees_the_deeper_ones_alone() -> None:
    torch.manual_seed(0)
    mixing = RandomMixing([3, 5, 7], width=2)
    features = [torch.randn(1, channels, side, side) for channels, side in ((3, 12), (5, 6), (7, 3))]
    mixed = mixing(features)
    assert [tuple(f.shape[1:]) for f in mixed] == [(2, 24, 24), (2, 12, 12), (4, 6, 6)]
    for deepest in range(3):
        other = [f + (i == deepest) for i, f in enumerate(features)]
        moved = [not torch.equal(a, b) for a, b in zip(mixed, mixing(other), strict=True)]
        assert moved == [stage <= deepest for stage in range(3)]


@pytest.mark.parametrize("downsample", ["strided", "separable"])
@pytest.mark.parametrize("backbone", ["test_resnet", "test_vit"])
def test_any_backbone_and_shape_of_frame(backbone: str, downsample: str) -> None:
    options = SMALL | {"backbone": backbone, "downsample": downsample, "resize": 64}
    judge = ProjectedDiscriminator(**options)
    x_BCHW = frames(2, 36, 54).requires_grad_()
    logits = judge(x_BCHW).logits
    assert len({l_B1hw.shape[2:] for l_B1hw in logits}) == 1
    assert all(l_B1hw.shape[3] > l_B1hw.shape[2] >= 1 for l_B1hw in logits)
    (slope,) = torch.autograd.grad(sum(l_B1hw.sum() for l_B1hw in logits), x_BCHW, create_graph=True)
    slope.square().sum().backward()
    scores = [weight.grad for name, weight in judge.heads.named_parameters() if "score" in name]
    assert all(grad is not None and grad.abs().sum() > 0 for grad in scores)


def test_small_frames_are_enlarged_and_large_ones_taken_as_they_are() -> None:
    torch.manual_seed(0)
    judge = ProjectedDiscriminator(**SMALL).eval()
    small = frames(1, 16, 24)
    large = F.interpolate(small, (32, 48), mode="bilinear", align_corners=False)
    plain = ProjectedDiscriminator(**SMALL | {"resize": 0}).eval()
    plain.load_state_dict(judge.state_dict())
    for a, b in zip(judge(small).logits, plain(large).logits, strict=True):
        assert torch.equal(a, b)
    assert judge.min_size == (1, 1, 1)
    assert plain.min_size == (1, 32, 32)
    plain(frames(1, 32, 32))
    with pytest.raises(PortError, match="frames of 32x32 or more; got 31x40"):
        plain(frames(1, 31, 40))


def test_it_learns_to_tell_noise_from_smooth_frames() -> None:
    torch.manual_seed(0)
    judge = ProjectedDiscriminator(**SMALL)
    optimizer = torch.optim.Adam(judge.heads.parameters(), lr=2e-3, betas=(0.0, 0.99))

    def pair() -> tuple[Tensor, Tensor]:
        white = torch.rand(8, 3, 32, 32) * 2 - 1
        return F.interpolate(white[..., :4, :4], (32, 32), mode="bilinear"), white

    for _ in range(40):
        real, fake = (judge(x).logits for x in pair())
        loss = sum(F.relu(1 - r).mean() + F.relu(1 + f).mean() for r, f in zip(real, fake, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    real, fake = (judge.eval()(x).logits for x in pair())
    real_B, fake_B = (torch.stack([score.mean((1, 2, 3)) for score in x]).mean(0) for x in (real, fake))
    assert real_B.amin() > fake_B.amax()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": [2, 1]}, "give indices in rising order"),
        ({"resize": 31}, "so give 32, or 0"),
        ({"downsample": "mean"}, "'strided' or 'separable'"),
        ({"width": 0}, "width is 0; it must be 1 or more"),
        ({"num_classes": -1}, "num_classes is -1"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooError, match=re.escape(message)):
        ProjectedDiscriminator(**SMALL | options)


def test_wrong_inputs_are_refused() -> None:
    judge = ProjectedDiscriminator(**SMALL, num_classes=3)
    with pytest.raises(PortError, match="give it label_B"):
        judge(frames(1))
    with pytest.raises(PortError, match="in_channels=3; the frame has 1"):
        judge(torch.zeros(1, 1, 32, 32), torch.tensor([0]))
