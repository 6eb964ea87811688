"""``zoo sample``: make videos with a trained GAN."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.common import device_option, force_option, json_option, print_json

if TYPE_CHECKING:
    from torch import Tensor


def _grid(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,2})x([1-9]\d{0,2})", value)
    if match is None:
        raise click.BadParameter(f"{value!r} is not ROWSxCOLUMNS; write for example 4x4")
    return int(match[1]), int(match[2])


@click.command("sample")
@click.argument("model")
@click.argument("output", metavar="OUT.mp4", type=click.Path(path_type=Path))
@click.option("--num", type=click.IntRange(1, 10_000), metavar="N", help="Videos to make. Fills the grid.")
@click.option("--grid", callback=_grid, metavar="RxC", help="Rows and columns of the output, such as 4x4.")
@click.option("--num-frames", type=click.IntRange(min=1), metavar="T", help="Frames a video.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed makes the same videos.")
@device_option
@force_option
@json_option
def sample(
    model: str,
    output: Path,
    num: int | None,
    grid: tuple[int, int] | None,
    num_frames: int | None,
    seed: int,
    device: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Make new videos with a GAN.

    They stand in a grid in one file. MODEL is a model folder, or the folder of a run. One video is made when
    neither --num nor --grid is given. The frame rate is the one the model was trained on, 10 frames a second
    when its recipe names none.

    \b
    Example:
      zoo sample runs/gan out.mp4 --grid 4x4 --num-frames 16 --seed 1
    """
    from zoo.cli.models import check_output, load_gan

    check_output(output, force=force)
    rows, columns = grid or _square(num or 1)
    num = rows * columns if num is None else num
    if num > rows * columns:
        raise click.UsageError(
            f"--num {num} does not fit --grid {rows}x{columns}, which holds {rows * columns}."
        )
    gan = load_gan(model, device)

    from zoo.data import write_video

    x_BCTHW = gan.sample(num, num_frames=num_frames, seed=seed)
    fps = gan.recipe.clip.playback_fps
    write_video(output, tile(x_BCTHW.float().cpu(), rows=rows, columns=columns), fps, force=force)
    frames = x_BCTHW.shape[2]
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
