"""Any T, H, W in, exactly that out; the same clip alone or in a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import TINY

import zoo
from zoo.assemblies.padding import crop, latent_size, pad, padded_size
from zoo.errors import ZooError
from zoo.outputs import Judged

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
strides = st.tuples(*[st.sampled_from([1, 2, 4, 8])] * 3)


@given(size=sizes, stride=strides, causal=st.booleans())
def test_padding_is_the_least_that_fits_and_crop_inverts_it(size: Any, stride: Any, causal: bool) -> None:
    padded = padded_size(size, stride, lead_frame=causal)
    for i, (have, got, s) in enumerate(zip(size, padded, stride, strict=True)):
        offset = 1 if causal and i == 0 else 0
        assert 0 <= got - have < s
        assert (got - offset) % s == 0
    x = torch.arange(float(size[0] * size[1] * size[2])).reshape(1, 1, *size)
    y = pad(x, stride, lead_frame=causal)
    assert tuple(y.shape[2:]) == padded
    assert torch.equal(crop(y, size), x)
    assert torch.equal(y[..., -1, -1, -1], x[..., -1, -1, -1])
    grid = latent_size(size, stride, lead_frame=causal)
    assert grid[0] * stride[0] - (stride[0] - 1 if causal else 0) == padded[0]


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.build(TINY, seed=0)


@settings(max_examples=15, deadline=None)
@given(size=st.tuples(st.integers(1, 7), st.integers(8, 21), st.integers(8, 21)), batch=st.integers(1, 2))
def test_any_size_comes_back(model: Any, size: Any, batch: int) -> None:
    x = torch.rand(batch, 3, *size) * 2 - 1
    with torch.no_grad():
        tokens = model.encode(x)
        assert tokens.size_THW == size
        assert tuple(tokens.indices_Bqthw.shape) == (batch, 1, *model.latent_size(size))
        made = model.decode(tokens)
        assert made.shape == x.shape
        assert torch.equal(made, model.decode(tokens._replace(z_BDthw=None)))
        assert torch.equal(made.clamp(-1, 1), model.reconstruct(x))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.zeros(3, 4, 16, 16), r"add a batch axis"),
        (torch.zeros(1, 1, 4, 16, 16), r"\(batch, 3, frames, height, width\).*got shape \(1, 1, 4, 16, 16\)"),
        (torch.zeros(1, 3, 4, 16, 16, dtype=torch.uint8), r"got torch.uint8"),
        (torch.zeros(1, 3, 0, 16, 16), r"got shape"),
        ([1, 2], r"got list"),
    ],
)
def test_what_is_not_a_batch_of_clips_is_refused(model: Any, x: Any, words: str) -> None:
    with pytest.raises(ZooError, match=words):
        model.encode(x)


def test_tokens_of_another_size_are_refused(model: Any) -> None:
    tokens = model.encode(torch.zeros(1, 3, 4, 16, 16))
    with pytest.raises(ZooError, match="latent grid"):
        model.decode(tokens._replace(size_THW=(8, 16, 16)))
    with pytest.raises(ZooError, match="neither"):
        model.decode(tokens._replace(z_BDthw=None, indices_Bqthw=None))


def test_a_sample_depends_on_its_seed_and_number_only() -> None:
    gan = zoo.build("gan-video-tiny", seed=0)
    together = gan.sample(5, num_frames=3, seed=7)
    assert tuple(together.shape) == (5, 3, 3, 32, 32)
    one_by_one = gan.sample(5, num_frames=3, seed=7, batch_size=1)
    assert torch.allclose(together, one_by_one, atol=1e-5)
    assert torch.equal(gan.sample(2, num_frames=3, seed=7, batch_size=1), one_by_one[:2])
    assert not torch.allclose(together[:1], gan.sample(1, num_frames=3, seed=8), atol=1e-3)
    with pytest.raises(ZooError, match="num is 0"):
        gan.sample(0)


def test_image_discriminators_see_the_frame_they_are_given() -> None:
    gan = zoo.build("gan-video-tiny", seed=0)
    x = torch.rand(2, 3, 16, 32, 32) * 2 - 1
    selection = gan.select(2, 16, generator=torch.Generator().manual_seed(0))
    assert selection.frames_BT is None
    selection.places[0] = torch.tensor([[0], [5]])
    image, video = gan.judge(x, selection)
    again = gan.discriminator[0](torch.stack([x[0, :, 0], x[1, :, 5]]))
    assert torch.equal(image.logits[0], again.logits[0])
    assert len(gan.judge(x)[0].logits[0]) == 32
    assert len(video.logits[0]) == 2


def test_every_frame_is_judged_with_the_label_of_its_clip() -> None:
    told = []

    class Judge(torch.nn.Module):
        consumes, conditions, num_classes = "image", ("label",), 3

        def forward(self, x_BCHW: torch.Tensor, *, label_B: torch.Tensor) -> Judged:
            told.append(label_B)
            return Judged([x_BCHW.mean((1, 2, 3))], [])

    gan = zoo.build("gan-video-tiny", seed=0)
    gan.discriminator = torch.nn.ModuleList([Judge()])
    gan.judge(torch.zeros(2, 3, 4, 8, 8), label_B=torch.tensor([2, 1]))
    assert told[0].tolist() == [2, 2, 2, 2, 1, 1, 1, 1]
    with pytest.raises(ZooError, match="judges clips with their labels and was given none"):
        gan.judge(torch.zeros(2, 3, 4, 8, 8))
