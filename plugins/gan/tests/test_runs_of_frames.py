"""Generators that make runs of whole frames refuse all other times, rather than to make other frames."""

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
