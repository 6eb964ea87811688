"""The GPT prior: what it says of a code is the same however it is asked, and nothing sees what comes later.

Shapes: B batch, q codebooks, t h w the latent grid, N places in order, f digits, V values of a digit.
"""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from zoo.errors import PortError, RecipeError, ZooError
from zoo.sampling import Sampling
from zoo_priors.gpt.prior import GPTPrior
from zoo_priors.gpt.stream import Stream
from zoo_priors.gpt.symbols import Digits, Pattern

TINY: dict[str, Any] = {
    "codebook_size": 11,
    "grid": [3, 2, 3],
    "hidden_dim": 24,
    "num_layers": 2,
    "num_heads": 2,
}
CLASSES: dict[str, Any] = {"num_classes": 3, "label_dropout": 0.3}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "learned": {"positions": "learned"},
    "class": CLASSES,
    "factors": {"codebook_size": 60, "factors": 3},
    "parallel": {"num_codebooks": 3, **CLASSES},
    "delay": {"num_codebooks": 3, "pattern": "delay", "codebook_size": 16, "factors": 2},
    "delay learned": {"num_codebooks": 2, "pattern": "delay", "positions": "learned"},
    "one frame": {"grid": [1, 2, 2]},
    "one place": {"grid": [3, 1, 1]},
}


def make(kind: str = "plain", **options: Any) -> GPTPrior:
    """A small prior in evaluation mode whose weights all matter."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = GPTPrior(**TINY | KINDS[kind] | options).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def codes(model: GPTPrior, num: int = 2, *, frames: int | None = None, seed: int = 0) -> Tensor:
    frames = frames or model.max_frames or 2 * model.grid_thw[0] + 2
    shape = (num, model.num_codebooks, frames, *model.grid_thw[1:])
    return torch.randint(model.codebook_size, shape, generator=torch.Generator().manual_seed(seed))


def labels(model: GPTPrior, num: int = 2) -> Tensor | None:
    return torch.arange(num) % model.num_classes if model.num_classes else None


def noise_of(model: GPTPrior, num: int = 2, *, seed: int = 0) -> dict[str, Tensor]:
    return model.draw_noise(num, 3, generator=torch.Generator().manual_seed(seed))


def drawn(model: GPTPrior, made: dict[str, Tensor], sampling: Sampling, num: int, **told: Any) -> Tensor:
    return torch.stack(list(itertools.islice(model.frames(made, sampling, **told), num)), dim=2)


def read(stream: Stream, model: GPTPrior, indices_Bqthw: Tensor) -> dict[tuple[int, ...], Tensor]:
    """Push all the rest of the codes, and return the logits of each symbol that there were."""
    digits = model.digits.split(indices_Bqthw)
    found = {}
    while (at := stream.upcoming).frame < indices_Bqthw.shape[2]:
        place = (at.codebook, at.frame, at.row, at.column, at.factor)
        found[place] = stream.logits()
        stream.push(digits[(slice(None), *place)])
        if stream.upcoming.frame == model.max_frames:
            break
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_cached_logits_equal_uncached(kind: str) -> None:
    """From nothing and after frames taken in at once, within the window and long after it has slid."""
    model = make(kind)
    indices_Bqthw, label_B = codes(model), labels(model)
    frames = indices_Bqthw.shape[2]
    with torch.no_grad():
        logits = model(indices_Bqthw, label_B=label_B)
    for num_given in sorted({0, 1, min(model.grid_thw[0] + 1, frames - 1)}):
        stream = model.stream(2, label_B=label_B)
        if num_given:
            stream.take_frames(indices_Bqthw[:, :, :num_given])
        found = read(stream, model, indices_Bqthw)
        assert len(found) == logits[0, :, num_given:, ..., 0].numel()
        for place, logits_BV in found.items():
            torch.testing.assert_close(logits_BV, logits[(slice(None), *place)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_no_symbol_sees_a_later_one(kind: str) -> None:
    """A changed code moves the logits of nothing up to its first digit, and of something after it."""
    model = make(kind)
    indices_Bqthw, label_B = codes(model), labels(model)
    order = list(read(model.stream(2, label_B=label_B), model, indices_Bqthw))
    with torch.no_grad():
        before = model(indices_Bqthw, label_B=label_B)
        for number in (0, len(order) // 3, len(order) // 2):
            codebook, *place, _ = order[number]
            changed = indices_Bqthw.clone()
            at = (slice(None), codebook, *place)
            changed[at] = (changed[at] + 5) % model.codebook_size
            after = model(changed, label_B=label_B)
            first = next(n for n, (k, *where, _) in enumerate(order) if (k, where) == (codebook, place))
            moved = [not torch.equal(after[(slice(None), *o)], before[(slice(None), *o)]) for o in order]
            # The next step at the latest sees it, unless the window ends before.
            assert not any(moved[: first + 1])
            assert any(moved[first + 1 :]) or model.grid_thw[0] == 1


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_random_shapes(data: st.DataObject) -> None:
    """Cached and uncached logits, and the loss, for any options and shape."""
    draw = data.draw
    classes = draw(st.integers(0, 2))
    options: dict[str, Any] = {
        "codebook_size": draw(st.integers(2, 70)),
        "num_codebooks": draw(st.integers(1, 3)),
        "grid": [draw(st.integers(1, 3)) for _ in range(3)],
        "pattern": draw(st.sampled_from(["parallel", "delay"])),
        "positions": draw(st.sampled_from(["rope", "learned"])),
        "factors": draw(st.sampled_from([None, 1, 2])),
        "num_classes": classes,
        "label_dropout": 0.5 if classes else 0.0,
    }
    if options["codebook_size"] == 2:
        options["factors"] = 1
    model = make(**options)
    frames = draw(st.integers(1, model.max_frames or 5))
    indices_Bqthw, label_B = codes(model, frames=frames), labels(model)
    with torch.no_grad():
        logits = model(indices_Bqthw, label_B=label_B)
        loss = model.loss(indices_Bqthw, label_B=label_B)
    nll = -logits.log_softmax(-1).gather(-1, model.digits.split(indices_Bqthw)[..., None]).sum((-1, -2))
    assert loss.item() == pytest.approx(nll.mean().item(), rel=1e-5)
    stream = model.stream(2, label_B=label_B)
    for place, logits_BV in read(stream, model, indices_Bqthw).items():
        torch.testing.assert_close(logits_BV, logits[(slice(None), *place)], rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5), st.integers(0, 2**31))
def test_digits_round_trip(codebook_size: int, factors: int, seed: int) -> None:
    """Every code comes back, and the odds over digits are odds over codes that there are."""
    factors = min(factors, max(1, (codebook_size - 1).bit_length()))
    digits = Digits("here", codebook_size, factors)
    every = torch.arange(codebook_size)
    split = digits.split(every)
    assert torch.equal(digits.join(split), every)
    assert split.max() < digits.base
    logits = torch.randn(
        factors, digits.base, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    total = torch.zeros(codebook_size, dtype=torch.float64)
    for n in range(factors):
        odds = digits.allow(logits[n].expand(codebook_size, -1), split[:, :n]).log_softmax(-1)
        total += odds.gather(-1, split[:, n : n + 1])[:, 0]
    assert total.exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("codebook_size", "num", "base"),
    [(2048, 1, 2048), (2**14, 1, 2**14), (2**16, 2, 256), (2**18, 2, 512), (64000, 2, 253), (2**36, 4, 512)],
)
def test_large_vocabularies_are_split(codebook_size: int, num: int, base: int) -> None:
    digits = Digits("here", codebook_size, None)
    assert (digits.num, digits.base) == (num, base)


@given(st.integers(1, 9), st.integers(1, 5), st.sampled_from(["parallel", "delay"]))
def test_pattern_round_trip(places: int, codebooks: int, name: str) -> None:
    pattern = Pattern(name, places, codebooks)
    x = torch.arange(2 * 3 * places * codebooks).view(2, 3, places, codebooks)
    delayed = pattern.delay(x, -1)
    assert torch.equal(pattern.undo(delayed), x)
    for step in range(pattern.num_steps):
        there = [n for n in range(codebooks) if delayed[0, 0, step, n] >= 0]
        assert there == list(pattern.codebooks(step))


@pytest.mark.parametrize(
    ("kind", "guidance"), [*((kind, 1.0) for kind in KINDS), ("class", 2.5), ("parallel", 0.0)]
)
def test_clips_do_not_depend_on_their_batch(kind: str, guidance: float) -> None:
    model = make(kind)
    sampling = Sampling(guidance=guidance, top_p=0.95)
    made = noise_of(model, 3)
    together = drawn(model, made, sampling, 4)
    for n in (0, 2):
        alone = drawn(model, {name: value[n : n + 1] for name, value in made.items()}, sampling, 4)
        assert torch.equal(alone[0], together[n])
    assert torch.equal(together, drawn(model, made, sampling, 4))


@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_from_given_frames(kind: str) -> None:
    """What is drawn greedily goes on as it was, wherever it is cut; given frames are not drawn again."""
    model = make(kind)
    made, greedy = noise_of(model), Sampling(temperature=0)
    frames = model.max_frames or model.grid_thw[0] + 3
    whole = drawn(model, made, greedy, frames)
    for num_given in range(1, frames):
        rest = drawn(model, made, greedy, frames - num_given, given_Bqthw=whole[:, :, :num_given])
        assert torch.equal(rest, whole[:, :, num_given:])
    if model.max_frames:
        assert len(list(model.frames(made, greedy))) == frames
        assert list(model.frames(made, greedy, given_Bqthw=whole)) == []


def test_memory_stays_the_same() -> None:
    """Over five windows nothing grows, and the tensors stay where they are."""
    model = make("class")
    stream = model.stream(2, label_B=labels(model))
    frames = 5 * model.grid_thw[0]
    kept = stream.window.memory_L2RHdN
    assert kept.shape[-1] == math.prod(model.grid_thw)
    sizes = []
    for _ in range(frames):
        stream.take_frames(codes(model, frames=1))
        held = [value for value in vars(stream).values() if isinstance(value, Tensor)]
        sizes.append(sum(value.numel() for value in held) + stream.window.memory_L2RHdN.numel())
    assert len(set(sizes)) == 1
    assert stream.window.memory_L2RHdN.data_ptr() == kept.data_ptr()
    assert stream.logits().isfinite().all()


def test_what_fell_out_of_the_window_is_kept_only_through_later_codes() -> None:
    """One layer alone forgets a frame when the window has passed it, and not before."""
    model = make(num_layers=1)
    indices_Bqthw = codes(model, frames=6)
    changed = indices_Bqthw.clone()
    changed[:, :, 1] = (changed[:, :, 1] + 1) % model.codebook_size
    with torch.no_grad():
        moved = (model(indices_Bqthw) - model(changed)).abs().amax((0, 1, 3, 4, 5, 6))
    # The first step of frame 2 reads the last code of frame 1, and so on: frames 1 to 3 see it.
    assert moved[0] == 0
    assert (moved[1:4] > 0).all()
    assert (moved[4:] == 0).all()


@pytest.mark.parametrize("kind", ["class", "parallel"])
def test_guidance(kind: str) -> None:
    model = make(kind)
    indices_Bqthw, label_B = codes(model, frames=1), labels(model)
    assert label_B is not None

    def first(guidance: float, told_B: Tensor | None) -> Tensor:
        found = read(model.stream(2, label_B=told_B, guidance=guidance), model, indices_Bqthw)
        return torch.stack(list(found.values()))

    told, untold = first(1, label_B), first(1, None)
    assert (told - untold).abs().max() > 1e-3
    assert torch.equal(first(0, label_B), untold)
    torch.testing.assert_close(first(3, label_B), untold + 3 * (told - untold), rtol=1e-4, atol=1e-4)
    made = noise_of(model)
    plain = drawn(model, made, Sampling(), 2)
    assert torch.equal(plain, drawn(model, made, Sampling(guidance=1.0), 2))
    assert torch.equal(
        drawn(model, made, Sampling(top_k=1), 2), drawn(model, made, Sampling(temperature=0), 2)
    )


def test_the_same_symbols_give_the_same_bits() -> None:
    model = make("delay")
    indices_Bqthw = codes(model)
    one, other = (read(model.stream(2), model, indices_Bqthw) for _ in range(2))
    assert all(torch.equal(one[place], other[place]) for place in one)
    # Not asking for logits changes nothing.
    stream = model.stream(2)
    digits = model.digits.split(indices_Bqthw)
    for place in list(one)[:-1]:
        stream.push(digits[(slice(None), *place)])
    assert torch.equal(stream.logits(), one[list(one)[-1]])


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(kind: str) -> None:
    """Half precision stays near, as weights, as an option of a stream and under autocast."""
    model = make(kind)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    indices_Bqthw, label_B = codes(model), labels(model)
    exact = model(indices_Bqthw, label_B=label_B).detach()
    stream = model.stream(2, label_B=label_B, dtype=torch.bfloat16)
    stream.take_frames(indices_Bqthw[:, :, :1])
    found = read(stream, model, indices_Bqthw)
    for place, logits_BV in found.items():
        assert logits_BV.dtype == torch.float32
        torch.testing.assert_close(logits_BV, exact[(slice(None), *place)], rtol=0.05, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(indices_Bqthw, label_B=label_B)
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(model.loss(indices_Bqthw, label_B=label_B).item(), rel=0.02)
        half = read(model.stream(2, label_B=label_B), model, indices_Bqthw[:, :, :1])
    whole = read(model.stream(2, label_B=label_B), model, indices_Bqthw[:, :, :1])
    assert all(torch.equal(half[place], whole[place]) for place in whole)
    lowered = copy.deepcopy(model).bfloat16()
    made = drawn(lowered, noise_of(model), Sampling(), 3 if model.max_frames is None else 1)
    assert 0 <= made.min() <= made.max() < model.codebook_size


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns(kind: str) -> None:
    model = make(kind).train()
    indices_Bqthw, label_B = codes(model, frames=model.grid_thw[0]), labels(model)
    before = indices_Bqthw.clone()
    model.loss(indices_Bqthw, label_B=label_B).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    assert torch.equal(indices_Bqthw, before)


@pytest.mark.parametrize("kind", ["class", "delay"])
def test_learns_codes_by_heart(kind: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPTPrior(**TINY | KINDS[kind] | {"dropout": 0.0, "grid": [2, 2, 2]})
        indices_Bqthw, label_B = codes(model, frames=2), labels(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        losses = []
        for _ in range(40):
            optimizer.zero_grad()
            loss = model.loss(indices_Bqthw, label_B=label_B)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[0] == pytest.approx(math.log(model.codebook_size), rel=0.1)
    assert losses[-1] < 0.4 * losses[0]


def test_hidden_labels_come_from_the_generator() -> None:
    model = make("class", dropout=0.0, label_dropout=0.5).train()
    indices_Bqthw = codes(model, 8, frames=2)
    label_B = labels(model, 8)

    def loss(seed: int) -> float:
        drawn_by = torch.Generator().manual_seed(seed)
        return model.loss(indices_Bqthw, label_B=label_B, generator=drawn_by).item()

    state = torch.random.get_rng_state()
    assert loss(0) == loss(0)
    assert len({loss(seed) for seed in range(5)}) > 1
    assert torch.equal(torch.random.get_rng_state(), state)


def test_on_no_device() -> None:
    with torch.device("meta"):
        model = GPTPrior(**CLASSES)
        indices_Bqthw = torch.zeros(2, 1, *model.grid_thw, dtype=torch.int64)
        assert model(indices_Bqthw, label_B=torch.zeros(2, dtype=torch.int64)).shape[-2:] == (1, 2048)
        assert model.loss(indices_Bqthw).shape == ()
        assert 33e6 < sum(p.numel() for p in GPTPrior().parameters()) < 35e6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"grid": [2, 3]}, "grid"),
        ({"hidden_dim": 25}, "num_heads"),
        ({"hidden_dim": 6}, "even number"),
        ({"positions": "sine"}, "rope, learned"),
        ({"pattern": "flat"}, "parallel, delay"),
        ({"factors": 5}, "1 to 4 digits"),
        ({"label_dropout": 0.1}, "num_classes"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_layers": 0}, "num_layers"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        GPTPrior(**TINY | options)


def test_wrong_input_is_refused() -> None:
    model, told, learned = make(), make("class", label_dropout=0.0), make("learned")
    good = codes(model)
    made, sampling = noise_of(model), Sampling()
    with pytest.raises(PortError, match=r"codes of torch.int64 and shape"):
        model(good[..., :1])
    with pytest.raises(PortError, match=r"codes of torch.int64 and shape"):
        model(good[:, 0])
    with pytest.raises(PortError, match=r"\(B, 1, 1 to 3, "):
        learned(good)
    with pytest.raises(PortError, match="no classes"):
        model(good, label_B=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(PortError, match="got no label"):
        told(good)
    with pytest.raises(PortError, match="classes from 0 to 3"):
        told.stream(2, label_B=torch.tensor([0, 3]))
    with pytest.raises(ZooError, match="label_dropout"):
        told.stream(2, label_B=torch.tensor([0, 1]), guidance=2.0)
    with pytest.raises(ZooError, match="needs noise with label"):
        told.frames({"seed": made["seed"]}, sampling)
    with pytest.raises(PortError, match="got codes from"):
        model.frames(made, sampling, given_Bqthw=good + 11)
    with pytest.raises(PortError, match=r"it takes torch.int64 and \(2, "):
        model.frames(made, sampling, given_Bqthw=good[:1])
    with pytest.raises(PortError, match="outside"):
        model.stream(2).push(torch.tensor([0, 11]))
    with pytest.raises(PortError, match="2 clips"):
        model.stream(2).push(torch.tensor([0]))
