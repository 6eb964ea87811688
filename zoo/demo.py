"""What ``make demo`` runs: from shipped clips to a trained model, a clip it never saw and a page.

``python -m zoo.demo --out DIR`` uses nothing but the package's public functions; read it as an example.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

import zoo
from zoo.assemblies import Autoencoder
from zoo.cli.common import INTERRUPTED
from zoo.data import demo_clips, open_clips, side_by_side, write_video
from zoo.metrics import psnr
from zoo.windows import reconstruct_video

RECIPE = "vqvae-video-tiny"
UNSEEN = "juggle_1.mp4"
"""A held-out clip, of a film that no training clip comes from."""
_NUM_WINDOWS = 3


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/demo"),
    show_default=True,
    help="Folder of the run.",
)
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Steps, instead of the recipe's.")
@click.option("--force", is_flag=True, help="Replace the demo that is in the folder.")
def main(out: Path, steps: int | None, force: bool) -> None:
    """Train vqvae-video-tiny on the shipped clips and reconstruct one it never saw.

    \b
    Example:
      python -m zoo.demo --out runs/demo --force
    """
    try:
        sys.exit(run(out, steps=steps, force=force))
    except zoo.ZooError as error:
        click.echo(f"zoo: {error}", err=True)
        sys.exit(1)


def run(out: Path, *, steps: int | None = None, force: bool = False) -> int:
    """Train, reconstruct, write and print; return the exit code, 130 after Ctrl-C.

    Writes ``model/``, ``original.mp4``, ``reconstruction.mp4``, ``side_by_side.mp4`` and ``report.html``
    to `out`, beside what `zoo.train` keeps there.

    Raises:
        OutputExistsError: `out` exists and `force` is off.
        ZooError: As `zoo.train`.
    """
    started = time.monotonic()
    click.echo(f"Training {RECIPE} on the clips that ship with zoo; Ctrl-C stops and saves.")
    result = zoo.train(RECIPE, data="demo", out=out, steps=steps, force=force)
    if result.interrupted:
        command = result.resume_command.removeprefix("zoo")
        click.echo(f"Stopped before the end. Go on with\n  {_tool()}{command}", err=True)
        return INTERRUPTED
    assert isinstance(result.model, Autoencoder)
    original_CTHW, fps = _unseen_clip(result.model)
    windows = reconstruct_video(result.model, original_CTHW.unbind(1))
    made_CTHW = torch.cat([window.y_CTHW for window in windows], dim=1)
    write_video(out / "original.mp4", original_CTHW, fps, force=True)
    write_video(out / "reconstruction.mp4", made_CTHW, fps, force=True)
    write_video(out / "side_by_side.mp4", side_by_side([original_CTHW, made_CTHW]), fps, force=True)
    facts = json.loads((out / "run.json").read_text(encoding="utf-8"))
    click.echo(_summary(facts, psnr_db=float(psnr(original_CTHW[None], made_CTHW[None]))))
    click.echo(f"\nIn {out}, after {(time.monotonic() - started) / 60:.1f} minutes:")
    for name, what in (
        ("report.html", "curves, clips and figures; open it in a browser"),
        ("original.mp4", f"{original_CTHW.shape[1]} frames of {UNSEEN}, which training never saw"),
        ("reconstruction.mp4", "the same after the model"),
        ("side_by_side.mp4", "both"),
        ("model/", "config.json and model.safetensors, for zoo.load"),
    ):
        click.echo(f"  {name:<20} {what}")
    click.echo("\nNext:")
    for command in _next_commands(out):
        click.echo(f"  {command}")
    return 0


def _unseen_clip(model: Autoencoder) -> tuple[Tensor, float]:
    """Return the middle of the clip `UNSEEN` as x_CTHW, and its frame rate."""
    clip = model.recipe.clip
    longer = clip.model_copy(update={"num_frames": _NUM_WINDOWS * clip.num_frames})
    item = open_clips(demo_clips() / "test" / UNSEEN, clip=longer)[0]
    return item["x_CTHW"], clip.playback_fps


def _summary(facts: dict[str, Any], *, psnr_db: float) -> str:
    evaluation = facts["evaluation"]
    values, baselines = evaluation["values"], evaluation["baselines"]
    rows = [
        ("this model", values),
        ("nearest neighbour, same stored bits", baselines["nearest"]),
        ("mean colour of the clip", baselines["mean colour"]),
    ]
    lines = [f"\n{evaluation['protocol']['num_clips']} held-out clips{'PSNR':>27}{'SSIM':>8}"]
    lines += [f"  {who:<36}{row['psnr_db']:>6.2f} dB{row['ssim']:>8.3f}" for who, row in rows]
    used, perplexity = values["codebook_used_share"], values["codebook_perplexity"]
    lines += [
        f"  {values['bits_per_pixel']:.3f} bits a pixel; {100 * used:.0f}% of the codes used, "
        f"perplexity {perplexity:.0f}",
        f"  {UNSEEN}: {psnr_db:.2f} dB",
    ]
    return "\n".join(lines)


def _next_commands(out: Path) -> list[str]:
    tool, folder = _tool(), shlex.quote(str(out))
    return [
        f"{tool} reconstruct {folder} YOUR_VIDEO.mp4 out.mp4 --side-by-side",
        f"{tool} train {RECIPE} --data YOUR_FOLDER --out runs/mine",
        f"{tool} list",
    ]


def _tool() -> str:
    """Return how the shell reaches the `zoo` that belongs to this Python."""
    ours = Path(sys.executable).with_name("zoo")
    found = shutil.which("zoo")
    if found and Path(found).resolve() == ours.resolve():
        return "zoo"
    if not ours.exists():
        return f"{shlex.quote(sys.executable)} -m zoo"
    here = Path.cwd()
    return shlex.quote(str(ours.relative_to(here) if ours.is_relative_to(here) else ours))


if __name__ == "__main__":
    main()
