"""Checks of time: the law of lengths, and causality where a part claims it. Encoders and decoders.

Shape legend: B batch, C colour channels, T H W frames and pixels; D latent channels, t h w the latent grid.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn

from zoo.streaming import Memory, streaming
from zoo.testing.results import CheckSkipped, checks, fail
from zoo.testing.subject import Subject


def run_grid(
    subject: Subject, module: nn.Module, batch: int, grid: tuple[int, int, int]
) -> tuple[Tensor, Tensor]:
    """Feed an encoder or a decoder a clip of the given latent grid; returns input and output."""
    generator = torch.Generator().manual_seed(sum(grid))
    size = subject.pixels(grid) if subject.kind == "encoder" else grid
    inputs = {"x": subject.tensor(batch, size, generator)}
    return inputs["x"], subject.outputs(module, inputs)["output"]


def output_shape(subject: Subject, batch: int, grid: tuple[int, int, int]) -> tuple[int, ...]:
    """Shape that the ports promise for a clip of the given latent grid."""
    if subject.kind == "encoder":
        channels, size = subject.ports.latent_dim, grid
    else:
        channels, size = subject.ports.out_channels, subject.pixels(grid)
    return (batch, channels, *(size[1:] if subject.is_image else size))


def require_shape(subject: Subject, module: nn.Module, batch: int, grid: tuple[int, int, int]) -> None:
    """Raise `CheckFailure` unless the part gives the shape that its ports promise."""
    x, output = run_grid(subject, module, batch, grid)
    wanted = output_shape(subject, batch, grid)
    if output.shape != wanted:
        ports = subject.ports
        raise fail(
            f"{tuple(x.shape)} gives {wanted}: stride {ports.stride}, lead_frame {ports.lead_frame}, "
            f"latent_dim {ports.latent_dim}",
            f"{tuple(output.shape)}",
            "mend the attribute that is wrong, or the forward; a part with a lead frame maps 1 + k*s_t "
            "frames to 1 + k, another k*s_t to k",
        )


def check_single_frame(subject: Subject) -> None:
    """A part with a lead frame takes one frame and gives one."""
    if not subject.ports.lead_frame:
        raise CheckSkipped("says lead_frame = False")
    require_shape(subject, subject.build().eval(), 2, (1, 3, 2))


def check_past_never_moves(subject: Subject) -> None:
    """In a causal part later frames change nothing that comes before them: the difference is exactly 0."""
    if not subject.ports.causal:
        raise CheckSkipped("says causal = False")
    if subject.is_image:
        raise CheckSkipped("works on single frames")
    module = subject.build().eval()
    grid = (4, 2, 3)
    with torch.no_grad():
        x, first = run_grid(subject, module, 2, grid)
        for kept in range(1, grid[0]):
            frames = subject.pixels((kept, *grid[1:]))[0]
            kept_in, kept_out = (frames, kept) if subject.kind == "encoder" else (kept, frames)
            changed = x.clone()
            changed[:, :, kept_in:] = -3 * changed[:, :, kept_in:] + 0.5
            second = subject.outputs(module, {"x": changed})["output"]
            moved = float((first - second)[:, :, :kept_out].abs().max())
            if moved != 0.0:
                raise fail(
                    f"the first {kept_out} outputs depend on the first {kept_in} inputs only",
                    f"they moved by {moved:.3g} when later ones changed",
                    "pad time on the left only, and pool or normalise over no later frame",
                )


def check_pieces_equal_one_shot(subject: Subject) -> None:
    """A causal part fed in pieces, in a stream, gives what it gives for the whole clip, within 1e-5."""
    if not subject.ports.causal:
        raise CheckSkipped("says causal = False")
    if subject.is_image:
        raise CheckSkipped("works on single frames")
    module = subject.build().eval()
    grid = (4, 2, 3)
    with torch.no_grad():
        x, whole = run_grid(subject, module, 2, grid)
        for plan in ((1, 1, 1, 1), (2, 2), (1, 3), (3, 1)):
            ends = list(accumulate(plan))
            if subject.kind == "encoder":
                ends = [subject.pixels((end, *grid[1:]))[0] for end in ends]
            memory: Memory = {}
            pieces = []
            for start, end in zip([0, *ends], ends, strict=False):
                with streaming(module, memory):
                    pieces.append(subject.outputs(module, {"x": x[:, :, start:end]})["output"])
            made = torch.cat(pieces, 2)
            if made.shape != whole.shape:
                raise fail(f"pieces of {plan} give {tuple(whole.shape)}", f"{tuple(made.shape)}", _STREAM)
            error = float((made - whole).abs().max() / whole.abs().max().clamp(min=1e-12))
            if not error <= 1e-5:
                raise fail(
                    f"pieces of {plan} give what one shot gives", f"they differ by {error:.3g}", _STREAM
                )


_STREAM = (
    "ask zoo.streaming in every layer that looks back: lead_in for a convolution over time, all_so_far for "
    "attention, is_first_piece where the first piece differs"
)

CHECKS = checks(check_single_frame, check_past_never_moves, check_pieces_equal_one_shot, may_skip=True)
