"""``zoo reconstruct``: encode and decode one video file."""

from __future__ import annotations

import math
from pathlib import Path

import click

from zoo.cli.common import device_option, force_option, json_option, print_json


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

    MODEL is a model folder, or the folder of a run. A video of any length and size goes in, and one of the
    same length and size comes out, without sound (an odd height or width gets one more row or column). Its
    rate is the mean rate of IN.mp4: where frames come at a varying pace, some are left out or repeated so
    that each shows at its time. The video is taken in windows as long as the clips that the model was
    trained on, each on its own: a seam can show between two windows, and memory use does not grow with the
    length.

    \b
    Example:
      zoo reconstruct runs/first in.mp4 out.mp4
      zoo reconstruct runs/first in.mp4 out.mp4 --side-by-side
    """
    from zoo.cli.models import check_output, load_autoencoder

    check_output(output, force=force)

    import torch
    from tqdm import tqdm

    from zoo.data import VideoWriter, iter_frames, probe_video, to_float
    from zoo.data import side_by_side as beside
    from zoo.metrics.baselines import model_bits
    from zoo.windows import reconstruct_windows

    info = probe_video(source)
    writer = VideoWriter(output, fps=info.fps, force=force)
    autoencoder = load_autoencoder(model, device)
    clip = autoencoder.recipe.clip
    codebook_size = int(autoencoder.quantizer.codebook_size)
    frames = (
        to_float(torch.from_numpy(frame.pixels_HWC)[None])[:, 0]
        for frame in iter_frames(source, fps=info.fps)
    )
    squared_error, values, bits = 0.0, 0, 0.0
    with (
        writer,
        tqdm(
            total=info.num_frames_header, unit=" frames", desc="reconstructing", disable=as_json or None
        ) as bar,
    ):
        for x_CTHW, y_CTHW, tokens in reconstruct_windows(autoencoder, frames):
            bits += model_bits(tokens.indices_Bqthw, tokens.z_BDthw, codebook_size=codebook_size)
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
