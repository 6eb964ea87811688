"""A linear layer for a few rows at a time, where reading the weights is what takes the time.

Shape legend: R rows, D width in, E width out.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Linear = Callable[[Tensor], Tensor]


def fast_linear(layer: nn.Linear, num_rows: int, dtype: torch.dtype) -> Linear:
    """Return a function x_RD -> y_RE that does what a layer does, for inference.

    It holds a copy of the weights as they are read fastest on a CPU: packed by oneDNN where this torch offers
    that; but transposed for one row in full precision of a layer that is no wider out than in.
    """
    weight_ED = layer.weight.detach().to(dtype)
    bias_E = None if layer.bias is None else layer.bias.detach().to(dtype)
    narrows = layer.out_features <= layer.in_features
    if weight_ED.device.type == "cpu" and dtype == torch.float32 and num_rows == 1 and narrows:
        weight_DE = weight_ED.t().contiguous()
        if bias_E is None:
            return lambda x_RD: torch.mm(x_RD, weight_DE)
        return lambda x_RD: torch.addmm(bias_E, x_RD, weight_DE)
    if weight_ED.device.type == "cpu" and dtype in (torch.float32, torch.bfloat16):
        packed = _packed(weight_ED, bias_E, num_rows)
        if packed is not None:
            return packed
    return lambda x_RD: F.linear(x_RD, weight_ED, bias_E)


def _packed(weight_ED: Tensor, bias_E: Tensor | None, num_rows: int) -> Linear | None:
    # These are the calls that torch.compile makes for frozen weights. They are no public interface.
    try:
        pack, multiply = (
            torch.ops.mkldnn._reorder_linear_weight.default,
            torch.ops.mkldnn._linear_pointwise.default,
        )
        packed = pack(weight_ED.contiguous(), num_rows)
        run: Linear = lambda x_RD: multiply(x_RD, packed, bias_E, "none", [], "")  # noqa: E731
        run(weight_ED.new_zeros(num_rows, weight_ED.shape[1]))
    except (AttributeError, RuntimeError, NotImplementedError):
        return None
    return run
