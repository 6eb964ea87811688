"""Keys and values of the last frames of a stream, in memory that is allocated once.

Shape legend: L layers, R rows, H heads, d width of a head, N places, S steps of a frame, n places at once.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Window:
    """Which places of a stream are kept, and where.

    The first entry is the start and stays. An entry is what is read at one step: the codes of the step
    before. Those of whole frames are dropped together: a step of frame i sees the start, the t - 1 frames
    before and its own so far, as many as in training. The newest frame lies last, in order; once the window
    is full it moves to the place of the oldest when it is whole, which costs one frame's copy a frame.

    Channels come before places in memory, as one query then reads keys and values fastest.

    Args:
        num_layers: Layers, L.
        num_rows: Rows, R.
        num_heads: Heads, H.
        head_dim: Width of a head, d.
        num_frames: Frames of the window, t.
        num_steps: Steps of a frame, S.
        like: A tensor of the device and dtype.

    Attributes:
        length: Entries there is room for: t * S, however long the stream is.
    """

    def __init__(
        self,
        num_layers: int,
        num_rows: int,
        num_heads: int,
        head_dim: int,
        *,
        num_frames: int,
        num_steps: int,
        like: Tensor,
    ) -> None:
        self.num_frames = num_frames
        self.num_steps = num_steps
        self.length = num_frames * num_steps
        # A window of one frame never sees the last code of the frame before; it is written beyond the others.
        room = self.length + int(num_frames == 1)
        self.memory_L2RHdN = like.new_zeros(num_layers, 2, num_rows, num_heads, head_dim, room)
        flat = self.memory_L2RHdN.flatten(2, 3)
        self.layers = [
            (flat[n, 0], flat[n, 1], self.memory_L2RHdN[n].transpose(0, 1)) for n in range(num_layers)
        ]
        """Of each layer: keys (R H, d, N), values (R H, d, N), and both as (R, 2, H, d, N) to write to."""

    def base(self, frame: int) -> int:
        """Return where the entries of a frame's steps lie, but for its first once the window is full."""
        return min(frame, self.num_frames - 1) * self.num_steps

    def first_place(self, frame: int) -> int:
        """Return where the first entry of a frame is to be written."""
        if frame < self.num_frames:
            return frame * self.num_steps
        return (self._oldest(frame) + 1) * self.num_steps if self.num_frames > 1 else self.length

    def slide(self, frame: int) -> None:
        """Make room for a frame, whose first entry, the last of the frame before, is not yet there."""
        if frame < self.num_frames or self.num_frames == 1:
            return
        start, length = 1 + self._oldest(frame) * self.num_steps, self.num_steps - 1
        last = 1 + self.base(frame)
        newest = self.memory_L2RHdN[..., last : last + length]
        self.memory_L2RHdN[..., start : start + length] = newest

    def _oldest(self, frame: int) -> int:
        return (frame - self.num_frames) % (self.num_frames - 1)


def window_mask(num_frames: int, window: int, num_steps: int, device: torch.device) -> Tensor | None:
    """Return mask_NN, True where a step sees an entry, of more frames than the window; None for fewer."""
    if num_frames <= window:
        return None
    place_N = torch.arange(num_frames * num_steps, device=device)
    frame_N = place_N // num_steps
    of_entry_N = (place_N - 1) // num_steps
    in_window_NN = of_entry_N[None] > frame_N[:, None] - window
    in_window_NN[:, 0] = True
    return in_window_NN & (place_N[None] <= place_N[:, None])
