"""Moving MNIST, from digits to frames that were never seen: tokenizer, tokens, prior, prediction.

    ZOO_MNIST=train-images-idx3-ubyte.gz python -m benchmarks.moving_mnist --out runs/moving-mnist

Trains on one thread, then lets the prior see 4 frames of sequences with held-out digits and makes 16 more.
Prints, for each predicted frame, the structural similarity (SSIM) of the prediction to what truly came;
beside it that of the last given frame held still, that of frames of nothing but black, which most of a frame
is, and that of the true frames through the tokenizer, which no prior can beat by more than luck. docs/ gets
the curve and a sheet.

An interrupted script goes on where it was: what a command has made is not made again.

Shape legend: N sequences, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

import zoo
from benchmarks.measure import processor
from benchmarks.two_stages import Commands, settings, train, write_sheet
from zoo.assemblies import TokenPrior
from zoo.data import open_clips
from zoo.metrics import ssim_per_clip
from zoo.report.charts import curves
from zoo.report.rate_distortion import picture
from zoo.sampling import Sampling

GIVEN, PREDICTED = 4, 16
SHOWN = 4
"""Sequences on the sheet."""
DOCS = Path(__file__).resolve().parent.parent / "docs"


def train_both(out: Path, *, tokenizer_steps: int, prior_steps: int, num_clips: int) -> Commands:
    """Train both stages on sequences of what is given and what is predicted."""
    frames = GIVEN + PREDICTED
    # Flipped digits are no digits; black and white needs no perceptual loss; strokes are few pixels, which
    # an absolute difference would rather leave out.
    plain = settings(clip__num_frames=frames, clip__fps=10, train__augment="[]")
    # Two frames a latent frame: a code of four would have to tell too much of how things move. Eight levels
    # make every channel of a latent a digit of its code, so codes of alike patches are alike to the prior.
    model = settings(
        encoder__stride="[2,8,8]",
        encoder__patch_size="[2,4,4]",
        encoder__latent_dim=4,
        quantizer__levels="[8,8,8,8]",
        decoder__stride="[2,8,8]",
        decoder__patch_size="[2,4,4]",
        decoder__latent_dim=4,
    )
    alone = settings(
        train__objective__perceptual="null",
        train__objective__reconstruction__loss="mse",
        train__batch_size=4,
        train__steps=tokenizer_steps,
    )
    # There are more sequences than it can learn by heart, so nothing has to be dropped.
    prior = settings(
        generator__factors=4, generator__dropout=0, train__batch_size=4, train__steps=prior_steps
    )
    return train(
        out,
        "moving-mnist",
        name="zoo-causal-video-tiny",
        tokenizer=alone,
        tokens=["--num-clips", str(num_clips), "--num-frames", str(frames)],
        prior=prior,
        both=plain + model,
    )


@torch.no_grad()
def predict(model: TokenPrior, num: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the truth x_NCTHW of held-out sequences, and the three ways to fill in its end."""
    held_out: Any = open_clips("moving-mnist", clip=model.recipe.clip, split="test")
    x_NCTHW = torch.stack([held_out[index]["x_CTHW"] for index in range(num)])
    made, through = [], []
    for part in torch.split(x_NCTHW, 20):
        made.append(model.predict(part[:, :, :GIVEN], PREDICTED, sampling=Sampling(temperature=0.5)))
        through.append(model.tokenizer.reconstruct(part)[:, :, GIVEN:])
    ends = {
        "prediction": torch.cat(made).clamp(-1, 1),
        "black": torch.full_like(x_NCTHW[:, :, GIVEN:], -1),
        "last frame held": x_NCTHW[:, :, GIVEN - 1 : GIVEN].expand(-1, -1, PREDICTED, -1, -1),
        "tokenizer": torch.cat(through).clamp(-1, 1),
    }
    return x_NCTHW, ends


def curve(x_NCTHW: Tensor, y_NCTHW: Tensor) -> list[float]:
    """Return the mean SSIM of each frame."""
    pairs = zip(torch.split(x_NCTHW, 1, dim=2), torch.split(y_NCTHW, 1, dim=2), strict=True)
    return [round(float(ssim_per_clip(x, y).mean()), 4) for x, y in pairs]


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder of models and tokens.")
@click.option("--tokenizer-steps", default=2000, show_default=True, help="Steps of the tokenizer.")
@click.option("--prior-steps", default=3200, show_default=True, help="Steps of the prior.")
@click.option("--num-clips", default=10_000, show_default=True, help="Sequences that the prior trains on.")
@click.option("--num", default=100, show_default=True, help="Held-out sequences that are predicted.")
def main(out: Path, tokenizer_steps: int, prior_steps: int, num_clips: int, num: int) -> None:
    """Train, predict, print the curve, and write docs/moving-mnist.{json,svg,png}."""
    torch.set_num_threads(1)
    commands = train_both(out, tokenizer_steps=tokenizer_steps, prior_steps=prior_steps, num_clips=num_clips)
    model = zoo.load(out / "prior")
    assert isinstance(model, TokenPrior)
    x_NCTHW, ends = predict(model, num)
    truth_NCTHW = x_NCTHW[:, :, GIVEN:]
    found = {name: curve(truth_NCTHW, y_NCTHW) for name, y_NCTHW in ends.items()}
    result = {
        "commands": {line: one["cpu_s"] for line, one in commands.done.items()},
        "cpu_minutes": round(commands.cpu_minutes, 1),
        "processor": processor(),
        "sequences": num,
        "ssim": found,
    }
    (DOCS / "moving-mnist.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    drawn = {name: values for name, values in found.items() if name != "tokenizer"}
    series = {name: [(n + 1.0, value) for n, value in enumerate(values)] for name, values in drawn.items()}
    chart = curves(series, x_label="predicted frame", y_label="SSIM")
    spoken = "SSIM of predicted frames of Moving MNIST"
    (DOCS / "moving-mnist.svg").write_text(picture([chart], list(series), spoken=spoken), encoding="utf-8")
    rows = []
    for n in range(SHOWN):
        rows += [x_NCTHW[n], torch.cat([x_NCTHW[n, :, :GIVEN], ends["prediction"][n]], dim=1)]
    write_sheet(rows, DOCS / "moving-mnist.png")
    print("| frame | " + " | ".join(found) + " |\n|---:|" + "---:|" * len(found))
    for n in range(PREDICTED):
        print(f"| {n + 1} | " + " | ".join(f"{values[n]:.3f}" for values in found.values()) + " |")
    print(f"\n{commands.cpu_minutes:.0f} minutes of processor time for training and tokens")


if __name__ == "__main__":
    main()
