"""``zoo sample``: make videos with a trained GAN or prior."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli.common import device_option, force_option, json_option, print_json
from zoo.cli.sampling import (
    between_option,
    label_number,
    label_option,
    sampling_of,
    sampling_options,
    seed_option,
)

if TYPE_CHECKING:
    from torch import Tensor


def _two_numbers(meaning: str, example: str, digits: int) -> Callable[..., tuple[int, int] | None]:
    """Make the callback of an option such as 4x4: two numbers from 1, of so many digits at most."""

    def read(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
        if value is None:
            return None
        number = rf"([1-9]\d{{0,{digits - 1}}})"
        match = re.fullmatch(f"{number}x{number}", value)
        if match is None:
            raise click.BadParameter(f"{value!r} is not {meaning}; write for example {example}")
        return int(match[1]), int(match[2])

    return read


_grid = _two_numbers("ROWSxCOLUMNS", "4x4", 3)
_size = _two_numbers("HEIGHTxWIDTH", "128x128", 4)


@click.command("sample")
@click.argument("model")
@click.argument("output", metavar="OUT.mp4", type=click.Path(path_type=Path))
@click.option("--num", type=click.IntRange(1, 10_000), metavar="N", help="Videos to make. Fills the grid.")
@click.option("--grid", callback=_grid, metavar="RxC", help="Rows and columns of the output, such as 4x4.")
@click.option("--num-frames", type=click.IntRange(min=1), metavar="T", help="Frames a video.")
@click.option(
    "--fps",
    type=click.FloatRange(min=0, min_open=True),
    metavar="F",
    help="Frames a second: the same motion, finer or coarser.",
)
@label_option
@click.option("--size", callback=_size, metavar="HxW", help="Size of a frame, for generators that make any.")
@between_option
@seed_option
@sampling_options
@device_option
@force_option
@json_option
def sample(
    model: str,
    output: Path,
    num: int | None,
    grid: tuple[int, int] | None,
    num_frames: int | None,
    fps: float | None,
    label: str | None,
    size: tuple[int, int] | None,
    between: str | None,
    seed: int,
    device: str | None,
    force: bool,
    as_json: bool,
    **drawing: Any,
) -> None:
    """Make new videos with a GAN, or with a prior over tokens.

    They stand in a grid in one file. MODEL is a model folder, or the folder of a run. One video is made when
    neither --num nor --grid is given. The frame rate is the one the model was trained on, 10 frames a second
    when its recipe names none; with --fps, models of continuous time make the frames in between. Long videos
    are made piece by piece where the model can. A prior that makes one latent frame in so many
    (tokenizer.every) needs a second one, --between, that fills in the others.

    \b
    Example:
      zoo sample runs/gan out.mp4 --grid 4x4 --num-frames 16 --seed 1
      zoo sample runs/prior out.mp4 --class wave --num-frames 64 --top-p 0.95
      zoo sample runs/sparse out.mp4 --between runs/prior --num-frames 512
    """
    from zoo.cli.models import check_output, load_prior_if_given, load_sampler

    check_output(output, force=force)
    rows, columns = grid or _square(num or 1)
    num = rows * columns if num is None else num
    if num > rows * columns:
        raise click.UsageError(
            f"--num {num} does not fit --grid {rows}x{columns}, which holds {rows * columns}."
        )
    sampler = load_sampler(model, device)

    from tqdm import tqdm

    from zoo import progress
    from zoo.assemblies import TokenPrior
    from zoo.data import VideoWriter

    is_prior = isinstance(sampler, TokenPrior)
    more: dict[str, Any] = sampling_of(drawing)
    if not is_prior and (more or between is not None):
        asked = {**drawing, "between": between}
        named = ", ".join(f"--{key.replace('_', '-')}" for key, value in asked.items() if value is not None)
        raise click.UsageError(
            f"{model} is a {sampler.recipe.assembly}, which draws no codes: leave {named} out"
        )
    if between is not None:
        more["between"] = load_prior_if_given(between, device)
    total = num_frames or sampler.recipe.clip.num_frames
    fps = fps or sampler.recipe.clip.playback_fps
    number = label_number(label, sampler)
    pieces = sampler.sample_pieces(
        num,
        num_frames=total,
        fps=fps,
        label=number,
        size_HW=size,
        seed=seed,
        **more,
    )
    with (
        VideoWriter(output, fps=fps, force=force) as writer,
        progress.bar(disable=as_json or not is_prior),
        tqdm(total=total, unit="frame", desc="sampling", disable=as_json or is_prior, leave=False) as bar,
    ):
        for x_BCTHW in pieces:
            writer.write(tile(x_BCTHW.float().cpu(), rows=rows, columns=columns))
            bar.update(x_BCTHW.shape[2])
    frames = writer.num_frames
    if as_json:
        print_json({"output": str(output), "num": num, "num_frames": frames, "fps": fps, "seed": seed})
    else:
        click.echo(f"{output}: {num} video(s) of {frames} frames at {fps:g} frames a second", err=True)


def tile(x_BCTHW: Tensor, *, rows: int, columns: int) -> Tensor:
    """Lay videos out in a grid, row by row; places without a video stay black.

    Returns:
        The grid, (C, T, rows * H, columns * W) in [-1, 1].
    """
    import torch
    from einops import rearrange

    missing = rows * columns - x_BCTHW.shape[0]
    if missing:
        x_BCTHW = torch.cat([x_BCTHW, torch.full_like(x_BCTHW[:1], -1.0).expand(missing, -1, -1, -1, -1)])
    return rearrange(x_BCTHW, "(r c) C t h w -> C t (r h) (c w)", r=rows, c=columns)


def _square(num: int) -> tuple[int, int]:
    columns = math.ceil(math.sqrt(num))
    return math.ceil(num / columns), columns
