"""Long video in two steps: a prior of every k-th latent frame, and one that fills in those between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_token_prior import MASKED, RASTER, clips
from torch import Tensor

import zoo
from zoo.assemblies import TokenPrior
from zoo.entropy import check_prior
from zoo.errors import PortError, RecipeError, ZooError
from zoo.sampling import Sampling

CLIP = {"num_frames": 24, "height": 16, "width": 16, "fps": 5}
SPARSE: dict[str, Any] = {
    "summary": "For tests.",
    "assembly": "token-prior",
    "tokenizer": {"use": "vqvae-video-tiny", "every": 3},
    "clip": CLIP,
    "generator": RASTER,
    "train": {"objective": {"tokens": {}}},
}
DENSE = {**SPARSE, "tokenizer": "vqvae-video-tiny", "clip": {**CLIP, "num_frames": 10}, "generator": MASKED}
CAUSAL = "zoo-causal-video-tiny-1k"


def pair(
    sparse_generator: dict[str, Any] = RASTER, tokenizer: str = "vqvae-video-tiny", **of_dense: Any
) -> tuple[TokenPrior, TokenPrior]:
    """Build a sparse and a dense prior over the same weights of a tokenizer."""
    size: dict[str, Any] = {} if tokenizer == "vqvae-video-tiny" else {"height": 32, "width": 32}
    sparse = zoo.build(
        {**SPARSE, "tokenizer": {"use": tokenizer, "every": 3}, "generator": sparse_generator},
        clip=size,
        seed=1,
    )
    clip = {**size, "num_frames": 20 if size else 10} | of_dense.pop("clip", {})
    dense = zoo.build({**DENSE, "tokenizer": tokenizer}, clip=clip, **of_dense, seed=2)
    assert isinstance(sparse, TokenPrior)
    assert isinstance(dense, TokenPrior)
    dense.tokenizer.load_state_dict(sparse.tokenizer.state_dict())
    return sparse, dense


def decoded(prior: TokenPrior, seen: list[Tensor]) -> None:
    """Note the codes that go into the decoder."""
    lookup = prior.tokenizer.quantizer.lookup

    def spy(indices_Bqthw: Tensor) -> Any:
        seen.append(indices_Bqthw)
        return lookup(indices_Bqthw)

    prior.tokenizer.quantizer.lookup = spy


def fillings(prior: TokenPrior) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """Note the codes and the noise of each gap that a prior fills."""
    noted: list[tuple[Tensor, dict[str, Tensor]]] = []
    fill = prior.generator.fill

    def spy(indices_Bqthw: Tensor, known_Bqthw: Tensor, noise: dict[str, Tensor], sampling: Any) -> Any:
        noted.append((indices_Bqthw, dict(noise)))
        return fill(indices_Bqthw, known_Bqthw, noise, sampling)

    prior.generator.fill = spy
    return noted


def keys(prior: TokenPrior, num: int, seed: int, num_keys: int) -> Tensor:
    noise = {"seed": torch.cat([prior._noise(seed, i, label=None)["seed"] for i in range(num)])}
    made = prior.generator.frames(noise, Sampling())
    return torch.stack([next(made) for _ in range(num_keys)], dim=2)


@pytest.mark.parametrize(
    ("generator", "tokenizer", "window"),
    [
        (RASTER, "vqvae-video-tiny", 8),
        (MASKED, "vqvae-video-tiny", 14),
        (RASTER, CAUSAL, 16),
        (RASTER, "cosmos-video-dv4x8x8-tiny", 20),
    ],
)
def test_the_codes_of_the_keys_are_kept(generator: dict[str, Any], tokenizer: str, window: int) -> None:
    sparse, dense = pair(generator, tokenizer, clip={"num_frames": window})
    seen: list[Tensor] = []
    decoded(sparse, seen)
    for num_frames in (1, 2, 7, 21):
        seen.clear()
        made = sparse.sample(2, num_frames=num_frames, seed=4, between=dense)
        assert made.shape == (2, 3, num_frames, *sparse.frame_HW)
        codes = torch.cat(seen, dim=2)
        total = sparse.tokenizer.latent_size((num_frames, *sparse.frame_HW))[0]
        assert codes.shape[2] == total
        num_keys = -(-total // 3)
        assert torch.equal(codes[:, :, ::3], keys(sparse, 2, 4, num_keys))


def test_gaps_do_not_share_their_chance() -> None:
    sparse, dense = pair()
    gaps = fillings(dense)
    sparse.sample(2, num_frames=20, between=dense)
    seeds = torch.stack([noise["seed"] for _, noise in gaps])
    assert seeds.shape == (3, 2)
    assert len(seeds.unique()) == 6


def test_clips_do_not_depend_on_the_batch_or_on_what_comes_after() -> None:
    sparse, dense = pair()
    together = sparse.sample(5, num_frames=17, seed=3, between=dense)
    for batch_size in (1, 2):
        torch.testing.assert_close(
            sparse.sample(5, num_frames=17, seed=3, batch_size=batch_size, between=dense), together
        )
    assert not torch.equal(together[0], together[1])
    seen: list[Tensor] = []
    decoded(sparse, seen)
    for num_frames in (8, 17):
        sparse.sample(1, num_frames=num_frames, seed=3, between=dense)
    assert torch.equal(seen[0], seen[1][:, :, :4])


def test_a_long_video_comes_piece_by_piece_in_a_window_of_memory() -> None:
    sparse, dense = pair(tokenizer=CAUSAL)
    gaps = fillings(dense)
    lengths = [piece.shape[2] for piece in sparse.sample_pieces(1, num_frames=101, between=dense)]
    assert lengths == [1] + [4] * 25 if sparse.tokenizer.lead_frame else [4] * 25 + [1]
    rows = [indices_Bqthw.shape[2] for indices_Bqthw, _ in gaps]
    assert len(rows) == 9
    assert max(rows) <= dense.generator.grid_thw[0]
    assert len(set(rows[1:])) == 1


def test_what_lies_between_depends_on_both_keys() -> None:
    sparse, dense = pair()
    with torch.no_grad():  # so that an untrained network minds what it reads
        for weight in dense.generator.parameters():
            weight.mul_(10 if weight.ndim > 1 else 1)
    seen: list[Tensor] = []
    decoded(sparse, seen)
    frames = sparse.generator.frames
    for add in (0, 1):

        def other(noise: Any, sampling: Any, *, given_Bqthw: Any, add: int = add) -> Any:
            for number, frame in enumerate(frames(noise, sampling, given_Bqthw=given_Bqthw)):
                yield (frame + add) % 512 if number == 1 else frame

        sparse.generator.frames = other
        sparse.sample(1, num_frames=8, between=dense, sampling=Sampling(temperature=0, choice_temperature=0))
    first, second = seen
    assert torch.equal(first[:, :, 0], second[:, :, 0])
    assert not torch.equal(first[:, :, 1:3], second[:, :, 1:3])


@pytest.mark.parametrize("num_given", [1, 2, 4, 7])
def test_prediction_keeps_the_start_and_fills_in_from_there(num_given: int) -> None:
    sparse, dense = pair()
    start = clips(2, 3, 2 * num_given, 16, 16)
    seen: list[Tensor] = []
    decoded(sparse, seen)
    made = sparse.predict(start, 11, between=dense)
    assert made.shape == (2, 3, 11, 16, 16)
    (codes,) = seen
    assert torch.equal(codes[:, :, :num_given], sparse.encode_codes(start))
    assert torch.isfinite(made).all()
    torch.testing.assert_close(sparse.predict(start, 11, between=dense), made)


def test_both_are_told_the_same_label() -> None:
    labelled = {"num_classes": 4}
    sparse, dense = pair({**RASTER, **labelled}, generator={**MASKED, **labelled})
    gaps = fillings(dense)
    sparse.sample(3, num_frames=14, seed=5, between=dense)
    drawn = torch.cat([sparse._noise(5, i, label=None)["label"] for i in range(3)])
    assert len(drawn.unique()) > 1
    assert all(torch.equal(noise["label"], drawn) for _, noise in gaps)
    gaps.clear()
    sparse.sample(2, num_frames=8, label=2, between=dense)
    assert gaps[0][1]["label"].tolist() == [2, 2]
    dense.labels, sparse.labels = ["a", "b", "c", "d"], ["a", "c", "b", "d"]
    with pytest.raises(ZooError, match="have to be the same"):
        sparse.sample(1, between=dense)


def test_what_does_not_fit_between_is_refused() -> None:
    sparse, dense = pair()
    with pytest.raises(ZooError, match=r"1 of 3 latent frames.*--between FOLDER, or between="):
        sparse.sample(1)
    with pytest.raises(ZooError, match="--between FOLDER"):
        sparse.predict(clips(1, 3, 4, 16, 16), 4)
    with pytest.raises(ZooError, match=r"nothing for .* to fill in between"):
        dense.sample(1, between=sparse)
    with pytest.raises(ZooError, match="makes 1 of 3 latent frames and fills in nothing"):
        sparse.sample(1, between=sparse)
    with pytest.raises(ZooError, match="makes codes in their order and fills in nothing"):
        sparse.sample(1, between=pair(generator=RASTER)[1])
    with pytest.raises(
        ZooError, match=r"sees 3 latent frames at once.*takes 4\. Train it on clips of 7 frames"
    ):
        sparse.sample(1, between=pair(clip={"num_frames": 6})[1])
    with pytest.raises(ZooError, match=r"16x16 at 5 frames a second and .* 16x16 at 10 frames a second"):
        sparse.sample(1, between=pair(clip={"fps": 10})[1])
    other = pair()[1]
    with torch.no_grad():
        next(other.tokenizer.parameters()).add_(1e-3)
    with pytest.raises(ZooError, match="another tokenizer"):
        sparse.sample(1, between=other)
    for call in (
        lambda: sparse.interpolate(clips(1, 3, 16, 16), clips(1, 3, 16, 16)),
        lambda: sparse.inpaint(clips(1, 3, 8, 16, 16), torch.ones(1, 1, 1, 1)),
    ):
        with pytest.raises(ZooError, match="cannot fill a gap in a video"):
            call()
    with pytest.raises(ZooError, match="has no odds for the others"):
        check_prior(sparse)


def test_a_prior_with_an_end_says_how_many_frames_it_takes() -> None:
    sparse, dense = pair({**RASTER, "positions": "learned"})
    assert sparse.generator.max_frames == 4
    assert sparse.sample(1, num_frames=20, between=dense).shape[2] == 20
    with pytest.raises(ZooError, match=r"21 frames take 5 of 11 latent frames of .*, which makes 4 at most"):
        sparse.sample(1, num_frames=21, between=dense)


def test_it_learns_every_kth_latent_frame_of_clips() -> None:
    sparse, _ = pair()
    assert sparse.generator.grid_thw == (4, 4, 4)
    x = clips(2, 3, 24, 16, 16)
    seen: list[Tensor] = []
    loss = sparse.generator.loss

    def spy(indices_Bqthw: Tensor, **told: Any) -> Any:
        seen.append(indices_Bqthw)
        return loss(indices_Bqthw, **told)

    sparse.generator.loss = spy
    of_clips = sparse.loss(x)
    assert torch.equal(seen[0], sparse.encode_codes(x)[:, :, [0, 3, 6, 9]])
    assert torch.equal(sparse.loss(seen[0]), of_clips)


def test_recipes_that_cannot_be_are_refused() -> None:
    with pytest.raises(PortError, match=r"are 3 latent frames, of which tokenizer.every = 3 leaves one.*7"):
        zoo.build(SPARSE, clip={"num_frames": 6}, device="meta")
    with pytest.raises(RecipeError, match=r"a latent-gan learns none: leave them out"):
        zoo.build("latent-gan-video-tiny", tokenizer={"every": 2}, device="meta")


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    sparse, dense = pair()
    loaded = zoo.load(zoo.save(sparse, tmp_path / "sparse"))
    assert isinstance(loaded, TokenPrior)
    assert loaded.every == 3
    torch.testing.assert_close(loaded.sample(1, between=dense), sparse.sample(1, between=dense))
