"""What parts refuse: clips, latents and options that do not fit, in a stream and outside of one.

Shapes: B batch, C colours, T H W frames and pixels.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zoo.checks import (
    is_power_of_two,
    require_clip,
    require_image_latents,
    require_images,
    require_latent,
    require_positive,
)
from zoo.errors import PortError, RecipeError
from zoo.streaming import Memory, streaming


class Encoder(nn.Module):
    """Only checks."""

    def __init__(self, *, lead_frame: bool) -> None:
        super().__init__()
        self.lead_frame = lead_frame

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """Return the clip."""
        require_clip("encoder mine", x_BCTHW, in_channels=3, stride=(4, 8, 16), lead_frame=self.lead_frame)
        return x_BCTHW


def frames(num: int) -> Tensor:
    return torch.zeros(1, 3, num, 8, 16)


@pytest.mark.parametrize(("lead_frame", "wanted"), [(True, r"T = 1 \+ k \* 4"), (False, r"T = k \* 4")])
def test_number_of_frames_follows_the_lead_frame(lead_frame: bool, wanted: str) -> None:
    encoder = Encoder(lead_frame=lead_frame)
    encoder(frames(4 + lead_frame))
    for num in (0, 3, 5 - lead_frame):
        with pytest.raises(PortError, match=wanted):
            encoder(frames(num))


def test_later_pieces_of_a_stream_have_no_lead_frame() -> None:
    encoder, memory = Encoder(lead_frame=True), Memory()
    with streaming(encoder, memory):
        encoder(frames(5))
    with streaming(encoder, memory):
        encoder(frames(4))
        with pytest.raises(PortError, match=r"with T = k \* 4 and H, W multiples of its stride 8, 16"):
            encoder(frames(5))


@pytest.mark.parametrize(
    "shape", [(1, 3, 4, 8, 8), (1, 3, 4, 4, 16), (1, 3, 4, 0, 16), (3, 4, 8, 16), (3, 4)]
)
def test_other_sizes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(PortError, match=r"encoder mine got a clip of shape \(.*it takes \(B, C, T, H, W\)"):
        Encoder(lead_frame=False)(torch.zeros(shape))


def test_images_latents_and_options_are_refused() -> None:
    with pytest.raises(PortError, match="encoder mine has in_channels=3 and got 1 channels"):
        Encoder(lead_frame=False)(frames(4)[:, :1])
    for shape in ((1, 3, 8, 8), (1, 3, 0, 16), (3, 8, 16)):
        with pytest.raises(PortError, match="multiples of its stride 8, 16"):
            require_images("encoder mine", torch.zeros(shape), in_channels=3, stride=(1, 8, 16))
    with pytest.raises(PortError, match=r"it takes \(B, D, t, h, w\) with D = 2 \* latent_dim = 6"):
        require_latent("quantizer mine", frames(1), latent_dim=6, meaning="2 * latent_dim")
    with pytest.raises(PortError, match=r"it takes \(B, D, t, h, w\) with D = 3"):
        require_latent("decoder mine", frames(0), latent_dim=3)
    with pytest.raises(PortError, match=r"it takes \(B, D, h, w\) with D = 3"):
        require_image_latents("decoder mine", frames(1), latent_dim=3)
    with pytest.raises(RecipeError, match="decoder mine: depth is 0; it must be at least 1"):
        require_positive("decoder mine", width=1, depth=0)
    assert [n for n in range(-1, 10) if is_power_of_two(n)] == [1, 2, 4, 8]


def test_checks_leave_one_graph() -> None:
    compiled = torch.compile(Encoder(lead_frame=True), fullgraph=True, backend="eager")
    assert compiled(frames(5)).shape == (1, 3, 5, 8, 16)
