"""The commands that make videos with a prior: what they write, their bars, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli.conftest import Zoo
from test_between import DENSE, SPARSE

import zoo
from zoo.assemblies import TokenPrior
from zoo.data import write_video


@pytest.fixture(scope="session")
def priors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a sparse and a dense prior over one tokenizer."""
    folder = tmp_path_factory.mktemp("priors")
    sparse, dense = zoo.build(SPARSE, seed=1), zoo.build(DENSE, seed=2)
    assert isinstance(sparse, TokenPrior)
    assert isinstance(dense, TokenPrior)
    dense.tokenizer.load_state_dict(sparse.tokenizer.state_dict())
    return zoo.save(sparse, folder / "sparse"), zoo.save(dense, folder / "dense")


def test_each_command_writes_its_video_and_shows_tokens_a_second(
    run_zoo: Zoo, priors: tuple[Path, Path], clip: Path, tmp_path: Path
) -> None:
    sparse, dense = priors
    image = write_video(tmp_path / "hole.mp4", torch.ones(3, 1, 16, 16), 5)
    commands = {
        "sample": (["sample", sparse, "OUT", "--between", dense, "--num-frames", "14"], 14),
        "predict": (["predict", dense, clip, "OUT", "--given", "4", "--num-frames", "9"], 13),
        "interpolate": (["interpolate", dense, clip, image, "OUT"], 10),
        "inpaint": (["inpaint", dense, clip, image, "OUT"], 7),
    }
    for name, (words, num) in commands.items():
        for option in ([], ["--json"]):
            out = tmp_path / f"{name}{len(option)}.mp4"
            result = run_zoo(*(out if word == "OUT" else word for word in words), *option)
            assert result.exit_code == 0, result.output
            if option:
                assert result.stderr == ""
                assert json.loads(result.stdout)["num_frames"] == num
            else:
                assert "tokens/s" in result.stderr, name
                assert result.stdout == ""
    first, second = (tmp_path / f"sample{n}.mp4" for n in (0, 1))
    assert first.read_bytes() == second.read_bytes()


def test_what_a_sparse_prior_needs_is_said(
    run_zoo: Zoo, priors: tuple[Path, Path], gan: Path, clip: Path, tmp_path: Path
) -> None:
    sparse, dense = priors
    out = tmp_path / "out.mp4"
    for words, said in (
        (["sample", sparse, out], "give it: --between FOLDER"),
        (["predict", sparse, clip, out, "--num-frames", "4"], "give it: --between FOLDER"),
        (["sample", dense, out, "--between", sparse], "nothing for"),
        (["sample", gan, out, "--between", dense], "draws no codes: leave --between out"),
        (["sample", sparse, out, "--between", gan], "is no prior over tokens"),
        (["inpaint", sparse, clip, clip, out], "cannot fill a gap in a video"),
    ):
        result = run_zoo(*words)
        assert result.exit_code in (1, 2), result.output
        assert said in result.output
        assert not out.exists()
    predicted = run_zoo("predict", sparse, clip, out, "--num-frames", "4", "--between", dense, "--json")
    assert json.loads(predicted.stdout)["num_frames"] == 7 + 4
