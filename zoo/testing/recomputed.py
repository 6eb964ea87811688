"""The check that blocks of a part may run twice: encoders, decoders and generators."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.testing.results import CheckSkipped, checks, fail
from zoo.testing.subject import Subject, require_equal, seeded
from zoo.training.acceleration import Replacement, in_place
from zoo.training.checkpointing import checkpointed, find_blocks


def check_activation_checkpointing(subject: Subject) -> None:
    """With activation checkpointing, training gives the same outputs, gradients and buffers, bit for bit."""
    promised = "blocks may run twice (train.activation_checkpointing)"
    todo = "keep what a training forward changes in buffers, and draw by chance from torch's own generator"
    if not find_blocks(subject.build()):
        raise CheckSkipped("has no block of two layers or more")
    try:
        twice = _trained(subject, checkpoint=True)
    except torch.utils.checkpoint.CheckpointError as error:
        raise fail(promised, f"at the second run: {str(error).splitlines()[0]}", todo) from error
    require_equal(twice, _trained(subject, checkpoint=False), promised=promised, todo=todo)


def _trained(subject: Subject, *, checkpoint: bool) -> dict[str, Tensor]:
    """Return what a forward and a backward pass give and leave behind."""
    module = subject.build().train()
    blocks = find_blocks(module) if checkpoint else []
    with in_place([Replacement(block, "forward", checkpointed(block)) for block in blocks]), seeded(0):
        outputs = subject.outputs(module, subject.inputs(module))
        subject.objective(outputs).backward()  # type: ignore[no-untyped-call]
    gradients = {f"gradient of {k}": v.grad for k, v in module.named_parameters() if v.grad is not None}
    buffers = {f"buffer {name}": buffer for name, buffer in module.named_buffers()}
    return {name: value.detach() for name, value in (outputs | gradients | buffers).items()}


CHECKS = checks(check_activation_checkpointing, may_skip=True)
