"""What one may rely on of the MoCoGAN generator beyond its published numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo_gan.mocogan.generator import MoCoGANGenerator

OPTIONS = {"image_size": 16, "base_channels": 4, "content_dim": 6, "motion_dim": 4, "num_categories": 3}


@pytest.fixture(scope="module")
def generator() -> MoCoGANGenerator:
    torch.manual_seed(0)
    generator = MoCoGANGenerator(**OPTIONS)
    for _ in range(3):  # gives the batch norms running statistics other than their first
        generator(generator.draw_noise(4, 4))
    return generator.eval()


def _seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


@pytest.mark.parametrize("image_size", [16, 32, 64, 128])
def test_makes_frames_of_the_size_it_says(image_size: int) -> None:
    generator = MoCoGANGenerator(image_size=image_size, base_channels=2, out_channels=1).eval()
    x_BCTHW = generator(generator.draw_noise(1, 2))
    assert x_BCTHW.shape == (1, 1, 2, image_size, image_size)
    assert generator.size_HW == (image_size, image_size)
    assert generator.last_layer.shape == (2, 1, 4, 4)


@settings(max_examples=25, deadline=None)
@given(num=st.integers(1, 4), more=st.integers(0, 3), num_frames=st.integers(1, 20), later=st.integers(0, 20))
def test_a_longer_or_larger_draw_begins_with_a_smaller_one(
    generator: MoCoGANGenerator, num: int, more: int, num_frames: int, later: int
) -> None:
    noise = generator.draw_noise(num, num_frames, generator=_seeded(7))
    larger = generator.draw_noise(num + more, num_frames + later, generator=_seeded(7))
    assert torch.equal(larger["motion"][:num, :num_frames], noise["motion"])
    for name in ("content", "motion_start", "category"):
        assert torch.equal(larger[name][:num], noise[name])
    x_BCTHW = generator(noise)
    assert x_BCTHW.shape == (num, 3, num_frames, 16, 16)
    torch.testing.assert_close(generator(larger)[:num, :, :num_frames], x_BCTHW, rtol=1e-5, atol=1e-6)


def test_noise_is_normal_and_categories_uniform(generator: MoCoGANGenerator) -> None:
    noise = generator.draw_noise(3000, 2, generator=_seeded(3))
    for name in ("content", "motion_start", "motion"):
        assert abs(noise[name].mean().item()) < 0.03
        assert abs(noise[name].std().item() - 1) < 0.03
    assert noise["category"].sum(dim=1).eq(1).all()
    assert noise["category"].mean(dim=0).sub(1 / 3).abs().max() < 0.04
    rows = torch.cat([noise["content"], noise["motion_start"], noise["motion"].flatten(1)], dim=1)
    assert torch.corrcoef(rows.T).fill_diagonal_(0).abs().max() < 0.1


@pytest.mark.parametrize("name", ["content", "motion_start", "motion", "category"])
def test_every_kind_of_noise_matters(generator: MoCoGANGenerator, name: str) -> None:
    one, other = (generator.draw_noise(8, 4, generator=_seeded(number)) for number in (1, 2))
    assert not torch.equal(generator(one), generator({**one, name: other[name]}))


def test_motion_moves_later_frames_only(generator: MoCoGANGenerator) -> None:
    noise = generator.draw_noise(2, 6, generator=_seeded(1))
    changed = {**noise, "motion": noise["motion"].clone()}
    changed["motion"][:, 3] += 1
    moved = (generator(noise) - generator(changed)).abs().amax(dim=(0, 1, 3, 4))
    assert moved[:3].max() == 0
    assert moved[3:].min() > 0


def test_seed_reproduces_and_leaves_the_global_generator_alone(generator: MoCoGANGenerator) -> None:
    before = torch.get_rng_state()
    one, same = (generator(generator.draw_noise(2, 3, generator=_seeded(5))) for _ in range(2))
    assert torch.equal(one, same)
    assert torch.equal(before, torch.get_rng_state())
    assert not torch.equal(one, generator(generator.draw_noise(2, 3, generator=_seeded(6))))
    torch.manual_seed(1)
    free = generator.draw_noise(2, 3)["content"]
    torch.manual_seed(1)
    assert torch.equal(free, generator.draw_noise(2, 3)["content"])


def test_a_clip_is_the_same_alone_and_in_a_batch(generator: MoCoGANGenerator) -> None:
    noise = generator.draw_noise(3, 5, generator=_seeded(1))
    alone = torch.cat([generator({name: row[b : b + 1] for name, row in noise.items()}) for b in range(3)])
    torch.testing.assert_close(alone, generator(noise), rtol=1e-5, atol=1e-6)


def test_without_categories(generator: MoCoGANGenerator) -> None:
    plain = MoCoGANGenerator(**{**OPTIONS, "num_categories": 0}).eval()
    noise = plain.draw_noise(2, 3)
    assert noise["category"].shape == (2, 0)
    assert plain(noise).shape == (2, 3, 3, 16, 16)
    for model in (plain, generator):
        assert model.noise_dim == sum(tensor.numel() for tensor in model.draw_noise(1, 1).values())


@pytest.mark.parametrize("training", [True, False])
def test_works_on_meta_and_in_half_precision(training: bool) -> None:
    before = torch.get_rng_state()
    with torch.device("meta"):
        generator = MoCoGANGenerator(**OPTIONS).train(training)
        x_BCTHW = generator(generator.draw_noise(2, 3))
    assert x_BCTHW.is_meta
    assert x_BCTHW.shape == (2, 3, 3, 16, 16)
    assert torch.equal(before, torch.get_rng_state())
    with torch.device("meta"):
        real = MoCoGANGenerator(**OPTIONS).train(training).to_empty(device="cpu")
        for module in real.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        noise = real.draw_noise(2, 3)
    assert noise["content"].device.type == "cpu"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert real(noise).isfinite().all()
    real.bfloat16()
    assert real(real.draw_noise(2, 3)).dtype == torch.bfloat16


def test_every_weight_learns() -> None:
    generator = MoCoGANGenerator(**OPTIONS)
    x_BCTHW = generator(generator.draw_noise(3, 4, generator=_seeded(1)))
    (x_BCTHW * torch.linspace(-1, 1, x_BCTHW.numel()).reshape(x_BCTHW.shape)).sum().backward()
    idle = [name for name, weight in generator.named_parameters() if not _moved(weight.grad)]
    assert idle == []


def _moved(grad: Tensor | None) -> bool:
    return grad is not None and bool(grad.isfinite().all()) and bool(grad.abs().max() > 0)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"image_size": 48}, "image_size is 48; give a power of two"),
        ({"image_size": 8}, "16 or more"),
        ({"base_channels": 0}, "base_channels is 0"),
        ({"motion_dim": 2.5}, "motion_dim is 2.5"),
        ({"num_categories": -1}, "num_categories is -1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, int], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        MoCoGANGenerator(**options)


def test_bad_noise_is_refused(generator: MoCoGANGenerator) -> None:
    noise = generator.draw_noise(2, 3)
    with pytest.raises(ValueError, match=r"needs noise 'motion'.*draw_noise"):
        generator({name: tensor for name, tensor in noise.items() if name != "motion"})
    with pytest.raises(ValueError, match=r"'category' of shape \(clips, 3\).*given \(1, 3\)"):
        generator({**noise, "category": noise["category"][:1]})
    with pytest.raises(ValueError, match="num_frames is 0"):
        generator.draw_noise(2, 0)
