"""Registry files are plain data, and every mistake is told with its line."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.discovery import catalogue, registry_path
from zoo.errors import RecipeError
from zoo.recipe_files import MAX_BYTES, merge, parse_yaml, read_registry, resolve

PARENT = """recipes:
  parent:
    summary: A parent.
    assembly: autoencoder
    encoder: {use: videogpt, hidden_dim: 16}
    quantizer:
      use: vq-ema
      codebook_size: 64
    decoder: videogpt
    train: {steps: 5, optimizer: {lr: 1e-4}}
    parameters: 7
"""


def registry(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return path


def test_every_built_in_recipe_is_valid() -> None:
    known = catalogue().recipes
    assert len(known) >= 9
    for source in read_registry(registry_path()).values():
        assert resolve(source, {}, known).recipe.summary


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipes:\n  a: &x {summary: s}\n  b: *x\n", r"mine.yaml:2: anchors and aliases"),
        ("recipes:\n  a: {summary: !!python/name:os.system x}\n", r"mine.yaml:2: the tag"),
        ("recipes:\n  a:\n    summary: s\n    summary: t\n", r"mine.yaml:4: the key 'summary' stands twice"),
        ("recipes:\n  a:\n    <<: {x: 1}\n", r"mine.yaml:3: merge keys"),
        ("recipes: {}\n---\nrecipes: {}\n", r"mine.yaml:2: a second document"),
        ("recipes:\n  a: [\n", r"mine.yaml:\d+: not valid YAML"),
        ("recipe:\n  a: {}\n", "one mapping 'recipes:'"),
        ("recipes:\n  A b: {}\n", r"mine.yaml:2: recipe name 'A b'"),
        ("recipes:\n  a: 3\n", r"mine.yaml:2: recipe 'a' must be a mapping"),
        ("recipes:\n  a: " + "[" * 40 + "]" * 40, r"mine.yaml:2: nested deeper"),
        ("recipes:\n  ? [a, b]\n  : 1\n", r"mine.yaml:2: a key must be a plain word"),
        ("x" * (MAX_BYTES + 1), "a registry file has at most"),
    ],
)
def test_what_is_not_plain_data_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        read_registry(registry(tmp_path, text))


@pytest.mark.parametrize(
    ("addition", "words"),
    [
        ("    sumary: x", r"mine.yaml:12: sumary: unknown field; did you mean 'summary'\?"),
        (
            "    clip: {num_frames: 0}",
            r"mine.yaml:12: clip.num_frames: .*greater than or equal to 1; found 0",
        ),
        ("    clip: {num_frames: true}", r"mine.yaml:12: clip.num_frames: .*valid integer; found True"),
        ("    clip: {fps: 1e-300}", r"clip.fps: .*greater than or equal to 0.01"),
        ("    clip: {height: 1000000000}", r"clip.height: .*less than or equal"),
        ("    clip: {fps: .nan}", r"mine.yaml:12: clip.fps"),
        (
            "    discriminator:\n      - patch3d\n      - {weight: 2}",
            r"mine.yaml:14: discriminator.1.use: is missing",
        ),
    ],
)
def test_schema_mistakes_have_a_line(tmp_path: Path, addition: str, words: str) -> None:
    found = read_registry(registry(tmp_path, PARENT + addition + "\n"))
    with pytest.raises(RecipeError, match=words):
        resolve(found["parent"], {}, found)


def test_inheritance_merges_same_parts_and_starts_others_clean(tmp_path: Path) -> None:
    child = """  child:
    extends: parent
    summary: A child.
    encoder: {num_heads: 4}
    quantizer: {use: fsq}
    train: {optimizer: {use: adam}}
"""
    found = read_registry(registry(tmp_path, PARENT + child))
    resolved = resolve(found["child"], {"quantizer": {"levels": [5, 5]}}, found)
    recipe = resolved.recipe
    assert recipe.encoder is not None
    assert recipe.encoder.options == {"hidden_dim": 16, "num_heads": 4}
    assert recipe.quantizer is not None
    assert (recipe.quantizer.use, recipe.quantizer.options) == ("fsq", {"levels": [5, 5]})
    assert (recipe.train.optimizer.use, recipe.train.optimizer.lr, recipe.train.steps) == ("adam", 1e-4, 5)
    assert recipe.parameters is None, "a count of the parent is not a count of the child"
    assert resolved.where("encoder", "num_heads") == "mine.yaml:15"
    assert resolved.where("train", "steps") == "mine.yaml:10"
    assert resolved.where("quantizer", "levels") == "override"


def test_another_augmentation_starts_clean() -> None:
    source = catalogue().source("gan-video-digan-tiny")

    def augment(change: Any) -> dict[str, Any]:
        overrides = {"train": {"objective": {"adversarial": {"augment": change}}}}
        adversarial = resolve(source, overrides, catalogue().recipes).recipe.train.objective.adversarial
        assert adversarial is not None
        assert adversarial.augment is not None
        return adversarial.augment.model_dump()

    assert augment({})["policy"] == ["color", "translation"]
    other = augment({"use": "ada", "adjust_clips": 20_000})
    assert (other["use"], other["adjust_clips"]) == ("ada", 20_000)
    assert "policy" not in other
    with pytest.raises(
        RecipeError, match=r"augment\.ada\.targt: .* 'target'\? Allowed: adjust_clips, color, "
    ):
        augment({"use": "ada", "targt": 0.5})


def test_one_of_several_discriminators_is_changed_by_its_number() -> None:
    source = catalogue().source("gan-video-base")
    recipe = resolve(source, {"discriminator": {"1": {"noise_sigma": 0.0}}}, catalogue().recipes).recipe
    assert [choice.options["noise_sigma"] for choice in recipe.discriminator] == [0.1, 0.0]
    with pytest.raises(RecipeError, match=r"there are 2 discriminators.*discriminator\.1\.weight"):
        resolve(source, {"discriminator": {"noise_sigma": 0.0}}, catalogue().recipes)


def test_a_thousand_recipes_are_read_quickly(tmp_path: Path) -> None:
    text = "recipes:\n" + "".join(f"  r{i}: {{extends: vqvae-video-tiny, summary: s}}\n" for i in range(1000))
    start = time.process_time()
    assert len(read_registry(registry(tmp_path, text))) == 1000
    assert time.process_time() - start < 1


def test_extends_is_checked(tmp_path: Path) -> None:
    circle = (
        PARENT
        + "  a: {extends: b, summary: s}\n  b: {extends: a, summary: s}\n  c: {extends: parnt, summary: s}\n"
    )
    found = read_registry(registry(tmp_path, circle))
    with pytest.raises(RecipeError, match=r"mine.yaml:13: extends goes in a circle .*a -> b -> a"):
        resolve(found["a"], {}, found)
    with pytest.raises(RecipeError, match=r"mine.yaml:14: extends 'parnt'.*did you mean 'parent'"):
        resolve(found["c"], {}, found)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("no", "no"),
        ("on", "on"),
        ("1_000", "1_000"),
        ("012", 12),
        ("~", None),
        ("'5'", "5"),
        ("-3", -3),
        ("False", False),
        ("TRUE", True),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: Any) -> None:
    assert parse_yaml(text, "x")[0] == value
    assert type(parse_yaml(text, "x")[0]) is type(value)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2),
    lambda inner: st.dictionaries(st.sampled_from(["train", "clip", "x"]), inner, max_size=3),
    max_leaves=8,
)


@given(
    base=st.dictionaries(st.sampled_from("abc"), plain), over=st.dictionaries(st.sampled_from("abc"), plain)
)
def test_merge_is_idempotent_and_keeps_its_inputs(base: dict[str, Any], over: dict[str, Any]) -> None:
    before = repr((base, over))
    once = merge(base, over)
    assert merge(once, over) == once
    assert merge(base, {}) == base
    assert set(once) == set(base) | set(over)
    assert repr((base, over)) == before
