"""The demo as ``make demo`` runs it, cut short."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


@pytest.mark.slow
def test_two_steps_of_the_demo_leave_everything_it_promises(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "zoo.demo", "--out", str(out), "--steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("report.html", "original.mp4", "reconstruction.mp4", "side_by_side.mp4"):
        assert (out / name).stat().st_size > 1000, name
    assert (out / "model" / "model.safetensors").is_file()
    values = json.loads((out / "run.json").read_text())["evaluation"]
    for row in (values["values"], values["baselines"]["nearest"], values["baselines"]["mean colour"]):
        assert f"{row['psnr_db']:.2f} dB" in done.stdout
    for command_to_type in ("reconstruct", "train vqvae-video-tiny --data YOUR_FOLDER", "list"):
        assert f"zoo {command_to_type}" in done.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "Traceback" not in again.stderr
    assert "exists" in again.stderr


@pytest.mark.slow
def test_an_interrupted_demo_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "zoo.demo", "--out", str(out), "--steps", "3000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if (out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").stat().st_size:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        stderr = process.communicate(timeout=120)[1]
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    words = shlex.split(stderr.splitlines()[-1])
    assert words[-1] == "--resume"
    step = json.loads((out / "run.json").read_text())["step"]
    words[words.index("--steps") + 1] = str(step + 1)
    subprocess.run(words, check=True, capture_output=True)
    assert json.loads((out / "run.json").read_text())["step"] == step + 1
