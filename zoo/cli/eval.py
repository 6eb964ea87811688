"""``zoo eval``: measure a trained model on held-out videos."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from zoo.cli.common import (
    ExistingFile,
    coder_option,
    device_option,
    force_option,
    json_option,
    print_json,
    print_table,
    prior_option,
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
@click.option("--codec", is_flag=True, help="Measure the files of zoo encode, beside H.264 and H.265.")
@coder_option
@prior_option
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.svg",
    help="Draw the rate-distortion curves of --codec.",
)
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
    codec: bool,
    coder: str | None,
    prior: str | None,
    plot: Path | None,
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

    With --codec an autoencoder's files of tokens are measured: bits a pixel of the files that zoo encode
    writes, PSNR, SSIM and LPIPS of what zoo decode makes of them, and beside them H.264 and H.265 at the same
    bits, clip by clip.

    \b
    Example:
      zoo eval runs/first --data clips/test
      zoo eval runs/first --data clips/ --split test --json
      zoo eval runs/gan --data clips/test --metrics fvd,kvd,precision,recall --out gan.json
      zoo eval runs/first --data clips/test --codec --plot rates.svg
    """
    from zoo.cli.models import check_output

    for path in (out, plot):
        if path is not None:
            check_output(path, force=force)
    _check_codec(codec, coder=coder, prior=prior, plot=plot, metrics=metrics, num_samples=num_samples)
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
    if codec:
        from zoo.cli.models import load_prior_if_given
        from zoo.metrics import rate_distortion

        result = rate_distortion(
            loaded,
            dataset,
            coder=coder,
            prior=load_prior_if_given(prior, device),
            num_clips=num_clips,
            progress=True,
        )
        if plot is not None:
            _draw(plot, result, force=force)
        _give(result, _print_codec, out=out, force=force, as_json=as_json)
        return
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
    _give(result, _print, out=out, force=force, as_json=as_json)


def _check_codec(
    codec: bool, *, coder: str | None, prior: str | None, plot: Path | None, **others: Any
) -> None:
    alone = {"--coder": coder, "--prior": prior, "--plot": plot}
    if not codec and (given := [name for name, value in alone.items() if value is not None]):
        raise click.UsageError(f"{', '.join(given)}: that belongs to --codec; give it too.")
    if codec and (given := [name for name, value in others.items() if value is not None]):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise click.UsageError(f"{options}: --codec measures its own figures; leave that out.")
    if plot is not None and plot.suffix.lower() != ".svg":
        raise click.UsageError(f"--plot: {plot} is drawn as an SVG; give it a name that ends in .svg")


def _draw(path: Path, result: dict[str, Any], *, force: bool) -> None:
    from zoo.files import new_file
    from zoo.report.rate_distortion import rate_distortion_svg

    with new_file(path, force=force) as temporary:
        temporary.write_text(rate_distortion_svg(result), encoding="utf-8")


def _give(
    result: dict[str, Any],
    show: Callable[[dict[str, Any]], None],
    *,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    if out is not None:
        write_json(out, result, force=force)
    if as_json:
        print_json(result)
    else:
        show(result)


class _First(list[Any]):
    """The first clips of a stream."""

    def __init__(self, stream: Any, number: int) -> None:
        # By its number: a row that stands in for one that cannot be read comes twice.
        rows = {item["index"]: item for item in itertools.islice(stream, number)}
        super().__init__({**item, "index": at} for at, item in enumerate(rows.values()))
        self.description = f"{stream.description}: the first {len(self)}"
        self.clip, self.random = getattr(stream, "clip", None), getattr(stream, "random", None)


def _print_head(protocol: dict[str, Any]) -> None:
    asked = protocol["num_clips"] + len(protocol["skipped"])
    of = f" of {asked}" if protocol["skipped"] else ""
    click.echo(f"{protocol['model']} on {protocol['num_clips']}{of} clips of {protocol['data']}")
    click.echo(f"  {protocol['clip']}\n")


def _print_codec(result: dict[str, Any]) -> None:
    _print_head(result["protocol"])
    columns = ("bits_per_pixel", "psnr_db", "ssim", "lpips")
    rows = [("", "bits/pixel", "PSNR dB", "SSIM", "LPIPS", "CRF")]
    points = {result["protocol"]["model"]: result["values"], **result["codecs"]}
    for name, point in points.items():
        cells = [f"{point[column]:.4g}" if column in point else "-" for column in columns]
        rows.append((name, *cells, f"{point['crf']:.1f}" if "crf" in point else ""))
    print_table(rows)
    share = result["header_bits_per_pixel"] / result["values"]["bits_per_pixel"]
    packed = result["values"]["bits_per_pixel"] / result["packed_bits_per_pixel"]
    click.echo(
        f"\n  {result['protocol']['bits']}: {share:.0%} of it headers; {packed:.0%} of what codes of a fixed "
        "width take"
    )
    for name, point in result["codecs"].items():
        if point["clips_above_the_bits"]:
            click.echo(f"{name} cannot go as low for {point['clips_above_the_bits']} clips", err=True)
    _print_left_out(result)


def _print_left_out(result: dict[str, Any]) -> None:
    for metric, reason in result["left_out"].items():
        click.echo(f"{metric} left out: {reason}", err=True)
    for reason in result["protocol"]["skipped"]:
        click.echo(f"not measured: {reason}", err=True)


def _print(result: dict[str, Any]) -> None:
    _print_head(result["protocol"])
    for name, values in {"model": result["values"], **result["baselines"]}.items():
        click.echo(name.capitalize())
        print_table(
            [
                (key, _figure(value, result["intervals"].get(key) if name == "model" else None))
                for key, value in values.items()
            ]
        )
    _print_left_out(result)


def _figure(value: Any, interval: dict[str, Any] | None) -> str:
    return with_interval(value, interval) if isinstance(value, float) else f"{value}"
