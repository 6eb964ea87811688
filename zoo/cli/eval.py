"""``zoo eval``: measure a trained model on held-out videos."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import click

from zoo.cli.common import (
    ExistingFile,
    device_option,
    force_option,
    json_option,
    print_json,
    print_table,
    with_interval,
    words,
    write_json,
)


@click.command("eval")
@click.argument("model")
@click.option("--data", "source", required=True, metavar="X", help="Videos to measure on; as for zoo train.")
@click.option("--split", metavar="NAME", help="Split of the data, such as test. All of it when left out.")
@click.option(
    "--num-clips", type=click.IntRange(min=1), metavar="N", help="Clips measured; all when left out."
)
@click.option("--metrics", metavar="A,B", help="Figures to measure, such as fvd,kvd,precision,recall.")
@click.option(
    "--num-samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Clips a GAN makes; as many as are measured.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of samples, pairs and intervals.")
@click.option(
    "--bootstrap",
    "replicates",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    metavar="N",
    help="Replicates behind each confidence interval; 0 leaves them out.",
)
@click.option("--frame-backbone", metavar="NAME", help="timm network of frame_distance, such as resnet18.")
@click.option("--frame-weights", type=ExistingFile, metavar="FILE", help="Its trained weights.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.json", help="Write the JSON document.")
@device_option
@force_option
@json_option
def eval_command(
    model: str,
    source: str,
    split: str | None,
    num_clips: int | None,
    metrics: str | None,
    num_samples: int | None,
    seed: int,
    replicates: int,
    frame_backbone: str | None,
    frame_weights: Path | None,
    out: Path | None,
    device: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure MODEL on videos that it was not trained on.

    An autoencoder: PSNR, SSIM, LPIPS and use of the codebook, beside the mean colour and nearest-neighbour
    resizing at the same number of bits; rfvd (FVD of reconstructions) when asked for. A GAN: how much its
    samples differ from each other (lpips_diversity), and when asked for how far they are from the videos:
    fvd, kvd, precision, recall (these need zoo metrics fetch once) and frame_distance. Every figure carries
    its protocol, and zoo compare puts figures side by side. MODEL is a model folder, or the folder of a run.

    \b
    Example:
      zoo eval runs/first --data clips/test
      zoo eval runs/first --data clips/ --split test --json
      zoo eval runs/gan --data clips/test --metrics fvd,kvd,precision,recall --out gan.json
    """
    if out is not None:
        from zoo.cli.models import check_output

        check_output(out, force=force)
    if (frame_backbone is None) != (frame_weights is None):
        raise click.UsageError("--frame-backbone and --frame-weights belong together: give both or neither.")
    wanted = words(metrics)
    if wanted is not None and (frame_backbone is not None) != ("frame_distance" in wanted):
        raise click.UsageError(
            "frame_distance in --metrics, --frame-backbone and --frame-weights belong together: "
            "give all or none."
        )
    from zoo.cli.models import load_model

    loaded = load_model(model, device)

    from zoo.data import open_clips
    from zoo.metrics import FrameNetwork, evaluate

    network = None
    if frame_backbone is not None:
        network = FrameNetwork(frame_backbone, frame_weights)
    dataset: Any = open_clips(source, clip=loaded.recipe.clip, split=split)
    if not hasattr(dataset, "__len__"):
        if num_clips is None:
            raise click.UsageError(
                f"{source} is a stream and has no end; say how much of it: --num-clips 256"
            )
        dataset = _First(dataset, num_clips)
    if num_clips is not None and num_clips > len(dataset):
        click.echo(f"{num_clips} clips were asked for; there are {len(dataset)}", err=True)
    result = evaluate(
        loaded,
        dataset,
        metrics=wanted,
        num_clips=num_clips,
        num_samples=num_samples,
        replicates=replicates,
        frame_network=network,
        seed=seed,
        progress=True,
    )
    if out is not None:
        write_json(out, result, force=force)
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
        self.clip, self.random = getattr(stream, "clip", None), getattr(stream, "random", None)


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
                (key, _figure(value, result["intervals"].get(key) if name == "model" else None))
                for key, value in values.items()
            ]
        )
    for metric, reason in result["left_out"].items():
        click.echo(f"{metric} left out: {reason}", err=True)
    for reason in protocol["skipped"]:
        click.echo(f"not measured: {reason}", err=True)


def _figure(value: Any, interval: dict[str, Any] | None) -> str:
    return with_interval(value, interval) if isinstance(value, float) else f"{value}"
