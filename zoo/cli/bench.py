"""``zoo bench``: how fast a recipe trains on several ranks, and what they send and hold."""

from __future__ import annotations

import dataclasses

import click

from zoo.cli.common import device_option, json_option, print_json, set_option


def _numbers(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    words = value.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise click.BadParameter(f"{value!r} is no list of numbers of processes: write for example 1,2,4")
    return tuple(map(int, words))


@click.command("bench")
@click.argument("name")
@click.option(
    "--ranks",
    default="1",
    show_default=True,
    callback=_numbers,
    metavar="N,N",
    help="Numbers of processes on this machine, one GPU or processor each; measured one after the other.",
)
@click.option(
    "--steps",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Steps measured, rounded up to whole turns of lazy penalties.",
)
@click.option(
    "--clips", type=click.IntRange(min=1), default=4, show_default=True, help="Clips of a step on each."
)
@click.option("--fsdp", is_flag=True, help="Cut weights over the processes, as zoo train --fsdp does.")
@set_option
@device_option
@json_option
def bench_command(
    name: str,
    ranks: tuple[int, ...],
    steps: int,
    clips: int,
    fsdp: bool,
    assignments: tuple[str, ...],
    device: str | None,
    as_json: bool,
) -> None:
    """Measure the training of recipe NAME, on clips drawn by chance.

    Efficiency is by the clock, against as many times the first row. Sent is what each process sends in a
    step; held is weights, their average and the optimizer between two steps.

    \b
    Example:
      zoo bench vqgan-video-tiny --ranks 1,2,4
      zoo bench vqgan-video-tiny --ranks 2,4 --fsdp --json
    """
    from zoo.cli.overrides import parse_overrides
    from zoo.training.bench import bench, table

    speeds = bench(
        name,
        ranks=ranks,
        steps=steps,
        clips_per_rank=clips,
        fsdp=fsdp,
        device=device,
        overrides=parse_overrides(assignments),
    )
    if as_json:
        print_json([dataclasses.asdict(one) for one in speeds])
    else:
        click.echo(table(speeds))
