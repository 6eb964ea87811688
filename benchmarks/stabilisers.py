"""What each stabiliser does for a small video GAN: modes covered, FVD, and whether the training diverged.

    python -m benchmarks.stabilisers                                # the ring of 8 modes, to docs/
    python -m benchmarks.stabilisers --data clips/shapes64          # real clips, by FVD, to docs/

Every row trains the recipe gan-video-tiny for the same number of steps, at the same rates, from three seeds,
and differs by one stabiliser. *none* is the bare game: non-saturating loss, no penalty, no augmentation.
*default* is the recipe as it is. Every run keeps a moving average of its weights, so each ring figure is
there twice: of the averaged weights, which are what a run saves, and of the last ones.

The ring: a bright spot leaves the middle of a 16x16 frame in one of 8 directions, at a speed of its own. A
sample counts for the direction that its spot ends in when it is one spot that moved there steadily; a mode is
covered when at least an eightieth of the samples count for it, a tenth of its share.

A run has diverged when a loss or a gradient was not finite, or when its samples are all but the same clip:
they differ from each other less than a twentieth as much as real clips do.

Shape legend: B batch, C colour channels, T H W frames and pixels; N clips, M modes, D features.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import click
import torch
from torch import Tensor

import zoo
from benchmarks.measure import processor
from zoo.assemblies import Gan
from zoo.data import make_loader, open_clips
from zoo.errors import TrainingError
from zoo.metrics.frechet import frechet_of_features
from zoo.metrics.i3d import load_i3d
from zoo.training.loop import training_step
from zoo.training.run import Labelled, start

NUM_MODES = 8
SIZE = 16
NUM_FRAMES = 10
"""The fewest that the recipe's video discriminator judges at 16x16."""
SAMPLES = 800
_RADIUS = 6.0
"""Pixels from the middle at which a spot of mean speed ends."""
_ALIKE = 0.05
"""Spread of samples, as a share of that of real clips, below which they are one clip."""
OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "gan-stability.json"

BARE: dict[str, Any] = {
    "loss": "non-saturating",
    "r1": None,
    "r2": None,
    "gradient_penalty": None,
    "lecam": None,
    "feature_matching": None,
    "augment": None,
}
ROWS: dict[str, dict[str, Any] | None] = {
    "none": {},
    "r1": {"r1": {"weight": 5.0}},
    "r1, every 4th step": {"r1": {"weight": 5.0, "every": 4}},
    "relativistic, r1 + r2": {"loss": "relativistic", "r1": {"weight": 5.0}, "r2": {"weight": 5.0}},
    "spectral norm": {"spectral_norm": True},
    "lecam": {"lecam": {"weight": 0.3}},
    "feature matching": {"feature_matching": {"weight": 1.0}},
    "diffaugment": {"augment": {"use": "diffaugment", "policy": ["translation", "cutout"]}},
    "ada": {"augment": {"use": "ada", "adjust_clips": 5000}},
    "default": None,
}
"""What each row adds to `BARE`; None leaves the recipe as it is."""


@dataclasses.dataclass
class Outcome:
    """How one run ended; `modes` and `share` are of the averaged weights, `last_*` of the last ones."""

    seed: int
    diverged: bool
    cpu_s: float
    modes: int | None = None
    share: float | None = None
    last_modes: int | None = None
    last_share: float | None = None
    fvd: float | None = None


def ring(num: int, rng: torch.Generator) -> Tensor:
    """Draw clips x_BCTHW of a spot that moves outwards in one of 8 directions."""
    mode_B = torch.randint(NUM_MODES, (num,), generator=rng)
    angle_B = 2 * math.pi * mode_B / NUM_MODES + 0.05 * torch.randn(num, generator=rng)
    reach_B = _RADIUS * (1 + 0.05 * torch.randn(num, generator=rng))
    path_T = torch.linspace(0, 1, NUM_FRAMES)
    middle = (SIZE - 1) / 2
    y_BT = middle + torch.outer(reach_B * angle_B.sin(), path_T)
    x_BT = middle + torch.outer(reach_B * angle_B.cos(), path_T)
    axis = torch.arange(SIZE)
    distance_BTHW = (axis[:, None] - y_BT[..., None, None]) ** 2 + (axis - x_BT[..., None, None]) ** 2
    spot_BTHW = 2 * torch.exp(-distance_BTHW / 2) - 1
    return spot_BTHW[:, None].expand(-1, 3, -1, -1, -1).contiguous()


def modes_of(x_BCTHW: Tensor) -> Tensor:
    """Return the mode of each clip, -1 where it is no spot that moved steadily to one of the 8 places."""
    light_BTHW = ((x_BCTHW.mean(1) + 1) / 2).clamp(0, 1)
    light_BTHW = torch.where(light_BTHW > 0.2, light_BTHW, 0.0)
    mass_BT = light_BTHW.sum((2, 3))
    axis = torch.arange(SIZE) - (SIZE - 1) / 2
    y_BT = (light_BTHW.sum(3) * axis).sum(2) / mass_BT.clamp(min=1e-3)
    x_BT = (light_BTHW.sum(2) * axis).sum(2) / mass_BT.clamp(min=1e-3)
    spread_BTHW = (axis[:, None] - y_BT[..., None, None]) ** 2 + (axis - x_BT[..., None, None]) ** 2
    spread_BT = (light_BTHW * spread_BTHW).sum((2, 3)) / mass_BT.clamp(min=1e-3)
    angle_B = torch.atan2(y_BT[:, -1], x_BT[:, -1])
    mode_B = (angle_B * NUM_MODES / (2 * math.pi)).round()
    off_B = (angle_B - mode_B * 2 * math.pi / NUM_MODES).abs()
    reach_B = torch.hypot(x_BT[:, -1], y_BT[:, -1])
    half_B = torch.hypot(x_BT[:, NUM_FRAMES // 2], y_BT[:, NUM_FRAMES // 2])
    good_B = (off_B < 0.25) & ((reach_B - _RADIUS).abs() < 1.5) & ((half_B - _RADIUS / 2).abs() < 1.5)
    good_B &= (spread_BT[:, [0, NUM_FRAMES // 2, -1]] < 5).all(1)
    return torch.where(good_B, mode_B.long() % NUM_MODES, -1)


def count_modes(x_BCTHW: Tensor) -> tuple[int, float]:
    """Return how many modes the samples cover, and the share of samples that are of any."""
    mode_B = modes_of(x_BCTHW)
    counts_M = torch.bincount(mode_B[mode_B >= 0], minlength=NUM_MODES)
    return int((counts_M >= len(x_BCTHW) / (10 * NUM_MODES)).sum()), float((mode_B >= 0).float().mean())


def spread(x_BCTHW: Tensor) -> float:
    """Return the mean standard deviation of a value over the clips."""
    return float(x_BCTHW.std(0).mean())


class Ring:
    """The ring of 8 modes: fresh clips without end."""

    overrides: ClassVar[dict[str, Any]] = {
        "clip": {"num_frames": NUM_FRAMES, "height": SIZE, "width": SIZE},
        "generator": {"image_size": SIZE},
        "discriminator": [
            {"use": "mocogan-patch-image", "base_channels": 16},
            {"use": "mocogan-video", "image_size": SIZE, "base_channels": 16},
        ],
    }
    facts: ClassVar[dict[str, Any]] = {"clip": f"{NUM_FRAMES} frames of {SIZE}x{SIZE}", "samples": SAMPLES}

    def __init__(self) -> None:
        self.spread = spread(ring(SAMPLES, torch.Generator().manual_seed(0)))

    def batches(self, model: Gan, seed: int) -> Iterator[Labelled]:
        """Yield batches without end."""
        rng = torch.Generator().manual_seed(1000 + seed)
        while True:
            yield Labelled(ring(model.recipe.train.batch_size, rng))

    def judge(self, outcome: Outcome, averaged: Gan, last: Gan) -> None:
        """Count the modes of averaged and last weights."""
        x_BCTHW = averaged.sample(SAMPLES, seed=1, batch_size=100)
        outcome.modes, outcome.share = count_modes(x_BCTHW)
        outcome.last_modes, outcome.last_share = count_modes(last.sample(SAMPLES, seed=1, batch_size=100))
        outcome.diverged |= not spread(x_BCTHW) > _ALIKE * self.spread


class Clips:
    """A folder of real clips, at the recipe's own size, judged by FVD against its held-out split."""

    overrides: ClassVar[dict[str, Any]] = {}

    def __init__(self, data: str, limit: int) -> None:
        self.data = data
        clip = zoo.build("gan-video-tiny", seed=0).recipe.clip
        held_out: Any = open_clips(data, clip=clip, split="test")
        trained: Any = open_clips(data, clip=clip, split="train")
        self.num = min(limit, len(held_out))
        self.i3d = load_i3d()
        x_NCTHW, others_NCTHW = (
            torch.stack([of[index * len(of) // self.num]["x_CTHW"] for index in range(self.num)])
            for of in (held_out, trained)
        )
        self.spread = spread(x_NCTHW)
        self.real_ND = self.features(x_NCTHW)
        floor = frechet_of_features(self.real_ND, self.features(others_NCTHW))
        self.facts: dict[str, Any] = {
            "clip": f"{clip.num_frames} frames of {clip.height}x{clip.width}",
            "samples": self.num,
            "fvd_of_training_clips": floor,
        }

    @torch.no_grad()
    def features(self, x_NCTHW: Tensor) -> Tensor:
        """Return z_ND of I3D, clip by clip."""
        return torch.cat([self.i3d(x_1CTHW) for x_1CTHW in torch.split(x_NCTHW, 1)])

    def batches(self, model: Gan, seed: int) -> Iterator[Labelled]:
        """Yield batches without end."""
        trained = open_clips(self.data, clip=model.recipe.clip, split="train", seed=seed)
        loader = make_loader(trained, batch_size=model.recipe.train.batch_size, num_workers=0, seed=seed)
        return (Labelled(batch["x_BCTHW"]) for batch in loader)

    def judge(self, outcome: Outcome, averaged: Gan, last: Gan) -> None:
        """Measure FVD of the averaged weights; of samples that are not finite there is none."""
        x_NCTHW = averaged.sample(self.num, seed=1, batch_size=20).clamp(-1, 1)
        outcome.diverged |= not spread(x_NCTHW) > _ALIKE * self.spread
        if bool(x_NCTHW.isfinite().all()):
            outcome.fvd = frechet_of_features(self.real_ND, self.features(x_NCTHW))


def run(change: dict[str, Any] | None, task: Ring | Clips, *, seed: int, steps: int) -> Outcome:
    """Train once and judge the samples."""
    train: dict[str, Any] = {"steps": steps, "seed": seed}
    if change is not None:
        train["objective"] = {"adversarial": BARE | change}
    model = zoo.build("gan-video-tiny", seed=seed, **task.overrides, train=train)
    assert isinstance(model, Gan)
    state = start(model, torch.device("cpu"))
    batches = task.batches(model, seed)
    began, diverged = time.process_time(), False
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            for _ in range(steps):
                training_step(state, batches)
        except TrainingError:
            diverged = True
    outcome = Outcome(seed, diverged, time.process_time() - began)
    assert state.average is not None
    averaged = state.average.model
    assert isinstance(averaged, Gan)
    task.judge(outcome, averaged.eval(), model.eval())
    return outcome


@click.command()
@click.option("--data", help="Folder of clips to train on instead of the ring, judged by FVD.")
@click.option("--steps", type=int, help="Steps of each run; 500 on the ring, 400 on clips.")
@click.option("--seeds", default=3, show_default=True, help="Runs of each row.")
@click.option("--only", multiple=True, type=click.Choice(list(ROWS)), help="Only these rows anew.")
@click.option("--missing", is_flag=True, help="Only the runs that the file does not hold yet.")
@click.option("--num", default=60, show_default=True, help="Clips of each side that FVD is measured on.")
@click.option("--out", default=OUTPUT, type=click.Path(path_type=Path), help="JSON file of what was found.")
def main(
    data: str | None,
    steps: int | None,
    seeds: int,
    only: tuple[str, ...],
    missing: bool,
    num: int,
    out: Path,
) -> None:
    """Train every row, print the table, and keep what was found."""
    torch.set_num_threads(1)
    task = Ring() if data is None else Clips(data, num)
    steps = steps or (500 if data is None else 400)
    name = "ring" if data is None else Path(data).name
    facts = {"steps": steps, **task.facts, "processor": processor(), "torch": torch.__version__}
    document: dict[str, Any] = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    before: dict[str, Any] = document.get(name, {})
    alike = all(before.get(fact) == facts[fact] for fact in ("steps", "clip", "samples"))
    rows: dict[str, list[dict[str, Any]]] = before["rows"] if (only or missing) and alike else {}
    for row in only or ROWS:
        kept = [one for one in rows.get(row, []) if missing]
        for seed in sorted(set(range(seeds)) - {one["seed"] for one in kept}):
            kept.append(dataclasses.asdict(run(ROWS[row], task, seed=seed, steps=steps)))
            print(row, kept[-1], flush=True)
            rows[row] = sorted(kept, key=lambda one: int(one["seed"]))
            document[name] = {**facts, "rows": {key: rows[key] for key in ROWS if key in rows}}
            out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(document[name]["rows"]))


def table(rows: dict[str, list[dict[str, Any]]]) -> str:
    """Return the rows as Markdown, one figure a seed in each cell."""
    columns: dict[str, Callable[[Any], str]] = {
        "modes covered of 8": lambda one: _cell(one["modes"], "d"),
        "samples of a mode": lambda one: _cell(one["share"], ".0%"),
        "modes, last weights": lambda one: _cell(one["last_modes"], "d"),
        "of a mode, last weights": lambda one: _cell(one["last_share"], ".0%"),
        "FVD": lambda one: _cell(one["fvd"], ".0f"),
        "diverged": lambda one: "yes" if one["diverged"] else "no",
        "CPU s": lambda one: _cell(one["cpu_s"], ".0f"),
    }
    cells = {
        row: {head: [show(one) for one in ones] for head, show in columns.items()}
        for row, ones in rows.items()
    }
    shown = [head for head in columns if any(any(of[head]) for of in cells.values())]
    lines = [f"| stabiliser | {' | '.join(shown)} |", "|---|" + "---:|" * len(shown)]
    lines += [f"| {row} | {' | '.join(', '.join(of[head]) for head in shown)} |" for row, of in cells.items()]
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
