"""Every check passes on parts that keep its promise and fails on a part that breaks it."""

from __future__ import annotations

import pytest
import torch
from broken_parts import BROKEN, GOOD

import zoo.testing.state
from zoo.discovery import catalogue
from zoo.parts import KINDS, Part
from zoo.testing import EXPECTED, CheckSkipped, check_part, checks_for, run_check
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
    assert skipped <= {check.name for check in checks_for(part.kind) if check.may_skip}
    assert len(results) - len(skipped) >= EXPECTED[part.kind][1] >= 20


@pytest.mark.parametrize(
    ("kind", "check", "part", "manifest"),
    BROKEN,
    ids=[f"{kind}-{check}-{part.spec.target.partition(':')[2]}" for kind, check, part, _ in BROKEN],
)
def test_broken_part_fails_its_check(kind: str, check: str, part: Part, manifest: str | None) -> None:
    (found,) = [c for c in checks_for(part.kind) if c.name == check]
    result = run_check(found, part, manifest=manifest)
    assert result.status == "failed", f"{check} let {part.spec.target} pass"
    assert [line.partition(":")[0] for line in result.reason.splitlines()][:2] == ["promised", "found"]
    assert "\nto do: " in result.reason


def test_every_check_is_seen_to_fail() -> None:
    broken = {(kind, check) for kind, check, _, _ in BROKEN}
    functions = {c.run for kind in KINDS for c in checks_for(kind) if (kind, c.name) in broken}
    unseen = {(kind, c.name) for kind in KINDS for c in checks_for(kind) if c.run not in functions}
    assert unseen == set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_lost_check_is_noticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(checks_for(kind)) == EXPECTED[kind][0]
    monkeypatch.setattr(zoo.testing.state, "CHECKS", zoo.testing.state.CHECKS[:-1])
    with pytest.raises(AssertionError, match="expected"):
        checks_for(kind)


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
