"""The masked prior: published numbers, laws of filling, and clips learnt by heart and inpainted.

`golden_maskgit.json` was made by running the public code (its commit stands inside) on the weights and
tokens below, which need no random generator.

Shapes: B batch, q codebooks, t h w the grid, N places.
"""

from __future__ import annotations

import copy
import json
import math
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import assert_like, fill, noise
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.errors import PortError, WeightsError, ZooError
from zoo.sampling import SCHEDULES, Chance, Sampling
from zoo_priors.maskgit.decoding import decode, num_open
from zoo_priors.maskgit.prior import MaskGIT
from zoo_priors.maskgit.streams import Streams, default_factors
from zoo_priors.maskgit.tasks import TASKS, padded_clip, region
from zoo_priors.maskgit.weights import map_magvit_prior_state_dict

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_maskgit.json").read_text())
TINY: dict[str, Any] = {"num_layers": 2, "hidden_dim": 16, "num_heads": 2, "mlp_dim": 24}
BAIR_TASKS = [name for name in TASKS if "generation" not in name]


def tiny(**options: Any) -> MaskGIT:
    """A prior whose logits vary: fresh ones are all but flat."""
    torch.manual_seed(0)
    prior = MaskGIT(**TINY | {"codebook_size": 20, "grid": [3, 4, 5]} | options).eval()
    with torch.no_grad():
        for name, weight in prior.named_parameters():
            if weight.ndim > 1:
                weight.mul_(40 if "embedding" in name or "position" in name else 12)
    return prior


def seeds(num: int, **more: Tensor) -> dict[str, Tensor]:
    return {"seed": torch.arange(num) + 5, **more}


def some_codes(prior: MaskGIT, num: int, *, frames: int | None = None, seed: int = 0) -> Tensor:
    t, h, w = prior.grid_thw
    generator = torch.Generator().manual_seed(seed)
    shape = (num, prior.num_codebooks, frames or t, h, w)
    return torch.randint(prior.codebook_size, shape, generator=generator)


def golden_prior(case: dict[str, Any]) -> MaskGIT:
    tasks = BAIR_TASKS if case["name"] == "multitask" else ["class_generation"]
    prior = MaskGIT(
        codebook_size=case["codebook_size"],
        grid=case["grid"],
        num_layers=2,
        hidden_dim=24,
        num_heads=3,
        mlp_dim=40,
        num_classes=case["num_classes"],
        tasks=[name for name in tasks if name != "frame_interpolation"],
    ).eval()
    mapped, unused = map_magvit_prior_state_dict(fill(case["shapes"], scales="scale"))
    assert unused == []
    prior.load_state_dict(mapped, strict=True)
    return prior


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_logits_and_gradients_equal_the_public_code(case: dict[str, Any], dtype: torch.dtype) -> None:
    prior = golden_prior(case).to(dtype)
    shape = (2, math.prod(case["grid"]))
    codes = ((noise("codes", shape) + 1) / 2 * case["codebook_size"]).long()
    is_multitask = case["name"] == "multitask"
    logits = prior(
        codes.view(2, 1, *case["grid"]),
        label_B=None if is_multitask else torch.tensor([2, -1]),
        hidden_Bthw=(noise("mask", shape) > -0.2).view(2, *case["grid"]),
        task_B=torch.full((2,), prior.tasks.index("outpainting_central") if is_multitask else 0),
    )
    logits = logits.flatten(1, 4)
    assert_like(logits.view(2, shape[1], -1), case["logits"], 1e-5)
    (logits.view(2, shape[1], -1) * noise("weigh", (2, shape[1], case["codebook_size"]))).mean().backward()
    ours = dict(prior.named_parameters())
    gradients = case["gradients"]
    assert_like(ours["bert.embedding.weight"].grad, gradients["BertEmbed_0/word_embeddings/embedding"], 1e-4)
    inside = gradients["BertLayer_1/BertMlp_0/intermediate_output/kernel"]
    assert_like(ours["bert.blocks.1.mlp_in.weight"].grad.T.contiguous(), inside, 1e-4)
    value = gradients["BertLayer_1/BertAttention_0/self_attention/value/kernel"]
    assert_like(ours["bert.blocks.1.attention.qkv.weight"].grad[48:].T.contiguous(), value, 1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("B-ucf101", {"num_classes": 101, "tasks": ["class_generation"]}),
        ("B-bair-multitask", {"tasks": BAIR_TASKS}),
        ("L-ucf101", {"num_classes": 101, "tasks": ["class_generation"]}),
        ("L-bair-multitask", {"tasks": BAIR_TASKS}),
    ],
)
def test_parameters_number_those_of_the_public_code(name: str, options: dict[str, Any]) -> None:
    large = {"num_layers": 24, "hidden_dim": 1024, "num_heads": 16, "mlp_dim": 4096} if name[0] == "L" else {}
    with torch.device("meta"):
        prior = MaskGIT(**options, **large)
    assert sum(p.numel() for p in prior.parameters()) == GOLDEN["public_parameters"][name]


def test_wrong_weights_are_named() -> None:
    state = fill(GOLDEN["cases"][1]["shapes"])
    with pytest.raises(WeightsError, match=r"no MAGVIT transformer .* conv\.weight"):
        map_magvit_prior_state_dict({"conv.weight": torch.zeros(2)})
    mapped, unused = map_magvit_prior_state_dict(
        {f"params/{k}": v for k, v in state.items()} | {"step": torch.zeros(1)}
    )
    assert unused == ["step"]
    assert mapped.keys() == golden_prior(GOLDEN["cases"][1]).state_dict().keys()
    state.pop("BertMlmLayer_0/mlm_bias/bias")
    with pytest.raises(WeightsError, match=r"lack BertMlmLayer_0\.mlm_bias\.bias"):
        map_magvit_prior_state_dict(state)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_fill_fills_exactly_the_unknown_codes(data: st.DataObject) -> None:
    """Any pattern, any number of frames; the known ones stay, the others are codes, nothing is mutated."""
    grid = [data.draw(st.integers(1, 4)) for _ in range(3)]
    prior = tiny(
        grid=grid,
        num_codebooks=data.draw(st.integers(1, 2)),
        codebook_size=16,
        factors=data.draw(st.sampled_from([1, 2, 4])),
        context_frames=data.draw(st.integers(0, max(grid[0] - 1, 1))),
    )
    frames = data.draw(st.integers(1, 9))
    codes = some_codes(prior, 2, frames=frames)
    known = torch.rand(codes.shape, generator=torch.Generator().manual_seed(frames)) < data.draw(
        st.sampled_from([0.0, 0.4, 0.9, 1.0])
    )
    sampling = Sampling(
        steps=data.draw(st.integers(1, 14)), schedule=data.draw(st.sampled_from(sorted(SCHEDULES)))
    )
    hostile = torch.where(known, codes, -7)
    before, state = hostile.clone(), torch.get_rng_state()
    filled = prior.fill(hostile, known, seeds(2), sampling)
    assert torch.equal(filled[known], codes[known])
    assert filled.shape == codes.shape
    assert filled.min() >= 0
    assert filled.max() < 16
    assert torch.equal(hostile, before)
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=30, deadline=None)
@given(
    num=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    steps=st.integers(1, 14),
    schedule=st.sampled_from(sorted(SCHEDULES)),
)
def test_open_codes_follow_the_schedule(num: list[int], steps: int, schedule: Any) -> None:
    sampling = Sampling(steps=steps, schedule=schedule)
    plans = [num_open(n, sampling) for n in num]
    for n, plan in zip(num, plans, strict=True):
        assert plan == sorted(plan, reverse=True)
        assert plan[-1] == 0
        for step, left in enumerate(plan):
            assert abs(left - n * sampling.open_share((step + 1) / steps)) < 1
    seen: list[list[int]] = []
    open_BN = torch.stack([torch.randperm(40) < n for n in num])

    def logits_of(digits_BNS: Tensor, still_BN: Tensor, places_BM: Tensor) -> Tensor:
        seen.append(still_BN.sum(1).tolist())
        assert places_BM.shape[1] == max(seen[-1])
        # Known places have no logits at all.
        assert all(
            set(row[:n].tolist()) <= set(still.nonzero()[:, 0].tolist())
            for row, n, still in zip(places_BM, seen[-1], still_BN, strict=True)
        )
        return torch.zeros(*places_BM.shape, 1, 6)

    digits = decode(
        logits_of, torch.full((len(num), 40, 1), 9), open_BN, Chance(torch.arange(len(num))), sampling
    )
    assert torch.equal(digits[..., 0] < 6, open_BN)
    every = [num, *([plan[step] for plan in plans] for step in range(steps))]
    expected = [now for now, after in pairwise(every) if now != after]
    assert seen == expected


def test_the_surest_codes_are_kept_first() -> None:
    """Without chance in the choice; each pass sees the codes kept so far."""
    sure_N = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    seen: list[tuple[Tensor, Tensor]] = []

    def logits_of(digits_BNS: Tensor, still_BN: Tensor, places_BM: Tensor) -> Tensor:
        seen.append((digits_BNS.clone(), still_BN.clone()))
        logits = torch.zeros(*places_BM.shape, 1, 5)
        logits[..., 3] = 1 + sure_N[places_BM][..., None] / 2
        return logits

    sampling = Sampling(steps=3, schedule="linear", choice_temperature=0, temperature=0)
    digits = decode(
        logits_of,
        torch.full((1, 12, 1), 9),
        torch.ones(1, 12, dtype=torch.bool),
        Chance(torch.tensor([0])),
        sampling,
    )
    assert (digits == 3).all()
    for step, (shown, still) in enumerate(seen):
        assert torch.equal(still[0], sure_N < 12 - 4 * step)
        assert torch.equal(shown[0, :, 0], torch.where(still[0], 9, 3))


def test_logits_of_some_places_are_those_of_all() -> None:
    prior = tiny(codebook_size=16, factors=2)
    digits = torch.randint(4, (2, 60, 2), generator=torch.Generator().manual_seed(0))
    hidden = torch.rand(2, 60, generator=torch.Generator().manual_seed(1)) < 0.5
    prefix, places = torch.tensor([[9, 8], [10, 8]]), torch.tensor([[3, 59, 0], [7, 8, 20]])
    every = prior.bert(digits, hidden, prefix, 24)
    some = prior.bert(digits, hidden, prefix, 24, places_BM=places)
    expected = torch.stack([row[at] for row, at in zip(every, places, strict=True)])
    torch.testing.assert_close(some, expected, rtol=1e-5, atol=1e-5)
    other = prior.bert(torch.where(hidden[..., None], 0, digits), hidden, prefix, 24)
    assert torch.equal(other, every)


@pytest.mark.parametrize(
    "options", [{}, {"num_classes": 3}, {"codebook_size": 25, "factors": 2, "num_codebooks": 2}]
)
def test_a_clip_is_the_same_in_any_batch(options: dict[str, Any]) -> None:
    """Frames beyond a window, and fillings with unlike gaps; also the logits."""
    prior = tiny(**options)
    noise_3 = seeds(3, label=torch.tensor([2, 0, 1]))
    sampling = Sampling(steps=4, guidance=2.5 if prior.num_classes else 1.0)
    codes = some_codes(prior, 3)
    known = torch.rand(codes.shape, generator=torch.Generator().manual_seed(1)) < torch.tensor(
        [0.1, 0.5, 0.97]
    ).view(3, 1, 1, 1, 1)
    together = torch.stack(list(islice(prior.frames(noise_3, sampling, given_Bqthw=codes), 7)), 2)
    filled = prior.fill(codes, known, noise_3, sampling)
    for b in range(3):
        alone = {name: value[b : b + 1] for name, value in noise_3.items()}
        frames = islice(prior.frames(alone, sampling, given_Bqthw=codes[b : b + 1]), 7)
        assert torch.equal(torch.stack(list(frames), 2)[0], together[b])
        assert torch.equal(prior.fill(codes[b : b + 1], known[b : b + 1], alone, sampling)[0], filled[b])
        torch.testing.assert_close(prior(codes[b : b + 1])[0], prior(codes)[b], rtol=1e-5, atol=1e-5)
    again = torch.stack(list(islice(prior.frames(noise_3, sampling, given_Bqthw=codes), 7)), 2)
    other = torch.stack(list(islice(prior.frames(seeds(3, label=noise_3["label"]), Sampling(steps=4)), 7)), 2)
    assert torch.equal(again, together)
    assert not torch.equal(other, together)


def test_windows_go_on_from_the_frames_before() -> None:
    """A window is the filling of its first frames, told as prediction; the last given frame decides."""
    prior = tiny(grid=[4, 3, 3], context_frames=2, tasks=["frame_prediction"])
    codes, sampling = some_codes(prior, 2, frames=5), Sampling(steps=3)
    made = torch.stack(list(islice(prior.frames(seeds(2), sampling, given_Bqthw=codes), 4)), 2)
    first = torch.cat((codes[:, :, -2:], torch.zeros_like(codes[:, :, :2])), 2)
    known = torch.zeros_like(first, dtype=torch.bool)
    known[:, :, :2] = True
    assert torch.equal(prior.fill(first, known, seeds(2), sampling)[:, :, 2:], made[:, :, :2])
    changed = codes.clone()
    changed[:, :, :3] = 0
    same = torch.stack(list(islice(prior.frames(seeds(2), sampling, given_Bqthw=changed), 4)), 2)
    assert torch.equal(same, made)


def test_guidance() -> None:
    """1 is the label as it is and needs one pass; 0 ignores it; what is between them moves off both."""
    prior = tiny(num_classes=4)
    calls: list[int] = []
    prior.bert.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    codes = torch.zeros(1, 1, *prior.grid_thw, dtype=torch.int64)
    nothing = torch.zeros_like(codes, dtype=torch.bool)

    def made(guidance: float, **told: Tensor) -> Tensor:
        return prior.fill(codes, nothing, seeds(1, **told), Sampling(steps=2, guidance=guidance))

    one, two = torch.tensor([1]), torch.tensor([2])
    assert torch.equal(made(0, label=one), made(0, label=two))
    assert torch.equal(made(0, label=one), made(1))
    assert not torch.equal(made(1, label=one), made(1, label=two))
    assert set(calls) == {1}
    nearly = made(1 + 1e-6, label=one)
    assert set(calls) == {1, 2}
    assert torch.equal(nearly, made(1, label=one))
    assert not torch.equal(made(5, label=one), made(1, label=one))


def test_regions_are_what_their_names_say() -> None:
    known = {name: region(name, (6, 8, 12)) for name in TASKS}
    assert not known["full_generation"].any()
    assert not known["class_generation"].any()
    assert known["frame_prediction"].all((1, 2)).tolist() == [True] + [False] * 5
    assert known["frame_interpolation"].all((1, 2)).tolist() == [True] + [False] * 4 + [True]
    assert region("frame_interpolation", (6, 2, 2), context=2).all((1, 2)).sum() == 4
    assert known["outpainting_horizontal"].all((0, 2)).tolist() == [False] * 2 + [True] * 4 + [False] * 2
    assert known["outpainting_vertical"].all((0, 1)).tolist() == [False] * 3 + [True] * 6 + [False] * 3
    both = known["outpainting_horizontal"] & known["outpainting_vertical"]
    assert torch.equal(known["outpainting_central"], both)
    assert torch.equal(known["inpainting_central"], ~both)
    band = known["outpainting_dynamic"]
    assert band[0].all(0).tolist() == [True] * 6 + [False] * 6
    assert band[-1].all(0).tolist() == [False] * 6 + [True] * 6
    assert band.sum((1, 2)).tolist() == [8 * 6] * 6
    assert torch.equal(known["inpainting_dynamic"], ~(band & known["outpainting_horizontal"]))


@pytest.mark.parametrize("task", TASKS)
def test_padded_clips_show_what_is_known_and_no_more(task: str) -> None:
    x = torch.rand(3, 6, 8, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    known = region(task, (6, 8, 12))
    padded = padded_clip(task, x)
    assert torch.equal(padded[:, known], x[:, known])
    other = torch.where(known, x, torch.zeros_like(x))
    assert torch.equal(padded_clip(task, other), padded)
    assert padded.abs().max() <= 1
    if "prediction" in task:
        assert torch.equal(padded, x[:, :1].expand_as(x))
    if task == "frame_interpolation":
        torch.testing.assert_close(padded.diff(n=2, dim=1), torch.zeros(3, 4, 8, 12), rtol=0, atol=1e-6)


@pytest.mark.parametrize("with_condition", [False, True])
def test_loss_shows_what_the_task_says(with_condition: bool) -> None:
    """The network sees known tokens (or, masked, those of the padded clip); all else is masked or right."""
    prior = tiny(grid=[4, 4, 4], codebook_size=20, shown_weight=0.5)
    codes = some_codes(prior, 64)
    condition = (codes + 7) % 20 if with_condition else None
    task_B = prior.draw_tasks(64, generator=torch.Generator().manual_seed(3))
    assert len(task_B.unique()) == len(prior.tasks) == 9
    seen: dict[str, Tensor] = {}

    def look(module: Any, args: tuple[Tensor, ...], kwargs: Any, output: Tensor) -> None:
        seen.update(codes=args[0][..., 0], hidden=args[1], prefix=args[2], logits=output)

    hook = prior.bert.register_forward_hook(look, with_kwargs=True)
    loss = prior.loss(
        codes,
        task_B=task_B,
        condition_Bqthw=condition,
        generator=torch.Generator().manual_seed(4),
    )
    hook.remove()
    known = torch.stack([region(prior.tasks[r], prior.grid_thw).flatten() for r in task_B.tolist()])
    right = codes.flatten(1)
    assert set(seen["prefix"][:, 0].tolist()) == {37 - 3 - offset for offset in range(5)}
    if condition is None:
        assert not (seen["hidden"] & known).any()
        assert torch.equal(seen["codes"], right)
        masked, weight = seen["hidden"], torch.where(seen["hidden"], 1.0, 0.5 * ~known)
    else:
        refined = seen["codes"] != right
        assert not (refined & ~known).any()
        assert not (seen["hidden"] & known).any()
        assert torch.equal(seen["codes"][refined], condition.flatten(1)[refined])
        masked = seen["hidden"] | refined
        weight = torch.where(masked, 1.0, 0.5)
    assert masked.any(1).all()
    each = -seen["logits"][:, :, 0].log_softmax(-1)
    each = (1 - 1e-4) * each.gather(-1, right[..., None])[..., 0] + 1e-4 * each.mean(-1)
    expected = ((each * weight).sum(1) / weight.sum(1)).mean()
    torch.testing.assert_close(loss, expected)


def test_fill_refines_the_condition_tokens() -> None:
    """They are shown where nothing is known until their places are filled, and are told as their task."""
    prior = tiny(grid=[4, 4, 4])
    inside = region("outpainting_central", prior.grid_thw).expand(2, 1, -1, -1, -1)
    condition = torch.where(inside, some_codes(prior, 2), -1)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    prior.bert.register_forward_hook(lambda module, args, output: seen.append(args[:3]))
    nothing = torch.zeros_like(inside)
    filled = prior.fill(
        torch.zeros_like(condition), nothing, seeds(2), Sampling(steps=5), condition_Bqthw=condition
    )
    codes, hidden, prefix = seen[0]
    assert torch.equal(hidden, ~inside.flatten(1))
    assert torch.equal(codes[..., 0][inside.flatten(1)], condition[inside])
    assert set(prefix[:, 0].tolist()) == {37 - 6}
    assert filled.min() >= 0
    assert not torch.equal(filled[inside], condition[inside])
    told = prior.fill(
        torch.zeros_like(condition), nothing, seeds(2), Sampling(steps=1), task="inpainting_central"
    )
    assert told.shape == filled.shape
    assert set(seen[-1][2][:, 0].tolist()) == {37 - 7}


def test_mask_shares_follow_the_schedule() -> None:
    """Of cosine, the mean share is 2 / pi."""
    prior = tiny(grid=[4, 8, 8], tasks=["full_generation"])
    shares: list[Tensor] = []
    prior.bert.register_forward_hook(lambda module, args, output: shares.append(args[1].float().mean(1)))
    prior.loss(some_codes(prior, 400), generator=torch.Generator().manual_seed(0))
    assert shares[0].mean().item() == pytest.approx(2 / math.pi, abs=0.04)
    assert shares[0].min() > 0


def test_loss_contract() -> None:
    """Draws come from the generator alone; every parameter learns; labels are dropped; meta and bf16 work."""
    prior = tiny(num_classes=3, num_codebooks=2, codebook_size=16, factors=2)
    codes, label_B = some_codes(prior, 4), torch.tensor([0, 1, 2, 1])
    state = torch.get_rng_state()
    losses = [
        prior.loss(codes, label_B=label_B, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1] != losses[2]
    prior.train().loss(codes, label_B=label_B).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in prior.parameters())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = prior.eval().loss(codes, label_B=label_B, generator=torch.Generator().manual_seed(1))
    assert low.dtype == torch.float32
    assert low.item() == pytest.approx(losses[0].item(), rel=0.05)
    twin = copy.deepcopy(prior)
    assert torch.equal(twin(codes), prior(codes))
    with torch.device("meta"):
        ghost = MaskGIT(**TINY, grid=[2, 4, 4], codebook_size=20)
        empty = torch.zeros(2, 1, 2, 4, 4, dtype=torch.int64)
        assert ghost.loss(empty).shape == ()
        assert ghost(empty).shape == (2, 2, 4, 4, 1, 20)

    never = tiny(num_classes=3, label_dropout=1.0)
    args = {"generator": torch.Generator().manual_seed(0), "task_B": torch.zeros(4, dtype=torch.int64)}
    told = never.loss(some_codes(never, 4), label_B=label_B, **args)
    args["generator"] = torch.Generator().manual_seed(0)
    assert told == never.loss(some_codes(never, 4), label_B=None, **args)


@settings(max_examples=20, deadline=None)
@given(factors=st.integers(1, 3), base=st.integers(2, 9), q=st.integers(1, 3))
def test_digits_are_the_codes(factors: int, base: int, q: int) -> None:
    streams = Streams(base**factors, q, factors)
    codes = torch.randint(base**factors, (2, q, 2, 3, 1), generator=torch.Generator().manual_seed(base))
    digits = streams.split(codes)
    assert digits.shape == (2, 6, q * factors)
    assert 0 <= digits.min() <= digits.max() < base
    assert torch.equal(streams.join(digits, (2, 3, 1)), codes)


def test_large_codebooks_need_few_weights() -> None:
    with torch.device("meta"):
        prior = MaskGIT(codebook_size=2**18)
    assert sum(p.numel() for p in prior.parameters()) < 90e6
    assert prior.bert.num_codes == 1024
    found = {size: default_factors(size) for size in (1024, 2**14, 2**15, 2**16, 2**18, 64000, 20011)}
    assert list(found.values()) == [1, 1, 3, 2, 2, 3, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"codebook_size": 20, "factors": 2}, "no whole number"),
        ({"tasks": ["prediction"]}, "no task of a masked prior"),
        ({"tasks": ["class_generation"]}, "num_classes above 0"),
        ({"tasks": ["frame_interpolation"], "grid": [2, 4, 4]}, "nothing known or nothing to fill"),
        ({"tasks": "frame_prediction"}, "list of different names"),
        ({"grid": [4, 4]}, "three positive"),
        ({"context_frames": 3}, "less than the frames"),
        ({"num_heads": 3}, "not divisible"),
        ({"label_dropout": 1.5}, "between 0 and 1"),
        ({"mask_schedule": "sine"}, "one of cosine"),
        ({"num_layers": 0}, "positive whole number"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ZooError, match=message):
        tiny(**options)


def test_wrong_codes_are_refused() -> None:
    prior = tiny()
    codes = some_codes(prior, 1)
    for wrong in (
        codes[0],
        codes[:, :, :2],
        codes[..., :3],
        codes.repeat(1, 2, 1, 1, 1),
        codes + 20,
        codes - 20,
    ):
        with pytest.raises(PortError, match="got codes"):
            prior.loss(wrong)
    with pytest.raises(PortError, match="got codes"):
        prior.frames(seeds(1), Sampling(), given_Bqthw=codes[..., :2])
    with pytest.raises(ZooError, match="not trained on class_generation, only on full_generation"):
        prior.fill(codes, codes < 3, seeds(1), Sampling(), task="class_generation")
    with pytest.raises(PortError, match="classes from 7 to 7"):
        tiny(num_classes=3).loss(codes, label_B=torch.tensor([7]))


def test_learns_clips_by_heart_and_fills_them_in() -> None:
    """Four clips of 2x4x4: each is made whole from a part of it, by any of the tasks, and by its class."""
    torch.manual_seed(0)
    prior = MaskGIT(
        codebook_size=32,
        grid=[2, 4, 4],
        num_layers=2,
        hidden_dim=64,
        num_heads=4,
        mlp_dim=128,
        num_classes=4,
        dropout=0.0,
        attention_dropout=0.0,
        label_dropout=0.4,
    )
    clips = some_codes(prior, 4, seed=7)
    label_B = torch.arange(4)
    optimizer = torch.optim.AdamW(prior.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=150)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        loss = prior.loss(clips.repeat(4, 1, 1, 1, 1), label_B=label_B.repeat(4), generator=generator)
        loss.backward()
        optimizer.step()
        schedule.step()
    prior.eval()
    sampling = Sampling(temperature=0.2, steps=6)
    for task in prior.tasks:
        if "generation" in task:
            continue
        known = region(task, prior.grid_thw).expand_as(clips)
        filled = prior.fill(torch.where(known, clips, 0), known, seeds(4), sampling)
        assert torch.equal(filled, clips), task
    start = [next(prior.frames(seeds(4), sampling, given_Bqthw=clips[:, :, :1]))]
    assert torch.equal(start[0], clips[:, :, 1])
    made = torch.stack(list(islice(prior.frames(seeds(4, label=label_B), sampling), 2)), 2)
    assert torch.equal(made, clips)
    known_loss = prior.loss(clips, label_B=label_B, generator=torch.Generator().manual_seed(0))
    assert known_loss < 0.6


def test_a_window_of_more_places_than_any_prior_has_is_refused_at_once() -> None:
    with torch.device("meta"), pytest.raises(ZooError, match="has more than 4,194,304 places"):
        tiny(grid=[1024, 512, 512])
