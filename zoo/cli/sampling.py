"""What the commands that make videos share: how codes are drawn, labels by name, and reading clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.common import Function, print_json

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.assemblies import Sampler, TokenPrior
    from zoo.recipes import Clip
    from zoo.sampling import Sampling

_OPTIONS = (
    ("--temperature", click.FloatRange(min=0), "Divides the logits; 0 takes the likeliest code."),
    ("--top-k", click.IntRange(min=1), "Draw from the K likeliest codes only."),
    ("--top-p", click.FloatRange(0, 1, min_open=True), "Draw from the likeliest codes of this share."),
    ("--min-p", click.FloatRange(0, 1), "Draw from codes at least this share as likely as the likeliest."),
    ("--guidance", click.FloatRange(min=0), "How much the label counts; 1 as it was learnt."),
    ("--passes", click.IntRange(min=1), "Passes in which a masked prior fills a window."),
    ("--choice-temperature", click.FloatRange(min=0), "Chance in what a masked prior keeps at each pass."),
    (
        "--schedule",
        click.Choice(["cosine", "linear", "square", "root"]),
        "How fast a masked prior fills: shares still open after each pass.",
    ),
)


def sampling_options(function: Function) -> Function:
    """Add the options of how a prior draws its codes."""
    for name, kind, meaning in reversed(_OPTIONS):
        metavar = None if isinstance(kind, click.Choice) else "X"
        function = click.option(name, type=kind, metavar=metavar, help=f"Priors: {meaning}")(function)
    return function


def sampling_of(asked: dict[str, Any]) -> dict[str, Sampling]:
    """Make the argument `sampling` of the options that were given; nothing when none was."""
    from zoo.sampling import Sampling

    given = {
        ("steps" if key == "passes" else key): value for key, value in asked.items() if value is not None
    }
    return {"sampling": Sampling(**given)} if given else {}


seed_option = click.option(
    "--seed", type=int, default=0, show_default=True, help="The same seed makes the same video."
)
between_option = click.option(
    "--between",
    metavar="FOLDER",
    help="Priors of one latent frame in so many: the prior that fills in those between.",
)
label_option = click.option(
    "--label",
    "--class",
    "label",
    metavar="NAME",
    help="Label of the videos, by name or by number from 0; by chance when left out.",
)


def label_number(label: str | None, model: Sampler) -> int | None:
    """Return the number of a label that is given by name or number.

    Raises:
        click.BadParameter: The model has no such label; it says which it has.
    """
    if label is None:
        return None
    if label in model.labels:
        return model.labels.index(label)
    if label.isdecimal() and int(label) < model.num_classes:
        return int(label)
    known = ", ".join(model.labels) or (f"0 to {model.num_classes - 1}" if model.num_classes else "none")
    raise click.BadParameter(f"{label!r} is no label of this model; it has: {known}", param_hint="--label")


def read_clip(path: Path, clip: Clip, *, num_frames: int | None = None) -> Tensor:
    """Read a video or image as a model was shown its clips: rate, scaled, centre cut out.

    Returns:
        x_1CTHW in [-1, 1], at most `num_frames` frames.
    """
    from itertools import islice

    import torch

    from zoo.data.whole import whole_frames

    return torch.stack(list(islice(whole_frames(path, clip), num_frames)), dim=1)[None]


def write_made(
    path: Path, x_1CTHW: Tensor, prior: TokenPrior, *, force: bool, as_json: bool, **facts: int
) -> None:
    """Write the video that a prior made at the rate of its clips, and say so."""
    from zoo.data import write_video

    fps = prior.recipe.clip.playback_fps
    write_video(path, x_1CTHW[0].cpu(), fps=fps, force=force)
    frames = x_1CTHW.shape[2]
    if as_json:
        print_json({"output": str(path), "num_frames": frames, "fps": fps, **facts})
        return
    click.echo(f"{path}: {frames} frames at {fps:g} frames a second", err=True)
