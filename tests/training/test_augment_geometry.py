"""Resampling in augmentation: its short cuts agree with the long way, and it is differentiable twice."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zoo.training.augment import ada, geometry

NEUTRAL = {"scale": 1.0, "stretch": 1.0}
# What is drawn -> whether it goes axis by axis.
CHANGES = {
    "mirror": ({"mirror": 1.0}, True),
    "quarter": ({"quarters": 1.0}, True),
    "three quarters, shifted": ({"quarters": 3.0, "shift_x": 0.1, "drift_y": 0.07}, True),
    "scaled and stretched": ({"scale": 1.3, "stretch": 0.8}, True),
    "small and far away": ({"scale": 0.3, "drift_x": 0.9, "quarters": 2.0, "mirror": 1.0}, True),
    "out of sight": ({"scale": 0.2, "drift_x": 6.0}, True),
    "turned": ({"turn_before": 0.7, "scale": 0.9, "turn_after": -0.2}, False),
}


def matrix(changes: dict[str, float], height: int, width: int) -> Tensor:
    names = ada.draw_geometry(1, 0.0, generator=torch.Generator()).keys()
    drawn = {
        name: torch.tensor([changes.get(name, NEUTRAL.get(name, 0.0))], dtype=torch.float64) for name in names
    }
    return ada.inverse_matrix(drawn, height, width)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("size_HW", [(16, 23), (9, 8), (20, 20)], ids=str)
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_along_the_axes_is_the_limit_of_one_with_a_turn(name: str, size_HW: tuple[int, int]) -> None:
    changes, straight = CHANGES[name]
    x = noise(1, 2, 2, *size_HW)
    near = matrix({"turn_before": 1e-8} | changes, *size_HW)
    exact = matrix(changes, *size_HW)
    rows, columns = (geometry._Axis.of(size, 6, 6) for size in size_HW)
    assert isinstance(geometry._move(exact[0], rows, columns, x), geometry._Straight) == straight
    assert isinstance(geometry._move(near[0], rows, columns, x), geometry._Turned)
    torch.testing.assert_close(geometry.warp(x, exact), geometry.warp(x, near), atol=2e-5, rtol=0)


def test_unmoved_clips_are_returned_bit_for_bit_beside_others_and_whole_shifts_move_pixels() -> None:
    x = noise(3, 3, 2, 16, 24).float()
    moves = [{}, {"turn_before": 1.0}, {"shift_x": 2 / 24, "shift_y": -1 / 16}]
    out = geometry.warp(x, torch.cat([matrix(move, 16, 24) for move in moves]))
    assert torch.equal(out[0], x[0])
    assert float((out[1] - x[1]).abs().max()) > 0.5
    torch.testing.assert_close(out[2, ..., :-1, 2:], x[2, ..., 1:, :-2], atol=1e-5, rtol=0)
    # What comes in at the edge is the reflection, which does not repeat it.
    torch.testing.assert_close(out[2, ..., :-1, 0], x[2, ..., 1:, 2], atol=1e-5, rtol=0)


def test_first_and_second_derivatives_are_those_measured() -> None:
    inverse_B33 = torch.cat(
        [matrix(changes, 7, 8) for changes in ({}, {"quarters": 1.0, "scale": 1.2}, {"turn_before": 2.0})]
    )
    x = noise(3, 1, 2, 7, 8).requires_grad_()

    def curved(x: Tensor) -> Tensor:
        return geometry.warp(x, inverse_B33).sin()

    assert torch.autograd.gradcheck(curved, (x,), fast_mode=True)
    assert torch.autograd.gradgradcheck(curved, (x,), fast_mode=True)


def test_clips_and_gradients_are_moved_in_fp32_under_autocast() -> None:
    x = noise(1, 3, 2, 12, 12).float().requires_grad_()
    inverse_B33 = matrix({"turn_before": math.pi / 5}, 12, 12)

    def moved() -> tuple[Tensor, Tensor]:
        out = geometry.warp(x, inverse_B33)
        return out, torch.autograd.grad(out, x, x.detach())[0]

    plain = moved()
    with torch.autocast("cpu", torch.bfloat16):
        under = moved()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(under, plain, strict=True))
