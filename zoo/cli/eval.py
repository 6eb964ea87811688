"""``zoo eval``: measure a trained model on held-out videos."""

from __future__ import annotations

import itertools
from typing import Any

import click

from zoo.cli.common import device_option, json_option, print_json, print_table


@click.command("eval")
@click.argument("model")
@click.option("--data", "source", required=True, metavar="X", help="Videos to measure on; as for zoo train.")
@click.option("--split", metavar="NAME", help="Split of the data, such as test. All of it when left out.")
@click.option(
    "--num-clips", type=click.IntRange(min=1), metavar="N", help="Clips measured; all when left out."
)
@device_option
@json_option
def eval_command(
    model: str, source: str, split: str | None, num_clips: int | None, device: str | None, as_json: bool
) -> None:
    """Measure MODEL on videos that it was not trained on.

    An autoencoder: PSNR, SSIM, LPIPS and use of the codebook, beside the mean colour and nearest-neighbour
    resizing at the same number of bits. A GAN: how much its samples differ from each other. MODEL is a model
    folder, or the folder of a run.

    \b
    Example:
      zoo eval runs/first --data clips/test
      zoo eval runs/first --data clips/ --split test --json
    """
    from zoo.cli.models import load_model

    loaded = load_model(model, device)

    from zoo.data import open_clips
    from zoo.metrics import evaluate

    dataset: Any = open_clips(source, clip=loaded.recipe.clip, split=split)
    if not hasattr(dataset, "__len__"):
        if num_clips is None:
            raise click.UsageError(
                f"{source} is a stream and has no end; say how much of it: --num-clips 256"
            )
        dataset = _First(dataset, num_clips)
    if num_clips is not None and num_clips > len(dataset):
        click.echo(f"{num_clips} clips were asked for; there are {len(dataset)}", err=True)
    result = evaluate(loaded, dataset, num_clips=num_clips, progress=True)
    if as_json:
        print_json(result)
    else:
        _print(result)


class _First(list[Any]):
    """The first clips of a stream."""

    def __init__(self, stream: Any, number: int) -> None:
        # By its number: a row that stands in for one that cannot be read comes twice.
        rows = {item["index"]: item for item in itertools.islice(stream, number)}
        super().__init__({**item, "index": at} for at, item in enumerate(rows.values()))
        self.description = f"{stream.description}: the first {len(self)}"


def _print(result: dict[str, Any]) -> None:
    protocol = result["protocol"]
    asked = protocol["num_clips"] + len(protocol["skipped"])
    of = f" of {asked}" if protocol["skipped"] else ""
    click.echo(f"{protocol['model']} on {protocol['num_clips']}{of} clips of {protocol['data']}")
    click.echo(f"  {protocol['clip']}\n")
    for name, values in {"model": result["values"], **result["baselines"]}.items():
        click.echo(name.capitalize())
        print_table(
            [
                (key, f"{value:.4g}" if isinstance(value, float) else f"{value}")
                for key, value in values.items()
            ]
        )
    for metric, reason in result["left_out"].items():
        click.echo(f"{metric} left out: {reason}", err=True)
    for reason in protocol["skipped"]:
        click.echo(f"not measured: {reason}", err=True)
