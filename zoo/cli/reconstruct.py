"""``zoo reconstruct``: encode and decode one video file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.common import device_option, force_option, json_option, print_json

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.data import Frame

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey (BT.601), for models of one channel."""


@click.command("reconstruct")
@click.argument("model")
@click.argument("source", metavar="IN.mp4", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("output", metavar="OUT.mp4", type=click.Path(path_type=Path))
@click.option("--side-by-side", is_flag=True, help="Put the original to the left of the reconstruction.")
@device_option
@force_option
@json_option
def reconstruct(
    model: str, source: Path, output: Path, side_by_side: bool, device: str | None, force: bool, as_json: bool
) -> None:
    """Encode and decode a video with MODEL.

    MODEL is a model folder, or the folder of a run. A video of any length and size goes in, and as many
    frames of the same size and rate come out, without sound (an odd height or width gets one more row or
    column). The video is taken in windows as long as the clips that the model was trained on, each on its
    own: a seam can show between two windows, and memory use does not grow with the length.

    \b
    Example:
      zoo reconstruct runs/first in.mp4 out.mp4
      zoo reconstruct runs/first in.mp4 out.mp4 --side-by-side
    """
    from zoo.cli.models import check_output, load_autoencoder

    check_output(output, force=force)

    import torch
    from tqdm import tqdm

    from zoo.data import VideoWriter, iter_frames, probe_video
    from zoo.data import side_by_side as beside
    from zoo.metrics.baselines import model_bits

    info = probe_video(source)
    writer = VideoWriter(output, fps=info.fps, force=force)
    autoencoder = load_autoencoder(model, device)
    clip = autoencoder.recipe.clip
    codebook_size = int(autoencoder.quantizer.codebook_size)
    target = next(autoencoder.parameters()).device
    squared_error, values, bits = 0.0, 0, 0.0
    with (
        torch.inference_mode(),
        writer,
        tqdm(
            total=info.num_frames_header, unit=" frames", desc="reconstructing", disable=as_json or None
        ) as bar,
    ):
        for x_CTHW in windows(iter_frames(source), num_frames=clip.num_frames, channels=clip.channels):
            tokens = autoencoder.encode(x_CTHW[None].to(target))
            bits += model_bits(tokens.indices_Bqthw, tokens.z_BDthw, codebook_size=codebook_size)
            y_CTHW = autoencoder.decode(tokens)[0].float().clamp(-1, 1).cpu()
            squared_error += float((x_CTHW - y_CTHW).double().square().sum())
            values += x_CTHW.numel()
            writer.write(beside([x_CTHW, y_CTHW]) if side_by_side else y_CTHW)
            bar.update(x_CTHW.shape[1])
    psnr_db = 10 * math.log10(4 * values / squared_error) if squared_error else math.inf
    facts = {
        "output": str(output),
        "num_frames": writer.num_frames,
        "height": info.height,
        "width": info.width,
        "fps": info.fps,
        "window_frames": clip.num_frames,
        "psnr_db": psnr_db,
        "bits": bits,
        "ratio": 8 * values / bits,
    }
    if as_json:
        print_json(facts)
        return
    click.echo(
        f"{output}: {writer.num_frames} frames of {info.height}x{info.width} at {info.fps:g} frames a "
        f"second, PSNR {psnr_db:.2f} dB over all of it; {bits / 8192:.1f} KiB of tokens, "
        f"{facts['ratio']:.0f} times less than the pixels",
        err=True,
    )


def windows(frames: Iterator[Frame], *, num_frames: int, channels: int) -> Iterator[Tensor]:
    """Yield a video as x_CTHW in [-1, 1], `num_frames` at a time; the last window may be shorter.

    A frame of another size than the first is scaled to it.
    """
    import itertools

    import torch
    import torch.nn.functional as F

    from zoo.data import to_float

    size: tuple[int, ...] | None = None
    while window := list(itertools.islice(frames, num_frames)):
        pixels = []
        for frame in window:
            x_CTHW = to_float(torch.from_numpy(frame.pixels_HWC)[None])
            size = size or x_CTHW.shape[2:]
            if x_CTHW.shape[2:] != size:
                x_CTHW = F.interpolate(x_CTHW.transpose(0, 1), size, mode="bilinear", antialias=True)
                x_CTHW = x_CTHW.transpose(0, 1)
            pixels.append(x_CTHW)
        x_CTHW = torch.cat(pixels, dim=1)
        if channels == 1:
            x_CTHW = torch.einsum("c,cthw->thw", torch.tensor(LUMA), x_CTHW)[None]
        yield x_CTHW
