"""The zoo's own tokenizer against the shapes of others: same data, codes, weights and processor time.

    python -m benchmarks.contest --data clips/videos --minutes 20

Every model has 1.2 to 1.4 million weights, strides of 4x8x8 and the same 64,000 codes (FSQ); each trains on
one thread until its processor time is used up, with the same loss (mean absolute error), optimiser, learning
rate schedule over that time, batches and seed. Then it encodes and decodes the clips of the test split. Two
models train beside each other; the time a frame is measured before, in turn.

A shape whose first frame is a latent frame of its own takes 5 latent frames for 16, the others 4.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

import zoo
from zoo.assemblies import Autoencoder
from zoo.data import ClipDataset, open_clips
from zoo.metrics import psnr, ssim
from zoo.metrics.lpips import load_lpips

_FSQ = {"use": "fsq", "levels": [8, 8, 8, 5, 5, 5]}
_STRIDE = [4, 8, 8]


def _pair(use: str, **options: Any) -> dict[str, Any]:
    part = {"use": use, **options}
    return {"encoder": part, "decoder": part}


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "zoo-causal": ("zoo-causal-video-tiny", {}),
    "cosmos": (
        "cosmos-video-dv4x8x8-tiny",
        _pair(
            "cosmos", base_channels=32, channel_multipliers=[1, 2, 2], num_residual_blocks=1, stride=_STRIDE
        ),
    ),
    "videogpt": (
        "vqvae-fsq-video-tiny",
        _pair("videogpt", hidden_dim=60, num_residual_blocks=2, stride=_STRIDE),
    ),
    "open-magvit2": (
        "open-magvit2-video-tiny",
        _pair(
            "open-magvit2",
            base_channels=20,
            channel_multipliers=[1, 1, 2, 2],
            num_residual_blocks=1,
            latent_dim=6,
            num_groups=20,
        ),
    ),
}
"""The recipe of each shape, and what is changed so that all weigh the same and make the same codes."""


def build(shape: str) -> Autoencoder:
    """Build a shape with untrained weights."""
    recipe, changes = SHAPES[shape]
    clip = {"num_frames": 16, "height": 64, "width": 64, "fps": 12}
    model = zoo.build(recipe, seed=0, clip=clip, quantizer=_FSQ, discriminator=[], **changes)
    assert isinstance(model, Autoencoder)
    return model


def load(data: str, split: str, *, epochs: int) -> Tensor:
    """Draw clips x_BCTHW of 16 frames of 64x64, as bytes."""
    dataset = open_clips(data, clip=build("zoo-causal").recipe.clip, split=split, seed=0)
    assert isinstance(dataset, ClipDataset)
    clips = []
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        clips += [((dataset[i]["x_CTHW"] + 1) * 127.5).round().to(torch.uint8) for i in range(len(dataset))]
    return torch.stack(clips)


def train(model: Autoencoder, clips: Tensor, *, seconds: float, lr: float, batch_size: int = 4) -> int:
    """Train for so many seconds of processor time; return the number of steps."""
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(0)
    model.train()
    start, steps = time.process_time(), 0
    while (done := (time.process_time() - start) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, (steps + 1) / 50) * (0.505 + 0.495 * math.cos(math.pi * done))
        index = torch.randint(len(clips), (batch_size,), generator=generator)
        x_BCTHW = clips[index].float() / 127.5 - 1
        if torch.rand((), generator=generator) < 0.5:
            x_BCTHW = x_BCTHW.flip(-1)
        made = model(x_BCTHW)
        loss = (made.x_BCTHW - x_BCTHW).abs().mean() + made.quantized.loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps += 1
    model.eval()
    return steps


@torch.no_grad()
def judge(model: Autoencoder, clips: Tensor) -> dict[str, float]:
    """Measure reconstructions of clips x_BCTHW (bytes), and the bits that their tokens take."""
    x_BCTHW = clips.float() / 127.5 - 1
    tokens = [model.encode(part) for part in torch.split(x_BCTHW, 4)]
    y_BCTHW = torch.cat([model.decode(part) for part in tokens]).clamp(-1, 1)
    frames = [v.transpose(1, 2).flatten(0, 1) for v in (x_BCTHW, y_BCTHW)]
    codes = [part.indices_Bqthw for part in tokens if part.indices_Bqthw is not None]
    bits = sum(part.numel() for part in codes) * math.log2(model.quantizer.codebook_size)
    return {
        "psnr_db": float(psnr(x_BCTHW, y_BCTHW)),
        "ssim": float(ssim(x_BCTHW, y_BCTHW)),
        "lpips": float(load_lpips()(*frames).mean()),
        "bits_per_pixel": bits / (x_BCTHW.numel() / 3),
        "codes_used": len(torch.unique(torch.cat([part.flatten() for part in codes]))),
    }


@torch.no_grad()
def ms_a_frame(models: dict[str, Autoencoder], rounds: int = 9) -> dict[str, float]:
    """Encode and decode one clip with each model in turn on one thread; median milliseconds a frame."""
    times: dict[str, list[float]] = {name: [] for name in models}
    x_BCTHW = torch.rand(1, 3, 16, 64, 64) * 2 - 1
    for _ in range(rounds):
        for name, model in models.items():
            start = time.process_time()
            model.reconstruct(x_BCTHW)
            times[name].append(1e3 * (time.process_time() - start) / 16)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


@click.command()
@click.option("--data", required=True, help="Folder of clips with a train and a test split.")
@click.option("--minutes", type=float, default=20, show_default=True, help="Processor time of each model.")
@click.option("--lr", type=float, default=2e-3, show_default=True, help="Highest learning rate.")
@click.option("--only", type=click.Choice(list(SHAPES)), help="Train one, in this process; print JSON.")
def main(data: str, minutes: float, lr: float, only: str | None) -> None:
    """Train every shape for the same processor time and print a table."""
    torch.set_num_threads(1)
    if only is not None:
        model = build(only)
        steps = train(model, load(data, "train", epochs=25), seconds=60 * minutes, lr=lr)
        print(json.dumps({"steps": steps, **judge(model, load(data, "test", epochs=1))}))
        return
    words = [
        sys.executable,
        "-m",
        "benchmarks.contest",
        "--data",
        data,
        "--minutes",
        str(minutes),
        "--lr",
        str(lr),
    ]
    times = ms_a_frame({name: build(name).eval() for name in SHAPES})
    found: dict[str, dict[str, float]] = {}
    names = list(SHAPES)
    for two in (names[:2], names[2:]):
        running = {
            name: subprocess.Popen([*words, "--only", name], stdout=subprocess.PIPE, text=True)
            for name in two
        }
        for name, process in running.items():
            found[name] = json.loads(process.communicate()[0])
            print(name, found[name], file=sys.stderr, flush=True)
    print(f"{minutes:g} minutes of processor time each, {Path(data).name}, highest learning rate {lr:g}\n")
    print("| shape | weights | steps | PSNR dB | SSIM | LPIPS | bits a pixel | codes used | ms a frame |")
    print("|---|" + "---:|" * 8)
    for name, row in found.items():
        print(
            f"| {name} | {build(name).num_parameters():,} | {row['steps']} | {row['psnr_db']:.2f} "
            f"| {row['ssim']:.3f} | {row['lpips']:.3f} | {row['bits_per_pixel']:.4f} | {row['codes_used']} "
            f"| {times[name]:.2f} |"
        )


if __name__ == "__main__":
    main()
