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
@click.option("--overlap", type=click.IntRange(min=0), metavar="FRAMES", help="Frames that windows share.")
@click.option(
    "--tile", type=click.IntRange(min=1), metavar="PIXELS", help="Cut frames into tiles of that side."
)
@device_option
@force_option
@json_option
def reconstruct(
    model: str,
    source: Path,
    output: Path,
    side_by_side: bool,
    overlap: int | None,
    tile: int | None,
    device: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Encode and decode a video with MODEL.

    MODEL is a model folder, or the folder of a run. A video of any length and size goes in, and one of the
    same length and size comes out, without sound (an odd height or width gets one more row or column). Its
    rate is the mean rate of IN.mp4: where frames come at a varying pace, some are left out or repeated so
    that each shows at its time. A causal model takes the video as one stream. Another takes it in windows as
    long as its clips, which overlap by --overlap frames (a quarter of them) and fade into each other there;
    what they disagree by is told as the seam. Memory use does not grow with the length, unless the model
    attends to all that it has seen. Where large frames do not fit, --tile cuts them into tiles that overlap
    by a quarter.

    \b
    Example:
      zoo reconstruct runs/first in.mp4 out.mp4
      zoo reconstruct runs/first in.mp4 out.mp4 --side-by-side
      zoo reconstruct runs/first large.mp4 out.mp4 --tile 256
    """
    from zoo.cli.models import check_output, load_autoencoder

    check_output(output, force=force)

    from tqdm import tqdm

    from zoo.data import VideoWriter, iter_frames, probe_video
    from zoo.data import side_by_side as beside
    from zoo.metrics.baselines import model_bits
    from zoo.windows import reconstruct_video, streams

    info = probe_video(source)
    writer = VideoWriter(output, fps=info.fps, force=force)
    autoencoder = load_autoencoder(model, device)
    clip = autoencoder.recipe.clip
    codebook_size = int(autoencoder.quantizer.codebook_size)
    frames = (frame.x_CHW for frame in iter_frames(source, fps=info.fps))
    squared_error, values, bits = 0.0, 0, 0.0
    seam_squares, seam_values = 0.0, 0
    windows = reconstruct_video(autoencoder, frames, overlap=overlap, tile=tile)
    with (
        writer,
        tqdm(
            total=info.num_frames_header, unit=" frames", desc="reconstructing", disable=as_json or None
        ) as bar,
    ):
        for x_CTHW, y_CTHW, tokens, seam in windows:
            bits += sum(model_bits(i, z, codebook_size=codebook_size) for z, i, _ in tokens)
            seam_squares, seam_values = seam_squares + seam[0], seam_values + seam[1]
            squared_error += float((x_CTHW - y_CTHW).double().square().sum())
            values += x_CTHW.numel()
            writer.write(beside([x_CTHW, y_CTHW]) if side_by_side else y_CTHW)
            bar.update(x_CTHW.shape[1])
    psnr_db = _psnr_db(squared_error, values)
    # How well windows and tiles agree where they overlap, on the scale of the PSNR.
    seam_db = _psnr_db(seam_squares, seam_values) if seam_values else None
    facts = {
        "output": str(output),
        "num_frames": writer.num_frames,
        "height": info.height,
        "width": info.width,
        "fps": info.fps,
        "causal": autoencoder.causal,
        "window_frames": None if streams(autoencoder) else clip.num_frames,
        "seam_db": seam_db,
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
        f"{facts['ratio']:.0f} times less than the pixels"
        + (
            "" if seam_db is None else f"; windows and tiles agree within {seam_db:.2f} dB where they overlap"
        ),
        err=True,
    )


def _psnr_db(squared_error: float, values: int) -> float:
    return 10 * math.log10(4 * values / squared_error) if squared_error else math.inf
