"""Generators that make runs of whole frames: other times are refused, no step of a walk is taken twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import zoo
from zoo.errors import PortError

FAMILIES: dict[str, dict[str, Any]] = {
    "gan-video-tiny": {},
    "gan-video-mocogan-hd-tiny": {},
    "gan-video-r3gan-tiny": {},
    "gan-video-longvideogan-tiny": {},
    "gan-video-dvdgan-tiny": {"generator": {"attention": "none"}},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_other_times_are_refused(name: str) -> None:
    model: Any = zoo.build(name, seed=0, **FAMILIES[name]).eval()
    assert model.time == "frames"
    noise = model.draw_noise(2, num_frames=8)
    with torch.no_grad():
        assert model(noise, torch.tensor([[3.0, 4.0]] * 2)).shape[2] == 2
        for rows in (
            [[0.0, 2.0, 4.0]] * 2,  # not one after the other
            [[0.5, 1.5]] * 2,  # between frames
            [[0.0, 1.0], [4.0, 5.0]],  # other ones in each row
            [[0.0, 1.0]],  # one row for two clips
        ):
            with pytest.raises(PortError, match="makes runs of whole frames"):
                model(noise, torch.tensor(rows))
        for first in (-1.0, 7.0):
            with pytest.raises(PortError, match=r"frames|out of 0 to 7"):
                model(noise, torch.tensor([[first, first + 1]] * 2))


@pytest.mark.parametrize(
    ("name", "cell"), [("gan-video-tiny", "recurrent"), ("gan-video-mocogan-hd-tiny", "motion.cell")]
)
def test_a_clip_in_pieces_takes_each_step_of_its_walk_once(name: str, cell: str) -> None:
    model: Any = zoo.build(name, seed=0).eval()
    steps: list[None] = []
    model.generator.get_submodule(cell).register_forward_hook(lambda *_: steps.append(None))
    pieces = list(model.sample_pieces(1, num_frames=48, seed=3, piece=4))
    assert len(pieces) == 12
    assert len(steps) in (47, 48)
    assert torch.allclose(torch.cat(pieces, dim=2), model.sample(1, num_frames=48, seed=3), atol=1e-5)
