"""Slow checks: what torch's compilers make of a part. All kinds."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from zoo.testing.results import checks, fail
from zoo.testing.subject import Inputs, Subject, require_equal

TOLERANCE = 1e-4


class _Plain(nn.Module):
    """The part behind one call signature, a dict of tensors, whatever its kind."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.part = subject.build().eval()
        self._is_generator = subject.makes_clips

    def forward(self, inputs: Inputs) -> Any:
        if self._is_generator:
            return self.part(inputs)
        told = {name: value for name, value in inputs.items() if name != "x"}
        return self.part(inputs["x"], **told)


def check_compiles_to_one_graph(subject: Subject) -> None:
    """torch.compile(fullgraph=True) takes the part in evaluation and gives the same outputs."""
    module = _Plain(subject)
    inputs = subject.inputs(module.part)
    torch.compiler.reset()
    with torch.no_grad():
        expected = subject.named(module(inputs))
        try:
            with warnings.catch_warnings():
                # Tracing a torch.autograd.Function, torch itself does what it warns of.
                warnings.simplefilter("ignore", DeprecationWarning)
                compiled: Any = torch.compile(module, fullgraph=True, backend="aot_eager")
                outputs = subject.named(compiled(inputs))
        except Exception as error:
            raise fail(
                "the part compiles to one graph",
                f"{type(error).__name__}: {str(error).splitlines()[0]}",
                "avoid tensor-dependent Python branches, .item() and unsupported calls in forward",
            ) from error
        finally:
            torch.compiler.reset()
    require_equal(
        outputs,
        expected,
        promised="the compiled part gives the same outputs",
        todo="look for code that behaves differently under tracing",
        tolerance=TOLERANCE,
    )


def check_exports(subject: Subject) -> None:
    """torch.export takes the part in evaluation and gives the same outputs."""
    module = _Plain(subject)
    inputs = subject.inputs(module.part)
    with torch.no_grad():
        expected = subject.named(module(inputs))
        try:
            program = torch.export.export(module, (inputs,), strict=False)
            outputs = subject.named(program.module()(inputs))
        except Exception as error:
            raise fail(
                "torch.export takes the part",
                f"{type(error).__name__}: {str(error).splitlines()[0]}",
                "avoid tensor-dependent Python branches and .item() in forward",
            ) from error
    require_equal(
        outputs,
        expected,
        promised="the exported program gives the same outputs",
        todo="look for code that behaves differently under tracing",
        tolerance=TOLERANCE,
    )


CHECKS = checks(check_compiles_to_one_graph, check_exports, slow=True)
