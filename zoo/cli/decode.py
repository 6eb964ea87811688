"""``zoo decode``: a file of tokens back to a video."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.common import (
    ExistingFile,
    device_option,
    force_option,
    json_option,
    print_json,
    prior_option,
)


@click.command("decode")
@click.argument("model")
@click.argument("source", metavar="IN.zoo", type=ExistingFile)
@click.argument("output", metavar="OUT.mp4", type=click.Path(path_type=Path))
@prior_option
@device_option
@force_option
@json_option
def decode(
    model: str,
    source: Path,
    output: Path,
    prior: str | None,
    device: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Decode a file of tokens that zoo encode wrote with the same MODEL.

    The video has as many frames, of the same size and rate, as the one that was encoded (an odd height or
    width gets one more row or column). A file that is damaged, cut off or of another model or prior is
    refused, and no video is left.

    \b
    Example:
      zoo decode runs/first out.zoo again.mp4
      zoo decode runs/first small.zoo again.mp4 --prior runs/prior
    """
    from zoo.cli.models import check_output, load_autoencoder, load_prior_if_given

    check_output(output, force=force)

    from tqdm import tqdm

    from zoo.bitstream import TokenReader
    from zoo.data import VideoWriter
    from zoo.windows import decode_video

    with TokenReader(source) as reader:
        header = reader.header
        autoencoder = load_autoencoder(model, device)
        reader.check(autoencoder, load_prior_if_given(prior, device))
        with (
            VideoWriter(output, fps=header.fps, force=force) as writer,
            tqdm(unit=" frames", desc="decoding", disable=as_json or None) as progress,
        ):
            for x_CTHW in decode_video(autoencoder, reader, overlap=header.overlap or 0):
                writer.write(x_CTHW)
                progress.update(x_CTHW.shape[1])
    facts = {
        "output": str(output),
        "num_frames": writer.num_frames,
        "height": header.height,
        "width": header.width,
        "fps": header.fps,
    }
    if as_json:
        print_json(facts)
        return
    click.echo(
        f"{output}: {writer.num_frames} frames of {header.height}x{header.width} at {header.fps:g} frames "
        "a second",
        err=True,
    )
