"""Bundled encoders x quantizers x decoders, alone, with a discriminator and under a prior, and generators.

Each combination (the ports admit them all) is built from the parts' own example options, trained for two real
steps and saved and loaded. A choice in which every part comes up is tried here, all are the slow test.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.assemblies import Assembly, Autoencoder, Gan, TokenPrior
from zoo.building import build
from zoo.discovery import DISTRIBUTION, catalogue
from zoo.errors import RecipeError
from zoo.parts import KINDS, Kind, Part
from zoo.ports import Ports
from zoo.recipes import Recipe
from zoo.testing import family_of
from zoo.testing.subject import Subject
from zoo.training.loop import training_step
from zoo.training.run import Labelled, start
from zoo.weights import load, save

Combination = tuple[Part, ...]


def _bundled(kind: Kind) -> list[Part]:
    return [part for part in catalogue().parts if part.kind == kind and part.distribution == DISTRIBUTION]


def _ports_admit(a: Ports, b: Ports) -> bool:
    """Whether encoder and decoder agree on stride and lead frame; projections join all latent widths."""
    return bool(a.stride == b.stride and (a.stride[0] == 1 or a.lead_frame == b.lead_frame))


def _players() -> list[Combination]:
    sides = [[(part, Subject(part).ports) for part in _bundled(kind)] for kind in ("encoder", "decoder")]
    pairs = [(a, b) for (a, of_a), (b, of_b) in itertools.product(*sides) if _ports_admit(of_a, of_b)]
    autoencoders = [(pair[0], quantizer, pair[1]) for pair in pairs for quantizer in _bundled("quantizer")]
    clips = [part for part in _bundled("generator") if family_of(part) == "generator"]
    return [*autoencoders, *((generator,) for generator in clips)]


def _some(players: list[Combination]) -> list[Combination]:
    """Every fifth, so that each pair of encoder and decoder comes up with three quantizers, ever others."""
    return [player for n, player in enumerate(players) if len(player) == 1 or (n + n // 15) % 5 == 0]


def _judged(players: list[Combination]) -> list[Combination]:
    """Each with one discriminator, in turn; a generator with every one."""
    judges = _bundled("discriminator")
    some = [(*player, judges[n % len(judges)]) for n, player in enumerate(players) if len(player) > 1]
    return some + [
        (*player, judge)
        for player in players
        if len(player) == 1
        for judge in judges
        if _size_admits(Subject(player[0]).ports, Subject(judge).ports)
    ]


def _size_admits(generator: Ports, judge: Ports) -> bool:
    """Whether the examples of a generator and a discriminator have a frame size in common."""
    if generator.size_HW is None or judge.size_HW is None:
        size_HW = generator.size_HW or judge.size_HW or judge.min_size[1:]
        return all(have >= need for have, need in zip(size_HW, judge.min_size[1:], strict=True))
    return bool(generator.size_HW == judge.size_HW)


def _priors(players: list[Combination]) -> tuple[list[Combination], list[Combination]]:
    """Each prior over a tokenizer of each of some quantizers; and pairs that the codebooks keep apart."""
    priors = [part for part in _bundled("generator") if family_of(part) == "prior"]
    tokenizers = [
        of_it[7 * n % len(of_it)]
        for n, name in enumerate(QUANTIZERS)
        for of_it in [[player for player in players if len(player) > 1 and player[1].name == name]]
    ]
    fit: list[Combination] = []
    refused: list[Combination] = []
    for tokenizer, prior in itertools.product(tokenizers, priors):
        several = Subject(tokenizer[1]).ports.num_codebooks > 1
        (refused if several and prior.name in ONE_CODEBOOK else fit).append((*tokenizer, prior))
    return fit, refused


QUANTIZERS = ("vq-ema", "fsq", "rvq", "lfq", "bsq")
"""Learnt and fixed codes, of one codebook and of several."""
ONE_CODEBOOK = ("videogpt",)
"""Priors over one codebook only, as published."""
PLAYERS = _players()
"""Every encoder x quantizer x decoder, and every generator of clips."""
FEW = _some(PLAYERS)
PRIORS, REFUSED = _priors(PLAYERS)
COMBINATIONS = [*FEW[::2], *_judged(FEW[1::2] + [player for player in FEW if len(player) == 1]), *PRIORS]
REST = [combination for combination in (*PLAYERS, *_judged(PLAYERS)) if combination not in COMBINATIONS]


LABELS = torch.tensor([0, 1])


def _name(combination: Combination) -> str:
    return "-".join(part.name for part in combination)


def _clip(combination: Combination) -> dict[str, int]:
    """A small clip of a size that generator and discriminator take."""
    T, H, W = 4, 16, 16
    for part in combination:
        ports = Subject(part).ports
        if part.kind == "discriminator":
            T, H, W = map(max, (T, H, W), ports.min_size)
            T = ports.num_frames if ports.num_frames and not ports.draws_frames else T
        if family_of(part) in ("generator", "discriminator") and ports.size_HW is not None:
            H, W = ports.size_HW
    return {"num_frames": T, "height": H, "width": W}


def _recipe(combination: Combination) -> Recipe:
    fields: dict[str, Any] = {part.kind: {"use": part.full_name, **part.spec.example} for part in combination}
    judged = "discriminator" in fields
    autoencoder = "encoder" in fields
    prior = autoencoder and "generator" in fields
    if judged and not autoencoder:  # both players have the same labels
        players = fields["generator"], fields["discriminator"]
        labels = min(player.get("num_classes", 0) for player in players)
        for player in players:
            player |= {"num_classes": labels} if "num_classes" in player else {}
    objective: dict[str, Any] = {"adversarial": {"loss": "hinge"}} if judged or not autoencoder else {}
    if autoencoder:
        objective |= {"tokens": {}} if prior else {"reconstruction": {"loss": "l1"}, "quantizer": {}}
        fields |= {"pre_quant": "conv1x1x1", "post_quant": "conv1x1x1"}
    if prior:
        told = ("codebook_size", "num_codebooks", "latent_dim", "grid")
        fields["generator"] = {k: v for k, v in fields["generator"].items() if k not in told}
    return Recipe.model_validate(
        {
            "summary": "A combination.",
            "assembly": "token-prior" if prior else "autoencoder" if autoencoder else "gan",
            "clip": _clip(combination),
            "train": {"batch_size": 2, "objective": objective},
            **fields,
        }
    )


def _seen(model: Assembly, x_BCTHW: torch.Tensor) -> list[torch.Tensor]:
    """What a model makes, and what its discriminators say of it."""
    with torch.no_grad():
        made = model.reconstruct(x_BCTHW) if isinstance(model, Autoencoder) else model.sample(2, seed=3)
        if isinstance(model, TokenPrior):
            loss = model.loss(x_BCTHW, label_B=LABELS, generator=torch.Generator().manual_seed(2))
            return [made, loss]
        return [made, *(logits for judged in model.judge(made, label_B=LABELS) for logits in judged.logits)]


@pytest.mark.parametrize("combination", COMBINATIONS, ids=_name)
def test_combination(combination: Combination, tmp_path: Path) -> None:
    builds_trains_and_loads(combination, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("combination", REST, ids=_name)
def test_combination_of_the_rest(combination: Combination, tmp_path: Path) -> None:
    builds_trains_and_loads(combination, tmp_path)


def builds_trains_and_loads(combination: Combination, tmp_path: Path) -> None:
    recipe = _recipe(combination)
    size = recipe.clip.num_frames, recipe.clip.height, recipe.clip.width
    model = build(recipe, seed=0)
    assert isinstance(
        model, {"autoencoder": Autoencoder, "gan": Gan, "token-prior": TokenPrior}[recipe.assembly]
    )
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    clips = [Labelled(torch.rand(2, 3, *size, generator=generator) * 2 - 1, LABELS) for _ in range(3)]

    judged = len(model.discriminator) > 0
    if recipe.assembly == "gan" and not judged:
        assert model.sample(1).shape == (1, 3, *size)
    else:
        run = start(model, torch.device("cpu"))
        for _ in range(2):
            numbers = training_step(run, iter(clips))
            assert all(math.isfinite(float(number)) for number in numbers.values()), numbers
        fields = {
            name.partition(".")[0]
            for name, value in model.named_parameters()
            if not torch.equal(value, before[name])
        }
        learns = {name.partition(".")[0] for name, value in model.named_parameters() if value.requires_grad}
        assert fields == learns

    model.eval()
    loaded = load(save(model, tmp_path / "model"))
    for a, b in zip(_seen(model, clips[2].x_BCTHW), _seen(loaded, clips[2].x_BCTHW), strict=True):
        assert torch.equal(a, b)
    assert loaded.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("combination", REFUSED, ids=_name)
def test_a_prior_of_one_codebook_refuses_several(combination: Combination) -> None:
    with pytest.raises(RecipeError, match=r"num_codebooks is [2-9].* one codebook"):
        build(_recipe(combination), seed=0)


def test_combinations_are_counted(record_property: Callable[[str, object], None]) -> None:
    tried = {(part.kind, part.name) for combination in COMBINATIONS for part in combination}
    assert tried == {(part.kind, part.name) for kind in KINDS for part in _bundled(kind)}
    assert len(COMBINATIONS) >= 100
    told = f"{len(COMBINATIONS)} combinations of bundled parts build, train and load here"
    record_property("told", f"{told}, {len(REST)} more as slow tests")
