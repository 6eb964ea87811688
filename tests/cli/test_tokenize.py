"""``zoo tokenize``: what it writes and says, and what it refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from click.testing import Result

Zoo = Callable[..., Result]


def test_tokens_of_a_folder_of_videos(run_zoo: Zoo, autoencoder: Path, clip: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for name in ("train/a.mp4", "train/b.mp4", "test/c.mp4"):
        (videos / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(clip, videos / name)
    (videos / "train" / "broken.mp4").write_bytes(b"no video")
    words = ("tokenize", autoencoder, "--data", videos, "--out", tmp_path / "out", "--workers", "1")
    told = run_zoo(*words)
    assert told.exit_code == 0, told.output
    # Windows of 4, 4 and 2 frames are 2, 2 and 1 latent frames of 4x4.
    assert "train: 2 clips, 20 frames, 160 tokens, 1 left out" in told.output
    assert "left out: " in told.output
    assert "broken.mp4" in told.output
    assert "windows of 4 frames" in told.output
    again = json.loads(run_zoo(*words, "--json").stdout)
    assert again["result"]["test"] == {"rows": 1, "frames": 10, "tokens": 80, "skipped": []}
    assert again["tokenizer"]["window"] == 4
    shorter = run_zoo(*words, "--num-frames", "6")
    assert shorter.exit_code == 2
    assert "clip.max_frames was None, now 6" in shorter.output
    anew = json.loads(run_zoo(*words, "--num-frames", "6", "--force", "--json").stdout)
    assert anew["result"]["train"]["frames"] == 12


def test_a_gan_has_no_tokens(run_zoo: Zoo, gan: Path, clip: Path, tmp_path: Path) -> None:
    told = run_zoo("tokenize", gan, "--data", clip, "--out", tmp_path / "out")
    assert told.exit_code == 2
    assert "zoo sample" in told.output
    assert not (tmp_path / "out").exists()
