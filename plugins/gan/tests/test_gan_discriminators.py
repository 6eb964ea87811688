"""What one may rely on of MoCoGAN's discriminators and of the 3D PatchGAN."""

from __future__ import annotations

import importlib
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.outputs import Judged
from zoo.parts import PartSpec
from zoo.ports import ports_of
from zoo_gan import mocogan, patchgan
from zoo_gan.mocogan.discriminators import PatchImageDiscriminator, VideoDiscriminator
from zoo_gan.patchgan.patch3d import Patch3D

PARTS = [*mocogan.PARTS, *(spec for spec in patchgan.PARTS if spec.name == "patch3d")]
SPECS = {spec.name: spec for spec in PARTS if spec.kind == "discriminator"}
each_part = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def _build(spec: PartSpec, **options: Any) -> nn.Module:
    module_name, _, class_name = spec.target.partition(":")
    torch.manual_seed(0)
    return getattr(importlib.import_module(module_name), class_name)(**{**spec.example, **options})


def _input(discriminator: nn.Module, batch: int = 2, *, larger: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
    size = [side + more for side, more in zip(discriminator.min_size, larger, strict=True)]
    if discriminator.consumes == "image":
        size = size[1:]
    return (
        torch.rand(batch, discriminator.in_channels, *size, generator=torch.Generator().manual_seed(1)) * 2
        - 1
    )


def _r1(discriminator: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (logits,) = discriminator(x).logits
    (grad,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    return grad.square().sum()


@each_part
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("training", [True, False])
def test_double_backward_for_r1(spec: PartSpec, batch: int, training: bool) -> None:
    discriminator = _build(spec).train(training)
    penalty = _r1(discriminator, _input(discriminator, batch, larger=(2, 8, 5)))
    assert penalty.item() > 0
    penalty.backward()
    grads = {name: weight.grad for name, weight in discriminator.named_parameters()}
    kernels = [grad for name, grad in grads.items() if grad is not None and grad.ndim > 1]
    assert len(kernels) == sum(weight.ndim > 1 for weight in discriminator.parameters())
    assert all(grad.isfinite().all() and grad.abs().max() > 0 for grad in kernels)


def test_r1_gradient_is_right() -> None:
    """The double backward agrees with finite differences through batch norm in train mode."""
    discriminator = Patch3D(base_channels=2, num_layers=1).double()
    x = torch.rand(2, 3, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weight = discriminator.get_submodule("model1.0").weight
    _r1(discriminator, x).backward()
    assert isinstance(weight.grad, Tensor)
    slope, step = weight.grad.flatten()[5].item(), 1e-5
    values = []
    for offset in (-step, step):
        with torch.no_grad():
            weight.view(-1)[5] += offset
        values.append(_r1(discriminator, x).item())
        with torch.no_grad():
            weight.view(-1)[5] -= offset
    assert slope == pytest.approx((values[1] - values[0]) / (2 * step), rel=1e-4)


@each_part
def test_min_size_is_true(spec: PartSpec) -> None:
    discriminator = _build(spec)
    for training in (True, False):
        discriminator.train(training)
        x = _input(discriminator, 1)
        (logits,) = discriminator(x).logits
        assert logits.shape[:2] == (1, 1)
        assert logits.isfinite().all()
    for axis in range(2, x.ndim):
        short = x.narrow(axis, 0, x.shape[axis] - 1)
        with pytest.raises(ValueError, match=rf"{spec.name}.*needs .*too small in {'THW'[axis - x.ndim]}"):
            discriminator(short)


@each_part
def test_wrong_inputs_are_refused_in_words(spec: PartSpec) -> None:
    discriminator = _build(spec)
    x = _input(discriminator)
    with pytest.raises(ValueError, match="built for 3 channels and was given 1"):
        discriminator(x[:, :1])
    with pytest.raises(ValueError, match="tensor of axes BC"):
        discriminator(x[0])
    with pytest.raises(ValueError, match="base_channels is 0"):
        _build(spec, base_channels=0)


@each_part
def test_scores_are_unbounded_and_features_come_shallow_first(spec: PartSpec) -> None:
    discriminator = _build(spec).eval()
    judged = discriminator(_input(discriminator, larger=(3, 7, 11)))
    assert isinstance(judged, Judged)
    widths = [feature.shape[1] for feature in judged.features]
    assert len(widths) >= 2
    assert widths == sorted(widths)
    with torch.no_grad():
        for weight in discriminator.parameters():
            if weight.ndim > 1:
                weight.mul_(30)
        (high,) = discriminator(_input(discriminator)).logits
        (low,) = discriminator(-_input(discriminator)).logits
    assert max(high.abs().max().item(), low.abs().max().item()) > 10


@each_part
def test_a_sample_is_judged_the_same_alone_and_in_a_batch(spec: PartSpec) -> None:
    discriminator = _build(spec)
    x = _input(discriminator, 3, larger=(1, 4, 6))
    discriminator(x)
    discriminator.eval()
    kept, state = x.clone(), torch.get_rng_state()
    (together,) = discriminator(x).logits
    alone = torch.cat([discriminator(x[b : b + 1]).logits[0] for b in range(3)])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-6)
    assert torch.equal(x, kept)
    assert torch.equal(state, torch.get_rng_state())


@each_part
def test_every_weight_learns(spec: PartSpec) -> None:
    for training in (True, False):
        discriminator = _build(spec).train(training)
        (logits,) = discriminator(_input(discriminator, 3, larger=(2, 16, 16))).logits
        nn.functional.softplus(
            logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)
        ).sum().backward()
        grads = {name: weight.grad for name, weight in discriminator.named_parameters()}
        assert [name for name, grad in grads.items() if grad is None or not grad.abs().max() > 0] == []


@each_part
@pytest.mark.parametrize("training", [True, False])
def test_meta_and_half_precision(spec: PartSpec, training: bool) -> None:
    discriminator = _build(spec).train(training)
    x = _input(discriminator)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert discriminator(x).logits[0].isfinite().all()
    with torch.device("meta"):
        planned = _build(spec).train(training)
    (logits,) = planned(x.to("meta")).logits
    assert logits.is_meta
    assert logits.shape == discriminator(x).logits[0].shape


def test_input_noise_acts_in_train_mode_only() -> None:
    plain, noisy = (
        PatchImageDiscriminator(base_channels=4),
        PatchImageDiscriminator(base_channels=4, noise_sigma=0.1),
    )
    noisy.load_state_dict(plain.state_dict())
    x = _input(plain)
    one, other = (noisy(x).logits[0] for _ in range(2))
    assert not torch.equal(one, other)
    assert torch.equal(plain(x).logits[0], plain(x).logits[0])
    noisy.load_state_dict(plain.state_dict())
    assert torch.equal(plain.eval()(x).logits[0], noisy.eval()(x).logits[0])
    with pytest.raises(ValueError, match=r"noise_sigma is -0\.1"):
        PatchImageDiscriminator(noise_sigma=-0.1)


@pytest.mark.parametrize(("image_size", "num_frames"), [(16, 10), (32, 13), (64, 16)])
def test_video_discriminator_gives_one_score_at_its_size(image_size: int, num_frames: int) -> None:
    discriminator = VideoDiscriminator(image_size=image_size, base_channels=2).eval()
    assert discriminator.min_size == (num_frames, image_size, image_size)
    assert discriminator(_input(discriminator)).logits[0].shape == (2, 1, 1, 1, 1)
    assert discriminator(_input(discriminator, larger=(2, 0, image_size // 4))).logits[0].shape[2:] == (
        3,
        1,
        2,
    )


@pytest.mark.parametrize("spec", PARTS, ids=lambda spec: spec.name)
def test_ports_are_complete(spec: PartSpec) -> None:
    assert ports_of(spec.kind, spec.name, _build(spec)).kind == spec.kind


def test_manifest_imports_no_torch() -> None:
    code = "import sys, zoo_gan.manifest as m; m.zoo_parts(1); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
