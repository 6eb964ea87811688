"""Checks of one forward and backward pass: all kinds. See `zoo.testing.subject` for the shape legend."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from zoo.testing.results import checks, fail
from zoo.testing.subject import (
    Inputs,
    Subject,
    difference,
    require_equal,
    require_finite,
    seeded,
    without_onednn,
)

BATCH_TOLERANCE = 1e-4


def check_float32(subject: Subject) -> None:
    """Floating-point weights and outputs are float32."""
    module = subject.build().eval()
    tensors = {name: value for name, value in module.state_dict().items() if value.is_floating_point()}
    with torch.no_grad():
        outputs = subject.outputs(module, subject.inputs(module))
    tensors |= {k: v for k, v in outputs.items() if v.is_floating_point() or k[:5] not in ("indic", "stats")}
    for name, value in tensors.items():
        if value.dtype != torch.float32:
            raise fail("float32 in, float32 out", f"{name} is {value.dtype}", "leave precision to the caller")


def check_finite(subject: Subject) -> None:
    """Outputs are finite, in training and in evaluation."""
    module = subject.build()
    for mode in (True, False):
        module.train(mode)
        with seeded(0), torch.no_grad():
            outputs = subject.outputs(module, subject.inputs(module, 3))
        promised = f"finite outputs in {'training' if mode else 'evaluation'}"
        require_finite(outputs, promised=promised, todo="look for overflow, log(0) or 0/0")


def check_flat_input_finite(subject: Subject) -> None:
    """A constant input (a black, grey or white clip; one code) gives finite outputs and gradients."""
    for level in (-1.0, 0.0, 1.0):
        module = subject.build()
        inputs = {
            name: torch.full_like(value, level).requires_grad_() if value.is_floating_point() else value
            for name, value in subject.inputs(module, 3).items()
        }
        if subject.is_prior:
            inputs["x"].fill_(round((level + 1) / 2 * (subject.ports.codebook_size - 1)))
        with seeded(0):
            outputs = subject.outputs(module, inputs)
        subject.objective(outputs).backward()  # type: ignore[no-untyped-call]
        gradients = {f"gradient of {k}": v.grad for k, v in inputs.items() if v.grad is not None}
        gradients |= {f"gradient of {k}": v.grad for k, v in module.named_parameters() if v.grad is not None}
        require_finite(
            outputs | gradients,
            promised=f"a constant input of {level} gives finite outputs and gradients",
            todo="add an epsilon inside square roots and divisions",
        )


def check_parameters_get_gradients(subject: Subject) -> None:
    """Every parameter that requires a gradient gets a finite one, and not all of them are zero."""
    module: Any = subject.build()
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    with seeded(0):
        inputs = subject.inputs(module, 3)
        if subject.is_prior:
            objective: torch.Tensor = module.loss(inputs.pop("x"), **inputs)
        else:
            objective = subject.objective(subject.outputs(module, inputs))
        if subject.makes_clips and hasattr(module, "own_loss"):
            objective = objective + module.own_loss(inputs)
    if objective.requires_grad:
        objective.backward()  # type: ignore[no-untyped-call]
    promised = "every parameter with requires_grad gets a finite gradient from the part's own output"
    if missing := [name for name, p in trained.items() if p.grad is None]:
        todo = "use it in forward, remove it, or set requires_grad = False"
        raise fail(promised, f"none for {missing[:5]} ({len(missing)} in all)", todo)
    gradients = {name: p.grad for name, p in trained.items() if p.grad is not None}
    require_finite(gradients, promised=promised, todo="look for overflow or a square root of 0")
    if trained and not any(bool(gradient.any()) for gradient in gradients.values()):
        raise fail(promised, "all of them are zero", "the output does not depend on the weights")


def check_inputs_untouched(subject: Subject) -> None:
    """Inputs are not changed, in training and in evaluation."""
    module = subject.build()
    for mode in (True, False):
        module.train(mode)
        inputs = subject.inputs(module)
        before = {name: value.clone() for name, value in inputs.items()}
        with seeded(0), torch.no_grad():
            subject.outputs(module, inputs)
        require_equal(
            inputs,
            before,
            promised="the caller's tensors stay as they were",
            todo="no in-place operation on the input",
        )


def check_eval_deterministic(subject: Subject) -> None:
    """In evaluation the same input gives the same output, bit for bit."""
    module = subject.build().eval()
    inputs = subject.inputs(module)
    with torch.no_grad(), seeded(0):
        first = subject.outputs(module, inputs)
    with torch.no_grad(), seeded(1):
        second = subject.outputs(module, inputs)
    require_equal(
        first,
        second,
        promised="evaluation is deterministic whatever the global seed",
        todo="draw noise and drop out in training only",
    )


def check_rng_untouched(subject: Subject) -> None:
    """In evaluation no global random generator is drawn from or seeded: torch, Python, numpy."""
    module = subject.build().eval()
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        torch.manual_seed(5)
        random.seed(5)
        np.random.seed(5)
        before = random.getstate(), str(np.random.get_state()), torch.get_rng_state()
        with torch.no_grad():
            subject.outputs(module, subject.inputs(module))
        touched = [
            name
            for name, same in (
                ("torch", torch.equal(before[2], torch.get_rng_state())),
                ("random", before[0] == random.getstate()),
                ("numpy.random", before[1] == str(np.random.get_state())),
            )
            if not same
        ]
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
    if touched:
        raise fail(
            "evaluation leaves the global random state alone",
            f"the state of {', '.join(touched)} changed",
            "take an explicit torch.Generator, and seed nothing globally",
        )


def check_batch_independent(subject: Subject) -> None:
    """In evaluation a clip gives the same result alone and in a batch."""
    module = subject.build().eval()
    inputs = subject.inputs(module, 3)
    with torch.no_grad():
        together = subject.per_clip(subject.outputs(module, inputs))
        for n in range(3):
            alone = subject.per_clip(subject.outputs(module, _clip(inputs, n)))
            require_equal(
                alone,
                {name: value[n : n + 1] for name, value in together.items()},
                promised="the result for a clip does not depend on its neighbours in the batch",
                todo="pool over no batch axis in evaluation; keep the batch axis first",
                tolerance=BATCH_TOLERANCE,
            )


def _clip(inputs: Inputs, n: int) -> Inputs:
    return {name: value[n : n + 1] for name, value in inputs.items()}


def check_depends_on_input(subject: Subject) -> None:
    """Different inputs give different outputs."""
    module = subject.build().eval()
    with torch.no_grad():
        a = subject.per_clip(subject.outputs(module, subject.inputs(module, seed=1)))
        b = subject.per_clip(subject.outputs(module, subject.inputs(module, seed=2)))
    first = next(iter(a))
    if difference(a[first], b[first]) == 0.0:
        raise fail("the output depends on the input", f"{first} is the same for two inputs", "use the input")


def check_noncontiguous_input(subject: Subject) -> None:
    """An input laid out otherwise in memory gives the same result."""
    module = subject.build().eval()
    inputs = subject.inputs(module, 3)
    strided = {
        name: value.transpose(0, -1).contiguous().transpose(0, -1) if value.ndim > 1 else value
        for name, value in inputs.items()
    }
    with torch.no_grad():
        plain, odd = subject.outputs(module, inputs), subject.outputs(module, strided)
    require_equal(
        plain,
        odd,
        promised="the memory layout of the input does not matter",
        todo="use reshape or einops instead of view",
        tolerance=BATCH_TOLERANCE,
    )


def check_same_type_in_train_and_eval(subject: Subject) -> None:
    """Training and evaluation return the same type, with the same tensors of the same shapes."""
    module = subject.build()
    shapes = []
    for mode in (True, False):
        module.train(mode)
        with seeded(0), torch.no_grad():
            outputs = subject.outputs(module, subject.inputs(module))
        shapes.append({name: (tuple(value.shape), value.dtype) for name, value in outputs.items()})
    if shapes[0] != shapes[1]:
        raise fail(
            "the return type does not change with `training`",
            f"{shapes[0]} in training, {shapes[1]} in evaluation",
            "return the same tensors in both; put what only training needs into stats or loss",
        )


def check_autocast_finite(subject: Subject) -> None:
    """Under bf16 autocast outputs and gradients are finite."""
    module = subject.build()
    for mode in (True, False):
        module.train(mode).zero_grad()
        with without_onednn():
            with seeded(0), torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = subject.outputs(module, subject.inputs(module))
                objective = subject.objective(outputs)
            tensors = dict(outputs)
            if objective.requires_grad:
                objective.backward()  # type: ignore[no-untyped-call]
                tensors |= {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
        require_finite(
            tensors,
            promised="bf16 autocast gives finite outputs and gradients",
            todo="compute what is delicate in fp32: with torch.autocast(device_type, enabled=False)",
        )


CHECKS = checks(
    check_float32,
    check_finite,
    check_flat_input_finite,
    check_parameters_get_gradients,
    check_inputs_untouched,
    check_eval_deterministic,
    check_rng_untouched,
    check_batch_independent,
    check_depends_on_input,
    check_noncontiguous_input,
    check_same_type_in_train_and_eval,
    check_autocast_finite,
)
