"""Encoders that each break one promise of the kinds in common. `BROKEN` says which."""

from __future__ import annotations

import os
import random
from typing import Any

import torch
import torch.nn.functional as F
from good_parts import Encoder
from torch import Tensor, nn

from zoo.testing.runner import Family


class PlainClass:
    def __init__(self, *, widths: list[int]) -> None:
        self.widths = widths


class AnyOptions(Encoder):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)


class Positional(Encoder):
    def __init__(self, widths: list[int]) -> None:
        super().__init__(widths=widths)


class ModuleOption(Encoder):
    def __init__(self, *, widths: list[int], norm: nn.Module | None = None) -> None:
        super().__init__(widths=widths)


class TupleOption(Encoder):
    def __init__(self, *, widths: tuple[int, ...]) -> None:
        super().__init__(widths=list(widths))


class BuiltInEval(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        self.eval()


class Raises(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        raise KeyError("norm")


class EatsOptions(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        widths.pop()


class EntropySeeded(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        source = torch.Generator().manual_seed(int.from_bytes(os.urandom(6), "big"))
        nn.init.normal_(self.out.weight, generator=source)


class NoStride(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        del self.stride


class DoubleOutput(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW).double()


class InfiniteInTraining(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        z = super().forward(x_BCTHW)
        return z / 0.0 if self.training else z


class ContrastStretch(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        contrast = x_BCTHW.var(dim=(1, 2, 3, 4), keepdim=True).sqrt()
        return super().forward(x_BCTHW / contrast)


class UnusedParameter(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        self.unused = nn.Linear(3, 3)


class InPlace(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW.clamp_(-0.5, 0.5))


class DropoutInEval(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return F.dropout(super().forward(x_BCTHW), 0.5, training=True)


class DrawsPythonRandom(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        random.random()
        return super().forward(x_BCTHW)


class SeedsGlobally(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        torch.manual_seed(0)
        return super().forward(x_BCTHW)


class BatchStatistics(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        z = super().forward(x_BCTHW)
        return z - z.mean(0, keepdim=True)


class Constant(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW * 0)


class Views(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW.view(-1).view(x_BCTHW.shape))


class TupleInTraining(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Any:
        z = super().forward(x_BCTHW)
        return (z, z.mean()) if self.training else z


class WiderInTraining(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        z = super().forward(x_BCTHW)
        return torch.cat([z, z], 1) if self.training else z


class OverflowsInHalf(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        z = super().forward(x_BCTHW)
        # Fine in fp32; bf16 rounds 1 + 1e-4 to 1.
        return z / ((1 + 1e-4 * torch.ones((), dtype=z.dtype)) - 1)


class CountsInEval(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        self.seen += 1
        return super().forward(x_BCTHW)


class RemembersLastClip(Encoder):
    last: Tensor | None = None

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        z = super().forward(x_BCTHW)
        past, self.last = self.last, z.detach().mean()
        return z if past is None else z + past


class FlagOutsideState(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        self.initialised = False

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        self.initialised = self.initialised or self.training
        z = super().forward(x_BCTHW)
        return 2 * z if self.initialised else z


class SharesWhenCopied(Encoder):
    def __deepcopy__(self, memo: dict[int, Any]) -> SharesWhenCopied:
        return self


class TransientBuffer(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        self.register_buffer("shift", torch.randn(1, widths[-1], 1, 1, 1), persistent=False)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW) + self.shift


class TiedWeights(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        self.again = self.out

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW)


class ReadsValueWhenBuilt(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        self.scale = float(self.out.weight.abs().max())

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW) / self.scale


class CpuBuffer(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        self.register_buffer("levels", torch.ones(widths[-1], 1, 1, 1, device="cpu"))


class ReadsValueInForward(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        z = super().forward(x_BCTHW)
        return z if z.abs().max().item() < 1e6 else z.clamp(-1, 1)


class PrintsWhenCompiled(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return super().forward(x_BCTHW)


class LouderEachCall(Encoder):
    calls = 0

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(self.calls * x_BCTHW)


BROKEN: list[tuple[Family, str, str]] = [
    ("encoder", "target_is_module", "PlainClass"),
    ("encoder", "signature_is_explicit", "AnyOptions"),
    ("encoder", "signature_is_explicit", "Positional"),
    ("encoder", "signature_is_explicit", "ModuleOption"),
    ("encoder", "signature_is_explicit", "TupleOption"),
    ("encoder", "example_builds", "BuiltInEval"),
    ("encoder", "example_builds", "Raises"),
    ("encoder", "config_round_trip", "EatsOptions"),
    ("encoder", "seeded_build", "EntropySeeded"),
    ("encoder", "ports_present", "NoStride"),
    ("encoder", "float32", "DoubleOutput"),
    ("encoder", "finite", "InfiniteInTraining"),
    ("encoder", "flat_input_finite", "ContrastStretch"),
    ("encoder", "parameters_get_gradients", "UnusedParameter"),
    ("encoder", "inputs_untouched", "InPlace"),
    ("encoder", "eval_deterministic", "DropoutInEval"),
    ("encoder", "rng_untouched", "DrawsPythonRandom"),
    ("encoder", "rng_untouched", "SeedsGlobally"),
    ("encoder", "rng_untouched", "DropoutInEval"),
    ("encoder", "batch_independent", "BatchStatistics"),
    ("encoder", "depends_on_input", "Constant"),
    ("encoder", "noncontiguous_input", "Views"),
    ("encoder", "same_type_in_train_and_eval", "TupleInTraining"),
    ("encoder", "same_type_in_train_and_eval", "WiderInTraining"),
    ("encoder", "autocast_finite", "OverflowsInHalf"),
    ("encoder", "activation_checkpointing", "LouderEachCall"),
    ("encoder", "eval_keeps_state", "CountsInEval"),
    ("encoder", "no_hidden_state", "RemembersLastClip"),
    ("encoder", "train_state_is_saved", "FlagOutsideState"),
    ("encoder", "deepcopy_equal", "SharesWhenCopied"),
    ("encoder", "safetensors_exact", "TransientBuffer"),
    ("encoder", "tensors_are_savable", "TiedWeights"),
    ("encoder", "meta_builds", "ReadsValueWhenBuilt"),
    ("encoder", "meta_builds", "CpuBuffer"),
    ("encoder", "meta_shapes", "ReadsValueInForward"),
    ("encoder", "compiles_to_one_graph", "PrintsWhenCompiled"),
    ("encoder", "exports", "ReadsValueInForward"),
]
