"""``zoo train``: train a recipe on videos."""

from __future__ import annotations

from pathlib import Path

import click

from zoo.cli.common import INTERRUPTED, device_option, force_option, json_option, print_json, set_option


@click.command("train")
@click.argument("name")
@click.option(
    "--data",
    "source",
    required=True,
    metavar="X",
    help="Folder of videos, one video, saved dataset, parquet, user/name on the Hub, moving-mnist or demo.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the run. runs/NAME when left out.",
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Steps, instead of the recipe's.")
@set_option
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in DIR.")
@click.option(
    "--auto-resume",
    is_flag=True,
    help="Go on where there is a checkpoint in DIR, or else start: for jobs that are started again.",
)
@click.option(
    "--init",
    "parts_from",
    multiple=True,
    metavar="KIND=FOLDER",
    help="Start one part from the weights of a trained model, for example encoder=runs/first. Repeatable.",
)
@click.option("--workers", type=click.IntRange(min=0), metavar="N", help="Processes that decode videos.")
@click.option(
    "--rank-timeout",
    type=click.FloatRange(min=1),
    default=300,
    show_default=True,
    metavar="S",
    help="Seconds that a rank waits for the others, where torchrun started several.",
)
@click.option(
    "--fsdp",
    is_flag=True,
    help="Cut weights and optimizer over the processes that torchrun started: for models too large for each.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Checkpoints that stay: the newest N.",
)
@click.option(
    "--max-bad",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Stop when more than this share of the videos cannot be read. 0.5 when left out.",
)
@click.option(
    "--callback", "callbacks", multiple=True, metavar="NAME", help="Also write: tensorboard. Repeatable."
)
@device_option
@force_option
@json_option
def train(
    name: str,
    source: str,
    out: Path | None,
    steps: int | None,
    assignments: tuple[str, ...],
    resume: bool,
    auto_resume: bool,
    rank_timeout: float,
    fsdp: bool,
    parts_from: tuple[str, ...],
    workers: int | None,
    keep: int,
    max_bad: float | None,
    callbacks: tuple[str, ...],
    device: str | None,
    force: bool,
    as_json: bool,
) -> int:
    """Train the recipe NAME (or a recipe file) on videos.

    The run folder then holds model/ (safetensors), checkpoint/, metrics.jsonl and report.html.
    Ctrl-C, SIGTERM and SIGUSR1 save and say how to go on; the exit code is then 130. Started by torchrun, its
    processes share out every batch.

    \b
    Example:
      zoo train vqvae-video-tiny --data demo --out runs/first
      zoo train vqvae-video-tiny --data clips/ --set quantizer=fsq --steps 500
      zoo train vqvae-video-tiny --data demo --out runs/first --resume
      torchrun --nproc-per-node 2 -m zoo train vqvae-video-tiny --data demo --out runs/two
    """
    from zoo.cli.overrides import parse_overrides
    from zoo.training.interrupts import Interrupts

    if resume and auto_resume:
        raise click.UsageError("--resume needs a checkpoint and --auto-resume does not: give one of them.")
    overrides = parse_overrides(assignments)
    init = _parts_from(parts_from)
    with Interrupts(at_once=True):  # until the run handles them itself
        from zoo.cli.models import use_device
        from zoo.ranks import is_first, own_device
        from zoo.training import train as train_recipe

        # A device that is not there is wrong usage; the run notes what was asked for.
        use_device(own_device(device))
        result = train_recipe(
            name,
            data=source,
            out=out,
            steps=steps,
            resume="auto" if auto_resume else resume,
            force=force,
            init=init or None,
            device=device,
            num_workers=workers,
            keep=keep,
            max_bad=max_bad,
            callbacks=callbacks,
            timeout_s=rank_timeout,
            fsdp=fsdp,
            **overrides,
        )
    if as_json and is_first():
        print_json(
            {
                "folder": str(result.folder),
                "model": str(result.folder / "model"),
                "step": result.step,
                "interrupted": result.interrupted,
                "figures": result.figures,
                "resume_command": result.resume_command,
            }
        )
    return INTERRUPTED if result.interrupted else 0


def _parts_from(words: tuple[str, ...]) -> dict[str, str]:
    from zoo.parts import KINDS

    init: dict[str, str] = {}
    for word in words:
        kind, equals, folder = word.partition("=")
        if not equals or not folder or kind not in (*KINDS, "tokenizer"):
            raise click.UsageError(
                f"--init {word!r} is not KIND=FOLDER. KIND is one of {', '.join(KINDS)}, or tokenizer (the "
                "whole autoencoder of a latent GAN or a prior); write for example --init encoder=runs/first."
            )
        init[kind] = folder
    return init
