"""Checks of what a part remembers, and of copying, saving and building it elsewhere: all kinds."""

from __future__ import annotations

import copy

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn

from zoo.testing.results import checks, fail
from zoo.testing.subject import Subject, require_equal, seeded


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _eval_outputs(subject: Subject, module: nn.Module, *, seed: int = 0) -> dict[str, Tensor]:
    module.eval()
    with torch.no_grad():
        return subject.outputs(module, subject.inputs(module, seed=seed))


def _through_safetensors(subject: Subject, module: nn.Module) -> nn.Module:
    """Build the part from another seed and give it the weights of `module`, by way of the file format."""
    promised = "the state dict survives safetensors and loads into a fresh build"
    try:
        state = load_safetensors(save_safetensors(dict(module.state_dict())))
        other = subject.build(seed=99)
        other.load_state_dict(state)
    except Exception as error:
        todo = "keep plain, contiguous tensors with storage of their own in the state dict"
        raise fail(promised, f"{type(error).__name__}: {error}", todo) from error
    return other


def _train_step(subject: Subject, module: nn.Module, *, seed: int) -> dict[str, Tensor]:
    module.train()
    with seeded(seed):
        outputs = subject.outputs(module, subject.inputs(module, seed=seed))
    module.zero_grad()
    objective = subject.objective(outputs)
    if objective.requires_grad:
        objective.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter.sub_(1e-3 * parameter.grad / (1e-6 + parameter.grad.norm()))
    return {name: value.detach() for name, value in outputs.items()}


def check_eval_keeps_state(subject: Subject) -> None:
    """Evaluation changes no weight and no buffer, saved or not."""
    module = subject.build().eval()
    before = _state(module) | {name: value.clone() for name, value in module.named_buffers()}
    _eval_outputs(subject, module)
    require_equal(
        _state(module) | dict(module.named_buffers()),
        before,
        promised="evaluation leaves weights, codebook and buffers as they were",
        todo="update statistics only `if self.training`",
    )


def check_no_hidden_state(subject: Subject) -> None:
    """In evaluation the output for a clip does not depend on the clips that were seen before it."""
    module = subject.build()
    first = _eval_outputs(subject, module, seed=1)
    with torch.no_grad():
        subject.outputs(module, subject.inputs(module, 3, size=1, seed=2))
    require_equal(
        _eval_outputs(subject, module, seed=1),
        first,
        promised="no memory from one call to the next",
        todo="keep no cache on the module; state of a stream belongs to the caller",
    )


def check_train_state_is_saved(subject: Subject) -> None:
    """What training changes is in the state dict: a reloaded part evaluates and trains on as the original."""
    module = subject.build()
    for step in (1, 2):
        _train_step(subject, module, seed=step)
    other = _through_safetensors(subject, module)
    promised = "after training steps the state dict holds all that forward reads"
    todo = "register flags and statistics as persistent buffers, not as Python attributes"
    evaluated = _eval_outputs(subject, module)
    require_equal(_eval_outputs(subject, other), evaluated, promised=promised, todo=todo)
    trained = _train_step(subject, module, seed=3)
    require_equal(_train_step(subject, other, seed=3), trained, promised=promised, todo=todo)


def check_deepcopy_equal(subject: Subject) -> None:
    """A deep copy gives the same outputs, bit for bit, and shares no memory with the original."""
    module = subject.build().eval()
    twin = copy.deepcopy(module)
    require_equal(
        _eval_outputs(subject, twin),
        _eval_outputs(subject, module),
        promised="copy.deepcopy gives an equal part",
        todo="keep only what deepcopy can copy on the module",
    )
    before = _state(module)
    with torch.no_grad():
        for value in twin.state_dict().values():
            value.copy_(~value if value.dtype is torch.bool else value + 1)
    require_equal(
        _state(module),
        before,
        promised="a deep copy has memory of its own (moving averages rely on it)",
        todo="do not override __deepcopy__ to share tensors",
    )


def check_safetensors_exact(subject: Subject) -> None:
    """Weights saved as safetensors and loaded into a fresh build give the same outputs, bit for bit."""
    module = subject.build()
    require_equal(
        _eval_outputs(subject, _through_safetensors(subject, module)),
        _eval_outputs(subject, module),
        promised="saved weights give bit-equal outputs",
        todo="register all that forward reads as parameters or persistent buffers",
    )


def check_tensors_are_savable(subject: Subject) -> None:
    """Every entry of the state dict is a contiguous tensor with storage of its own."""
    promised = "state-dict entries can be saved one by one"
    seen: dict[int, str] = {}
    for name, value in subject.build().state_dict().items():
        if not isinstance(value, Tensor):
            raise fail(promised, f"{name} is a {type(value).__name__}", "save no extra state besides tensors")
        if not value.is_contiguous():
            raise fail(promised, f"{name} is not contiguous", "call .contiguous() before registering it")
        if value.numel() and (owner := seen.setdefault(value.untyped_storage().data_ptr(), name)) != name:
            raise fail(
                promised, f"{name} shares storage with {owner}", "register a tied weight once, or clone it"
            )


def check_meta_builds(subject: Subject) -> None:
    """Under torch.device("meta") the part builds without allocating a weight."""
    module = subject.build(device="meta")
    tensors = [*module.named_parameters(), *module.named_buffers()]
    if elsewhere := [name for name, value in tensors if value.device.type != "meta"]:
        raise fail(
            'under torch.device("meta") every weight and buffer is on meta',
            f"{elsewhere[:5]} are not",
            "name no device in the constructor, and make buffers with torch functions, not numpy",
        )


def check_meta_shapes(subject: Subject) -> None:
    """On the meta device an evaluation pass gives the shapes that the CPU gives."""
    promised = "an evaluation pass on the meta device gives the right shapes"
    module, real = subject.build(device="meta").eval(), subject.build().eval()
    for size in (0, 1):
        expected = subject.outputs(real, subject.inputs(real, size=size))
        try:
            outputs = subject.outputs(module, subject.inputs(module, size=size, device="meta"))
        except Exception as error:
            todo = "read no tensor value in forward (.item(), .tolist(), if tensor:), name no device"
            raise fail(promised, f"{type(error).__name__}: {error}", todo) from error
        shapes = {name: tuple(value.shape) for name, value in outputs.items()}
        wanted = {name: tuple(value.shape) for name, value in expected.items()}
        if shapes != wanted or any(value.device.type != "meta" for value in outputs.values()):
            todo = "derive shapes and devices from the input's"
            raise fail(promised, f"{shapes} in place of {wanted} (all on meta)", todo)


CHECKS = checks(
    check_eval_keeps_state,
    check_no_hidden_state,
    check_train_state_is_saved,
    check_deepcopy_equal,
    check_safetensors_exact,
    check_tensors_are_savable,
    check_meta_builds,
    check_meta_shapes,
)
