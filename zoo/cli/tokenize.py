"""``zoo tokenize``: a source of videos to a data set of tokens."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli.common import count, device_option, json_option, print_json

if TYPE_CHECKING:
    from zoo.tokens import Metadata

_MOST_WORKERS = 8
Told = Callable[[int], None]


@click.command("tokenize")
@click.argument("model")
@click.option("--data", "source", required=True, metavar="X", help="Videos; as for zoo train.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder of the tokens."
)
@click.option(
    "--split",
    type=click.Choice(["train", "test", "val"]),
    help="Only this split. What zoo train trains on and what it holds out, as train and test, when left out.",
)
@click.option(
    "--num-clips",
    type=click.IntRange(min=1),
    metavar="N",
    help="Videos of each split at most; of moving-mnist as many for training.",
)
@click.option(
    "--num-frames",
    type=click.IntRange(min=1),
    metavar="N",
    help="Frames of each video at most, from its first on; all when left out. Of moving-mnist as many.",
)
@click.option(
    "--shard-clips",
    type=click.IntRange(min=1),
    metavar="N",
    help="Videos in a file, which a kill loses at most for each worker; a 128th of all, at least 4, when "
    "left out.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help=f"Processes, each with the model; one for each core, at most {_MOST_WORKERS}, when left out.",
)
@device_option
@click.option("--force", is_flag=True, help="Start anew, and delete the tokens that are in the folder.")
@json_option
def tokenize(
    model: str,
    source: str,
    out: Path,
    split: str | None,
    num_clips: int | None,
    num_frames: int | None,
    shard_clips: int | None,
    workers: int | None,
    device: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the tokens of all videos of a source, one row a video, as a data set that a prior is trained on.

    MODEL is the folder of a model with a discrete bottleneck, or of its run. The folder that is written
    holds parquet files which Hugging Face datasets load as they are, and tokens.json, which says what they
    are. Videos are scaled, cropped and timed as the model's clips and go in whole: as one stream where the
    model is causal. After Ctrl-C or a kill the same command goes on. A video that cannot be read is left
    out and named at the end.

    \b
    Example:
      zoo tokenize runs/first --data clips/ --out tokens/first
      zoo tokenize runs/first --data moving-mnist:digits.npz --out tokens/mnist --num-frames 20
    """
    from zoo.cli.models import load_autoencoder

    autoencoder = load_autoencoder(model, device)

    from zoo.tokens import tokenize as run

    with _shown(as_json) as begin:
        metadata = run(
            autoencoder,
            source,
            out,
            split=split,
            num_clips=num_clips,
            num_frames=num_frames,
            shard_clips=shard_clips,
            workers=workers or min(_cores(), _MOST_WORKERS),
            reference=model,
            force=force,
            begin=begin,
        )
    if as_json:
        print_json({"output": str(out), **metadata.model_dump(mode="json")})
        return
    _tell(out, metadata)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _shown(quiet: bool) -> Iterator[Callable[[int, int], Told]]:
    """Give what opens the progress bar, and say after Ctrl-C how to go on."""
    from tqdm import tqdm

    bars = []

    def begin(total: int, done: int) -> Told:
        bar = tqdm(total=total, initial=done, unit=" clips", desc="tokenising", disable=quiet or None)
        bars.append(bar)
        if done and not quiet:
            click.echo(f"{done} of {total} clips are done; going on", err=True)
        started, num_frames = time.monotonic(), 0

        def told(frames: int) -> None:
            nonlocal num_frames
            num_frames += frames
            rate = num_frames / max(time.monotonic() - started, 1e-9)
            bar.set_postfix_str(f"{rate:.0f} frames/s", refresh=False)
            bar.update()

        return told

    try:
        yield begin
    except KeyboardInterrupt:
        click.echo("\nWhat is done stays; type the same command again to go on.", err=True)
        raise
    finally:
        for bar in bars:
            bar.close()


def _tell(out: Path, metadata: Metadata) -> None:
    assert metadata.result is not None
    for split, result in metadata.result.items():
        for _, reason in result.skipped:
            click.echo(f"left out: {reason}", err=True)
        left = f", {len(result.skipped)} left out" if result.skipped else ""
        click.echo(
            f"{split}: {result.rows} clips, {result.frames} frames, {count(result.tokens)} tokens{left}",
            err=True,
        )
    click.echo(f"{out}: tokens of {metadata.tokenizer.name}. {metadata.note}", err=True)
