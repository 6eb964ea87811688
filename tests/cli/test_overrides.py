"""``--set path=value``."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.cli.overrides import parse_overrides, parse_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("8", 8),
        ('"8"', "8"),
        ("fsq", "fsq"),
        ("[8,5,5,5]", [8, 5, 5, 5]),
        ("{use: fsq, levels: [8, 5]}", {"use": "fsq", "levels": [8, 5]}),
        ("null", None),
        ("true", True),
        ("no", "no"),
        ("12:30", "12:30"),
        ("a=b", "a=b"),
        ("", ""),
    ],
)
def test_a_value_means_what_it_means_in_a_recipe(text: str, value: Any) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        (["quantizer=fsq", "quantizer.levels=[8,5]"], {"quantizer": {"use": "fsq", "levels": [8, 5]}}),
        (["quantizer.levels=[8,5]", "quantizer=fsq"], {"quantizer": {"use": "fsq", "levels": [8, 5]}}),
        (["quantizer={use: fsq, levels: [8]}", "quantizer=vq-ema"], {"quantizer": "vq-ema"}),
        (
            ["train.optimizer.lr=1", "train.steps=2", "train.optimizer.lr=3"],
            {"train": {"optimizer": {"lr": 3}, "steps": 2}},
        ),
        (["train.objective.adversarial=null"], {"train": {"objective": {"adversarial": None}}}),
    ],
)
def test_words_merge_as_recipes_do(words: list[str], overrides: dict[str, Any]) -> None:
    assert parse_overrides(words) == overrides


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quantizer"], "is not PATH=VALUE"),
        (["quantizer..levels=1"], "is not PATH=VALUE"),
        (["quantiser=fsq"], "Did you mean quantizer"),
        (["device=cpu"], "a recipe has no field 'device'"),
        (["quantizer.levels=[8,5"], "cannot be read"),
        (["quantizer=&a fsq"], "anchors"),
        (["train=1", "train.steps=2"], "which another --set made 1"),
    ],
)
def test_a_word_that_is_wrong_says_what_to_write(words: list[str], message: str) -> None:
    with pytest.raises(click.UsageError, match="--set") as caught:
        parse_overrides(words)
    assert message in caught.value.message


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(-1e6, 1e6)
    | st.text("abcxyz -_:#'[]{}"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abcxyz", min_size=1), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(plain)
def test_every_json_value_is_read_back_as_itself(value: Any) -> None:
    assert parse_value(json.dumps(value)) == value
