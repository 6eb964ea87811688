"""Human actions by class: tokenizer, tokens, a prior that is told the class, samples of each class, FVD.

    python -m benchmarks.actions --data clips/actions64 --out runs/actions

Trains on one thread from a folder of clips in folders by class. Prints FVD against the held-out clips of the
samples and, as what the prior cannot beat, of the tokenizer's reconstructions; docs/ gets the figures and a
sheet with samples of each class. ZOO_I3D names the detector's weights where they are not fetched yet.

An interrupted script goes on where it was: what a command has made is not made again.

Shape legend: C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

import zoo
from benchmarks.measure import processor
from benchmarks.two_stages import settings, train, write_sheet
from zoo.assemblies import TokenPrior
from zoo.sampling import Sampling

DOCS = Path(__file__).resolve().parent.parent / "docs"
SHOWN = 2
"""Samples of each class on the sheet."""


@click.command()
@click.option(
    "--data", required=True, help="Folder of clips with train/ and test/, each with a folder a class."
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of models and tokens.")
@click.option("--num-classes", default=4, show_default=True, help="Classes in the folder.")
@click.option("--tokenizer-steps", default=2000, show_default=True, help="Steps of the tokenizer.")
@click.option("--prior-steps", default=1000, show_default=True, help="Steps of the prior.")
@click.option("--num-samples", default=64, show_default=True, help="Samples that FVD is measured on.")
@click.option("--temperature", default=0.9, show_default=True, help="Of the samples on the sheet.")
def main(
    data: str,
    out: Path,
    num_classes: int,
    tokenizer_steps: int,
    prior_steps: int,
    num_samples: int,
    temperature: float,
) -> None:
    """Train, measure, and write docs/actions.{json,png}."""
    torch.set_num_threads(1)
    commands = train(
        out,
        data,
        name="zoo-causal-video-tiny-1k",
        tokenizer=settings(train__steps=tokenizer_steps),
        tokens=[],
        prior=settings(
            generator__num_classes=num_classes,
            generator__label_dropout=0.1,
            train__batch_size=8,
            train__steps=prior_steps,
        ),
        both=[],
    )
    minutes = commands.cpu_minutes
    against = ("--data", data, "--split", "test", "--json")
    figures = {
        "samples": commands.zoo(
            "eval",
            out / "prior",
            *against,
            "--metrics",
            "fvd,lpips_diversity",
            "--num-samples",
            str(num_samples),
        ),
        "reconstructions": commands.zoo(
            "eval", out / "tokenizer", *against, "--metrics", "psnr,ssim,lpips,rfvd"
        ),
    }
    result = {
        "commands": {line: one["cpu_s"] for line, one in commands.done.items()},
        "training_cpu_minutes": round(minutes, 1),
        "processor": processor(),
        **{name: json.loads(printed) for name, printed in figures.items()},
    }
    (DOCS / "actions.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    model = zoo.load(out / "prior")
    assert isinstance(model, TokenPrior)
    rows = []
    for label in range(num_classes):
        x_NCTHW = model.sample(SHOWN, label=label, seed=0, sampling=Sampling(temperature=temperature))
        rows += list(x_NCTHW)
    write_sheet(rows, DOCS / "actions.png")
    print(f"rows of docs/actions.png, {SHOWN} each: {', '.join(model.labels)}")
    for name in figures:
        print(name, {key: round(value, 4) for key, value in result[name]["values"].items()})
    print(f"{minutes:.0f} minutes of processor time for training and tokens")


if __name__ == "__main__":
    main()
