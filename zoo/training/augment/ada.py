"""ADA: changes whose probability follows how much the discriminators overfit (https://arxiv.org/abs/2006.06676).

The pipeline is the paper's "bgc": pixel blitting, general geometry, colour. What is drawn for a clip holds
for all of its frames.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from einops import einsum
from torch import Tensor

from zoo.ranks import mean_everywhere, shared_draw, world_size
from zoo.training.augment.base import Augment, split_colors
from zoo.training.augment.geometry import warp

Drawn = dict[str, Tensor]
"""What is done to each clip, one row a clip, neutral where nothing is."""


class AdaptiveAugment(Augment):
    """Change each clip in each of the ways below with probability p, which starts at 0.

    Every `interval` updates p moves by the share of `adjust_clips` seen since: up where the mean sign of
    real clips' scores is above `target`, else down; it stays in [0, 1]. With p = 0 clips are returned as
    they are.

    Args:
        target: Mean sign to hold.
        interval: Updates between two moves.
        adjust_clips: Real clips in which p can go from 0 to 1.
        geometric: Mirror, quarter turns, shift by whole pixels up to 1/8 of the frame, scaling by
            2^N(0, 0.2), rotation, stretch by 2^N(0, 0.2), shift by N(0, 1/8) of the frame.
        color: Brightness N(0, 0.2), contrast 2^N(0, 0.5), luma flip, hue rotation, saturation 2^N(0, 1).

    Attributes:
        p: The probability, a buffer.
    """

    p: Tensor
    sign_sum: Tensor
    clips: Tensor
    updates: Tensor
    real_sign: Tensor

    def __init__(
        self,
        *,
        target: float = 0.6,
        interval: int = 4,
        adjust_clips: int = 500_000,
        geometric: bool = True,
        color: bool = True,
    ) -> None:
        super().__init__()
        self.target = target
        self.interval = interval
        self.adjust_clips = adjust_clips
        self.geometric = geometric
        self.color = color
        # float64: a step of one clip in 500,000 must not be lost beside p.
        for name in ("p", "sign_sum", "real_sign"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))
        for name in ("clips", "updates"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))

    def forward(self, x_BCTHW: Tensor, *, generator: torch.Generator) -> Tensor:
        """Return changed clips; see `Augment`."""
        x_BCTHW = x_BCTHW.float()
        p = float(self.p)
        if p == 0:
            return x_BCTHW
        with torch.autocast(x_BCTHW.device.type, enabled=False):
            if self.geometric:
                drawn = draw_geometry(len(x_BCTHW), p, generator=generator)
                x_BCTHW = warp(x_BCTHW, inverse_matrix(drawn, *x_BCTHW.shape[3:]))
            if self.color:
                drawn = draw_colors(len(x_BCTHW), p, generator=generator)
                x_BCTHW = apply_colors(x_BCTHW, color_matrix(drawn, grey=x_BCTHW.shape[1] == 1))
        return x_BCTHW

    @torch.no_grad()
    def update(self, real_logits: Sequence[Tensor], num_clips: int) -> None:
        """Count the signs of these scores, mean over each head, then heads, and move p when it is time."""
        signs = torch.stack([logits.detach().sign().double().mean() for logits in real_logits])
        sign, num_clips = mean_everywhere(signs.mean()), num_clips * world_size()
        self.sign_sum += sign.to(self.sign_sum.device) * num_clips
        self.clips += num_clips
        self.updates += 1
        if int(self.updates) < self.interval:
            return
        self.real_sign.copy_(self.sign_sum / self.clips)
        stride = self.clips / self.adjust_clips
        self.p.add_((self.real_sign - self.target).sign() * stride).clamp_(0, 1)
        for counter in (self.sign_sum, self.clips, self.updates):
            counter.zero_()

    def numbers(self) -> dict[str, float]:
        """Return p and the mean sign it last followed."""
        return {"augment/p": float(self.p), "augment/real_sign": float(self.real_sign)}


def draw_geometry(num: int, p: float, *, generator: torch.Generator) -> Drawn:
    """Draw what moves each clip, float64.

    A rotation can come before and after the stretch, each with the probability that makes either p.
    """
    either = 1 - math.sqrt(1 - p)

    def uniform() -> Tensor:
        return shared_draw(lambda n: torch.rand(n, generator=generator, dtype=torch.float64), num)

    def normal() -> Tensor:
        return shared_draw(lambda n: torch.randn(n, generator=generator, dtype=torch.float64), num)

    def maybe(value: Tensor, neutral: float, chance: float = p) -> Tensor:
        return torch.where(uniform() < chance, value, neutral)

    shifted, drifted = uniform() < p, uniform() < p
    return {
        "mirror": maybe((uniform() * 2).floor(), 0),
        "quarters": maybe((uniform() * 4).floor(), 0),
        "shift_x": torch.where(shifted, (uniform() * 2 - 1) / 8, 0.0),
        "shift_y": torch.where(shifted, (uniform() * 2 - 1) / 8, 0.0),
        "scale": maybe((0.2 * normal()).exp2(), 1),
        "turn_before": maybe((uniform() * 2 - 1) * math.pi, 0, either),
        "stretch": maybe((0.2 * normal()).exp2(), 1),
        "turn_after": maybe((uniform() * 2 - 1) * math.pi, 0, either),
        "drift_x": torch.where(drifted, normal() / 8, 0.0),
        "drift_y": torch.where(drifted, normal() / 8, 0.0),
    }


def inverse_matrix(drawn: Drawn, height: int, width: int) -> Tensor:
    """Return inverse_B33 for `warp`, float64: the source of a pixel, the first change outermost."""
    one = torch.ones_like(drawn["scale"])
    quarter = drawn["quarters"] * (math.pi / 2)
    steps = [
        _scaling(1 - 2 * drawn["mirror"], one),
        _rotation(quarter),
        _shift(-(drawn["shift_x"] * width).round(), -(drawn["shift_y"] * height).round()),
        _scaling(1 / drawn["scale"], 1 / drawn["scale"]),
        _rotation(drawn["turn_before"]),
        _scaling(1 / drawn["stretch"], drawn["stretch"]),
        _rotation(drawn["turn_after"]),
        _shift(-drawn["drift_x"] * width, -drawn["drift_y"] * height),
    ]
    inverse_B33 = steps[0]
    for step_B33 in steps[1:]:
        inverse_B33 = inverse_B33 @ step_B33
    return inverse_B33


def draw_colors(num: int, p: float, *, generator: torch.Generator) -> Drawn:
    """Draw what recolours each clip, float64."""

    def uniform() -> Tensor:
        return shared_draw(lambda n: torch.rand(n, generator=generator, dtype=torch.float64), num)

    def normal() -> Tensor:
        return shared_draw(lambda n: torch.randn(n, generator=generator, dtype=torch.float64), num)

    def maybe(value: Tensor, neutral: float) -> Tensor:
        return torch.where(uniform() < p, value, neutral)

    return {
        "brightness": maybe(0.2 * normal(), 0),
        "contrast": maybe((0.5 * normal()).exp2(), 1),
        "luma_flip": maybe((uniform() * 2).floor(), 0),
        "hue": maybe((uniform() * 2 - 1) * math.pi, 0),
        "saturation": maybe(normal().exp2(), 1),
    }


def color_matrix(drawn: Drawn, *, grey: bool = False) -> Tensor:
    """Return color_B34, float64: (red, green, blue, 1) to (red, green, blue), about the grey axis.

    Args:
        drawn: From `draw_colors`.
        grey: Leave hue and saturation as they are: clips of one channel have none.
    """
    count = len(drawn["contrast"])
    eye = torch.eye(3, dtype=torch.float64)
    luma = torch.full((3, 3), 1 / 3, dtype=torch.float64)  # projection on the grey axis
    # Rotation by an angle about an axis: cos * I + sin * cross + (1 - cos) * projection.
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], dtype=torch.float64) / math.sqrt(3)
    contrast, flip, hue, saturation = (
        drawn[name][:, None, None] for name in ("contrast", "luma_flip", "hue", "saturation")
    )
    linear_B33 = (eye - 2 * luma * flip) * contrast
    if not grey:
        turn_B33 = hue.cos() * eye + hue.sin() * cross + (1 - hue.cos()) * luma
        linear_B33 = (luma + (eye - luma) * saturation) @ turn_B33 @ linear_B33
    constant_B31 = linear_B33 @ drawn["brightness"][:, None, None].expand(count, 3, 1)
    return torch.cat([linear_B33, constant_B31], 2)


def apply_colors(x_BCTHW: Tensor, color_B34: Tensor) -> Tensor:
    """Recolour clips of 1, 3 or 4 channels; a fourth channel stays."""
    colors, rest = split_colors(x_BCTHW)
    matrix = color_B34.to(x_BCTHW.device, x_BCTHW.dtype)
    if colors.shape[1] == 1:
        # Grey is the mean of three equal channels.
        scale, constant = matrix[:, :, :3].sum(2).mean(1), matrix[:, :, 3].mean(1)
        return colors * scale[:, None, None, None, None] + constant[:, None, None, None, None]
    colors = (
        einsum(matrix[:, :, :3], colors, "b i j, b j t h w -> b i t h w") + matrix[:, :, 3, None, None, None]
    )
    return torch.cat([colors, rest], 1)


def _rows(*elements: Tensor | float) -> Tensor:
    like = next(element for element in elements if isinstance(element, Tensor))
    tensors = [e if isinstance(e, Tensor) else torch.full_like(like, e) for e in elements]
    return torch.stack([*tensors, *(torch.full_like(like, e) for e in (0, 0, 1))], -1).reshape(-1, 3, 3)


def _scaling(x_B: Tensor, y_B: Tensor) -> Tensor:
    return _rows(x_B, 0, 0, 0, y_B, 0)


def _shift(x_B: Tensor, y_B: Tensor) -> Tensor:
    return _rows(1, 0, x_B, 0, 1, y_B)


def _rotation(angle_B: Tensor) -> Tensor:
    return _rows(angle_B.cos(), -angle_B.sin(), 0, angle_B.sin(), angle_B.cos(), 0)
