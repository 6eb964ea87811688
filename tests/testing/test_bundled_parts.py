"""Every bundled part keeps the contract, by the suite that third parties run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from zoo.discovery import DISTRIBUTION, catalogue
from zoo.errors import UnknownNameError
from zoo.parts import KINDS, Part
from zoo.testing import EXPECTED, FAMILIES, check_part, check_plugin, checks_for, family_of, run_check

BUNDLED = [part for part in catalogue().parts if part.distribution == DISTRIBUTION]


@pytest.mark.parametrize("part", BUNDLED, ids=lambda part: f"{part.kind}-{part.full_name}")
def test_bundled_part(part: Part, record_property: Callable[[str, object], None]) -> None:
    results = check_part(part)
    assert [(r.check, r.reason) for r in results if r.status == "failed"] == []
    ran = Counter(result.status for result in results)
    # The manifest's check can only be skipped by a part that no installed plugin offers.
    assert ran["passed"] >= EXPECTED[family_of(part)][1] + 1 >= 21
    told = f"{part.kind} {part.full_name}: {ran['passed']} checks passed, {ran['skipped']} skipped"
    record_property("told", told)


@pytest.mark.slow
@pytest.mark.parametrize("part", BUNDLED, ids=lambda part: f"{part.kind}-{part.full_name}")
def test_bundled_part_compiles_and_exports(part: Part) -> None:
    results = [run_check(check, part) for check in checks_for(family_of(part)) if check.slow]
    assert [(r.check, r.reason) for r in results if r.status != "passed"] == []


def test_every_kind_is_bundled() -> None:
    assert {part.kind for part in BUNDLED} == set(KINDS)
    assert {family_of(part) for part in BUNDLED} == set(FAMILIES)


def test_names_of_parts_and_plugins() -> None:
    told = []
    results = check_plugin("vqvae:fsq", progress=told.append)
    assert results == told
    assert {(result.kind, result.part) for result in results} == {("quantizer", "vqvae:fsq")}
    assert len(results) == EXPECTED["quantizer"][0]
    with pytest.raises(UnknownNameError, match=r"'vqva'.*Did you mean 'vqvae'"):
        check_plugin("vqva")
