"""A GAN over the latents of a frozen tokenizer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.assemblies import Autoencoder, LatentGan
from zoo.errors import PortError, TrainingError, WeightsError, ZooError
from zoo.recipes import Recipe
from zoo.training.loop import training_step
from zoo.training.objectives import check_objective
from zoo.training.run import Labelled, start

TOKENIZER = "vqvae-video-tiny"


def recipe() -> dict[str, Any]:
    """A GAN over a bundled tokenizer, by a recipe alone."""
    model = zoo.build(TOKENIZER, device="meta")
    assert isinstance(model, Autoencoder)
    width, stride = model.quantizer.latent_dim, model.stride[1]
    fields = model.recipe.model_dump(include={"encoder", "quantizer", "decoder", "pre_quant", "post_quant"})
    return {
        "summary": "For tests.",
        "assembly": "latent-gan",
        "clip": {"num_frames": 16, "height": 16 * stride, "width": 16 * stride},
        **fields,
        "generator": {
            "use": "mocogan",
            "out_channels": width,
            "image_size": 16,
            "base_channels": 4,
            "num_categories": 0,
        },
        "discriminator": [
            {"use": "mocogan-image", "in_channels": width, "image_size": 16, "base_channels": 4}
        ],
        "train": {"batch_size": 2, "objective": {"adversarial": {"loss": "non-saturating"}}},
    }


def clips(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_it_learns_latents_and_leaves_the_tokenizer_as_it_was(tmp_path: Path) -> None:
    tokenizer = zoo.build(TOKENIZER, seed=5)
    with torch.no_grad():  # so that its codes are as varied as those of a trained one
        for parameter in tokenizer.encoder.parameters():  # type: ignore[union-attr]
            parameter.mul_(2)
    trained = zoo.save(tokenizer, tmp_path / "tokenizer")
    model = zoo.build(recipe(), init={"tokenizer": trained}, seed=0)
    assert isinstance(model, LatentGan)
    tokenizer = zoo.load(trained)
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(model.state_dict()[f"tokenizer.{name}"], value), name
    clip = model.recipe.clip
    batch = Labelled(clips(2, 3, clip.num_frames, clip.height, clip.width))
    run = start(model, torch.device("cpu"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    numbers = training_step(run, iter([batch] * 2))
    assert all(bool(value.isfinite()) for value in numbers.values())
    after = model.state_dict()
    changed = {name.partition(".")[0] for name in after if not after[name].equal(before[name])}
    assert changed == {"generator", "discriminator", "mean_D", "scale_D", "is_measured"}
    z = model.shown(batch.x_BCTHW)
    torch.testing.assert_close(z.mean((0, 2, 3, 4)), torch.zeros(z.shape[1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3, 4)), torch.full((z.shape[1],), 1 / 3), atol=1e-3, rtol=0)
    model.eval()
    torch.testing.assert_close(
        model.decode(z, clip.num_frames), model.tokenizer.decode(model.tokenizer.encode(batch.x_BCTHW))
    )
    samples = model.sample(3, num_frames=9, seed=1)
    assert samples.shape == (3, 3, 9, clip.height, clip.width)
    torch.testing.assert_close(
        model.sample(3, num_frames=9, seed=1, batch_size=1), samples, atol=1e-4, rtol=0
    )
    again = zoo.load(zoo.save(model, tmp_path / "gan"))
    torch.testing.assert_close(again.sample(1, seed=1), model.sample(1, seed=1))


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PortError, match=r"latents have \d+ channels but generator 'mocogan' makes 3"):
        zoo.build(recipe(), generator={"out_channels": 3})
    with pytest.raises(PortError, match=r"latents are 16x16 but generator 'mocogan' makes 32x32"):
        zoo.build(recipe(), generator={"image_size": 32})
    other = zoo.save(zoo.build("gan-video-tiny", seed=0), tmp_path / "gan")
    with pytest.raises(WeightsError):
        zoo.build(recipe(), init={"tokenizer": other})
    model = zoo.build(recipe(), seed=0)
    assert isinstance(model, LatentGan)
    with pytest.raises(ZooError, match="frames a second only"):
        model.sample(1, fps=3.0)
    clip = model.recipe.clip
    with pytest.raises(ZooError, match=f"makes frames of {clip.height}x{clip.width} only"):
        model.sample(1, size_HW=model.frame_HW)
    assert model.eval().sample(1, size_HW=(clip.height, clip.width)).shape[3:] == (clip.height, clip.width)


def test_ranks_measure_the_latents_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, ranks = zoo.build(recipe(), seed=0), [zoo.build(recipe(), seed=0) for _ in range(2)]
    clip = whole.recipe.clip
    x_BCTHW = clips(4, 3, clip.num_frames, clip.height, clip.width)
    whole.train().shown(x_BCTHW)
    met, told = threading.Barrier(2), dict[int, Tensor]()

    def mean_of_both(x: Tensor) -> Tensor:
        told[threading.get_ident()] = x
        met.wait()
        mean = torch.stack(list(told.values())).mean(0)
        met.wait()
        return mean

    monkeypatch.setattr("zoo.assemblies.latent_gan.mean_everywhere", mean_of_both)
    monkeypatch.setattr("zoo.assemblies.latent_gan.world_size", lambda: 2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: ranks[n].train().shown(x_BCTHW[2 * n : 2 * n + 2]), range(2)))
    for rank in ranks:
        for name in ("mean_D", "scale_D"):
            torch.testing.assert_close(getattr(rank, name), getattr(whole, name), rtol=1e-5, atol=1e-6)


def test_colours_of_latents_are_refused() -> None:
    asked = recipe()
    asked["train"]["objective"]["adversarial"]["augment"] = {"use": "diffaugment"}
    with pytest.raises(TrainingError, match="latents, which are no colours"):
        check_objective("x", Recipe.model_validate(asked))
