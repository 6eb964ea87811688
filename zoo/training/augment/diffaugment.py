"""DiffAugment: colour, translation, cutout (https://arxiv.org/abs/2006.10738), for clips; and their speed.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from zoo.outputs import take_frames
from zoo.ranks import shared_draw
from zoo.training.augment.base import Augment, split_colors

TRANSLATION_SHARE = 0.125
"""Largest shift, as a share of the frame."""
CUTOUT_SHARE = 0.5
"""Side of the cut, as a share of the frame."""
MOST_SPEED = 2.0
"""How many times slower or faster a clip becomes at most."""


class DiffAugment(Augment):
    """Apply the changes of a policy, in its order, to every clip.

    - "color": brightness + U[-0.5, 0.5], then saturation * U[0, 2], then contrast * U[0.5, 1.5] about the
      mean of the whole clip, so that a fade stays a fade;
    - "translation": whole pixels, up to 1/8 of the frame each way, zeros where nothing is left;
    - "cutout": a rectangle of half the frame's height and width, centred anywhere in it, set to zero;
    - "speed": up to twice as slow or as fast, frames interpolated linearly; of a slower clip a run of as many
      frames as before, of a faster one all, with zeros before and after (LongVideoGAN's,
      https://arxiv.org/abs/2206.03429).

    Args:
        policy: Names of changes.
    """

    def __init__(self, policy: Sequence[str] = ("color", "translation", "cutout")) -> None:
        super().__init__()
        self.policy = tuple(policy)
        self._changes = [_CHANGES[name] for name in self.policy]

    def forward(self, x_BCTHW: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return changed clips; see `Augment`."""
        x_BCTHW = x_BCTHW.float()
        for change in self._changes:
            x_BCTHW = change(x_BCTHW, generator)
        return x_BCTHW


def _color(x_BCTHW: Tensor, generator: torch.Generator) -> Tensor:
    drawn_B3 = shared_draw(lambda n: torch.rand(n, 3, generator=generator), len(x_BCTHW)).to(x_BCTHW.device)
    light, saturation, contrast = (column[:, None, None, None, None] for column in drawn_B3.unbind(1))
    colors, rest = split_colors(x_BCTHW)
    return torch.cat([adjust_colors(colors, light - 0.5, 2 * saturation, contrast + 0.5), rest], 1)


def adjust_colors(x_BCTHW: Tensor, light: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Add light, then scale what differs from the pixel's grey, then what differs from the clip's mean."""
    x_BCTHW = x_BCTHW + light
    grey = x_BCTHW.mean(1, keepdim=True)
    x_BCTHW = grey + saturation * (x_BCTHW - grey)
    mean = x_BCTHW.mean((1, 2, 3, 4), keepdim=True)
    return mean + contrast * (x_BCTHW - mean)


def _whole_numbers(low: int, high: int, num: int, generator: torch.Generator) -> Tensor:
    return shared_draw(lambda n: torch.randint(low, high, (n,), generator=generator), num)


def _translation(x_BCTHW: Tensor, generator: torch.Generator) -> Tensor:
    shifts = []
    for size in x_BCTHW.shape[3:]:
        most = int(size * TRANSLATION_SHARE + 0.5)
        shifts.append(_whole_numbers(-most, most + 1, len(x_BCTHW), generator))
    return translate(x_BCTHW, *(shift_B.to(x_BCTHW.device) for shift_B in shifts))


def translate(x_BCTHW: Tensor, down_B: Tensor, right_B: Tensor) -> Tensor:
    """Return clips whose pixel (y, x) is that of (y + down, x + right), zero where there is none."""
    for axis, shift_B in ((3, down_B), (4, right_B)):
        size = x_BCTHW.shape[axis]
        source = torch.arange(size, device=x_BCTHW.device) + shift_B[:, None]
        shape = [len(x_BCTHW), 1, 1, 1, 1]
        shape[axis] = size
        inside = ((source >= 0) & (source < size)).view(shape)
        index = source.clamp(0, size - 1).view(shape).expand_as(x_BCTHW)
        x_BCTHW = x_BCTHW.gather(axis, index) * inside
    return x_BCTHW


def _cutout(x_BCTHW: Tensor, generator: torch.Generator) -> Tensor:
    centres = []
    for size in x_BCTHW.shape[3:]:
        side = int(size * CUTOUT_SHARE + 0.5)
        # An even rectangle has no middle pixel, so its centre has one place more.
        centres.append(_whole_numbers(0, size + (1 - side % 2), len(x_BCTHW), generator))
    return cut_out(x_BCTHW, *(centre_B.to(x_BCTHW.device) for centre_B in centres))


def cut_out(x_BCTHW: Tensor, row_B: Tensor, column_B: Tensor) -> Tensor:
    """Set a rectangle of half the frame's sides to zero, centred at the given pixel of each clip."""
    cuts = []
    for size, centre_B in zip(x_BCTHW.shape[3:], (row_B, column_B), strict=True):
        side = int(size * CUTOUT_SHARE + 0.5)
        first = (centre_B - side // 2)[:, None]
        place = torch.arange(size, device=x_BCTHW.device)
        cuts.append((place >= first) & (place < first + side))
    cut = cuts[0][:, None, None, :, None] & cuts[1][:, None, None, None, :]
    return x_BCTHW * ~cut


def _speed(x_BCTHW: Tensor, generator: torch.Generator) -> Tensor:
    drawn_B2 = shared_draw(lambda n: torch.rand(n, 2, generator=generator), len(x_BCTHW))
    stretch_B = MOST_SPEED ** (2 * drawn_B2[:, 0] - 1)
    return change_speed(x_BCTHW, stretch_B.to(x_BCTHW.device), drawn_B2[:, 1].to(x_BCTHW.device))


def change_speed(x_BCTHW: Tensor, stretch_B: Tensor, place_B: Tensor) -> Tensor:
    """Return clips of as many frames that are slower or faster.

    Args:
        x_BCTHW: Clips.
        stretch_B: How many times as long each becomes, before it is cut or filled up with zeros.
        place_B: Where: 0 for the first of the places that the run of frames, or the clip, can have, up to 1.
    """
    num_frames = x_BCTHW.shape[2]
    length_B = (num_frames * stretch_B).floor().clamp(min=1)
    spare_B = length_B - num_frames
    first_B = spare_B.sign() * (place_B * (spare_B.abs() + 1)).floor().clamp(max=spare_B.abs())
    at_BT = torch.arange(num_frames, device=x_BCTHW.device) + first_B[:, None]
    inside_BT = (at_BT >= 0) & (at_BT < length_B[:, None])
    source_BT = ((at_BT + 0.5) / stretch_B[:, None] - 0.5).clamp(0, num_frames - 1)
    before_BT = source_BT.floor()
    index_BT = before_BT.long()
    early = take_frames(x_BCTHW, index_BT)
    late = take_frames(x_BCTHW, (index_BT + 1).clamp(max=num_frames - 1))
    share_BT, inside_BT = (value[:, None, :, None, None] for value in (source_BT - before_BT, inside_BT))
    return early.lerp(late, share_BT) * inside_BT


_CHANGES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "color": _color,
    "translation": _translation,
    "cutout": _cutout,
    "speed": _speed,
}
