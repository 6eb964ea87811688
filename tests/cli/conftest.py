"""Trained-looking models and videos for the command line, real and tiny."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tiny import TINY

Zoo = Callable[..., Result]

GAN = {
    "summary": "For tests.",
    "assembly": "gan",
    "clip": {"num_frames": 4, "height": 16, "width": 16},
    "generator": {"use": "mocogan", "image_size": 16, "base_channels": 4},
}


@pytest.fixture
def run_zoo() -> Zoo:
    """Run the command line in this process: ``run_zoo("list", "--json")``."""
    from zoo.cli.group import cli

    def run(*words: str | Path) -> Result:
        return CliRunner().invoke(cli, [str(word) for word in words], prog_name="zoo")

    return run


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder that holds an untrained autoencoder."""
    import zoo

    run = tmp_path_factory.mktemp("autoencoder")
    zoo.save(zoo.build(TINY, seed=0), run / "model")
    return run


@pytest.fixture(scope="session")
def gan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of an untrained GAN."""
    import zoo

    return zoo.save(zoo.build(GAN, seed=0), tmp_path_factory.mktemp("gan") / "model")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 10 frames of 18x22, at 7.5 frames a second: no multiple of anything the models want."""
    import torch

    from zoo.data import write_video

    ramp = torch.linspace(-1, 1, 10 * 18 * 22).reshape(1, 10, 18, 22).expand(3, -1, -1, -1)
    return write_video(tmp_path_factory.mktemp("clip") / "in.mp4", ramp, 7.5)
