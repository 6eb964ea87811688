"""Where a place is in time, height and width: rotations of queries and keys, or learned vectors.

Shape legend: N places in order, S steps of a frame, d width of a head, D width.
"""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor, nn

_LONGEST = 10_000.0


class Rotation:
    """3D rotary positions (https://arxiv.org/abs/2104.09864): a head's channels are shared out to the axes.

    What a query and a key make of each other depends on how far apart they are only, so a window can slide.

    The key of the very first entry, which is the start and no code, is 0: it is the same from any place,
    however far from it, and stays when the window slides. Attention keeps the sink that it learnt to have
    there (https://arxiv.org/abs/2309.17453).

    Args:
        head_dim: Width of a head, even and 6 or more.
        num_steps: Steps of a frame.
        width: Steps of a row.
    """

    def __init__(self, head_dim: int, num_steps: int, width: int) -> None:
        pairs = head_dim // 2
        space = pairs // 3
        self._pairs = (pairs - 2 * space, space, space)
        self._num_steps = num_steps
        self._width = width

    def tables(
        self, first_frame: int, num_frames: int, *, device: torch.device, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Return cos and sin, (2, N, d) each, for queries and keys of frames; see `rotate`."""
        # In float64 a moment stays exact however late it is.
        step_S = torch.arange(self._num_steps, device=device)
        frame_t = torch.arange(first_frame, first_frame + num_frames, device=device)
        axes = (
            repeat(frame_t, "t -> (t s)", s=self._num_steps),
            (step_S // self._width).repeat(num_frames),
            (step_S % self._width).repeat(num_frames),
        )
        angles = []
        for place_N, pairs in zip(axes, self._pairs, strict=True):
            power = torch.arange(pairs, device=device, dtype=torch.float64) / pairs
            angles.append(place_N[:, None] * _LONGEST**-power)
        angle = torch.cat(angles, dim=-1)
        cos = torch.cat([angle.cos(), angle.cos()], dim=-1).expand(2, -1, -1).clone()
        sin = torch.cat([-angle.sin(), angle.sin()], dim=-1).expand(2, -1, -1).clone()
        if first_frame == 0:
            cos[1, 0] = 0
            sin[1, 0] = 0
        return cos.to(dtype), sin.to(dtype)


def rotate(x_d: Tensor, cos_d: Tensor, sin_d: Tensor) -> Tensor:
    """Rotate pairs of channels, of which one is in the first half and one in the second."""
    return torch.addcmul(x_d * cos_d, x_d.roll(x_d.shape[-1] // 2, -1), sin_d)


class Learned(nn.Module):
    """Learned positions: the sum of a vector for the frame, one for the row and one for the column.

    Args:
        num_frames: Frames.
        num_steps: Steps of a frame.
        width: Steps of a row.
        dim: Width.
    """

    def __init__(self, num_frames: int, num_steps: int, width: int, dim: int) -> None:
        super().__init__()
        self.num_steps = num_steps
        sizes = (num_frames, -(-num_steps // width), min(width, num_steps))
        self.axes = nn.ParameterList(nn.Parameter(torch.randn(size, dim) * 0.02) for size in sizes)

    def forward(self, num_frames: int) -> Tensor:
        """Return the positions_ND of the first frames."""
        t, h, w = self.axes
        plane_SD = (h[:, None] + w[None]).flatten(0, 1)[: self.num_steps]
        return (t[:num_frames, None] + plane_SD).flatten(0, 1)
