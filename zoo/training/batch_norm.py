"""Batch norm whose statistics are those of the whole batch, not of one rank's share of it.

torch has `SyncBatchNorm` for CUDA alone; this one runs on any device and can be differentiated twice, which
penalties on slopes need.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.ranks import distributed, mean_everywhere, world_size


class _WholeBatch(nn.modules.batchnorm._BatchNorm):
    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not distributed():
            return super().forward(input)
        x = input.float()
        axes = [axis for axis in range(x.ndim) if axis != 1]
        shape = [1, -1] + [1] * (x.ndim - 2)
        mean = mean_everywhere(x.mean(axes))
        centred = x - mean.view(shape)
        variance = mean_everywhere(centred.square().mean(axes))
        self._move(mean.detach(), variance.detach(), x.numel() // x.shape[1] * world_size())
        y = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.float().view(shape) + self.bias.float().view(shape)
        return y.to(input.dtype)

    @torch.no_grad()
    def _move(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics as torch does: with the variance of a sample, not of the batch."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        unbiased = variance * (count / max(1, count - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class _WholeBatch1d(_WholeBatch, nn.BatchNorm1d):
    pass


class _WholeBatch2d(_WholeBatch, nn.BatchNorm2d):
    pass


class _WholeBatch3d(_WholeBatch, nn.BatchNorm3d):
    pass


_OVER_RANKS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: _WholeBatch1d,
    nn.BatchNorm2d: _WholeBatch2d,
    nn.BatchNorm3d: _WholeBatch3d,
}


def over_whole_batch(model: nn.Module) -> None:
    """Have every batch norm of a model see the whole batch; weights, buffers and names stay as they are."""
    for module in model.modules():
        if type(module) in _OVER_RANKS:
            # The same layer with another forward: a new module would have to be put in its place everywhere
            # that the model, or a part that keeps a list of its own, holds it.
            module.__class__ = _OVER_RANKS[type(module)]
