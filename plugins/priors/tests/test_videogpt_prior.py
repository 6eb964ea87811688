"""VideoGPT's prior: our part gives the numbers the public code gave, and draws codes as it predicts them.

`golden_videogpt_prior.json` was made by running that code (its commit stands inside) in float64 on the
weights, codes and frames below, which need no random generator. Its norms widen by ``.float()``, which was
kept from narrowing float64, and the 64 and 240 channels of its frame network were 4 and 24. Sparse attention
was run as it samples, code by code: in training it needs a GPU library.

Shapes: B batch, C colours, T H W frames and pixels; q = 1 codebook, t h w the latent grid, N places, K codes.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import assert_like, fill, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.errors import PortError, RecipeError, WeightsError, ZooError
from zoo.sampling import Sampling
from zoo_priors.videogpt.prior import VideoGPTPrior
from zoo_priors.videogpt.stream import Stream
from zoo_priors.videogpt.weights import GENERATOR, TOKENIZER, map_videogpt_prior_state_dict, public_names

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_videogpt_prior.json").read_text())
CASES = [pytest.param(case, id=case["name"]) for case in GOLDEN["cases"]]
TINY: dict[str, Any] = {
    "codebook_size": 11,
    "latent_dim": 5,
    "grid": [3, 2, 3],
    "hidden_dim": 12,
    "num_heads": 2,
    "num_layers": 2,
}
FRAMES: dict[str, Any] = {"num_cond_frames": 2, "cond_size": [8, 12], "cond_base_channels": 4, "cond_dim": 6}
KINDS: dict[str, dict[str, Any]] = {
    "unconditional": {},
    "class": {"num_classes": 4},
    "frames": FRAMES,
    "all": {"num_classes": 4, **FRAMES},
    "sparse": {"attention": "sparse", "grid": [2, 8, 16]},
}
GREEDY = Sampling(temperature=0)


def golden_state(case: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of the public checkpoint: the prior's, the VQ-VAE's and the masks of full attention."""
    state = fill(
        {name: shape for name, shape in case["shapes"].items() if not name.endswith(".mask")},
        scales=r"\.g|norm\.weight",
    )
    masks = {name: torch.ones(shape).tril() for name, shape in case["shapes"].items() if name not in state}
    return state | masks


def golden_model(case: dict[str, Any]) -> VideoGPTPrior:
    options: dict[str, Any] = dict(GOLDEN["sizes"])
    if case["num_cond_frames"]:
        side = 4 * max(case["grid"][1:])
        options |= {"cond_size": [side, side], **GOLDEN["cond"]}
    told = ("grid", "attention", "num_classes", "num_cond_frames")
    model = VideoGPTPrior(**options, **{name: case[name] for name in told}).double().eval()
    mapped, _ = map_videogpt_prior_state_dict(golden_state(case), attention=case["attention"])
    own = {
        name.removeprefix(GENERATOR): value for name, value in mapped.items() if name.startswith(GENERATOR)
    }
    model.load_state_dict(own, strict=True)
    return model


def golden_input(case: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    def numbers(name: str, shape: tuple[int, ...], limit: int) -> Tensor:
        return ((noise(name, shape) + 1) / 2 * limit).long()

    indices_Bqthw = numbers("codes", (2, *case["grid"]), GOLDEN["sizes"]["codebook_size"])[:, None]
    told = {}
    if case["num_classes"]:
        told["label_B"] = numbers("labels", (2,), case["num_classes"])
    if case["num_cond_frames"]:
        side = 4 * max(case["grid"][1:])
        told["frames_BCTHW"] = noise("frames", (2, 3, case["num_cond_frames"], side, side))
    return indices_Bqthw, told


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_the_public_code(case: dict[str, Any], dtype: torch.dtype) -> None:
    # Sines, which the weights here are made of, are rounded otherwise on other processors.
    tolerance = 1e-11 if dtype == torch.float64 else 3e-6
    model = golden_model(case).to(dtype)
    indices_Bqthw, told = golden_input(case)
    told = {name: value.to(dtype) if value.is_floating_point() else value for name, value in told.items()}
    with torch.no_grad():
        assert_like(model(indices_Bqthw, **told), case["logits"], tolerance)
        assert model.loss(indices_Bqthw, **told).item() == pytest.approx(case["loss"], rel=tolerance)


@pytest.mark.parametrize("case", [case for case in CASES if "sparse" not in str(case.id)])
def test_gradients_equal_the_public_code(case: dict[str, Any]) -> None:
    model = golden_model(case)
    indices_Bqthw, told = golden_input(case)
    model.loss(indices_Bqthw, **told).backward()
    found = set()
    for name, parameter in model.named_parameters():
        theirs = public_names(name, has_classes=case["num_classes"] > 0)
        assert parameter.grad is not None
        gradient = parameter.grad
        if name.endswith("cross.kv.weight"):
            rows = [gradient.shape[0] - gradient.shape[1], gradient.shape[1]]
        else:
            rows = [len(gradient) // len(theirs)] * len(theirs)
        for their, piece in zip(theirs, gradient.split(rows), strict=True):
            if their in case["gradients"]:
                transposed = their.endswith(("norm.w.weight", "norm.wb.weight"))
                assert_like(piece.t() if transposed else piece, case["gradients"][their], 1e-10)
                found.add(their)
    assert found == case["gradients"].keys()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ucf101_uncond_gpt", {}),
        ("ucf101 with 101 classes", {"num_classes": 101}),
        ("bair_gpt", {"num_cond_frames": 1, "cond_size": [64, 64]}),
    ],
)
def test_published_sizes(name: str, options: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = VideoGPTPrior(attention="sparse", **options)
    assert sum(p.numel() for p in model.parameters()) == GOLDEN["public_parameters"][name]


def make(kind: str, **options: Any) -> VideoGPTPrior:
    """A small prior in evaluation mode whose weights all matter."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = VideoGPTPrior(**TINY | KINDS[kind] | options).eval()
        for parameter in model.parameters():
            parameter.data.add_(torch.randn_like(parameter), alpha=0.5 if parameter.ndim > 1 else 0.2)
    return model


def inputs(model: VideoGPTPrior, num: int = 2, *, seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    source = torch.Generator().manual_seed(seed)
    indices_Bqthw = torch.randint(model.codebook_size, (num, 1, *model.grid_thw), generator=source)
    told = {}
    if model.num_classes:
        told["label_B"] = torch.randint(model.num_classes, (num,), generator=source)
    if model.num_cond_frames:
        shape = (num, model.in_channels, model.num_cond_frames, *model.cond_size_HW)
        told["frames_BCTHW"] = torch.rand(shape, generator=source) * 2 - 1
    return indices_Bqthw, told


def noise_of(model: VideoGPTPrior, num: int = 2, *, seed: int = 0) -> dict[str, Tensor]:
    made = model.draw_noise(num, model.max_frames, generator=torch.Generator().manual_seed(seed))
    told = inputs(model, num, seed=seed)[1]
    return made | ({"frames": told["frames_BCTHW"]} if model.num_cond_frames else {})


def drawn(model: VideoGPTPrior, made: dict[str, Tensor], sampling: Sampling, **given: Tensor) -> Tensor:
    return torch.stack(list(model.frames(made, sampling, **given)), dim=2)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_logits_equal_uncached(kind: str) -> None:
    """Code by code from nothing, and after a start that is taken in at once."""
    model = make(kind)
    indices_Bqthw, told = inputs(model)
    codes_BN = indices_Bqthw.flatten(1)
    with torch.inference_mode():
        logits_BNK = model(indices_Bqthw, **told).flatten(1, -2)
        for num_given in (0, codes_BN.shape[1] // 2):
            stream = Stream(model, told.get("label_B"), told.get("frames_BCTHW"))
            if num_given:
                stream.take_in(codes_BN[:, : num_given - 1])
            steps = [stream.step(codes_BN[:, n - 1]) for n in range(num_given, codes_BN.shape[1])]
            torch.testing.assert_close(torch.stack(steps, 1), logits_BNK[:, num_given:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["all", "sparse"])
def test_no_code_sees_itself_or_a_later_one(kind: str) -> None:
    model = make(kind)
    indices_Bqthw, told = inputs(model)
    logits_BNK = model(indices_Bqthw, **told).flatten(1, -2)
    for place in (0, 5, logits_BNK.shape[1] - 2):
        other_BN = indices_Bqthw.flatten(1).clone()
        other_BN[:, place] = (other_BN[:, place] + 1) % model.codebook_size
        change_N = (
            (model(other_BN.view_as(indices_Bqthw), **told).flatten(1, -2) - logits_BNK).abs().amax((0, 2))
        )
        assert change_N[: place + 1].eq(0).all()
        assert change_N[place + 1] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_draws_what_it_predicts(kind: str) -> None:
    """Drawn without chance, each code is the likeliest after those before, also after given frames."""
    model = make(kind)
    made = noise_of(model)
    indices_Bqthw = drawn(model, made, GREEDY)
    assert indices_Bqthw.shape == (2, 1, *model.grid_thw)
    told = {"label_B": made.get("label"), "frames_BCTHW": made.get("frames")}
    with torch.no_grad():
        assert torch.equal(model(indices_Bqthw, **told).argmax(-1), indices_Bqthw)
    given_Bqthw = inputs(model, seed=1)[0][:, :, : model.max_frames - 1]
    rest_Bqthw = drawn(model, made, GREEDY, given_Bqthw=given_Bqthw)
    whole_Bqthw = torch.cat([given_Bqthw, rest_Bqthw], dim=2)
    with torch.no_grad():
        likeliest_Bqthw = model(whole_Bqthw, **told).argmax(-1)
    assert torch.equal(likeliest_Bqthw[:, :, -1:], rest_Bqthw)


@settings(max_examples=12, deadline=None)
@given(
    grid=st.tuples(*[st.integers(1, 3)] * 3),
    kind=st.sampled_from(["unconditional", "all"]),
    num_given=st.integers(0, 3),
    seed=st.integers(0, 99),
)
def test_a_clip_is_the_same_in_any_batch(
    grid: tuple[int, int, int], kind: str, num_given: int, seed: int
) -> None:
    model = make(kind, grid=list(grid))
    made = noise_of(model, 3, seed=seed)
    num_given = min(num_given, grid[0])
    given_Bqthw = inputs(model, 3, seed=seed)[0][:, :, :num_given]
    kept = {name: value.clone() for name, value in made.items()} | {"given": given_Bqthw.clone()}
    state = torch.random.get_rng_state()
    whole = list(model.frames(made, Sampling(top_p=0.9), given_Bqthw=given_Bqthw))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(kept[name], value) for name, value in (made | {"given": given_Bqthw}).items())
    assert len(whole) == grid[0] - num_given
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in made.items()}
        alone = list(model.frames(one, Sampling(top_p=0.9), given_Bqthw=given_Bqthw[row : row + 1]))
        assert all(torch.equal(a[0], frame[row]) for a, frame in zip(alone, whole, strict=True))


def test_draws_as_often_as_predicted() -> None:
    """The first code of many clips is spread as the softmax of its logits."""
    model = make("unconditional", codebook_size=4)
    made = model.draw_noise(4000, 3, generator=torch.Generator().manual_seed(0))
    first_B = next(iter(model.frames(made, Sampling()))).flatten(1)[:, 0]
    with torch.no_grad():
        odds_K = model(torch.zeros(1, 1, *model.grid_thw, dtype=torch.int64)).flatten(0, -2)[0].softmax(-1)
    frequency_K = first_B.bincount(minlength=4) / len(first_B)
    assert (frequency_K - odds_K).abs().max() < 4 * 0.5 / math.sqrt(len(first_B))


def test_frames_are_ordinary_tensors_and_leave_autograd_alone() -> None:
    model = make("unconditional")
    for frame_Bqhw in model.frames(noise_of(model), Sampling()):
        assert torch.is_grad_enabled()
        assert not frame_Bqhw.is_inference()
        assert frame_Bqhw.shape == (2, 1, *model.grid_thw[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_trains(kind: str) -> None:
    """Every parameter gets a gradient; dropout is drawn in training only; copies and meta tensors work."""
    model = make(kind, grid=[2, 8, 16] if kind == "sparse" else [2, 2, 2])
    indices_Bqthw, told = inputs(model, 8)
    assert torch.equal(model.loss(indices_Bqthw, **told), copy.deepcopy(model).loss(indices_Bqthw, **told))
    model.train()
    losses = [model.loss(indices_Bqthw, **told) for _ in range(2)]
    assert losses[0] != losses[1]
    losses[0].backward()
    lazy = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert lazy == set()
    with torch.device("meta"):
        ghost = VideoGPTPrior(**TINY | KINDS[kind])
        ghost.loss(
            torch.zeros((2, 1, *ghost.grid_thw), dtype=torch.int64),
            **{name: value[:2].to("meta") for name, value in told.items()},
        ).backward()


@pytest.mark.parametrize("kind", ["all", "sparse"])
def test_half_precision_is_near(kind: str) -> None:
    model = make(kind)
    for parameter in model.parameters():
        parameter.data *= 0.3
    indices_Bqthw, told = inputs(model)
    expected = model.loss(indices_Bqthw, **told)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model.loss(indices_Bqthw, **told)
        assert drawn(model, noise_of(model), Sampling()).shape == indices_Bqthw.shape
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0)
    half = model.bfloat16()
    told = {name: value.bfloat16() if value.is_floating_point() else value for name, value in told.items()}
    torch.testing.assert_close(half.loss(indices_Bqthw, **told), expected, rtol=0.02, atol=0)
    made = {name: v.bfloat16() if name == "frames" else v for name, v in noise_of(model).items()}
    assert drawn(half, made, Sampling()).shape == indices_Bqthw.shape


def test_starts_with_every_code_as_likely_and_reads_the_codebook() -> None:
    model = VideoGPTPrior(**TINY).eval()
    indices_Bqthw, _ = inputs(model)
    assert model.loss(indices_Bqthw).item() == pytest.approx(math.log(11), rel=1e-6)
    model = make("unconditional")
    before = model(indices_Bqthw)
    vectors_KD = torch.randn(11, 5, generator=torch.Generator().manual_seed(0))
    model.set_codebook(vectors_KD)
    assert torch.equal(model.state_dict()["codebook_KD"], vectors_KD)
    assert model.codebook_KD.data_ptr() != vectors_KD.data_ptr()
    after = model(indices_Bqthw)
    assert torch.equal(before.flatten(1, -2)[:, 0], after.flatten(1, -2)[:, 0])
    assert not torch.allclose(before, after)
    with pytest.raises(PortError, match=r"\(11, 5\) and got one of \(5, 11\)"):
        model.set_codebook(vectors_KD.t())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codebooks": 2}, "num_codebooks is 2, .* another prior, such as gpt"),
        ({"grid": [4, 4]}, r"grid is \[4, 4\]"),
        ({"grid": [0, 4, 4]}, r"grid is \[0, 4, 4\]"),
        ({"hidden_dim": 16}, "hidden_dim is 16; it must be a multiple of 3"),
        ({"hidden_dim": 15}, "of num_heads = 2"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
        ({"num_classes": -1}, "num_classes is -1"),
        ({"attention": "axial"}, "attention is 'axial'; it must be 'full' or 'sparse'"),
        ({"attention": "sparse"}, "blocks of 32 do not fill 18 places"),
        ({**FRAMES, "cond_size": [8, 10]}, r"cond_size is \[8, 10\]"),
        ({**FRAMES, "cond_size": [8]}, r"cond_size is \[8\]"),
        ({**FRAMES, "cond_dim": 8}, "cond_dim is 8"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        VideoGPTPrior(**TINY | options)


def test_what_does_not_fit_is_refused() -> None:
    plain, told_all = make("unconditional"), make("all")
    indices_Bqthw, told = inputs(told_all)
    made = noise_of(told_all)
    refused: list[tuple[Any, str]] = [
        (lambda: plain(indices_Bqthw[..., :2]), r"shape .* 3, 2, 2\); it takes .* 2, 3\)"),
        (lambda: plain(indices_Bqthw.repeat(1, 2, 1, 1, 1)), r"it takes torch.int64 and \(B, 1, 1 to 3, "),
        (lambda: plain(indices_Bqthw, label_B=told["label_B"]), "has no classes and got a label"),
        (lambda: plain.loss(indices_Bqthw, **told | {"label_B": None}), "is given no frames and got some"),
        (lambda: told_all(indices_Bqthw, label_B=told["label_B"]), "frames of shape .* and got none"),
        (lambda: told_all(indices_Bqthw, **told | {"label_B": None}), "has 4 classes and got no label"),
        (lambda: told_all(indices_Bqthw, **told | {"label_B": told["label_B"][:1]}), r"shape \(1,\) for 2"),
        (lambda: told_all.frames(made, Sampling(guidance=3)), "guidance is 3; leave it at 1"),
        (lambda: told_all.frames({"seed": made["seed"]}, GREEDY), "needs noise with frames, label"),
        (lambda: told_all.frames(made | {"label": made["label"] + 4}, GREEDY), r"must be in \[0, 4\)"),
        (lambda: told_all.frames(made | {"frames": made["frames"][:, :, :1]}, GREEDY), "got frames of shape"),
        (lambda: plain.frames(made, GREEDY, given_Bqthw=indices_Bqthw + 11), r"got codes .* \[0, 11\)"),
        (
            lambda: plain.frames(made, GREEDY, given_Bqthw=indices_Bqthw.repeat(1, 1, 2, 1, 1)),
            "0 to 3",
        ),
        (lambda: plain.frames(made, GREEDY, given_Bqthw=indices_Bqthw[:1]), r"torch.int64 and \(2, "),
    ]
    for call, message in refused:
        with pytest.raises(ZooError, match=message):
            call()
    assert list(plain.frames(made, GREEDY, given_Bqthw=indices_Bqthw)) == []


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_is_told_apart_to_the_last_tensor(case: dict[str, Any]) -> None:
    state = golden_state(case)
    masks = sorted(name for name in state if name.endswith(".mask"))
    renamed = {f"model.{name}": value for name, value in state.items()} | {"step": torch.zeros(())}
    checkpoint: Mapping[str, Any] = {"state_dict": renamed, "epoch": 3}
    for prefix in (None, "model."):
        mapped, unused = map_videogpt_prior_state_dict(checkpoint, attention=case["attention"], prefix=prefix)
        assert unused == sorted([*(f"model.{name}" for name in masks), "step"])
    codebook = state["vqvae.codebook.embeddings"]
    assert torch.equal(mapped[f"{GENERATOR}codebook_KD"], codebook)
    assert torch.equal(mapped[f"{TOKENIZER}quantizer.embeddings"], codebook)
    parts = {".".join(name.split(".")[:2]) for name in mapped if name.startswith(TOKENIZER)}
    assert parts == {
        f"tokenizer.{part}" for part in ("encoder", "pre_quant", "quantizer", "post_quant", "decoder")
    }


def test_wrong_weights_are_named() -> None:
    full, sparse = (golden_state(GOLDEN["cases"][number]) for number in (0, -1))
    with pytest.raises(WeightsError, match=r"are of full attention .* with generator\.attention=full"):
        map_videogpt_prior_state_dict(full, attention="sparse")
    with pytest.raises(WeightsError, match=r"are of sparse attention .* with generator\.attention=sparse"):
        map_videogpt_prior_state_dict(sparse)
    with pytest.raises(WeightsError, match=r"no VideoGPT in these weights: no name ends in 'attn_stack"):
        map_videogpt_prior_state_dict({"conv.weight": torch.zeros(3)})
    alone = {name: value for name, value in full.items() if not name.startswith("vqvae.")}
    with pytest.raises(WeightsError, match=r"VideoGPT weights lack vqvae\.codebook\.embeddings"):
        map_videogpt_prior_state_dict(alone)
    key = "attn_stack.attn_nets.1.attn.w_ks.weight"
    with pytest.raises(WeightsError, match=rf"lack {key}"):
        map_videogpt_prior_state_dict({name: value for name, value in full.items() if name != key})
    with pytest.raises(WeightsError, match=rf"{key} is \(24, 23\) where \(24, 24\) fits"):
        map_videogpt_prior_state_dict(full | {key: full[key][:, 1:]})


def test_sparse_attention_sees_the_blocks_it_should() -> None:
    """On the published grid: a row of its own, the four before, and the same row of earlier frames."""
    with torch.device("cpu"):
        mask_NN = VideoGPTPrior(**TINY | {"attention": "sparse", "grid": [4, 32, 32]}).mask_NN
    assert mask_NN is not None
    blocks = mask_NN.view(4, 32, 32, 4, 32, 32)[:, :, -1].amax(-1)
    for (t, h), (u, g) in itertools.product(itertools.product((0, 1, 3), (0, 2, 31)), repeat=2):
        back = (t - u) * 32 + h - g
        wanted = 0 <= back <= 4 or (back > 0 and h == g)
        assert bool(blocks[t, h, u, g]) == wanted
    assert not mask_NN.triu(1).any()
