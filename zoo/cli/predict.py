"""``zoo predict``: go on from the start of a video."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from zoo.cli.common import ExistingFile, device_option, force_option, json_option
from zoo.cli.sampling import (
    between_option,
    label_number,
    label_option,
    read_clip,
    sampling_of,
    sampling_options,
    seed_option,
    write_made,
)


@click.command("predict")
@click.argument("model")
@click.argument("start", metavar="START.mp4", type=ExistingFile)
@click.argument("output", metavar="OUT.mp4", type=click.Path(path_type=Path))
@click.option("--num-frames", type=click.IntRange(min=1), required=True, metavar="T", help="Frames to add.")
@click.option("--given", type=click.IntRange(min=1), metavar="T", help="Take only as many frames of START.")
@label_option
@between_option
@seed_option
@sampling_options
@device_option
@force_option
@json_option
def predict(
    model: str,
    start: Path,
    output: Path,
    num_frames: int,
    given: int | None,
    label: str | None,
    between: str | None,
    seed: int,
    device: str | None,
    force: bool,
    as_json: bool,
    **drawing: Any,
) -> None:
    """Go on from the start of a video with a prior over tokens.

    MODEL is a model folder, or the folder of a run. START is brought to the frame size and rate that the
    model was trained on; OUT.mp4 holds it and --num-frames frames more.

    \b
    Example:
      zoo predict runs/prior start.mp4 out.mp4 --num-frames 32
      zoo predict runs/prior start.mp4 out.mp4 --given 4 --num-frames 16 --temperature 0.9
    """
    from zoo.cli.models import check_output, load_prior, load_prior_if_given

    check_output(output, force=force)
    prior = load_prior(model, device)

    import torch

    from zoo import progress

    x_1CTHW = read_clip(start, prior.recipe.clip, num_frames=given)
    with progress.bar(disable=as_json):
        made_1CTHW = prior.predict(
            x_1CTHW,
            num_frames,
            label=label_number(label, prior),
            seed=seed,
            between=load_prior_if_given(between, device),
            **sampling_of(drawing),
        )
    both_1CTHW = torch.cat([x_1CTHW, made_1CTHW.cpu()], dim=2)
    write_made(output, both_1CTHW, prior, force=force, as_json=as_json, given_frames=x_1CTHW.shape[2])
