"""``zoo encode``: one video file to a file of tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.common import (
    ExistingFile,
    coder_option,
    device_option,
    force_option,
    json_option,
    print_json,
    prior_option,
)

if TYPE_CHECKING:
    from torch import Tensor


@click.command("encode")
@click.argument("model")
@click.argument("source", metavar="IN.mp4", type=ExistingFile)
@click.argument("output", metavar="OUT.zoo", type=click.Path(path_type=Path))
@click.option(
    "--overlap",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="FRAMES",
    help="Frames that windows share, for a model that looks ahead.",
)
@coder_option
@prior_option
@device_option
@force_option
@json_option
def encode(
    model: str,
    source: Path,
    output: Path,
    overlap: int,
    coder: str | None,
    prior: str | None,
    device: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Encode a video with MODEL to a file of tokens, which zoo decode turns back.

    MODEL is a model folder, or the folder of a run; only the same one decodes the file. A causal model takes
    the video as one stream. Another takes it in windows as long as its clips; with --overlap they share
    frames and fade into each other when decoded, which takes more tokens. Memory use does not grow with the
    length, unless the model attends to all that it has seen.

    Codes are entropy-coded without loss: static learns the odds of codes from the file itself as it goes,
    prior takes those of a trained prior (which is slow, and zoo decode needs the same prior), packed is a
    fixed number of bits for each. A continuous latent is stored in half precision.

    \b
    Example:
      zoo encode runs/first in.mp4 out.zoo
      zoo decode runs/first out.zoo again.mp4
      zoo encode runs/first in.mp4 small.zoo --prior runs/prior
    """
    from zoo.cli.models import check_output, load_autoencoder, load_prior_if_given

    check_output(output, force=force)

    from tqdm import tqdm

    from zoo.bitstream import TokenWriter
    from zoo.data import iter_frames, probe_video
    from zoo.token_header import header_for
    from zoo.windows import encode_video, streams, window_overlap

    info = probe_video(source)
    autoencoder = load_autoencoder(model, device)
    odds = load_prior_if_given(prior, device)
    overlap = window_overlap(autoencoder, overlap)
    header = header_for(
        autoencoder,
        size_HW=(info.height, info.width),
        fps=info.fps,
        overlap=None if streams(autoencoder) else overlap,
        coder=coder,
        prior=odds,
    )
    num_frames = 0
    with (
        TokenWriter(output, header, force=force, prior=odds) as writer,
        tqdm(
            total=info.num_frames_header, unit=" frames", desc="encoding", disable=as_json or None
        ) as progress,
    ):

        def frames_CHW() -> Iterator[Tensor]:
            nonlocal num_frames
            for frame in iter_frames(source, fps=info.fps):
                num_frames += 1
                progress.update()
                yield frame.x_CHW

        for tokens in encode_video(autoencoder, frames_CHW(), overlap=overlap):
            writer.write(tokens)
    pixels = num_frames * info.height * info.width
    facts = {
        "output": str(output),
        "num_frames": num_frames,
        "height": info.height,
        "width": info.width,
        "fps": info.fps,
        "bytes": writer.num_bytes,
        "coder": header.coder,
        "packed_bytes": writer.num_packed_bytes,
        "bits_per_pixel": 8 * writer.num_bytes / pixels,
        "ratio": 3 * pixels / writer.num_bytes,
    }
    if as_json:
        print_json(facts)
        return
    click.echo(
        f"{output}: {num_frames} frames of {info.height}x{info.width} in {writer.num_bytes / 1024:.1f} KiB, "
        f"{facts['bits_per_pixel']:.4f} bits a pixel, {facts['ratio']:.0f} times less than the pixels"
        f"{_beside_packed(writer.num_bytes, writer.num_packed_bytes, header.coder)}. "
        f"Back again: zoo decode {model} {output} OUT.mp4" + (f" --prior {prior}" if prior else ""),
        err=True,
    )


def _beside_packed(num_bytes: int, packed_bytes: int, coder: str) -> str:
    if coder == "packed":
        return ""
    return f" and {num_bytes / packed_bytes:.0%} of what codes of a fixed width take ({coder})"
