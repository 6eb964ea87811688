"""Checks of encoders: ``x_BCTHW -> z_BDthw``, or per frame where one consumes images."""

from __future__ import annotations

import torch

from zoo.testing import causality, recomputed
from zoo.testing.results import checks, fail
from zoo.testing.subject import GRIDS, Subject, require_finite


def check_shapes(subject: Subject) -> None:
    """in_channels, latent_dim, stride and lead_frame are true for 1 and 3 clips, two lengths, H != W."""
    module = subject.build().eval()
    with torch.no_grad():
        for batch in (1, 3):
            for grid in GRIDS:
                causality.require_shape(subject, module, batch, grid)


def check_channels(subject: Subject) -> None:
    """Clips of another number of channels than in_channels are refused."""
    module = subject.build().eval()
    x = subject.inputs(module)["x"]
    wrong = torch.cat([x, x[:, :1]], dim=1)
    try:
        with torch.no_grad():
            module(wrong)
    except Exception:
        return
    raise fail(
        f"in_channels = {subject.ports.in_channels} is what the encoder reads",
        f"it also took {wrong.shape[1]} channels",
        "do not slice or repeat channels; take their number as an option",
    )


def check_gradient_reaches_input(subject: Subject) -> None:
    """The gradient with respect to the clip is finite and not zero."""
    require_input_gradient(subject)


def require_input_gradient(subject: Subject) -> None:
    """Raise `CheckFailure` unless a gradient flows from the outputs to every clip of the input."""
    module = subject.build()
    inputs = subject.inputs(module)
    x = inputs["x"].requires_grad_()
    objective = subject.objective(subject.outputs(module, inputs))
    promised = "gradients flow through the part to its input"
    todo = "no detach, no_grad, rounding without straight-through or .data on the way"
    if not objective.requires_grad:
        raise fail(promised, "the output has no gradient", todo)
    (gradient,) = torch.autograd.grad(objective, x, allow_unused=True)
    if gradient is None or not all(bool(clip.any()) for clip in gradient):
        raise fail(promised, "no gradient" if gradient is None else "a clip has gradient 0", todo)
    require_finite({"gradient": gradient}, promised=promised, todo="look for square roots and divisions by 0")


CHECKS = [
    *checks(check_shapes, check_channels, check_gradient_reaches_input),
    *causality.CHECKS,
    *recomputed.CHECKS,
]
