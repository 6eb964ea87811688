"""Checks of quantizers: ``z_BDthw -> Quantized(z_BDthw, indices_Bqthw or None, loss, stats)``.

Shape legend: B batch, D latent channels, t h w the latent grid, q codebooks.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.outputs import Quantized
from zoo.testing.encoder import require_input_gradient
from zoo.testing.ranks import check_ranks_agree
from zoo.testing.results import CheckSkipped, checks, fail
from zoo.testing.subject import GRIDS, Subject, require_equal, require_finite, seeded

LOOKUP_TOLERANCE = 1e-5


def _quantize(subject: Subject, module: Any, batch: int = 2, *, size: int = 0) -> Quantized:
    result: Quantized = subject.call(module, subject.inputs(module, batch, size=size))
    subject.named(result)
    return result


def _discrete(subject: Subject) -> None:
    if subject.ports.continuous:
        raise CheckSkipped("says continuous = True: no codes")


def check_shapes(subject: Subject) -> None:
    """The output has the input's shape, with latent_dim channels, for 1 and 3 clips, two lengths, h != w."""
    module = subject.build()
    for mode in (True, False):
        module.train(mode)
        for batch in (1, 3):
            for size, grid in enumerate(GRIDS):
                with seeded(0), torch.no_grad():
                    z = _quantize(subject, module, batch, size=size).z_BDthw
                wanted = (batch, subject.ports.latent_dim, *grid)
                if z.shape != wanted:
                    raise fail(f"z_BDthw is {wanted}", f"{tuple(z.shape)}", "put axes back as they came")


def check_indices_or_none(subject: Subject) -> None:
    """Indices are int64 of shape (B, q, t, h, w), or None in a continuous quantizer."""
    module, ports = subject.build(), subject.ports
    for mode in (True, False):
        module.train(mode)
        for size, grid in enumerate(GRIDS):
            with seeded(0), torch.no_grad():
                indices = _quantize(subject, module, 3, size=size).indices_Bqthw
            if ports.continuous:
                if indices is not None:
                    raise fail(
                        "continuous = True means no indices", "a tensor", "return indices_Bqthw = None"
                    )
                continue
            wanted = (3, ports.num_codebooks, *grid)
            found = "None" if indices is None else f"{indices.dtype} of shape {tuple(indices.shape)}"
            if indices is None or indices.dtype != torch.int64 or indices.shape != wanted:
                raise fail(f"indices are int64 of shape {wanted}", found, "one number per codebook and place")


def check_indices_in_range(subject: Subject) -> None:
    """Indices are from 0 to codebook_size - 1, even for latents far from the codes."""
    _discrete(subject)
    module, size = subject.build(), subject.ports.codebook_size
    for mode in (True, False):
        module.train(mode)
        for factor in (0.0, 1.0, 100.0):
            x = subject.inputs(module)["x"] * factor
            with seeded(0), torch.no_grad():
                indices = module(x).indices_Bqthw
            low, high = int(indices.min()), int(indices.max())
            if low < 0 or high >= size:
                raise fail(
                    f"indices are in [0, {size - 1}]",
                    f"from {low} to {high} for latents times {factor}",
                    "mend the numbering, or codebook_size",
                )


def check_lookup_equals_output(subject: Subject) -> None:
    """In evaluation lookup(indices) is the z that was returned."""
    _discrete(subject)
    module: Any = subject.build().eval()
    for size in (0, 1):
        with torch.no_grad():
            result = _quantize(subject, module, size=size)
            looked_up = module.lookup(result.indices_Bqthw)
        require_equal(
            {"z_BDthw": looked_up},
            {"z_BDthw": result.z_BDthw},
            promised="lookup(indices) equals the output, so that stored tokens decode to the same clip",
            todo="emit exactly the looked-up code (plus straight-through), in the same axis order",
            tolerance=LOOKUP_TOLERANCE,
        )


def _every_code(subject: Subject, module: Any) -> Tensor:
    ports = subject.ports
    codes = torch.arange(min(ports.codebook_size, 4096))
    codes[-1] = ports.codebook_size - 1
    looked_up: Tensor = module.lookup(codes.reshape(1, 1, 1, 1, -1).repeat(1, ports.num_codebooks, 1, 1, 1))
    return looked_up


def check_lookup_knows_every_code(subject: Subject) -> None:
    """lookup takes every index from 0 to codebook_size - 1, and gives distinct finite codes."""
    _discrete(subject)
    module, ports = subject.build().eval(), subject.ports
    promised = (
        f"lookup gives latent_dim = {ports.latent_dim} channels for each of {ports.codebook_size} codes"
    )
    with torch.no_grad():
        codes = _every_code(subject, module)
    wanted = (1, ports.latent_dim, 1, 1, min(ports.codebook_size, 4096))
    if codes.shape != wanted:
        raise fail(promised, f"{tuple(codes.shape)} in place of {wanted}", "mend lookup")
    require_finite({"codes": codes}, promised=promised, todo="initialise every code")
    if (distinct := torch.unique(codes, dim=-1).shape[-1]) < wanted[-1]:
        raise fail(
            promised, f"only {distinct} of {wanted[-1]} differ", "initialise codes apart, mend the numbering"
        )


def check_codebook_still_in_eval(subject: Subject) -> None:
    """Evaluation, with or without gradients, leaves every code where it was."""
    _discrete(subject)
    module = subject.build()
    with seeded(0), torch.no_grad():
        subject.outputs(module, subject.inputs(module, seed=1))
    module.eval()
    with torch.no_grad():
        before = _every_code(subject, module).clone()
    for seed in (2, 3):
        subject.outputs(module, subject.inputs(module, 3, seed=seed))
    with torch.no_grad():
        after = _every_code(subject, module)
    require_equal(
        {"codes": after},
        {"codes": before},
        promised="the codebook moves only while training",
        todo="update it only `if self.training`",
    )


def check_straight_through(subject: Subject) -> None:
    """The gradient of z with respect to the latent is finite and not zero, for every clip."""
    require_input_gradient(subject)


def check_loss_is_scalar(subject: Subject) -> None:
    """The loss is a finite float32 scalar tensor of shape (), in training and in evaluation."""
    module = subject.build()
    for mode in (True, False):
        module.train(mode)
        with seeded(0), torch.no_grad():
            loss = _quantize(subject, module).loss
        found = f"{loss.dtype} of shape {tuple(loss.shape)}"
        if loss.shape != () or loss.dtype != torch.float32:
            raise fail(
                "loss is one float32 number, shape ()", found, "take the mean; return 0 when there is none"
            )
        require_finite({"loss": loss}, promised="the loss is finite", todo="look for log(0) or overflow")


def check_stats_are_detached(subject: Subject) -> None:
    """stats is a dict of detached scalars by name, the same names in training and evaluation."""
    module = subject.build()
    names = []
    for mode in (True, False):
        module.train(mode)
        inputs = {"x": subject.inputs(module)["x"].requires_grad_()}
        with seeded(0):
            result: Quantized = subject.call(module, inputs)
        if not isinstance(result.stats, dict):
            raise fail("stats is a dict", f"a {type(result.stats).__name__}", "return {} when there are none")
        names.append(sorted(result.stats))
        for name, value in result.stats.items():
            if not isinstance(value, Tensor) or value.shape != () or value.requires_grad:
                raise fail("stats are detached scalar tensors", f"{name} = {value!r}", "detach and reduce it")
    if names[0] != names[1]:
        raise fail("stats have the same names in training and evaluation", f"{names}", "return all of them")


def check_fp32_under_autocast(subject: Subject) -> None:
    """Under bf16 autocast a float32 latent gives the same result as without: the part computes in fp32."""
    module = subject.build().eval()
    inputs = subject.inputs(module, 3)
    with torch.no_grad():
        plain = subject.per_clip(subject.outputs(module, inputs))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = subject.per_clip(subject.outputs(module, inputs))
    require_equal(
        mixed,
        plain,
        promised="quantizers compute in fp32 whatever the autocast",
        todo="wrap forward in torch.autocast(device_type, enabled=False) and call .float() on the input",
        tolerance=LOOKUP_TOLERANCE,
    )


def check_many_codes_are_used(subject: Subject) -> None:
    """In training, latents spread wide enough get more than one code."""
    _discrete(subject)
    module = subject.build()
    generator = torch.Generator().manual_seed(3)
    with seeded(0), torch.no_grad():
        x = 3 * torch.randn(4, subject.ports.input_dim, 4, 4, 4, generator=generator)
        indices = module(x).indices_Bqthw
    for number in range(indices.shape[1]):
        if indices[:, number].unique().numel() < 2:
            todo = "look at the axis that the nearest code is taken over"
            raise fail("different latents get different codes", f"codebook {number} gave one code", todo)


CHECKS = [
    *checks(
        check_shapes,
        check_indices_or_none,
        check_straight_through,
        check_loss_is_scalar,
        check_stats_are_detached,
        check_fp32_under_autocast,
    ),
    *checks(
        check_indices_in_range,
        check_lookup_equals_output,
        check_lookup_knows_every_code,
        check_codebook_still_in_eval,
        check_many_codes_are_used,
        check_ranks_agree,
        may_skip=True,
    ),
]
