"""What DVD-GAN is built of: the convolutional GRU, residual blocks, attention, spectral norm.

Shape legend: B clips, T frames, N frames of all clips, C channels, h w the grid, E condition numbers, P
positions.
"""

from __future__ import annotations

from typing import TypeVar, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.precision import at_least_fp32
from zoo.spectral_norm import spectral_norm

_M = TypeVar("_M", bound=nn.Conv2d | nn.Conv3d | nn.Linear | nn.Embedding)


def start(module: _M, *, spectral: bool = True) -> _M:
    """Give a layer orthogonal weights and no bias and, if asked, hold its largest singular value at 1."""
    nn.init.orthogonal_(module.weight)
    if not isinstance(module, nn.Embedding) and module.bias is not None:
        nn.init.zeros_(module.bias)
    return spectral_norm(module) if spectral else module


class ConvGRU(nn.Module):
    """Turns a sequence of maps into another, one layer of a convolutional GRU, from a state of 0.

    With ``[x; h]`` the channels of input and state: reset ``r = sigmoid(R * [x; h])``, update ``u =
    sigmoid(U * [x; h])``, candidate ``c = activation(O * [x; r h])``, new state ``h + u (c - h)``. What
    comes of the input is computed for all frames at once, so a step convolves the state alone, and the
    work is linear in frames.

    Args:
        in_channels: Channels of the input.
        hidden_channels: Channels of the state, which is the output.
        kernel_size: Odd side of the kernels.
        activation: "relu" or "tanh", of the candidate.
        spectral: Whether the weights are spectrally normalised.
    """

    def __init__(
        self, in_channels: int, hidden_channels: int, *, kernel_size: int, activation: str, spectral: bool
    ) -> None:
        super().__init__()
        self._in_channels = in_channels
        self._hidden_channels = hidden_channels
        self._padding = kernel_size // 2
        self._activation = {"relu": torch.relu, "tanh": torch.tanh}[activation]

        def gate() -> nn.Conv2d:
            conv = nn.Conv2d(in_channels + hidden_channels, hidden_channels, kernel_size)
            return start(conv, spectral=spectral)

        self.reset_gate, self.update_gate, self.out_gate = gate(), gate(), gate()

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """Return the states after each frame, (B, T, hidden_channels, h, w)."""
        gates = (self.reset_gate, self.update_gate, self.out_gate)
        # Read once: with spectral norm each reading is a computation, in train mode a power iteration too.
        weights = [gate.weight for gate in gates]
        biases = [cast("Tensor", gate.bias) for gate in gates]
        split = self._in_channels
        by_input = torch.cat([weight[:, :split] for weight in weights])
        by_state = torch.cat([weight[:, split:] for weight in weights[:2]])
        by_reset_state = weights[2][:, split:]

        num_frames = x_BTCHW.shape[1]
        seen = F.conv2d(
            rearrange(x_BTCHW, "B T C h w -> (B T) C h w"), by_input, torch.cat(biases), padding=self._padding
        )
        seen = rearrange(seen, "(B T) C h w -> B T C h w", T=num_frames)
        width = self._hidden_channels
        # The state stays in full precision under autocast; only the convolutions are lowered.
        state = at_least_fp32(torch.zeros_like(seen[:, 0, :width]))
        states = []
        for seen_BCHW in seen.unbind(dim=1):
            both = seen_BCHW[:, : 2 * width] + F.conv2d(state, by_state, padding=self._padding)
            reset, update = torch.sigmoid(both).chunk(2, dim=1)
            remembered = F.conv2d(reset * state, by_reset_state, padding=self._padding)
            candidate = self._activation(seen_BCHW[:, 2 * width :] + remembered)
            state = state + update * (candidate - state)
            states.append(state)
        return torch.stack(states, dim=1)


class ConditionalNorm(nn.Module):
    """Batch norm whose scale and shift are a linear function of the condition.

    In train mode mean and variance pool over all frames of all clips; in eval mode they are the running
    ones, so a frame does not depend on others.

    Args:
        num_channels: Channels of the maps.
        condition_dim: Numbers in the condition.
        spectral: Whether the linear function is spectrally normalised.
    """

    def __init__(self, num_channels: int, condition_dim: int, *, spectral: bool) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(num_channels, affine=False)
        embed = nn.Linear(condition_dim, 2 * num_channels)
        nn.init.normal_(embed.weight, 0.0, 0.02)
        nn.init.ones_(embed.bias[:num_channels])
        nn.init.zeros_(embed.bias[num_channels:])
        self.embed = spectral_norm(embed) if spectral else embed

    def forward(self, x_NCHW: Tensor, condition_NE: Tensor) -> Tensor:
        """Return maps of the same shape."""
        scale, shift = rearrange(self.embed(condition_NE), "N (two C) -> two N C 1 1", two=2)
        x_NCHW = self.bn(x_NCHW)
        return x_NCHW * scale + shift


class GeneratorBlock(nn.Module):
    """Residual block of two 3x3 convolutions behind conditional batch norms, which may double the grid.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        condition_dim: Numbers in the condition.
        upsample: 2 to double height and width (nearest), 1 to keep them.
        spectral_norms: Whether the linear functions of the norms are spectrally normalised; the
            convolutions always are.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, condition_dim: int, upsample: int, spectral_norms: bool
    ) -> None:
        super().__init__()
        self._upsample = upsample
        self.norm0 = ConditionalNorm(in_channels, condition_dim, spectral=spectral_norms)
        self.conv0 = start(nn.Conv2d(in_channels, out_channels, 3, padding=1))
        self.norm1 = ConditionalNorm(out_channels, condition_dim, spectral=spectral_norms)
        self.conv1 = start(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.conv_sc = start(nn.Conv2d(in_channels, out_channels, 1))

    def forward(self, x_NCHW: Tensor, condition_NE: Tensor) -> Tensor:
        """Return x_NCHW of `out_channels`, `upsample` times as high and wide."""
        y = self._enlarge(torch.relu(self.norm0(x_NCHW, condition_NE)))
        y = torch.relu(self.norm1(self.conv0(y), condition_NE))
        # A 1x1 convolution before copying pixels is the one after it, at a quarter of the work.
        return self.conv1(y) + self._enlarge(self.conv_sc(x_NCHW))

    def _enlarge(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=self._upsample) if self._upsample > 1 else x


class DiscriminatorBlock(nn.Module):
    """Residual block of two convolutions of side 3, then average pooling by 2 on every axis.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        num_axes: 2 for single frames, 3 for clips.
        first: Whether it reads pixels, which are not put through a ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, *, num_axes: int, first: bool) -> None:
        super().__init__()
        conv = nn.Conv3d if num_axes == 3 else nn.Conv2d
        self._first = first
        self._pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[num_axes]
        self.conv0 = start(conv(in_channels, out_channels, 3, padding=1))
        self.conv1 = start(conv(out_channels, out_channels, 3, padding=1))
        self.conv_sc = start(conv(in_channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return x of `out_channels`, half as long on each space axis."""
        y = self.conv0(x if self._first else torch.relu(x))
        y = self.conv1(torch.relu(y))
        # Pooling commutes with a 1x1 convolution, which then has less to do.
        return self._pool(y, 2) + self.conv_sc(self._pool(x, 2))


class Attention(nn.Module):
    """Self-attention over all positions, added with a learned weight that starts at 0.

    The layer of SAGAN, https://arxiv.org/abs/1805.08318, without pooling: queries and keys of an eighth
    of the channels, products not scaled.

    Args:
        num_channels: Channels of the input and output.
        spectral: Whether the projections are spectrally normalised.
    """

    def __init__(self, num_channels: int, *, spectral: bool) -> None:
        super().__init__()
        narrow = max(1, num_channels // 8)

        def project(width: int) -> nn.Conv1d:
            conv = nn.Conv1d(num_channels, width, 1)
            nn.init.xavier_uniform_(conv.weight)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
            return spectral_norm(conv) if spectral else conv

        self.query, self.key, self.value = project(narrow), project(narrow), project(num_channels)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x_NCP: Tensor) -> Tensor:
        """Return x_NCP of the same shape, P positions attending to each other."""
        # Plain products: the fused kernels have no second derivative, which gradient penalties need.
        scores = torch.einsum("ncp,ncq->npq", self.query(x_NCP), self.key(x_NCP))
        mixed = torch.einsum("ncq,npq->ncp", self.value(x_NCP), scores.softmax(dim=-1))
        return x_NCP + self.gamma * mixed


class SeparableAttention(nn.Module):
    """Self-attention along height, then width, then time, instead of over all positions of a clip at once.

    Args:
        num_channels: Channels of the input and output.
        spectral: Whether the projections are spectrally normalised.
    """

    _AXES = ("(B T w) C h", "(B T h) C w", "(B h w) C T")

    def __init__(self, num_channels: int, *, spectral: bool) -> None:
        super().__init__()
        self.axes = nn.ModuleList(Attention(num_channels, spectral=spectral) for _ in self._AXES)

    def forward(self, x_BTCHW: Tensor) -> Tensor:
        """Return maps of the same shape."""
        _, T, _, h, w = x_BTCHW.shape
        sides = {"T": T, "h": h, "w": w}
        for attention, axes in zip(self.axes, self._AXES, strict=True):
            lengths = {name: side for name, side in sides.items() if name in axes.partition(")")[0]}
            y = attention(rearrange(x_BTCHW, f"B T C h w -> {axes}"))
            x_BTCHW = rearrange(y, f"{axes} -> B T C h w", **lengths)
        return x_BTCHW
