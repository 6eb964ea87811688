"""Checks of decoders: ``z_BDthw -> x_BCTHW``, or per frame where one emits images."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.testing import causality, encoder, recomputed
from zoo.testing.results import checks, fail
from zoo.testing.subject import GRIDS, Subject, seeded


def check_shapes(subject: Subject) -> None:
    """latent_dim, out_channels, stride and lead_frame are true for 1 and 3 clips, two lengths, h != w."""
    module = subject.build().eval()
    with torch.no_grad():
        for batch in (1, 3):
            for grid in GRIDS:
                causality.require_shape(subject, module, batch, grid)


def check_gradient_reaches_latent(subject: Subject) -> None:
    """The gradient with respect to the latent is finite and not zero."""
    encoder.require_input_gradient(subject)


def check_last_layer_is_parameter(subject: Subject) -> None:
    """last_layer is one of the part's own trained parameters."""
    module = subject.build()
    last = module.last_layer
    found = f"last_layer is {type(last).__name__}"
    if not any(last is parameter for parameter in module.parameters()):
        raise fail(
            "last_layer is a parameter of the module itself", found, "return e.g. self.conv_out.weight"
        )
    if not (isinstance(last, Tensor) and last.requires_grad):
        raise fail("last_layer is trained", "it has requires_grad = False", "return a weight that is trained")


def check_last_layer_moves_output(subject: Subject) -> None:
    """The clip depends on last_layer: its gradient is there and a change shows."""
    module = subject.build()
    last: Any = module.last_layer
    inputs = subject.inputs(module)
    promised = "the clip depends on last_layer, by which the adversarial loss is weighed"
    todo = "return the weight of the layer that gives the clip"
    (gradient,) = torch.autograd.grad(
        subject.objective(subject.outputs(module, inputs)), last, allow_unused=True
    )
    if gradient is None or not bool(gradient.any()):
        raise fail(promised, "its gradient is zero or absent", todo)
    if subject.kind == "generator":
        return  # one that adds up the colours of every resolution has no layer that all passes through
    require_later_than_others(subject, module, promised=promised, todo=todo)


def require_later_than_others(subject: Subject, module: Any, *, promised: str, todo: str) -> None:
    """Raise `CheckFailure` when zeroing last_layer still lets the clip depend on the input."""
    module.eval()
    with torch.no_grad():
        module.last_layer.zero_()
        a = subject.outputs(module, subject.inputs(module, seed=1))["output"]
        b = subject.outputs(module, subject.inputs(module, seed=2))["output"]
    if not torch.equal(a, b):
        raise fail(promised, "with last_layer all 0 the clip still depends on the input", todo)


def check_reaches_both_signs(subject: Subject) -> None:
    """The clip is in [-1, 1], not [0, 1]: with some weights there are negative values, with some positive."""
    require_both_signs(subject)


def require_both_signs(subject: Subject) -> None:
    """Raise `CheckFailure` when no draw of the weights makes a negative, or a positive, output."""
    module = subject.build().eval()
    low, high = 0.0, 0.0
    with torch.no_grad():
        for seed in range(8):
            with seeded(seed):
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.copy_(torch.randn_like(parameter) * 0.3)
            for value in subject.outputs(module, subject.inputs(module, seed=seed)).values():
                low, high = min(low, float(value.min())), max(high, float(value.max()))
    if low >= 0 or high <= 0:
        raise fail(
            "video is in [-1, 1]",
            f"with 8 draws of the weights the output stays {'>= 0' if low >= 0 else '<= 0'}",
            "end in tanh or nothing; map [0, 1] to [-1, 1] inside forward",
        )


CHECKS = [
    *checks(
        check_shapes,
        check_gradient_reaches_latent,
        check_last_layer_is_parameter,
        check_last_layer_moves_output,
        check_reaches_both_signs,
    ),
    *causality.CHECKS,
    *recomputed.CHECKS,
]
