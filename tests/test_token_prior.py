"""A prior over the tokens of any tokenizer: sampling, predicting and filling, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY
from torch import Tensor

import zoo
from zoo.assemblies import TokenPrior
from zoo.assemblies.padding import touched_cells
from zoo.discovery import catalogue
from zoo.errors import PortError, RecipeError, ZooError
from zoo.recipe_files import resolve
from zoo.sampling import Chance, Sampling, choose, draw_seeds, shaped

MASKED = {"use": "maskgit", "num_layers": 1, "hidden_dim": 16, "num_heads": 2, "mlp_dim": 16}
RASTER = {"use": "gpt", "num_layers": 1, "hidden_dim": 16, "num_heads": 2}
PRIOR: dict[str, Any] = {
    **TINY,
    "assembly": "token-prior",
    "clip": {"num_frames": 8, "height": 16, "width": 16, "fps": 5},
    "generator": MASKED,
    "train": {"objective": {"tokens": {}}},
}
CAUSAL = "zoo-causal-video-tiny-1k"


def model(generator: dict[str, Any], **more: Any) -> TokenPrior:
    built = zoo.build({**PRIOR, "generator": generator, **more}, seed=0)
    assert isinstance(built, TokenPrior)
    return built


def clips(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("generator", [MASKED, RASTER], ids=["maskgit", "gpt"])
def test_clips_of_a_seed_do_not_depend_on_the_batch(generator: dict[str, Any]) -> None:
    prior = model(generator)
    together = prior.sample(5, num_frames=11, seed=3, batch_size=5)
    assert together.shape == (5, 3, 11, 16, 16)
    torch.testing.assert_close(prior.sample(5, num_frames=11, seed=3, batch_size=2), together)
    torch.testing.assert_close(prior.sample(2, num_frames=11, seed=3), together[:2])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(prior.sample(1, num_frames=11, seed=4), together[:1])


@pytest.mark.parametrize("generator", [MASKED, RASTER], ids=["maskgit", "gpt"])
@pytest.mark.parametrize("tokenizer", ["vqvae-video-tiny", CAUSAL])
def test_the_codes_of_the_start_are_kept(generator: dict[str, Any], tokenizer: str) -> None:
    recipe = {"summary": "For tests.", "assembly": "token-prior", "tokenizer": tokenizer}
    prior = zoo.build(
        {**recipe, "generator": generator, "train": PRIOR["train"]},
        clip={"num_frames": 8, "height": 32, "width": 32},
        seed=0,
    )
    assert isinstance(prior, TokenPrior)
    seen: list[Tensor] = []
    frames = prior.generator.frames

    def spy(noise: Any, sampling: Any, *, given_Bqthw: Tensor) -> Any:
        seen.append(given_Bqthw)
        return frames(noise, sampling, given_Bqthw=given_Bqthw)

    prior.generator.frames = spy
    start = clips(2, 3, 9, 32, 32)
    made = prior.predict(start, 7)
    assert made.shape == (2, 3, 7, 32, 32)
    whole = 1 + 8 // 4 * 4 if prior.tokenizer.lead_frame else 8
    torch.testing.assert_close(seen[0], prior.encode_codes(start[:, :, -whole:]))
    torch.testing.assert_close(prior.predict(start, 7), made)


def test_pieces_of_a_stream_are_the_clip_decoded_at_once() -> None:
    prior = zoo.build(
        {"summary": "For tests.", "assembly": "token-prior", "tokenizer": CAUSAL, "train": PRIOR["train"]},
        generator=MASKED,
        clip={"num_frames": 8, "height": 32, "width": 32},
        seed=0,
    )
    assert isinstance(prior, TokenPrior)
    pieces = list(prior.sample_pieces(2, num_frames=19, seed=1))
    assert [piece.shape[2] for piece in pieces] == [4, 4, 4, 4, 3]
    noise = [prior._noise(1, i, label=None)["seed"] for i in range(2)]
    frames = prior.generator.frames({"seed": torch.cat(noise)}, Sampling())
    indices = torch.stack([next(frames) for _ in range(5)], dim=2)
    at_once = prior._decode(indices, (19, 32, 32)).clamp(-1, 1)
    torch.testing.assert_close(torch.cat(pieces, 2), at_once, atol=1e-5, rtol=0)


def test_inpainting_changes_nothing_outside_of_the_hole() -> None:
    prior = model(MASKED)
    x = clips(2, 3, 13, 16, 16)
    hole = torch.zeros(1, 13, 16, 16, dtype=torch.bool)
    hole[:, 3:9, 5:12, 2:9] = True
    filled = prior.inpaint(x, hole)
    outside = ~hole.expand(2, -1, -1, -1)[:, None].expand_as(x)
    assert torch.equal(filled[outside], x[outside])
    assert (filled[~outside] != x[~outside]).float().mean() > 0.9
    nothing = prior.inpaint(x, torch.zeros(1, 1, 1, 1, dtype=torch.bool))
    assert torch.equal(nothing, x)


def test_every_cell_that_a_hole_touches_is_made_anew() -> None:
    for tokenizer in ("vqvae-video-tiny", CAUSAL):
        prior = zoo.build(
            {"summary": "-", "assembly": "token-prior", "tokenizer": tokenizer, "train": PRIOR["train"]},
            generator=MASKED,
            clip={"num_frames": 8, "height": 32, "width": 32},
            seed=0,
        )
        assert isinstance(prior, TokenPrior)
        s_t, s_h, s_w = prior.tokenizer.stride
        for t, h, w in ((0, 0, 0), (1, 9, 30), (4, 31, 31), (7, 16, 8)):
            hole = torch.zeros(1, 1, 8, 32, 32, dtype=torch.bool)
            hole[..., t, h, w] = True
            touched = touched_cells(hole, prior.tokenizer.stride, lead_frame=prior.tokenizer.lead_frame)
            assert touched.shape[2:] == prior.tokenizer.latent_size((8, 32, 32))
            place = (t + s_t - 1) // s_t if prior.tokenizer.lead_frame else t // s_t
            assert touched.nonzero().tolist() == [[0, 0, place, h // s_h, w // s_w]]


def test_interpolation_keeps_both_ends() -> None:
    prior = model(MASKED)
    first, last = clips(1, 3, 16, 16), -clips(1, 3, 16, 16)
    made = prior.interpolate(first, last)
    assert made.shape == (1, 3, 8, 16, 16)
    other = prior.interpolate(first, last, seed=1)
    assert not torch.equal(made, other)
    with pytest.raises(ZooError, match="fills in from 3 to 4"):
        prior.interpolate(first, last, num_frames=30)


def test_images_that_do_not_fit_are_refused() -> None:
    prior = model(MASKED)
    image = clips(1, 3, 16, 16)
    for first, last, said in (
        (image, clips(2, 3, 16, 16), "1 first images and 2 last ones"),
        (image, clips(1, 3, 8, 16), "the frames are 8x16"),
        (clips(3, 16, 16), image, "expected a float tensor"),
        (clips(1, 3, 8, 16, 16), image, "expected a float tensor"),
        (image, clips(1, 1, 16, 16), "expected a float tensor"),
    ):
        with pytest.raises(ZooError, match=said):
            prior.interpolate(first, last)


@pytest.mark.parametrize("generator", [MASKED, RASTER], ids=["maskgit", "gpt"])
def test_frames_of_any_float_type_mean_the_same(generator: dict[str, Any]) -> None:
    prior = model(generator)
    start = clips(1, 3, 4, 16, 16).half()
    expected = prior.predict(start.float(), 3)
    for other in (start, start.double()):
        assert torch.equal(prior.predict(other, 3), expected)
    low = model(generator).to(torch.bfloat16)
    assert torch.isfinite(low.predict(start, 3)).all()


def test_a_prior_in_training_makes_nothing() -> None:
    prior = model(MASKED).train()
    image = clips(1, 3, 16, 16)
    for call in (
        lambda: prior.sample(1),
        lambda: prior.predict(clips(1, 3, 4, 16, 16), 2),
        lambda: prior.interpolate(image, image),
        lambda: prior.inpaint(clips(1, 3, 8, 16, 16), torch.ones(1, 1, 1, 1)),
    ):
        with pytest.raises(ZooError, match=r"in training mode.*model\.eval\(\)"):
            call()


def test_what_a_prior_cannot_do_is_said() -> None:
    raster = model(RASTER)
    with pytest.raises(ZooError, match=r"cannot fill a gap.*maskgit"):
        raster.interpolate(clips(1, 3, 16, 16), clips(1, 3, 16, 16))
    with pytest.raises(ZooError, match="trained on 16x16"):
        raster.predict(clips(1, 3, 4, 24, 16), 4)
    with pytest.raises(ZooError, match="5 frames a second only"):
        raster.sample(1, fps=7)
    with pytest.raises(ZooError, match="no labels"):
        raster.sample(1, label=0)
    with pytest.raises(PortError, match="continuous and has no codes"):
        model(RASTER, quantizer={"use": "kl", "latent_dim": 4})
    with pytest.raises(PortError, match="emits video; a prior over tokens emits indices"):
        model({"use": "mocogan", "image_size": 16})
    with pytest.raises(PortError, match="assembly: token-prior"):
        zoo.build({"summary": "-", "assembly": "gan", "generator": RASTER})
    with pytest.raises(PortError, match=r"leave generator\.codebook_size"):
        model({**RASTER, "codebook_size": 7})
    with pytest.raises(RecipeError, match="is not known; did you mean 'vqvae-video-tiny'"):
        zoo.build("maskgit-video-tiny", tokenizer="vqvae-video-tinny")
    with pytest.raises(RecipeError, match="is a gan; a tokenizer is an autoencoder"):
        zoo.build("maskgit-video-tiny", tokenizer="gan-video-tiny")


def discrete_tokenizers() -> list[str]:
    known = catalogue()
    tiny = [name for name in known.bundled_recipes() if "tiny" in name]
    found = []
    for name in tiny:
        recipe = resolve(known.recipes[name], {}, known.recipes).recipe
        continuous = recipe.quantizer is not None and recipe.quantizer.use in ("kl", "identity")
        if recipe.assembly == "autoencoder" and not continuous:
            found.append(name)
    return found


@pytest.mark.parametrize("tokenizer", discrete_tokenizers())
def test_a_prior_builds_over_any_discrete_tokenizer(tokenizer: str) -> None:
    for recipe in ("vqvae-prior-video-tiny", "maskgit-video-tiny"):
        built = zoo.build(recipe, tokenizer=tokenizer, device="meta")
        assert isinstance(built, TokenPrior)
        assert built.generator.codebook_size == built.tokenizer.quantizer.codebook_size
        assert built.generator.num_codebooks == built.tokenizer.quantizer.num_codebooks


def test_a_saved_prior_needs_no_recipe_of_its_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior = zoo.build("maskgit-video-tiny", generator={"num_layers": 1}, seed=0)
    prior.labels = ["bend", "wave"]
    folder = zoo.save(prior, tmp_path / "prior")
    monkeypatch.delitem(catalogue().recipes, CAUSAL)
    loaded = zoo.load(folder)
    assert isinstance(loaded, TokenPrior)
    assert loaded.labels == ["bend", "wave"]
    assert loaded.recipe == prior.recipe
    torch.testing.assert_close(loaded.sample(1), prior.sample(1))  # type: ignore[union-attr]


def test_cuts_leave_the_codes_they_promise() -> None:
    logits = torch.randn(7, 50, generator=torch.Generator().manual_seed(0)) * 3
    odds = logits.softmax(-1)
    assert torch.equal(shaped(logits, Sampling(temperature=0)).argmax(-1), odds.argmax(-1))
    kept = shaped(logits, Sampling(top_k=5)) > 0
    assert torch.equal(kept.sum(-1), torch.full((7,), 5))
    nucleus = shaped(logits, Sampling(top_p=0.8)) > 0
    for row, keep in zip(odds, nucleus, strict=True):
        smallest = row[keep].min()
        assert row[keep].sum() >= 0.8 > row[keep].sum() - smallest
        assert row[~keep].max() <= smallest
    least = shaped(logits, Sampling(min_p=0.1)) > 0
    assert torch.equal(least, odds >= 0.1 * odds.amax(-1, keepdim=True))
    for sampling in (Sampling(top_k=3, top_p=0.5, min_p=0.2), Sampling(temperature=2.5)):
        torch.testing.assert_close(shaped(logits, sampling).sum(-1), torch.ones(7))
    for bad in ({"temperature": -1}, {"top_k": 0}, {"top_p": 0}, {"min_p": 2}, {"steps": 0}):
        with pytest.raises(ZooError, match=next(iter(bad))):
            Sampling(**bad)  # type: ignore[arg-type]


def test_codes_are_drawn_by_their_odds() -> None:
    odds = torch.tensor([0.0, 0.2, 0.0, 0.5, 0.3, 0.0])
    uniform = Chance(draw_seeds(3, generator=torch.Generator().manual_seed(1))).uniform(40_000)
    drawn = choose(odds.expand(3, 40_000, 6), uniform)
    shares = torch.bincount(drawn.flatten(), minlength=6) / drawn.numel()
    torch.testing.assert_close(shares, odds, atol=0.01, rtol=0)
    ends = torch.tensor([0.0, 1 - 2**-53])
    assert choose(odds.expand(2, 6), ends).tolist() == [1, 4]
