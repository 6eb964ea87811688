"""The faster ways give the values of the plain ones, and step back where they may not be taken.

Shapes: B batch, C O channels, T H W frames and pixels.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import convolution
from zoo.convolution import add, doubled_conv2d, in_groups, in_pieces, memories, relu, silu
from zoo.streaming import lead_in, streaming


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (4, 7)])
def test_doubled_conv2d_is_repetition_then_convolution(size: tuple[int, int]) -> None:
    x, weight, bias = random(2, 3, *size), random(5, 3, 3, 3, seed=1), random(5, seed=2)
    plain = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    with torch.no_grad():
        torch.testing.assert_close(doubled_conv2d(x, weight, bias), plain)
    weight.requires_grad_()
    doubled_conv2d(x, weight, bias).sum().backward()
    assert weight.grad is not None
    assert bool(weight.grad.any())


def test_values_are_written_over_only_without_gradients() -> None:
    for function, plain in ((silu, F.silu), (relu, F.relu), (lambda x: add(x, x * 2), lambda x: 3 * x)):
        x = random(4)
        wanted = plain(x)
        kept = x.clone().requires_grad_()
        function(kept).sum().backward()
        assert torch.equal(kept.detach(), x)
        with torch.no_grad():
            found = function(x)
        assert found.data_ptr() == x.data_ptr()
        torch.testing.assert_close(found, wanted)


def test_groups_are_small_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "GROUP_BYTES", 100)
    sizes = []

    def run(x: Tensor) -> Tensor:
        sizes.append(len(x))
        return x + 1

    x = random(7, 2)
    with torch.no_grad():
        torch.testing.assert_close(in_groups(run, x, bytes_each=30), x + 1)
    assert sizes == [3, 2, 2]
    in_groups(run, x, bytes_each=30)
    assert sizes[3:] == [7]


class _Causal(nn.Module):
    """Two causal layers with a change of the number of frames between, each in pieces of its own."""

    causal = True

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Identity()
        self.second = nn.Identity()
        self.pieces = 0

    def forward(self, x_BTC: Tensor) -> Tensor:
        carried = memories(self, x_BTC, 2) or [None, None]

        def fine(x: Tensor) -> Tensor:
            self.pieces += 1
            padded = lead_in(self.second, x, 2, dim=1)
            return padded[:, 2:] * 2 + padded[:, 1:-1] - padded[:, :-2]

        def coarse(x: Tensor) -> Tensor:
            padded = lead_in(self.first, x, 1, dim=1, pad="repeat")
            doubled = (padded[:, 1:] + 3 * padded[:, :-1]).repeat_interleave(2, dim=1)
            return in_pieces(self, fine, doubled, memory=carried[1], bytes_each=60)

        return in_pieces(self, coarse, x_BTC, memory=carried[0], bytes_each=30)


@pytest.mark.parametrize("num_frames", [1, 2, 7])
def test_pieces_are_one_shot_inside_of_a_stream_too(num_frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "GROUP_BYTES", 100)
    part, x = _Causal(), random(2, num_frames, 3)
    plain = part(x)  # gradients are on, so it runs in one go
    assert part.pieces == 1
    with torch.no_grad():
        torch.testing.assert_close(part(x), plain, rtol=0, atol=1e-12)
        assert part.pieces == 1 + 2 * num_frames
        memory: dict[str, Tensor] = {}
        streamed = []
        for piece in x.split(2, dim=1):
            with streaming(part, memory):
                streamed.append(part(piece))
    torch.testing.assert_close(torch.cat(streamed, dim=1), plain, rtol=0, atol=1e-12)
