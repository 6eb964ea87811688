"""What a recipe asks for to make a step faster or smaller, put in place for the length of a step.

`train.precision` is autocast around networks, `train.activation_checkpointing` and `train.compile` replace
the `forward` of modules while a step is taken, and `train.memory_format` lays weights and clips out anew.
Between steps the model is as it was built: what evaluates, streams, copies or saves it meets nothing of this.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.assemblies import Assembly, TokenPrior
from zoo.errors import TrainingError
from zoo.precision import FullPrecisionConv3d
from zoo.training.checkpointing import checkpointed, find_blocks

if TYPE_CHECKING:
    from zoo.recipes import Train

MAX_PROGRAMS = 64
"""Programs that torch.compile makes of one piece of code: of each shape, and of each way it is trained."""
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


class Replacement(NamedTuple):
    """A function that takes the place of a module's method.

    Attributes:
        module: Whose method.
        name: Of the method.
        function: What takes its place.
    """

    module: nn.Module
    name: str
    function: Callable[..., Any]


@contextlib.contextmanager
def in_place(replacements: Sequence[Replacement]) -> Iterator[None]:
    """Within it, functions take the places of methods; weights, their names and copies know nothing of it."""
    with contextlib.ExitStack() as stack:
        for module, name, function in replacements:
            if (own := vars(module).get(name)) is None:
                stack.callback(delattr, module, name)
            else:
                stack.callback(setattr, module, name, own)
            setattr(module, name, function)
        yield


class Acceleration:
    """The recipe's options of speed and memory, for one model.

    Args:
        model: The model, on its device.
        device: Where it is trained.

    Raises:
        TrainingError: There is nothing to checkpoint, or nothing that can be compiled.
    """

    def __init__(self, model: Assembly, device: torch.device) -> None:
        self._train = model.recipe.train
        self._device = device
        self._replacements: list[Replacement] = []
        if self._train.memory_format == "channels_last_3d":
            for module in model.modules():
                if isinstance(module, nn.modules.conv._ConvNd):
                    for parameter in module.parameters(recurse=False):
                        parameter.data = self.laid_out(parameter.data)
        entries = list(_entries(model, self._train)) if self._train.compile else []
        if self._train.compile and not entries:
            raise TrainingError(
                f"train.compile is on, and nothing of {model.name!r} can be compiled: penalties "
                "differentiate networks twice, which torch.compile cannot, or their shapes are drawn by "
                "chance; set it to false"
            )
        if self._train.activation_checkpointing:
            compiled = {part for part, _ in entries}
            self._replacements += [
                Replacement(block, "forward", checkpointed(block, compiled=part in compiled))
                for part in model.networks().values()
                for block in find_blocks(part)
            ]
            if not self._replacements:
                raise TrainingError(
                    f"train.activation_checkpointing is on, and no part of {model.name!r} has a block of two "
                    "layers or more, so there is nothing to save; set it to false"
                )
        whole = {module for module, _, _ in self._replacements}  # parts that are one block, compiled already
        with in_place(self._replacements):
            programs = [
                Replacement(part, name, torch.compile(getattr(part, name), dynamic=False))
                for part, name in entries
                if name != "forward" or part not in whole
            ]
        self._replacements += programs

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """What networks compute in; losses are taken outside."""
        precision = self._train.precision
        if precision is None and self._device.type == "cuda" and torch.cuda.is_bf16_supported():
            precision = "bf16"
        if precision == "bf16":
            return torch.autocast(self._device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def laid_out(self, tensor: Tensor) -> Tensor:
        """Return clips, frames or kernels in the recipe's order in memory, and all else as it is."""
        reorders = tensor.is_floating_point() and tensor.ndim in _FORMATS
        if self._train.memory_format == "contiguous" or not reorders:
            return tensor
        return tensor.contiguous(memory_format=_FORMATS[tensor.ndim])

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Within it a step is taken, with all its backward passes.

        Raises:
            TrainingError: torch.compile finds no compiler, or cannot take a network.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(in_place(self._replacements))
            if self._device.type == "cpu" and self._train.precision == "bf16":
                stack.enter_context(FullPrecisionConv3d())
            if self._train.compile:
                stack.enter_context(_compiling())
            yield


def _entries(model: Assembly, train: Train) -> Iterator[tuple[nn.Module, str]]:
    """Yield what is to be compiled: the networks of a step, each with the method that a step calls.

    torch.compile has no second derivative, so those that a penalty differentiates twice are left out, and so
    is a generator that says so by `compiles`.
    """
    adversarial = train.objective.adversarial
    if adversarial is None or adversarial.path_length is None:
        entry = "loss" if isinstance(model, TokenPrior) else "forward"
        parts = model.networks().values()
        yield from ((part, entry) for part in parts if getattr(part, "compiles", True))
    if adversarial is not None and not (adversarial.r1 or adversarial.r2 or adversarial.gradient_penalty):
        yield from ((part, "forward") for part in model.discriminator)


@contextlib.contextmanager
def _compiling() -> Iterator[None]:
    import torch._dynamo
    import torch._functorch.config
    import torch._inductor.config

    patches = (
        torch._dynamo.config.patch(recompile_limit=MAX_PROGRAMS),
        # The adaptive weight walks a graph twice, so nothing in it may be written over on the first walk.
        torch._functorch.config.patch(donated_buffer=False),
        # Noise and dropout draw the numbers that they draw without compilation.
        torch._inductor.config.patch(fallback_random=True),
    )
    try:
        with contextlib.ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            yield
    except torch._dynamo.exc.TorchDynamoException as error:
        raise TrainingError(
            f"train.compile is on, and torch.compile failed here: {str(error).strip().splitlines()[0]}. It "
            "needs a C++ compiler (apt-get install g++, or CXX=path), and triton for CUDA; without, set "
            "train.compile to false"
        ) from error
