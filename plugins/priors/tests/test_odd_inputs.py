"""What all priors do with odd input: it is refused in words, or means what it says."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor

from zoo.building import build_part
from zoo.errors import PortError, ZooError
from zoo.sampling import Chance, Sampling, shaped

SMALL = {"grid": [2, 3, 4], "codebook_size": 12, "num_layers": 1, "num_heads": 2, "num_classes": 3}
PRIORS: dict[str, dict[str, Any]] = {
    "gpt": {**SMALL, "hidden_dim": 24, "label_dropout": 0.2},
    "maskgit": {**SMALL, "hidden_dim": 16, "mlp_dim": 16, "grid": [3, 4, 4]},
    "videogpt": {**SMALL, "hidden_dim": 12, "latent_dim": 4},
}
each_prior = pytest.mark.parametrize("name", PRIORS)


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return build_part("generator", name, **PRIORS[name] | options)


def codes(prior: Any, num: int = 2) -> Tensor:
    shape = (num, 1, *prior.grid_thw)
    return torch.randint(prior.codebook_size, shape, generator=torch.Generator().manual_seed(1))


def noise(prior: Any, num: int = 2) -> dict[str, Tensor]:
    drawn: dict[str, Tensor] = prior.draw_noise(num, 1, generator=torch.Generator().manual_seed(2))
    return drawn


def made(prior: Any, told: dict[str, Tensor], num: int = 1, **sampling: Any) -> Tensor:
    return torch.stack(list(islice(prior.frames(told, Sampling(**sampling)), num)), 2)


LABELS = torch.tensor([0, 2])
WRONG_CODES: dict[str, Callable[[Tensor], Tensor]] = {
    "beyond the codebook": lambda codes: codes + 11,
    "below 0": lambda codes: codes - 12,
    "int32": lambda codes: codes.int(),
    "uint8": lambda codes: codes.to(torch.uint8),
    "bool": lambda codes: codes.bool(),
    "float": lambda codes: codes.float(),
    "no batch": lambda codes: codes[0],
    "two codebooks": lambda codes: codes.repeat(1, 2, 1, 1, 1),
    "narrow": lambda codes: codes[..., :1],
}


@each_prior
@pytest.mark.parametrize("wrong", WRONG_CODES)
def test_wrong_codes_are_refused_wherever_they_go_in(name: str, wrong: str) -> None:
    prior = make(name)
    bad = WRONG_CODES[wrong](codes(prior))
    calls = [
        lambda: prior(bad, label_B=LABELS),
        lambda: prior.loss(bad, label_B=LABELS),
        lambda: prior.frames(noise(prior), Sampling(), given_Bqthw=bad),
    ]
    if name == "maskgit":
        calls.append(
            lambda: prior.fill(bad, torch.ones_like(bad, dtype=torch.bool), noise(prior), Sampling())
        )
    for call in calls:
        with pytest.raises(PortError, match="got codes"):
            call()


@each_prior
@pytest.mark.parametrize(
    "labels",
    [torch.tensor([0, 4]), torch.tensor([0, -2]), torch.tensor([0.0, 1.0]), torch.tensor([1])],
    ids=["beyond", "below", "float", "too few"],
)
def test_wrong_labels_are_refused(name: str, labels: Tensor) -> None:
    prior = make(name)
    for call in (
        lambda: prior(codes(prior), label_B=labels),
        lambda: prior.train().loss(codes(prior), label_B=labels),
        lambda: made(prior.eval(), noise(prior) | {"label": labels}),
    ):
        with pytest.raises(PortError, match=r"got (labels|classes)"):
            call()


@each_prior
def test_wrong_noise_is_refused(name: str) -> None:
    prior = make(name)
    good = noise(prior)
    with pytest.raises(ZooError, match=r"needs noise with .*seed; it has label"):
        prior.frames({"label": good["label"]}, Sampling())
    with pytest.raises(PortError, match=r"got seeds of torch\.float32"):
        prior.frames(good | {"seed": good["seed"].float()}, Sampling())
    with pytest.raises(PortError, match="got codes"):
        prior.frames(good, Sampling(), given_Bqthw=codes(prior, 1))


@each_prior
def test_no_clips_are_none(name: str) -> None:
    prior = make(name)
    nothing = codes(prior, 0)
    assert len(prior(nothing, label_B=LABELS[:0])) == 0
    assert len(made(prior, noise(prior, 0), 2)) == 0
    prior.loss(nothing, label_B=LABELS[:0])
    if name == "maskgit":
        assert prior.fill(nothing, nothing > 0, noise(prior, 0), Sampling()).shape == nothing.shape


@each_prior
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0}, {"top_k": 3, "top_p": 0.9, "min_p": 0.1}])
def test_odds_that_are_not_finite_make_no_codes(name: str, sampling: dict[str, Any]) -> None:
    prior = make(name)
    with torch.no_grad():
        for weight in prior.parameters():
            weight.fill_(torch.nan)
    with pytest.raises(ZooError, match="not finite; its training has diverged"):
        made(prior, noise(prior), **sampling)
    if name == "maskgit":
        with pytest.raises(ZooError, match="not finite; its training has diverged"):
            prior.fill(codes(prior), codes(prior) < 0, noise(prior), Sampling(**sampling))


@pytest.mark.parametrize("temperature", [0, 1e-45, 1e-30, 1e-7])
def test_the_coldest_temperatures_take_the_likeliest_code(temperature: float) -> None:
    logits = torch.tensor([[1.0, 3.0, -torch.inf, 2.0], [5.0, 0.0, 1.0, -1.0]])
    odds = shaped(logits, Sampling(temperature=temperature))
    assert torch.equal(odds, torch.tensor([[0.0, 1, 0, 0], [1, 0, 0, 0]]))


@each_prior
def test_cuts_beyond_the_codebook_change_nothing(name: str) -> None:
    prior = make(name)
    plain = made(prior, noise(prior), 2)
    assert torch.equal(made(prior, noise(prior), 2, top_k=10**9, top_p=1.0, min_p=0.0), plain)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("gpt", {"label_dropout": 0.0}),
        ("gpt", {"label_dropout": 0.0, "num_classes": 0}),
        ("maskgit", {"num_classes": 0}),
        ("maskgit", {"label_dropout": 0.0, "tasks": ["class_generation", "frame_prediction"]}),
        ("videogpt", {}),
    ],
)
def test_no_guidance_without_what_it_needs(name: str, options: dict[str, Any]) -> None:
    prior = make(name, **options)
    with pytest.raises(ZooError, match="cannot be guided: guidance is 2"):
        made(prior, noise(prior), guidance=2.0)
    made(prior, noise(prior))


def test_what_is_known_has_the_shape_of_the_codes() -> None:
    prior = make("maskgit")
    x, told = codes(prior), noise(prior)
    with pytest.raises(PortError, match=r"which codes are known as \(2, 1, 3, 4, 3\)"):
        prior.fill(x, torch.ones(2, 1, 3, 4, 3, dtype=torch.bool), told, Sampling())
    for known in (torch.ones(1, 1, 1, 1, 1), torch.ones_like(x)):  # numbers are true but for 0
        assert torch.equal(prior.fill(x, known, told, Sampling()), x)
    for num in (1, 3):
        with pytest.raises(PortError, match="got codes"):
            prior.fill(x, x < 0, noise(prior, num), Sampling())


def test_a_draw_of_no_clips_has_the_shape_of_others() -> None:
    assert Chance(torch.zeros(0, dtype=torch.int64)).uniform(3, 2).shape == (0, 3, 2)
    two = Chance(torch.tensor([4, 5]))
    assert two.uniform().shape == (2,)
    assert torch.equal(Chance(torch.tensor([5])).uniform(7)[0], Chance(torch.tensor([4, 5])).uniform(7)[1])
