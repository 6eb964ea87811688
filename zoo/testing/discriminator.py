"""Checks of discriminators: ``x -> Judged(logits, features)``, raw scores of clips or frames."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from zoo.outputs import Judged
from zoo.testing.encoder import require_input_gradient
from zoo.testing.results import CheckSkipped, checks, fail
from zoo.testing.subject import Subject, require_equal, require_finite, seeded, without_onednn


def check_logits_and_features_are_lists(subject: Subject) -> None:
    """logits is a list of at least one tensor, features a list of tensors, all of them batch first."""
    module = subject.build()
    for mode in (True, False):
        module.train(mode)
        for batch in (2, 3):
            with seeded(0), torch.no_grad():
                result: Judged = subject.call(module, subject.inputs(module, batch))
            subject.named(result)
            for name, values in (("logits", result.logits), ("features", result.features)):
                found = f"{name} is a {type(values).__name__}"
                if not isinstance(values, list) or not all(isinstance(value, Tensor) for value in values):
                    raise fail(f"{name} is a list of tensors", found, "wrap it in a list")
                if shapes := [tuple(v.shape) for v in values if v.ndim < 1 or v.shape[0] != batch]:
                    raise fail(f"{name} have {batch} rows for {batch} clips", f"{shapes}", "batch axis first")
            if not result.logits:
                raise fail("at least one tensor of logits", "none", "return the score")


def check_shapes(subject: Subject) -> None:
    """in_channels and min_size are true: it judges clips of exactly min_size and larger ones, H != W."""
    module = subject.build().eval()
    with torch.no_grad():
        for batch in (1, 3):
            for size, THW in enumerate(subject.sizes()):
                try:
                    outputs = subject.outputs(module, subject.inputs(module, batch, size=size))
                except Exception as error:
                    raise fail(
                        f"min_size = {subject.ports.min_size}: clips of {THW} can be judged",
                        f"{type(error).__name__}: {error}",
                        "state the smallest size that works as min_size, and take any larger one",
                    ) from error
                if empty := [name for name, value in outputs.items() if not value.numel()]:
                    raise fail(f"clips of {THW} get a score", f"{empty} are empty", "raise min_size")


def check_gradient_reaches_input(subject: Subject) -> None:
    """The gradient of the logits with respect to the clip is finite and not zero."""
    require_input_gradient(subject)


def check_features_carry_gradient(subject: Subject) -> None:
    """Features let the gradient through to the clip, for feature matching."""
    module = subject.build()
    inputs = subject.inputs(module)
    x = inputs["x"].requires_grad_()
    result: Judged = subject.call(module, inputs)
    for n, features in enumerate(result.features):
        gradient = None
        if features.requires_grad:
            (gradient,) = torch.autograd.grad(features.sin().sum(), x, retain_graph=True, allow_unused=True)
        if gradient is None or not bool(gradient.any()):
            todo = "do not detach features; the loss detaches those of real clips"
            raise fail("features carry the gradient to the clip", f"features[{n}] does not", todo)


def check_double_backward(subject: Subject) -> None:
    """The squared gradient with respect to the clip can be differentiated again (R1, gradient penalty)."""
    _penalise(subject, autocast=False)


def check_double_backward_under_autocast(subject: Subject) -> None:
    """The same under bfloat16 autocast."""
    _penalise(subject, autocast=True)


def _penalise(subject: Subject, *, autocast: bool) -> None:
    module = subject.build()
    inputs = subject.inputs(module)
    x = inputs["x"].requires_grad_()
    promised = "gradient penalties work: backward through the gradient with respect to the input"
    todo = "use operations with a second derivative; no custom backward without one"
    try:
        with without_onednn() if autocast else contextlib.nullcontext():
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                outputs = subject.outputs(module, inputs)
            (gradient,) = torch.autograd.grad(subject.objective(outputs), x, create_graph=True)
            gradient.square().sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise fail(promised, f"{type(error).__name__}: {error}", todo) from error
    seconds = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    trained = [p for p in module.parameters() if p.requires_grad]
    if trained and not any(bool(second.any()) for second in seconds.values()):
        raise fail(promised, "no weight gets a second gradient", todo)
    require_finite(seconds, promised=promised, todo="add an epsilon inside square roots")


def check_frames_drawn(subject: Subject) -> None:
    """draw_frames gives int64 frames_BK, ascending, within the clip, by the generator it is given."""
    if not subject.ports.draws_frames:
        raise CheckSkipped("sees the frames it is given")
    module: Any = subject.build()
    todo = "draw K frame numbers for each clip from generator=, and sort them"
    most = 40
    for num_frames in (most, subject.ports.num_frames or 1):
        drawn = [
            module.draw_frames(3, num_frames, generator=torch.Generator().manual_seed(seed))
            for seed in (1, 1, 2)
        ]
        for frames_BK in drawn:
            promised = f"frames of clips of {num_frames} are int64 (3, K), ascending, in [0, {num_frames})"
            fine = frames_BK.dtype == torch.int64 and frames_BK.ndim == 2 and len(frames_BK) == 3
            if not fine or not bool((frames_BK.diff(dim=1) >= 0).all()):
                raise fail(promised, f"{frames_BK.dtype} {frames_BK.tolist()}", todo)
            if int(frames_BK.min()) < 0 or int(frames_BK.max()) >= num_frames:
                raise fail(promised, f"{frames_BK.tolist()}", todo)
            if subject.ports.num_frames not in (None, frames_BK.shape[1]):
                raise fail(
                    f"num_frames = {subject.ports.num_frames} frames are drawn", f"{frames_BK.shape[1]}", todo
                )
        if not torch.equal(drawn[0], drawn[1]):
            raise fail("the same seed draws the same frames", "two draws differ", todo)
        if num_frames == most and torch.equal(drawn[0], drawn[2]) and drawn[0].shape[1] < most:
            raise fail("another seed draws other frames", "they are the same", todo)


def check_batch_in_training(subject: Subject) -> None:
    """In training a clip's scores do not depend on the other clips, unless mixes_batch says so."""
    if subject.ports.mixes_batch:
        raise CheckSkipped("says that it mixes the batch")
    module = subject.build().train()
    inputs = subject.inputs(module, 3)
    with torch.no_grad():
        together = subject.per_clip(subject.outputs(module, inputs))
        first = {name: value[:1] for name, value in inputs.items()}
        alone = subject.per_clip(subject.outputs(module, first))
    require_equal(
        {name: value[:1] for name, value in together.items()},
        alone,
        promised="in training a clip is judged the same in any batch",
        todo="set mixes_batch = True where batch statistics are meant",
        tolerance=1e-3,
    )


def check_logits_are_unbounded(subject: Subject) -> None:
    """Scores are raw: some weights and clips give logits above 1, and some below -1."""
    module = subject.build().eval()
    heads: dict[str, tuple[float, float]] = {}
    with torch.no_grad():
        for seed in range(12):
            with seeded(seed):
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter.copy_(torch.randn_like(parameter) * (0.3, 1.0, 3.0)[seed % 3])
            inputs = subject.inputs(module, 4, seed=seed)
            inputs["x"] = inputs["x"] * (1.0, 10.0)[seed % 2]
            for name, value in subject.outputs(module, inputs).items():
                low, high = heads.get(name, (0.0, 0.0))
                heads[name] = min(low, float(value.min())), max(high, float(value.max()))
    for name, (low, high) in heads.items():
        if name.startswith("logits") and (low >= -1.01 or high <= 1.01):
            raise fail(
                "logits are raw scores, so that each loss applies its own squashing",
                f"with 12 draws of the weights {name} stays in [{low:.3g}, {high:.3g}]",
                "end in a plain layer: no sigmoid, tanh, softplus or clamp",
            )


CHECKS = [
    *checks(
        check_logits_and_features_are_lists,
        check_shapes,
        check_gradient_reaches_input,
        check_features_carry_gradient,
        check_double_backward,
        check_double_backward_under_autocast,
        check_logits_are_unbounded,
    ),
    *checks(check_frames_drawn, check_batch_in_training, may_skip=True),
]
