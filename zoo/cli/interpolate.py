"""``zoo interpolate``: make the frames between two images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zoo.cli.common import ExistingFile, device_option, force_option, json_option
from zoo.cli.sampling import (
    label_number,
    label_option,
    read_clip,
    sampling_of,
    sampling_options,
    seed_option,
    write_made,
)


@click.command("interpolate")
@click.argument("model")
@click.argument("first", metavar="A.png", type=ExistingFile)
@click.argument("last", metavar="B.png", type=ExistingFile)
@click.argument("output", metavar="OUT.mp4", type=click.Path(path_type=Path))
@click.option("--num-frames", type=click.IntRange(min=3), metavar="T", help="Frames in all.")
@label_option
@seed_option
@sampling_options
@device_option
@force_option
@json_option
def interpolate(
    model: str,
    first: Path,
    last: Path,
    output: Path,
    num_frames: int | None,
    label: str | None,
    seed: int,
    device: str | None,
    force: bool,
    as_json: bool,
    **drawing: Any,
) -> None:
    """Make a video from image A to image B with a prior that fills gaps (maskgit).

    MODEL is a model folder, or the folder of a run. Of a video in the place of an image the first frame
    counts. As many frames are made as the model's clips have, or fewer by --num-frames.

    \b
    Example:
      zoo interpolate runs/prior a.png b.png out.mp4
    """
    from zoo import progress
    from zoo.cli.models import check_output, load_prior

    check_output(output, force=force)
    prior = load_prior(model, device)
    clip = prior.recipe.clip
    first_1CHW = read_clip(first, clip, num_frames=1)[:, :, 0]
    last_1CHW = read_clip(last, clip, num_frames=1)[:, :, 0]
    with progress.bar(disable=as_json):
        made_1CTHW = prior.interpolate(
            first_1CHW,
            last_1CHW,
            num_frames=num_frames,
            label=label_number(label, prior),
            seed=seed,
            **sampling_of(drawing),
        )
    write_made(output, made_1CTHW, prior, force=force, as_json=as_json)
