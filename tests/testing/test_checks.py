"""Every check passes on parts that keep its promise and fails on a part that breaks it."""

from __future__ import annotations

import pytest
import torch
from broken_parts import BROKEN, GOOD, part

import zoo.testing.state
from zoo.discovery import catalogue
from zoo.parts import Part
from zoo.testing import EXPECTED, FAMILIES, CheckSkipped, Family, check_part, checks_for, family_of, run_check
from zoo.testing.discriminator import check_double_backward_under_autocast
from zoo.testing.results import Check
from zoo.testing.subject import Subject


@pytest.mark.parametrize("part", GOOD, ids=lambda part: part.spec.target)
def test_good_part_passes_every_check(part: Part) -> None:
    results = check_part(part, slow=True, manifest="light_manifest" if part.name == "quantizer" else None)
    assert [(r.check, r.reason) for r in results if r.status == "failed"] == []
    for result in results:
        assert result.status == "passed" or result.reason
    skipped = {result.check for result in results if result.status == "skipped"}
    family = family_of(part)
    assert skipped <= {check.name for check in checks_for(family) if check.may_skip}
    assert len(results) - len(skipped) >= EXPECTED[family][1] >= 20


@pytest.mark.parametrize(
    ("family", "check", "part", "manifest"),
    BROKEN,
    ids=[f"{family}-{check}-{part.spec.target.partition(':')[2]}" for family, check, part, _ in BROKEN],
)
def test_broken_part_fails_its_check(family: Family, check: str, part: Part, manifest: str | None) -> None:
    assert family_of(part) == family
    (found,) = [c for c in checks_for(family) if c.name == check]
    result = run_check(found, part, manifest=manifest)
    assert result.status == "failed", f"{check} let {part.spec.target} pass"
    assert [line.partition(":")[0] for line in result.reason.splitlines()][:2] == ["promised", "found"]
    assert "\nto do: " in result.reason


def test_every_check_is_seen_to_fail() -> None:
    broken = {(family, check) for family, check, _, _ in BROKEN}
    every = [(family, check) for family in FAMILIES for check in checks_for(family)]
    functions = {check.run for family, check in every if (family, check.name) in broken}
    unseen = {(family, check.name) for family, check in every if check.run not in functions}
    assert unseen == set()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lost_check_is_noticed(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(checks_for(family)) == EXPECTED[family][0]
    monkeypatch.setattr(zoo.testing.state, "CHECKS", zoo.testing.state.CHECKS[:-1])
    with pytest.raises(AssertionError, match="expected"):
        checks_for(family)


def test_a_part_that_cannot_be_imported_fails_its_checks() -> None:
    gone = part("generator", "good_parts:Gone")
    results = check_part(gone)
    assert family_of(gone) == "generator"
    assert {result.check for result in results if result.status == "failed"} >= {"example_builds", "shapes"}
    assert all("good_parts:Gone" in result.reason for result in results if result.check == "example_builds")


def test_a_check_that_always_skips_fails() -> None:
    def skip(subject: object) -> None:
        raise CheckSkipped("not today")

    result = run_check(Check("lazy", "Nothing", skip), GOOD[0])
    assert result.status == "failed"
    assert "not today" in result.reason
    assert run_check(Check("lazy", "Nothing", skip, may_skip=True), GOOD[0]).status == "skipped"


def test_the_penalty_under_autocast_is_told_by_the_part_alone() -> None:
    """oneDNN leaves garbage in bf16 weight gradients of strided 3D convolutions where memory held some."""
    subject = Subject(catalogue().find("discriminator", "mocogan-hd-video"))
    for _ in range(30):
        held = [torch.full((size,), torch.nan) for size in range(500, 60_000, 700)]
        del held
        check_double_backward_under_autocast(subject)
