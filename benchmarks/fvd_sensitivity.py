"""How FVD moves when real clips are blurred, made noisy, shuffled in time or frozen.

    python -m benchmarks.fvd_sensitivity --data clips/videos --plot docs/fvd-sensitivity.svg

One set of real clips is compared with itself, spoilt more and more: 0 at no damage. The dashed line is what
other real clips of the same data are away from it: with so few clips it is the noise of sampling, mostly.
Figures also go to a JSON file of the plot's name.

Shape legend: N clips, C colour channels, T frames, H W pixels, D features.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from zoo.data import open_clips
from zoo.metrics import load_i3d
from zoo.metrics.frechet import frechet_of_features
from zoo.metrics.i3d import RESIZE
from zoo.metrics.protocol import RealClips
from zoo.recipes import Clip

COLOURS = ("#0b6e4f", "#b5451d", "#30539a", "#8a5a9e")


def blur(x_CTHW: Tensor, much: float) -> Tensor:
    """Blur every frame by a Gaussian of standard deviation `much`, in pixels."""
    reach = int(3 * much + 0.5)
    offset = torch.arange(-reach, reach + 1, dtype=x_CTHW.dtype)
    weight = torch.exp(-offset.square() / (2 * much**2))
    weight = weight / weight.sum()
    y = x_CTHW.transpose(0, 1).flatten(0, 1).unsqueeze(1)
    y = F.conv2d(F.pad(y, (0, 0, reach, reach), mode="replicate"), weight.view(1, 1, -1, 1))
    y = F.conv2d(F.pad(y, (reach, reach, 0, 0), mode="replicate"), weight.view(1, 1, 1, -1))
    return y.reshape(x_CTHW.shape[1], x_CTHW.shape[0], *x_CTHW.shape[2:]).transpose(0, 1)


def noise(x_CTHW: Tensor, much: float) -> Tensor:
    """Add Gaussian noise of standard deviation `much`, white being 2 above black."""
    random = torch.Generator().manual_seed(0)
    return (x_CTHW + much * torch.randn(x_CTHW.shape, generator=random)).clamp(-1, 1)


def shuffle(x_CTHW: Tensor, much: float) -> Tensor:
    """Give the share `much` of the frames, chosen by chance, each other's places."""
    random = torch.Generator().manual_seed(0)
    frames = x_CTHW.shape[1]
    chosen = torch.randperm(frames, generator=random)[: round(much * frames)]
    order = torch.arange(frames)
    order[chosen] = chosen.roll(1)
    return x_CTHW[:, order]


def freeze(x_CTHW: Tensor, much: float) -> Tensor:
    """Hold a frame over the last share `much` of the clip; all of it shows the first frame at 1."""
    frames = x_CTHW.shape[1]
    last = max(frames - round(much * frames) - 1, 0)
    return x_CTHW[:, torch.arange(frames).clamp(max=last)]


DAMAGE: dict[str, tuple[Callable[..., Tensor], tuple[float, float, float], str]] = {
    "blur": (blur, (1.0, 2.0, 4.0), "sigma {:g} px"),
    "noise": (noise, (0.1, 0.2, 0.4), "deviation {:g}"),
    "shuffled frames": (shuffle, (0.25, 0.5, 1.0), "{:.0%} of frames"),
    "frozen frames": (freeze, (0.25, 0.5, 1.0), "{:.0%} of frames"),
}
"""Name to what is done, how much of it, and how much is written."""


def plot(result: dict[str, Any]) -> str:
    """Draw FVD over the strength of each damage, as SVG."""
    left, right, upper, lower, width, height = 62, 150, 14, 44, 640, 320
    series: dict[str, list[float]] = {
        name: [0.0, *(level["fvd"] for level in levels)] for name, levels in result["fvd"].items()
    }
    top = 1.06 * max(max(map(max, series.values())), result["other_real_clips"])

    def place(index: float, value: float) -> tuple[float, float]:
        across = left + index / 3 * (width - left - right)
        return across, height - lower - value / top * (height - upper - lower)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="12"><title>FVD of damaged real clips</title>'
        f'<rect width="{width}" height="{height}" fill="white"/>'
    ]
    for fraction in (0, 0.25, 0.5, 0.75, 1):
        x, y = place(3, fraction * top)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{x:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{fraction * top:.0f}</text>')
    for index, word in enumerate(("none", "weak", "medium", "strong")):
        x, _ = place(index, 0)
        parts.append(f'<text x="{x:.1f}" y="{height - 26}" text-anchor="middle">{word}</text>')
    middle = (left + width - right) / 2
    parts.append(f'<text x="{middle}" y="{height - 8}" text-anchor="middle">damage</text>')
    parts.append(f'<text x="14" y="{height / 2}" transform="rotate(-90 14 {height / 2})">FVD</text>')
    (x0, y), (x1, _) = place(0, result["other_real_clips"]), place(3, 0)
    parts.append(
        f'<line x1="{x0}" x2="{x1:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="#777" stroke-dasharray="5 4"/>'
    )
    labels = [(y, "other real clips", "#555")]
    for colour, (name, values) in zip(COLOURS, series.items(), strict=True):
        points = [place(index, value) for index, value in enumerate(values)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        labels.append((points[-1][1], name, colour))
    below = 0.0
    for y, name, colour in sorted(labels):
        below = max(y + 4, below + 14)
        parts.append(f'<text x="{width - right + 10}" y="{below:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>", ""])


def measure(data: str, *, num: int, size: int, num_frames: int) -> dict[str, Any]:
    """Measure every damage on `num` clips of a folder."""
    clip = Clip(num_frames=num_frames, height=size, width=size)
    dataset: Any = open_clips(data, clip=clip)
    if len(dataset) < 2 * num:
        raise click.UsageError(f"{data} has {len(dataset)} clips; two sets of {num} were asked for")
    network = load_i3d()
    chosen = [index * len(dataset) // (2 * num) for index in range(2 * num)]
    x_NCTHW, others_NCTHW = (
        torch.stack([dataset[index]["x_CTHW"] for index in part]) for part in (chosen[::2], chosen[1::2])
    )
    real = RealClips()
    real.update(x_NCTHW)
    with torch.no_grad(), tqdm(total=num * (2 + 3 * len(DAMAGE)), unit="clip") as bar:

        def features(change: Callable[[Tensor], Tensor], clips_NCTHW: Tensor = x_NCTHW) -> Tensor:
            found = []
            for x_CTHW in clips_NCTHW:
                found.append(network(change(x_CTHW)[None]))
                bar.update()
            return torch.cat(found)

        whole_ND = features(lambda x: x)

        def fvd(z_ND: Tensor) -> float:
            return frechet_of_features(whole_ND, z_ND)

        result: dict[str, Any] = {
            "other_real_clips": fvd(features(lambda x: x, others_NCTHW)),
            "fvd": {
                name: [
                    {"strength": told.format(much), "fvd": fvd(features(partial(damage, much=much)))}
                    for much in levels
                ]
                for name, (damage, levels, told) in DAMAGE.items()
            },
        }
    result["protocol"] = {
        "detector_sha256": network.sha256,
        "resize": RESIZE,
        "real_sha256": real.sha256,
        "num_real": num,
        "num_fake": num,
        "num_frames": num_frames,
        "size": size,
        "fps": "each video's own",
        "seed": 0,
    }
    return result


@click.command()
@click.option("--data", required=True, help="Folder of real clips.")
@click.option("--num", type=int, default=16, show_default=True, help="Clips in a set.")
@click.option("--size", type=int, default=128, show_default=True, help="Height and width of the clips.")
@click.option("--num-frames", type=int, default=16, show_default=True, help="Frames in a clip.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Write the figures as an SVG.")
def main(data: str, num: int, size: int, num_frames: int, picture: Path | None) -> None:
    """Print FVD by damage."""
    result = measure(data, num=num, size=size, num_frames=num_frames)
    print("| damage | weak | medium | strong |\n|---|---:|---:|---:|")
    for name, levels in result["fvd"].items():
        cells = " | ".join(f"{level['fvd']:.0f} ({level['strength']})" for level in levels)
        print(f"| {name} | {cells} |")
    print(f"\nOther real clips: {result['other_real_clips']:.0f}")
    if picture is not None:
        picture.write_text(plot(result), encoding="utf-8")
        picture.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
