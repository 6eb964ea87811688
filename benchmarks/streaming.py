"""Streaming: peak memory by length of the video, and time a frame against one shot.

    python -m benchmarks.streaming                       # the table, for the default models
    python -m benchmarks.streaming --plot docs/streaming-memory.svg

Each length runs in a process of its own, which makes its frames as it goes, encodes and decodes them in
pieces, and tells the most memory that it ever held (the resident set, which counts everything: Python, torch,
weights). The time a frame is the median ratio of streams in small pieces to one shot over the same frames,
taken in turn in one process.

Shape legend: B batch, C colour channels, T frames, H W pixels.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from torch import Tensor

import zoo
from zoo.assemblies import Autoencoder

LENGTHS = (16, 64, 256, 1024, 4096)
MODELS = ("zoo-causal-video-tiny", "cosmos-video-dv4x8x8-tiny")
_ROUNDS = 7


def frames(num: int, side: int) -> Iterator[Tensor]:
    """Make moving stripes, frame by frame: x_CHW in [-1, 1]."""
    ramp = torch.linspace(0, 12, side)
    for t in range(num):
        row = torch.sin(ramp + 0.1 * t)
        yield torch.stack([row.expand(side, side), row[:, None].expand(side, side), -row.expand(side, side)])


def peak_mib(name: str, num_frames: int, side: int) -> float:
    """Stream a video through a model; return the most memory this process ever held, in MiB."""
    from zoo.windows import reconstruct_video

    model = _model(name)
    for _ in reconstruct_video(model, frames(num_frames, side)):
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def time_ratio(name: str, piece: int, *, side: int, num_frames: int = 64) -> tuple[float, float]:
    """Return how many times longer streams in pieces take than one shot: encoding, decoding."""
    model = _model(name)
    num_frames += int(model.lead_frame)
    x_BCTHW = torch.stack(list(frames(num_frames, side)), 1)[None]
    ratios: dict[str, list[float]] = {"encode": [], "decode": []}
    with torch.no_grad():
        for _ in range(_ROUNDS):
            start = time.perf_counter()
            tokens = model.encode(x_BCTHW)
            encoded = time.perf_counter()
            model.decode(tokens)
            decoded = time.perf_counter()
            encoder, decoder = model.stream_encoder(), model.stream_decoder()
            pieces = [encoder.push(part) for part in torch.split(x_BCTHW, piece, 2)]
            stream_encoded = time.perf_counter()
            for made in pieces:
                if made is not None:
                    decoder.push(made)
            stream_decoded = time.perf_counter()
            ratios["encode"].append((stream_encoded - decoded) / (encoded - start))
            ratios["decode"].append((stream_decoded - stream_encoded) / (decoded - encoded))
    return statistics.median(ratios["encode"]), statistics.median(ratios["decode"])


def _model(name: str) -> Autoencoder:
    model = zoo.build(name, seed=0).eval()
    assert isinstance(model, Autoencoder)
    return model


def plot(series: dict[str, dict[int, float]]) -> str:
    """Draw peak memory over the number of frames (logarithmic) as an SVG."""
    width, height, left, bottom = 560, 300, 64, 44
    lengths = sorted({n for values in series.values() for n in values})
    top = max(value for values in series.values() for value in values.values()) * 1.15
    colours = ("#0b6e4f", "#b5482a", "#33508c", "#7a5195")

    def place(index: int, value: float) -> tuple[float, float]:
        x = left + index * (width - left - 24) / (len(lengths) - 1)
        return x, (height - bottom) * (1 - value / top) + 8

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for fraction in (0, 0.25, 0.5, 0.75, 1):
        _, y = place(0, fraction * top)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{width - 24}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{fraction * top:.0f}</text>')
    for index, num in enumerate(lengths):
        x, _ = place(index, 0)
        parts.append(f'<text x="{x:.1f}" y="{height - 24}" text-anchor="middle">{num}</text>')
    parts.append(f'<text x="{width / 2}" y="{height - 6}" text-anchor="middle">frames in the video</text>')
    parts.append(f'<text x="12" y="{height / 2}" transform="rotate(-90 12 {height / 2})">peak MiB</text>')
    for colour, (name, values) in zip(colours, series.items(), strict=False):
        points = [place(lengths.index(n), value) for n, value in sorted(values.items())]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        x, y = points[-1]
        parts.append(f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="end" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


@click.command()
@click.option("--model", "models", multiple=True, default=MODELS, show_default=True, help="Causal recipes.")
@click.option("--side", type=int, default=128, show_default=True, help="Height and width of the frames.")
@click.option(
    "--piece", type=int, default=4, show_default=True, help="Frames in a piece, for the time a frame."
)
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Write the memory as an SVG.")
@click.option("--one", type=int, hidden=True, help="Only this length, in this process.")
def main(models: tuple[str, ...], side: int, piece: int, picture: Path | None, one: int | None) -> None:
    """Print how memory and time go with streams."""
    if one is not None:
        print(json.dumps(peak_mib(models[0], one, side)))
        return
    series: dict[str, dict[int, float]] = {}
    print(f"Peak MiB of a process that encodes and decodes {side}x{side} frames, by their number")
    print(f"| model | {' | '.join(map(str, LENGTHS))} | encode, times one shot | decode, times one shot |")
    print("|---|" + "---:|" * (len(LENGTHS) + 2))
    for name in models:
        series[name] = {}
        for num in LENGTHS:
            words = [sys.executable, "-m", "benchmarks.streaming", "--model", name, "--side", str(side)]
            done = subprocess.run([*words, "--one", str(num)], capture_output=True, text=True, check=True)
            series[name][num] = json.loads(done.stdout)
        memory = " | ".join(f"{value:.0f}" for value in series[name].values())
        encode, decode = time_ratio(name, piece, side=side)
        print(f"| {name} | {memory} | {encode:.2f} | {decode:.2f} |", flush=True)
    if picture is not None:
        picture.write_text(plot(series), encoding="utf-8")


if __name__ == "__main__":
    main()
