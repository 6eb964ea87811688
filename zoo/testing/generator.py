"""Checks of generators: ``draw_noise(num, num_frames) -> noise`` and ``noise -> x_BCTHW``."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from zoo.testing import recomputed
from zoo.testing.decoder import (
    check_last_layer_is_parameter,
    check_last_layer_moves_output,
    require_both_signs,
)
from zoo.testing.results import CheckSkipped, checks, fail
from zoo.testing.subject import NUM_FRAMES, Inputs, Subject, difference, require_equal, seeded


def _is_video(subject: Subject) -> None:
    if subject.ports.emits != "video":
        raise CheckSkipped(f"emits {subject.ports.emits}")


def check_noise_is_batch_first(subject: Subject) -> None:
    """draw_noise gives a dict of tensors with one row per clip, for 1 and 3 clips."""
    module = subject.build()
    for batch in (1, 3):
        for name, value in subject.inputs(module, batch).items():
            if value.ndim < 1 or value.shape[0] != batch:
                raise fail(
                    f"noise for {batch} clips has {batch} rows",
                    f"{name} has shape {tuple(value.shape)}",
                    "put the batch axis first in every tensor",
                )


def check_shapes(subject: Subject) -> None:
    """out_channels, size_HW and num_frames are true, for 1 and 3 clips and two lengths."""
    _is_video(subject)
    module, ports = subject.build().eval(), subject.ports
    with torch.no_grad():
        for batch in (1, 3):
            for size, num_frames in enumerate(NUM_FRAMES):
                clip = subject.outputs(module, subject.inputs(module, batch, size=size))["output"]
                HW = ports.size_HW or tuple(clip.shape[-2:])
                wanted = (batch, ports.out_channels, num_frames, *HW)
                if clip.shape != wanted:
                    raise fail(
                        f"{batch} clips of {num_frames} frames are {wanted} (out_channels, size_HW)",
                        f"{tuple(clip.shape)}",
                        "honour num_frames in draw_noise, and mend the attribute that is wrong",
                    )


def check_noise_matters(subject: Subject) -> None:
    """Every tensor of the noise changes the clip, and two clips of a batch differ."""
    module = subject.build().eval()
    noise, other = subject.inputs(module, 2, seed=1), subject.inputs(module, 2, seed=2)
    promised = "another draw of the noise gives another clip"
    with torch.no_grad():
        clip = subject.outputs(module, noise)["output"]
        if difference(clip[0], clip[1]) == 0.0:
            raise fail(promised, "two clips of a batch are equal", "draw noise for each clip")
        for name in noise:
            changed: Inputs = noise | {name: other[name]}
            if difference(subject.outputs(module, changed)["output"], clip) == 0.0:
                raise fail(promised, f"{name} changes nothing", "use it in forward, or do not draw it")


def check_seed_reproduces(subject: Subject) -> None:
    """A seeded torch.Generator draws the same noise again, another seed other noise."""
    module = subject.build()
    promised = "draw_noise draws from the generator it is given"
    todo = "pass generator= on to torch.randn, and nothing else random"
    with seeded(0):
        before = torch.get_rng_state()
        first = subject.inputs(module, seed=1)
        untouched = torch.equal(before, torch.get_rng_state())
    with seeded(1):
        again = subject.inputs(module, seed=1)
    require_equal(again, first, promised=promised, todo=todo)
    if not untouched:
        raise fail(promised, "the global generator was drawn from", todo)
    other = subject.inputs(module, seed=2)
    if all(difference(first[name], other[name]) == 0.0 for name in first):
        raise fail(promised, "two seeds gave the same noise", todo)


def check_noise_without_generator(subject: Subject) -> None:
    """Without a generator, noise is drawn from torch's global one: seeded alike, drawn alike."""
    module: Any = subject.build()
    draws = []
    for seed in (1, 1, 2):
        with seeded(seed):
            draws.append(module.draw_noise(2, NUM_FRAMES[0]))
    promised = "draw_noise(num, num_frames) draws from torch's global generator"
    todo = "keep no generator of your own on the module"
    require_equal(draws[0], draws[1], promised=promised, todo=todo)
    if all(difference(draws[0][name], draws[2][name]) == 0.0 for name in draws[0]):
        raise fail(promised, "two seeds gave the same noise", todo)


def check_noise_goes_to_device(subject: Subject) -> None:
    """draw_noise gives tensors on the device that is asked for, by the same seed the same ones."""
    module = subject.build()
    for name, value in subject.inputs(module, device="meta").items():
        if value.device.type != "meta":
            raise fail(
                "draw_noise(device=...) gives noise there, drawn on the generator's device",
                f"{name} is on {value.device}",
                "draw on the generator's device, then .to(device)",
            )


def check_noise_has_dim(subject: Subject) -> None:
    """A clip's noise has noise_dim numbers, in all or in one moment."""
    module, dim = subject.build(), subject.ports.noise_dim
    noise = subject.inputs(module, 1)
    widths = [n for value in noise.values() for n in value.shape[1:]]
    total = sum(value.numel() for value in noise.values())
    moment = sum(int(value.shape[-1]) for value in noise.values())
    if dim not in (*widths, total, moment):
        raise fail(
            f"noise_dim = {dim} describes the noise",
            f"tensors of shapes {[tuple(value.shape) for value in noise.values()]}",
            "make noise_dim the width of the noise: of one tensor, or of all of them together",
        )


def check_video_range(subject: Subject) -> None:
    """A fresh generator emits video within [-1, 1], give or take a half."""
    _is_video(subject)
    module = subject.build().eval()
    with torch.no_grad():
        clip = subject.outputs(module, subject.inputs(module, 3))["output"]
    if (largest := float(clip.abs().max())) > 1.5:
        raise fail("video is in [-1, 1]", f"values up to {largest:.3g}", "end in tanh, or scale in forward")


def check_reaches_both_signs(subject: Subject) -> None:
    """The clip is in [-1, 1], not [0, 1]: with some weights there are negative values, with some positive."""
    _is_video(subject)
    require_both_signs(subject)


def check_moments_made_alone(subject: Subject) -> None:
    """Frames made alone are those of the whole clip, within 1e-5, as `time` promises."""
    if subject.ports.time == "clip":
        raise CheckSkipped("makes whole clips only")
    module: Any = subject.build().eval()
    num_frames = 9
    noise = module.draw_noise(2, num_frames, generator=torch.Generator().manual_seed(3))
    windows = [(0, 1), (0, 4), (3, 8), (8, 9), (0, 9)]
    with torch.no_grad():
        whole = subject.named(module(noise))["output"]
        walked = {" after `walked`": module.walked(noise)} if hasattr(module, "walked") else {}
        for (after, given), (start, end) in itertools.product({"": noise, **walked}.items(), windows):
            times_BT = torch.arange(start, end).float().expand(2, -1)
            require_equal(
                {"frames": subject.named(module(given, times_BT))["output"]},
                {"frames": whole[:, :, start:end]},
                promised=f"frames [{start}, {end}) made alone{after} are those of the whole clip",
                todo="let a frame depend on its time and the clip's noise, not on where the call starts",
                tolerance=1e-5,
            )
        if subject.ports.time == "continuous":
            _check_real_times(subject, module, noise, num_frames)


def _check_real_times(subject: Subject, module: Any, noise: Inputs, num_frames: int) -> None:
    rng = torch.Generator().manual_seed(4)
    times_BT = torch.rand(2, 4, generator=rng) * (num_frames - 1)
    made = subject.named(module(noise, times_BT))["output"]
    backwards = subject.named(module(noise, times_BT.flip(1)))["output"].flip(2)
    alone = torch.cat([subject.named(module(noise, times_BT[:, n : n + 1]))["output"] for n in range(4)], 2)
    promised = "a frame depends on its own time, not on the others that are asked for with it"
    todo = "treat times_BT frame by frame"
    for other in (backwards, alone):
        require_equal({"frames": other}, {"frames": made}, promised=promised, todo=todo, tolerance=1e-5)
    if difference(made[:, :, 0], made[:, :, 1]) == 0.0:
        raise fail("the frame depends on its time", "two times gave the same frame", "use times_BT")


def check_longer_draw_begins_alike(subject: Subject) -> None:
    """A longer clip begins with the frames of the shorter one from the same seed."""
    if subject.ports.time == "clip":
        raise CheckSkipped("makes whole clips only")
    module: Any = subject.build().eval()
    short, long = (
        module.draw_noise(2, num_frames, generator=torch.Generator().manual_seed(5)) for num_frames in (3, 7)
    )
    times_BT = torch.arange(3).float().expand(2, -1)
    with torch.no_grad():
        require_equal(
            {"frames": subject.named(module(long, times_BT))["output"]},
            {"frames": subject.named(module(short))["output"]},
            promised="draw_noise for more frames starts with the noise of fewer, from an equal generator",
            todo="draw noise frame by frame (or per stretch of time), each clip from a seed of its own",
            tolerance=1e-5,
        )


def check_label_matters(subject: Subject) -> None:
    """Noise holds the label as int64 in [0, num_classes), and another label gives another clip."""
    if not subject.ports.num_classes:
        raise CheckSkipped("takes no labels")
    module: Any = subject.build().eval()
    noise = subject.inputs(module, 16)
    label_B = noise.get("label")
    classes = subject.ports.num_classes
    promised, todo = "noise['label'] is int64 of shape (B,) in [0, num_classes)", "draw it in draw_noise"
    if label_B is None:
        raise fail(promised, f"noise holds {sorted(noise)}", todo)
    inside = bool(((label_B >= 0) & (label_B < classes)).all())
    if label_B.dtype != torch.int64 or label_B.shape != (16,) or not inside:
        raise fail(promised, f"{label_B.dtype} {label_B.tolist()}", todo)
    if classes > 1:
        other = noise | {"label": (label_B + 1) % classes}
        with torch.no_grad():
            clips = [subject.named(module(rows))["output"] for rows in (noise, other)]
        if difference(*clips) == 0.0:
            raise fail("another label gives another clip", "the clips are equal", "use noise['label']")


CHECKS = [
    *checks(
        check_noise_is_batch_first,
        check_noise_matters,
        check_seed_reproduces,
        check_noise_without_generator,
        check_noise_goes_to_device,
        check_noise_has_dim,
        check_last_layer_is_parameter,
        check_last_layer_moves_output,
    ),
    *checks(
        check_shapes,
        check_video_range,
        check_reaches_both_signs,
        check_moments_made_alone,
        check_longer_draw_begins_alike,
        check_label_matters,
        may_skip=True,
    ),
    *recomputed.CHECKS,
]
