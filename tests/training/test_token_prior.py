"""Training a prior: its tokenizer first, resumed as if never interrupted, on codes as on clips."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from training.squares import Squares, squares
from training.test_trainer import StopAfter, losses, run

import zoo
from zoo.assemblies import Autoencoder, TokenPrior
from zoo.data import write_video
from zoo.data.clips import Taken
from zoo.data.sampling import Draw
from zoo.errors import DataError, OutputExistsError, TrainingError, WeightsError, ZooError
from zoo.tokens import tokenize

PRIOR: dict[str, Any] = {
    "summary": "For tests.",
    "assembly": "token-prior",
    "clip": {"num_frames": 4, "height": 16, "width": 16, "fps": None},
    "tokenizer": {"use": "vqvae-video-tiny", "train": {"steps": 3, "save_every": 2}},
    "generator": {"use": "maskgit", "num_layers": 1, "hidden_dim": 16, "num_heads": 2, "mlp_dim": 16},
    "train": {
        "steps": 6,
        "batch_size": 2,
        "log_every": 1,
        "save_every": 2,
        "ema": {"decay": 0.5},
        "objective": {"tokens": {}},
    },
}


class Interrupted(Squares):
    """Presses Ctrl-C when so many clips were taken."""

    def __init__(self, at: int) -> None:
        super().__init__(12)
        self.left = at

    def _take(self, index: int, chance: Draw) -> tuple[Taken, str, int]:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return super()._take(index, chance)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return zoo.load(folder).state_dict()


def test_a_run_cut_in_either_stage_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(PRIOR, tmp_path / "whole")
    assert whole.step == 6
    assert json.loads((tmp_path / "whole/tokenizer/run.json").read_text())["status"] == "finished"
    assert set(whole.figures) >= {"bits_per_code"}
    model, tokenizer = whole.model, zoo.load(tmp_path / "whole" / "tokenizer")
    assert isinstance(model, TokenPrior)
    assert isinstance(tokenizer, Autoencoder)
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(model.state_dict()[f"tokenizer.{name}"], value), name

    data = {"train": Interrupted(at=9), "test": squares()["test"]}
    out = tmp_path / "cut"
    first = run(PRIOR, out, data=data)
    assert first.interrupted
    assert not (out / "checkpoint").exists()
    # What goes on is the whole run, and the tokenizer's own folder says no other.
    facts = json.loads((out / "tokenizer" / "run.json").read_text())
    assert facts["resume_command"] == first.resume_command == f"zoo.train(..., out={str(out)!r}, resume=True)"
    second = run(PRIOR, out, resume=True, callbacks=[StopAfter(4)])
    assert (second.interrupted, second.step) == (True, 4)
    third = run(PRIOR, out, resume=True)
    assert losses(third) == losses(whole)
    assert third.figures == whole.figures
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(weights(out)[name], value), name


def test_a_tokenizer_that_is_given_is_not_trained(tmp_path: Path) -> None:
    tokenizer = {key: value for key, value in PRIOR.items() if key not in ("generator", "tokenizer")}
    recipe = {**tokenizer, "assembly": "autoencoder", "extends": "vqvae-video-tiny", "train": {}}
    given = zoo.save(zoo.build(recipe, seed=7), tmp_path / "given")
    result = run(PRIOR, tmp_path / "run", init={"tokenizer": given})
    assert not (tmp_path / "run" / "tokenizer").exists()
    for name, value in weights(given).items():
        assert torch.equal(result.model.state_dict()[f"tokenizer.{name}"], value), name


def test_force_replaces_a_run_that_was_cut_in_its_first_stage(tmp_path: Path) -> None:
    data = {"train": Interrupted(at=9), "test": squares()["test"]}
    assert run(PRIOR, tmp_path / "run", data=data).interrupted
    with pytest.raises(OutputExistsError, match="--force"):
        run(PRIOR, tmp_path / "run")
    assert run(PRIOR, tmp_path / "run", force=True).step == 6


def test_a_prior_goes_back_to_a_checkpoint_that_was_kept(tmp_path: Path) -> None:
    run(PRIOR, tmp_path / "run", keep=3)
    shutil.rmtree(tmp_path / "run" / "checkpoint")
    run(PRIOR, tmp_path / "run", keep=3, resume=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["resumed_at"] == [4]


def test_a_signal_at_the_very_end_of_the_first_stage_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("zoo.training.trainer._report", lambda session: os.kill(os.getpid(), signal.SIGTERM))
        first = run(PRIOR, tmp_path / "run")
    assert first.interrupted
    assert json.loads((tmp_path / "run/tokenizer/run.json").read_text())["status"] == "finished"
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert run(PRIOR, tmp_path / "run", resume="auto").step == 6


def test_tokens_train_the_prior_of_their_tokenizer_only(tmp_path: Path) -> None:
    built = zoo.build(PRIOR, seed=3)
    assert isinstance(built, TokenPrior)
    recipe = {key: value for key, value in PRIOR.items() if key not in ("generator", "tokenizer")}
    tokenizer = {**recipe, "assembly": "autoencoder", "extends": "vqvae-video-tiny", "train": {}}
    folders = [zoo.save(zoo.build(tokenizer, seed=seed), tmp_path / f"t{seed}") for seed in (1, 2)]
    clips = tmp_path / "clips"
    for split, num in (("train", 6), ("test", 2)):
        for index in range(num):
            (clips / split).mkdir(parents=True, exist_ok=True)
            x = squares()["train"][index]["x_CTHW"].repeat(1, 3, 1, 1)
            write_video(clips / split / f"{index}.mp4", x, fps=10)
    tokens = tmp_path / "tokens"
    tokenize(zoo.load(folders[0]), clips, tokens)
    whole = run(PRIOR, tmp_path / "whole", data=str(tokens), init={"tokenizer": folders[0]})
    assert whole.step == 6
    cut = run(
        PRIOR, tmp_path / "cut", data=str(tokens), init={"tokenizer": folders[0]}, callbacks=[StopAfter(3)]
    )
    assert cut.interrupted
    assert losses(run(PRIOR, tmp_path / "cut", data=str(tokens), resume=True)) == losses(whole)
    with pytest.raises(WeightsError, match="holds tokens of"):
        run(PRIOR, tmp_path / "other", data=str(tokens), init={"tokenizer": folders[1]})
    with pytest.raises(TrainingError, match="their tokenizer is needed too"):
        run(PRIOR, tmp_path / "none", data=str(tokens))
    with pytest.raises(DataError, match="holds tokens, which train a prior"):
        run(
            tokenizer | {"train": {"steps": 1, "objective": {"reconstruction": {}}}},
            tmp_path / "x",
            data=str(tokens),
        )


def test_a_step_on_codes_is_the_step_on_their_clips() -> None:
    model = zoo.build(PRIOR, seed=0)
    assert isinstance(model, TokenPrior)
    x = torch.rand(2, 3, 4, 16, 16) * 2 - 1
    of_clips, of_codes = (
        model.loss(batch, generator=torch.Generator().manual_seed(3)) for batch in (x, model.encode_codes(x))
    )
    assert torch.equal(of_clips, of_codes)


def test_a_prior_of_one_latent_frame_in_two_learns_from_clips_and_from_tokens(tmp_path: Path) -> None:
    clips, tokens = tmp_path / "clips", tmp_path / "tokens"
    for split, num in (("train", 4), ("test", 2)):
        (clips / split).mkdir(parents=True)
        for index in range(num):
            x = squares()["train"][index]["x_CTHW"].repeat(1, 3, 1, 1)
            write_video(clips / split / f"{index}.mp4", x, fps=10)
    recipe = {**PRIOR, "clip": {**PRIOR["clip"], "num_frames": 8}}
    recipe["tokenizer"] = {**PRIOR["tokenizer"], "every": 2, "starts": "any"}
    result = run(recipe, tmp_path / "run", data=str(clips))
    assert isinstance(result.model, TokenPrior)
    assert result.model.generator.grid_thw[0] == 2
    assert set(result.figures) == {"bits_per_code"}
    assert not (tmp_path / "run" / "samples").exists()
    tokenizer = tmp_path / "run" / "tokenizer"
    tokenize(zoo.load(tokenizer), clips, tokens)
    of_tokens = run(recipe, tmp_path / "of_tokens", data=str(tokens), init={"tokenizer": tokenizer})
    facts = json.loads((of_tokens.folder / "run.json").read_text())
    assert facts["data"]["description"].endswith("windows of 2x4x4 from any start, 1 of 2 latent frames")


def test_a_prior_that_is_told_frames_is_trained_to_the_end(tmp_path: Path) -> None:
    generator = {"use": "videogpt", "num_layers": 1, "hidden_dim": 12, "num_heads": 2, "num_cond_frames": 1}
    generator |= {"cond_size": [16, 16], "cond_base_channels": 4, "cond_dim": 12}
    result = run({**PRIOR, "generator": generator}, tmp_path / "run")
    assert result.step == 6
    assert set(result.figures) == {"bits_per_code"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"objective": {}}, "tokens is what a prior is trained with"),
        ({"objective": {"tokens": {}, "reconstruction": {}}}, "the other terms to null: reconstruction"),
    ],
)
def test_an_objective_that_is_not_a_priors_is_refused(
    change: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=said):
        run({**PRIOR, "train": change}, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_prior_without_any_tokenizer_says_how_to_give_one(tmp_path: Path) -> None:
    resolved = zoo.build(PRIOR, device="meta").recipe.model_dump(exclude_unset=True)
    recipe = {key: value for key, value in resolved.items() if key != "tokenizer"}
    with pytest.raises(TrainingError, match="--init tokenizer=FOLDER; or name an autoencoder recipe"):
        run(recipe, tmp_path / "run")


def test_a_tokenizer_without_codes_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match="continuous and has no codes"):
        zoo.train(
            "maskgit-video-tiny",
            data="demo",
            out=tmp_path / "run",
            tokenizer="vae-video-tiny",
            progress=False,
        )
    assert not (tmp_path / "run").exists()
