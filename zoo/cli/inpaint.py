"""``zoo inpaint``: fill a hole in a video."""

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


@click.command("inpaint")
@click.argument("model")
@click.argument("source", metavar="IN.mp4", type=ExistingFile)
@click.argument("mask", metavar="MASK.png", type=ExistingFile)
@click.argument("output", metavar="OUT.mp4", type=click.Path(path_type=Path))
@label_option
@seed_option
@sampling_options
@device_option
@force_option
@json_option
def inpaint(
    model: str,
    source: Path,
    mask: Path,
    output: Path,
    label: str | None,
    seed: int,
    device: str | None,
    force: bool,
    as_json: bool,
    **drawing: Any,
) -> None:
    """Fill a hole in a video with a prior that fills gaps (maskgit).

    MODEL is a model folder, or the folder of a run. MASK is an image, white where IN is to be made anew, for
    all frames; or a video of such, a frame for each. Both are brought to the frame size of the model.

    \b
    Example:
      zoo inpaint runs/prior in.mp4 mask.png out.mp4
    """
    from zoo import progress
    from zoo.cli.models import check_output, load_prior

    check_output(output, force=force)
    prior = load_prior(model, device)
    clip = prior.recipe.clip
    x_1CTHW = read_clip(source, clip)
    hole_1THW = read_clip(mask, clip, num_frames=x_1CTHW.shape[2]).mean(1) > 0
    if not hole_1THW.any():
        raise click.BadParameter(f"{mask} is black all over: there is nothing to fill", param_hint="MASK")
    with progress.bar(disable=as_json):
        made_1CTHW = prior.inpaint(
            x_1CTHW, hole_1THW, label=label_number(label, prior), seed=seed, **sampling_of(drawing)
        )
    write_made(output, made_1CTHW, prior, force=force, as_json=as_json)
