"""From a name to a model: everything is checked before a weight is allocated."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY

import zoo
from zoo.building import plan, resolve_recipe
from zoo.discovery import catalogue
from zoo.errors import PortError, RecipeError, UnknownNameError, ZooError


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_recipe_builds_with_the_stated_number_of_parameters(name: str) -> None:
    model = zoo.build(name, device="meta")
    assert model.name == name
    assert model.recipe.parameters == model.num_parameters()


def test_a_word_swaps_a_part() -> None:
    model = zoo.build("vqvae-video-tiny", quantizer="fsq", device="meta")
    assert type(model.quantizer).__name__ == "FSQ"
    assert model.recipe.quantizer is not None
    assert model.recipe.quantizer.options == {}
    assert model.recipe.parameters is None
    same = zoo.build("vqvae-video-tiny", quantizer={"codebook_size": 32}, device="meta")
    assert same.quantizer.codebook_size == 32
    assert same.quantizer.latent_dim == 64


def test_a_seed_fixes_the_weights_and_leaves_the_global_generator() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (zoo.build(TINY, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert any(not torch.equal(t, other.state_dict()[n]) for n, t in first.state_dict().items())
    assert not first.training


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        ({"quantizer": "fsqq"}, UnknownNameError, r"no quantizer is called 'fsqq'; did you mean 'fsq'"),
        (
            {"quantizer": {"levels": [8]}},
            RecipeError,
            r"'vq-ema' has no option 'levels'. Options: codebook_size=",
        ),
        ({"encoder": {"hidden": 8}}, RecipeError, r"no option 'hidden'; did you mean 'hidden_dim'\?"),
        ({"encoder": {"hidden_dim": "64"}}, RecipeError, r"option hidden_dim: .*valid integer; found '64'"),
        ({"encoder": {"hidden_dim": True}}, RecipeError, r"option hidden_dim: .*valid integer; found True"),
        ({"encoder": {"stride": [2, 4.5, 4]}}, RecipeError, r"option stride: .*valid integer"),
        ({"encoder": {"stride": [3, 3, 3]}}, ZooError, r"encoder 'videogpt'"),
        (
            {"decoder": {"stride": [2, 2, 2]}},
            PortError,
            r"by 2x4x4 but decoder 'videogpt' grows them by 2x2x2",
        ),
        (
            {"pre_quant": None},
            PortError,
            r"emits 8 latent channels but quantizer 'vq-ema' takes 4; set `pre_quant",
        ),
        ({"clip": {"channels": 1}}, PortError, r"clips have 1 channels but encoder 'videogpt' takes 3"),
        ({"encoder": None}, RecipeError, r"is made of encoder, quantizer, decoder; encoder is missing"),
        ({"generator": "mocogan"}, RecipeError, r"has no place for generator"),
        ({"assembly": "gan"}, RecipeError, r"generator is missing"),
        ({"discriminator": "mocogan-video"}, PortError, r"smaller than the"),
    ],
)
def test_what_does_not_fit_is_told_in_a_sentence(
    overrides: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        zoo.build(TINY, **overrides)


def test_a_huge_model_that_does_not_fit_is_refused_at_once() -> None:
    huge = {"hidden_dim": 8192, "num_residual_blocks": 8}
    zoo.list_models()
    start = time.perf_counter()
    with pytest.raises(PortError, match="8192 latent channels"):
        zoo.build(TINY, encoder=huge, decoder=huge, pre_quant=None)
    assert time.perf_counter() - start < 10
    sizes = [sum(p.numel() for p in _meta_part(kind, huge).parameters()) for kind in ("encoder", "decoder")]
    assert sum(sizes) > 7e9


def _meta_part(kind: Any, options: dict[str, Any]) -> torch.nn.Module:
    with torch.device("meta"):
        return zoo.build_part(kind, "videogpt", **options)


def test_an_error_names_the_line_of_the_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "recipes:\n  mine:\n    extends: vqvae-video-tiny\n    summary: Mine.\n\n"
        "    decoder: {stride: [2, 2, 2]}\n"
    )
    with pytest.raises(PortError, match=r"^mine.yaml:6: encoder 'videogpt' shrinks"):
        zoo.build(path)
    with pytest.raises(PortError, match=r"^mine.yaml:6: "):
        zoo.build(str(path))


def test_a_recipe_of_no_file_extends_nothing_unknown() -> None:
    with pytest.raises(RecipeError, match=r"^extends 'nothing', which is not known"):
        resolve_recipe({"extends": "nothing", "summary": "s"})


def test_plans_allocate_nothing_and_know_who_provides() -> None:
    checked = plan("vqgan-video-base")
    assert [p.field for p in checked.parts] == ["encoder", "quantizer", "decoder", "discriminator.0"]
    assert {p.part.plugin for p in checked.parts} == {"vqvae", "gan"}


def test_build_part_checks_kind_name_and_options() -> None:
    assert zoo.build_part("quantizer", "vqvae:fsq", levels=[5, 5]).latent_dim == 2
    with pytest.raises(UnknownNameError):
        zoo.build_part("quantizer", "videogpt")
    with pytest.raises(RecipeError, match="has no option"):
        zoo.build_part("quantizer", "fsq", codebook=5)


def test_every_part_has_a_paper_or_licence_and_a_one_line_summary() -> None:
    for part in catalogue().parts:
        assert part.spec.license, part.full_name
        assert "\n" not in part.spec.summary
