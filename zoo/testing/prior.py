"""Checks of priors, generators that emit indices: what they learn, and the codes they make.

Shape legend: B batch, q codebooks, t h w the grid of codes.
"""

from __future__ import annotations

from itertools import islice
from typing import Any

import torch
from torch import Tensor

from zoo.sampling import Sampling
from zoo.testing import recomputed
from zoo.testing.results import CheckSkipped, checks, fail
from zoo.testing.subject import Inputs, Subject, difference, require_equal, seeded

_PLAIN = Sampling(steps=3)


def _noise(module: Any, num: int, *, seed: int = 0) -> Inputs:
    noise: Inputs = module.draw_noise(num, 1, generator=torch.Generator().manual_seed(seed))
    return noise


def _made(
    subject: Subject, module: Any, noise: Inputs, num: int, *, given_Bqthw: Tensor | None = None
) -> Tensor:
    """Make frames (B, q, num, h, w), of a prior that ends earlier as many as it makes."""
    limit = subject.ports.max_frames
    if limit is not None:
        num = min(num, limit - (0 if given_Bqthw is None else given_Bqthw.shape[2]))
    return torch.stack(list(islice(module.frames(noise, _PLAIN, given_Bqthw=given_Bqthw), num)), dim=2)


def _strong(module: Any) -> Any:
    """Draw weights anew, so large that the codes given decide on those that follow: fresh ones hardly do."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=rng))
    return module


def _require_codes(subject: Subject, codes_Bqthw: Tensor, shape: tuple[int, ...], *, todo: str) -> None:
    ports = subject.ports
    inside = bool(((codes_Bqthw >= 0) & (codes_Bqthw < ports.codebook_size)).all())
    if codes_Bqthw.dtype != torch.int64 or codes_Bqthw.shape != shape or not inside:
        raise fail(
            f"int64 codes of shape {shape} in [0, {ports.codebook_size})",
            f"{codes_Bqthw.dtype} of shape {tuple(codes_Bqthw.shape)}"
            + ("" if inside else ", some outside of the range"),
            todo,
        )


def check_noise_is_a_seed(subject: Subject) -> None:
    """draw_noise gives an int64 seed a clip (and its label) from the generator or torch's global one."""
    module: Any = subject.build()
    promised = "noise['seed'] is int64 (B,); noise['label'], where there are classes, in [0, num_classes)"
    todo = "return {'seed': zoo.sampling.draw_seeds(num, generator=generator, device=device)}"
    noise = _noise(module, 16)
    wanted = {"seed"} | ({"label"} if subject.ports.num_classes else set())
    for name in wanted:
        value = noise.get(name)
        if value is None or value.dtype != torch.int64 or value.shape != (16,):
            raise fail(promised, f"noise holds { ({k: tuple(v.shape) for k, v in noise.items()}) }", todo)
    if subject.ports.num_classes and not bool(
        ((noise["label"] >= 0) & (noise["label"] < subject.ports.num_classes)).all()
    ):
        raise fail(promised, f"labels {noise['label'].tolist()}", "draw them in [0, num_classes)")
    require_equal(_noise(module, 16), noise, promised="the same generator gives the same noise", todo=todo)
    if torch.equal(_noise(module, 16, seed=1)["seed"], noise["seed"]):
        raise fail("another generator gives other noise", "the seeds are equal", todo)
    draws = []
    for seed in (1, 1, 2):
        with seeded(seed):
            draws.append(module.draw_noise(4, 1)["seed"])
    if not torch.equal(draws[0], draws[1]) or torch.equal(draws[0], draws[2]):
        raise fail("without a generator, torch's global one decides", "it does not", todo)


def check_loss_is_nats(subject: Subject) -> None:
    """loss is a finite scalar above 0 that the generator it is given decides, whatever the global seed."""
    module: Any = subject.build().eval()
    inputs = subject.inputs(module, 3)
    told = {name: value for name, value in inputs.items() if name != "x"}
    found = []
    for seed in (1, 2):
        with seeded(seed), torch.no_grad():
            rng = torch.Generator().manual_seed(5)
            found.append(module.loss(inputs["x"], generator=rng, **told))
    if found[0].ndim or not bool(torch.isfinite(found[0])) or float(found[0]) <= 0:
        raise fail("loss is a finite scalar above 0", f"{found[0]}", "return the mean cross entropy in nats")
    if not torch.equal(found[0], found[1]):
        raise fail(
            "the generator decides what a step draws by chance",
            f"losses {float(found[0])} and {float(found[1])} with equal generators",
            "draw masks, dropped labels and the like from `generator`",
        )


def check_frames_are_codes(subject: Subject) -> None:
    """frames gives int64 codes_Bqhw in range, beyond the window where there is no end, and the same again."""
    module: Any = subject.build().eval()
    ports = subject.ports
    t, h, w = ports.grid_thw
    noise, others = ({"seed": _noise(module, 2, seed=seed)["seed"]} for seed in (0, 1))
    if ports.num_classes:  # one label for all: what differs is by the seeds
        label = {"label": torch.zeros(2, dtype=torch.int64)}
        noise, others = noise | label, others | label
    with seeded(0):
        before = torch.get_rng_state()
        made = _made(subject, module, noise, t + 2)
        untouched = torch.equal(before, torch.get_rng_state())
    num = t + 2 if ports.max_frames is None else min(t + 2, ports.max_frames)
    todo = "yield one frame after the other, without end or up to max_frames"
    _require_codes(subject, made, (2, ports.num_codebooks, num, h, w), todo=todo)
    if not untouched:
        raise fail("frames draws from the seeds alone", "the global generator was drawn from", "use Chance")
    require_equal(
        {"codes": _made(subject, module, noise, t + 2)},
        {"codes": made},
        promised="the same seeds make the same codes",
        todo="draw from zoo.sampling.Chance(noise['seed'])",
    )
    other = _made(subject, module, others, t + 2)
    if torch.equal(other, made) or torch.equal(made[0], made[1]):
        raise fail("another seed makes other codes", "they are equal", "draw from the seeds")


def check_frames_alone_as_in_a_batch(subject: Subject) -> None:
    """A clip's codes are the same alone and in a batch."""
    module: Any = subject.build().eval()
    num = subject.ports.grid_thw[0] + 1
    noise = _noise(module, 3)
    together = _made(subject, module, noise, num)
    for n in range(3):
        alone = {name: value[n : n + 1] for name, value in noise.items()}
        require_equal(
            {"codes": _made(subject, module, alone, num)},
            {"codes": together[n : n + 1]},
            promised="the codes of a clip do not depend on its neighbours in the batch",
            todo="draw row by row, each from its own seed",
        )


def check_frames_go_on(subject: Subject) -> None:
    """Given frames, frames gives those after them, which follow from them, and changes none of them."""
    module: Any = _strong(subject.build().eval())
    ports = subject.ports
    t, h, w = ports.grid_thw
    whole, other = (subject.inputs(module, 2, seed=seed)["x"] for seed in (0, 1))
    noise = _noise(module, 2)
    limit = t + 2 if ports.max_frames is None else ports.max_frames
    numbers = [n for n in sorted({1, t - 1, t} - {0}) if n < limit]
    repeated, followed = [], []
    todo = "yield the frames after those given"
    for num_given in numbers:
        given = whole[:, :, :num_given].clone()
        kept = given.clone()
        made = _made(subject, module, noise, 2, given_Bqthw=given)
        num = min(2, limit - num_given)
        _require_codes(subject, made, (2, ports.num_codebooks, num, h, w), todo=todo)
        require_equal({"given": given}, {"given": kept}, promised="given codes stay as they were", todo=todo)
        both = min(num, num_given)
        repeated.append(torch.equal(made[:, :, :both], given[:, :, :both]))
        after_other = _made(subject, module, noise, 2, given_Bqthw=other[:, :, :num_given])
        followed.append(not torch.equal(made, after_other))
    if numbers and all(repeated):
        raise fail("frames gives what comes after the given frames", "it gives those first", todo)
    if numbers and not any(followed):
        raise fail(
            "frames goes on from those given", "after others it makes the same codes", "read the given"
        )


def check_never_sees_later_codes(subject: Subject) -> None:
    """In raster order, logits (B, q, t, h, w, ...) do not move by a bit when later codes change."""
    if subject.ports.order != "raster":
        raise CheckSkipped("fills codes in any order")
    module: Any = subject.build().eval()
    inputs = subject.inputs(module, 2)
    told = {name: value for name, value in inputs.items() if name != "x"}
    codes = inputs["x"]
    t, h, w = codes.shape[2:]
    with torch.no_grad():
        before = module(codes, **told)
        if before.shape[:5] != codes.shape:
            raise fail(
                "forward of a prior in raster order gives logits (B, q, t, h, w, ...)",
                f"shape {tuple(before.shape)}",
                "bring the logits into the shape of the codes",
            )
        places = {(0, 0, 0), (t - 1, h - 1, w - 1), (t // 2, h // 2, w // 2), (t - 1, 0, 0)}
        for place in sorted(places):
            changed = codes.clone()
            changed[:, :, *place] = (codes[:, :, *place] + 1) % subject.ports.codebook_size
            after = module(changed, **told)
            number = (place[0] * h + place[1]) * w + place[2]
            first, second = (x.flatten(2, 4)[:, :1, : number + 1] for x in (before, after))
            if difference(first, second) != 0.0:
                raise fail(
                    "the logits of a code depend on the codes before it only",
                    f"they moved when the code at {place} (t, h, w) changed",
                    "shift the codes by one place, and mask attention",
                )


def check_fill_keeps_what_is_known(subject: Subject) -> None:
    """fill keeps every known code and makes the others, alike alone and in a batch."""
    if subject.ports.order != "any":
        raise CheckSkipped("makes codes in raster order")
    module: Any = subject.build().eval()
    codes = subject.inputs(module, 3)["x"]
    noise = _noise(module, 3)
    rng = torch.Generator().manual_seed(6)
    todo = "write into the unknown places only, each row from its own seed"
    for share in (0.0, 0.4, 0.9, 1.0):
        known = torch.rand(codes.shape, generator=rng) < share
        blank = torch.where(known, codes, 0)
        filled = module.fill(codes, known, noise, _PLAIN)
        _require_codes(subject, filled, tuple(codes.shape), todo=todo)
        if not torch.equal(filled[known], codes[known]):
            raise fail("known codes are kept", f"some changed where {share:.0%} are known", todo)
        promised = "what stands at unknown places does not matter, nor do the other clips of a batch"
        unseen = module.fill(blank, known, noise, _PLAIN)
        require_equal({"codes": unseen}, {"codes": filled}, promised=promised, todo=todo)
        alone = module.fill(codes[1:2], known[1:2], {k: v[1:2] for k, v in noise.items()}, _PLAIN)
        require_equal({"codes": alone}, {"codes": filled[1:2]}, promised=promised, todo=todo)


def check_label_matters(subject: Subject) -> None:
    """Another label gives other logits."""
    if not subject.ports.num_classes:
        raise CheckSkipped("takes no labels")
    module: Any = subject.build().eval()
    inputs = subject.inputs(module, 4)
    other = (inputs["label_B"] + 1) % subject.ports.num_classes
    with torch.no_grad():
        logits = [module(inputs["x"], label_B=label_B) for label_B in (inputs["label_B"], other)]
    if subject.ports.num_classes > 1 and difference(*logits) == 0.0:
        raise fail("another label gives other logits", "they are equal", "use label_B")


CHECKS = [
    *checks(
        check_noise_is_a_seed,
        check_loss_is_nats,
        check_frames_are_codes,
        check_frames_alone_as_in_a_batch,
        check_frames_go_on,
    ),
    *checks(check_never_sees_later_codes, check_fill_keeps_what_is_known, check_label_matters, may_skip=True),
    *recomputed.CHECKS,
]
