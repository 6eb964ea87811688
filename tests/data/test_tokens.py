"""Tokens on disk: what a row holds, what a kill leaves, and which windows a prior sees."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import counting
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny import TINY

import zoo
from zoo.assemblies.padding import latent_size
from zoo.data import open_clips, read_video
from zoo.errors import DataError, OutputExistsError, WeightsError, ZooError
from zoo.tokens import TokenClips, iter_batches, tokenize
from zoo.tokens.dataset import full_frames, window_starts
from zoo.tokens.metadata import TokenizerFacts, read_metadata

CLIP = {"num_frames": 5, "height": 16, "width": 16, "fps": 25}
MODELS: dict[str, dict[str, Any]] = {
    "windows": TINY,
    "stream": {"name": "zoo-causal-video-tiny", "clip": CLIP},
    "lead": {"name": "cosmos-video-dv4x8x8-tiny", "clip": CLIP},
}
LENGTHS = [3, 5, 6, 9, 13, 16, 21, 24, 12, 10, 18, 7, 8, 11]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of an autoencoder that takes windows, one that streams and one with a lead frame."""
    root = tmp_path_factory.mktemp("models")
    made = {}
    for name, fields in MODELS.items():
        changes = dict(fields)
        model = (
            zoo.build(changes.pop("name"), seed=0, **changes) if "name" in fields else zoo.build(TINY, seed=0)
        )
        made[name] = zoo.save(model, root / name)
    return made


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short videos of two classes, and one that is none."""
    root = tmp_path_factory.mktemp("tokenised")
    for number, length in enumerate(LENGTHS):
        folder = root / ("odd" if number % 2 else "even")
        folder.mkdir(exist_ok=True)
        counting.write_counting(folder / f"{number:02d}.mkv", [40 * t for t in range(length)])
    (root / "odd" / "broken.mp4").write_bytes(b"no video at all" * 100)
    return root


@pytest.fixture(scope="module")
def tokens(
    tmp_path_factory: pytest.TempPathFactory, models: dict[str, Path], videos: Path
) -> dict[str, Path]:
    """A complete folder of tokens for each model, made in one go by this process."""
    root = tmp_path_factory.mktemp("tokens")
    for name, model in models.items():
        tokenize(model, videos, root / name, shard_clips=1 if name == "stream" else 4)
    return {name: root / name for name in models}


def rows_of(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """All rows of a folder, in order, as Hugging Face loads them."""
    import datasets

    loaded = datasets.load_dataset(str(folder), cache_dir=str(folder / ".cache"))
    return {split: list(part) for split, part in loaded.items()}


def kill_in_the_middle(words: list[str], folder: Path, *, after: int) -> None:
    """Run a command and kill it, with no chance to say goodbye, once so many shards are there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "zoo", *words], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        deadline = time.monotonic() + 240
        while len(list((folder / "data").glob("[!.]*.parquet"))) < after:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline, "no shard came"
            time.sleep(0.002)
        children = children_of(process.pid)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    deadline = time.monotonic() + 60
    while any(map(is_running, children)):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.01)


def children_of(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_was_killed_goes_on_to_the_same_rows(
    models: dict[str, Path], videos: Path, tokens: dict[str, Path], tmp_path: Path, workers: int
) -> None:
    out = tmp_path / "out"
    words = ["tokenize", str(models["stream"]), "--data", str(videos), "--out", str(out)]
    words += ["--shard-clips", "1", "--workers", str(workers), "--device", "cpu"]
    kill_in_the_middle(words, out, after=3)
    found = read_metadata(out)
    assert found is not None
    assert found.result is None
    with pytest.raises(DataError, match="not complete"):
        TokenClips(out)
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "data").glob("[!.]*.parquet")}
    finished = tokenize(models["stream"], videos, out, shard_clips=1)
    assert finished == read_metadata(out) == read_metadata(tokens["stream"])
    assert rows_of(out) == rows_of(tokens["stream"])
    assert all((out / "data" / name).stat().st_mtime_ns == time_ns for name, time_ns in kept.items())


@pytest.mark.parametrize("harm", ["lost", "torn", "of other settings", "left aside"])
def test_only_whole_shards_of_this_run_count(
    models: dict[str, Path], videos: Path, tokens: dict[str, Path], tmp_path: Path, harm: str
) -> None:
    out = shutil.copytree(tokens["windows"], tmp_path / "out", ignore=shutil.ignore_patterns(".*"))
    wanted, shards = rows_of(tokens["windows"]), sorted((out / "data").glob("*.parquet"))
    if harm == "lost":
        shards[0].unlink()
    elif harm == "torn":
        shards[1].write_bytes(shards[1].read_bytes()[:-100])
    elif harm == "of other settings":
        other = next((tokens["stream"] / "data").glob("train-*.parquet"))
        shutil.copy(other, shards[1])
    else:
        shards[0].rename(shards[0].with_name(f".{shards[0].stem}.tmp-x.parquet"))
    tokenize(models["windows"], videos, out, shard_clips=4)
    assert rows_of(out) == wanted
    assert sorted((out / "data").iterdir()) == shards


@pytest.mark.parametrize("name", MODELS)
def test_a_row_holds_the_codes_of_the_whole_clip(
    models: dict[str, Path], videos: Path, tokens: dict[str, Path], name: str
) -> None:
    model, rows = zoo.load(models[name], device="cpu"), rows_of(tokens[name])
    metadata = read_metadata(tokens[name])
    assert metadata is not None
    assert metadata.class_names == ["even", "odd"]
    seen = 0
    for row in [*rows["train"], *rows["test"]]:
        number = int(Path(row["source"]).stem)
        num_frames = max(LENGTHS[number], model.recipe.clip.num_frames)
        assert (row["num_frames"], row["num_held"]) == (num_frames, num_frames - LENGTHS[number])
        assert (row["height"], row["width"], row["fps"], row["start_frame"]) == (16, 16, 25, 0)
        assert metadata.class_names[row["label"]] == row["source"].split("/")[0]
        clip = model.recipe.clip.model_copy(update={"num_frames": num_frames})
        dataset = open_clips(videos / row["source"], clip=clip)
        x_BCTHW = dataset[0]["x_CTHW"][None]  # type: ignore[index]
        assert len(read_video(videos / row["source"]).times_s) == LENGTHS[number]
        pieces = x_BCTHW.split(4, dim=2) if name == "windows" else [x_BCTHW]
        with torch.no_grad():
            wanted = torch.cat([model.encode(piece).indices_Bqthw for piece in pieces], 2)
        found = torch.tensor(row["indices"]).reshape(row["shape"]).permute(3, 0, 1, 2)
        assert torch.equal(found, wanted[0])
        seen += 1
    assert seen == len(LENGTHS)
    assert metadata.result is not None
    assert sum(result.tokens for result in metadata.result.values()) == sum(
        len(row["indices"]) for part in rows.values() for row in part
    )
    ((source, reason),) = [pair for result in metadata.result.values() for pair in result.skipped]
    assert source == "odd/broken.mp4"
    assert "broken.mp4" in reason


def test_a_clip_decodes_from_its_row(models: dict[str, Path], videos: Path, tokens: dict[str, Path]) -> None:
    model, dataset = zoo.load(models["lead"], device="cpu"), TokenClips(tokens["lead"])
    whole = dataset.whole(0)
    x_BCTHW = model.decode(whole)
    assert x_BCTHW.shape[2:] == whole.size_THW
    windows = TokenClips(tokens["windows"])
    long = next(n for n in range(len(windows)) if LENGTHS[int(Path(windows.source(n)).stem)] > 4)
    with pytest.raises(ZooError, match="windows of 4 frames"):
        windows.whole(long)


@given(
    stride=st.integers(1, 5),
    lead=st.booleans(),
    window=st.none() | st.integers(1, 12),
    num_frames=st.integers(1, 60),
    wanted=st.integers(1, 8),
    starts=st.sampled_from(["begin", "any"]),
)
def test_windows_begin_where_they_may(
    stride: int, lead: bool, window: int | None, num_frames: int, wanted: int, starts: Any
) -> None:
    facts = TokenizerFacts(
        name="",
        fingerprint="",
        codebook_size=2,
        num_codebooks=1,
        stride=[stride, 8, 8],
        lead_frame=lead,
        window=window,
    )
    lengths = [num_frames]
    if window is not None:
        lengths = [window] * (num_frames // window) + [rest for rest in [num_frames % window] if rest]
    frames_of = list[tuple[int, bool]]()  # of each latent frame: its window, whether frames fill it
    for number, length in enumerate(lengths):
        grid = latent_size((length, 8, 8), (stride, 8, 8), lead_frame=lead)[0]
        firsts = [0, *(1 + stride * n for n in range(grid))] if lead else [stride * n for n in range(grid)]
        for at in range(grid):
            room = 1 if lead and at == 0 else stride
            frames_of.append((number, min(1.0, (length - firsts[at]) / room) == 1.0))
    there = len(frames_of)
    full = full_frames(facts, num_frames)
    # Whole windows count as they are: only the last latent frame of what is left over can be given up.
    left_over = window is None or num_frames % window > 0
    assert full == there - (left_over and not frames_of[-1][1])
    if there < wanted:
        return
    allowed = list(window_starts(facts, there, wanted, starts))
    assert allowed
    period = there if window is None else latent_size((window, 8, 8), (stride, 8, 8), lead_frame=lead)[0]
    for start in allowed:
        assert 0 <= start <= there - wanted
        crossed = len({number for number, _ in frames_of[start : start + wanted]}) > 1
        if starts == "begin":
            assert start == 0 or frames_of[start - 1][0] != frames_of[start][0]
        if wanted <= period:
            assert not crossed
    if starts == "any" and window is None:
        assert allowed == list(range(there - wanted + 1))


@pytest.mark.parametrize("stride", [0, -1])
def test_a_stride_below_1_is_no_stride(stride: int) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        TokenizerFacts(
            name="",
            fingerprint="",
            codebook_size=2,
            num_codebooks=1,
            stride=[1, stride, 8],
            lead_frame=False,
            window=None,
        )


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_batches_are_windows_of_rows_and_resume_anywhere(
    tokens: dict[str, Path], name: str, every: int
) -> None:
    t = 2
    h, w = read_metadata(tokens[name]).grid  # type: ignore[union-attr]
    dataset = TokenClips(tokens[name], grid=(t, h, w), every=every, seed=3)
    rows = {row["source"]: row for row in rows_of(tokens[name])["train"]}

    def take(start: int, num: int) -> list[Any]:
        batches: Iterator[Any] = iter_batches(dataset, batch_size=4, seed=5, start_step=start)
        return [next(batches) for _ in range(num)]

    batches = take(0, 12)
    begun = set[int]()
    for batch in batches:
        assert batch["indices_Bqthw"].dtype == torch.int64
        for i_qthw, label, index, start in zip(
            batch["indices_Bqthw"], batch["label_B"], batch["index_B"], batch["start_B"], strict=True
        ):
            row = rows[dataset.source(int(index))]
            codes = torch.tensor(row["indices"]).reshape(row["shape"])[int(start) :: every][:t]
            assert len(codes) == t
            assert torch.equal(i_qthw, codes.permute(3, 0, 1, 2))
            assert int(label) == row["label"]
            begun.add(int(start))
    assert (begun == {0}) == (name == "lead")
    for number, (again, before) in enumerate(zip(take(7, 5), batches[7:], strict=True)):
        for key, value in before.items():
            assert torch.equal(again[key], value), (number, key)
    item = dataset[2, 1]
    assert torch.equal(
        item["indices_qthw"],
        TokenClips(tokens[name], grid=(t, h, w), every=every, seed=3)[2, 1]["indices_qthw"],
    )
    held_out = TokenClips(tokens[name], grid=(t, h, w), split="test")
    assert torch.equal(held_out[0, 0]["indices_qthw"], held_out[9, 0]["indices_qthw"])


def test_foreign_models_and_other_settings_are_refused(
    models: dict[str, Path], videos: Path, tokens: dict[str, Path], tmp_path: Path
) -> None:
    own, foreign = zoo.load(models["stream"], device="cpu"), zoo.load(models["lead"], device="cpu")
    dataset = TokenClips(tokens["stream"])
    dataset.check(own)
    with pytest.raises(WeightsError, match=f"{own.name}.*{foreign.name}"):
        dataset.check(foreign)
    other = zoo.build("zoo-causal-video-tiny", seed=1, clip=CLIP)
    with pytest.raises(WeightsError, match="parts and weights"):
        dataset.check(other)
    with pytest.raises(OutputExistsError, match=r"tokenizer\.fingerprint was"):
        tokenize(models["lead"], videos, tokens["stream"])
    with pytest.raises(OutputExistsError, match=r"clip\.max_frames was None, now 8"):
        tokenize(models["stream"], videos, tokens["stream"], shard_clips=1, num_frames=8)
    out = tmp_path / "anew"
    shutil.copytree(tokens["windows"], out, ignore=shutil.ignore_patterns(".*"))
    tokenize(models["stream"], videos, out, num_frames=8, split="train", force=True)
    rows = rows_of(out)
    assert rows.keys() == {"train"}
    assert {row["num_frames"] for row in rows["train"]} == {5, 6, 7, 8}
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(OutputExistsError, match=r"thesis\.tex"):
        tokenize(models["stream"], videos, tmp_path / "mine", force=True)


def test_damaged_folders_are_refused(tokens: dict[str, Path], tmp_path: Path) -> None:
    out = shutil.copytree(tokens["stream"], tmp_path / "out", ignore=shutil.ignore_patterns(".*"))
    text = (out / "tokens.json").read_text()
    (out / "tokens.json").write_text(text.replace('"codebook_size": 64000', '"codebook_size": 10'))
    with pytest.raises(DataError, match=r"code \d+ of 10"):
        TokenClips(out)
    (out / "tokens.json").write_text(text[: len(text) // 2])
    with pytest.raises(DataError, match="damaged"):
        TokenClips(out)
    (out / "tokens.json").write_text(text)
    with pytest.raises(DataError, match="no split 'val'"):
        TokenClips(out, split="val")
    with pytest.raises(DataError, match="the longest has"):
        TokenClips(out, grid=(99, 2, 2))
    next((out / "data").glob("train*")).unlink()
    with pytest.raises(DataError, match="missing or damaged"):
        TokenClips(out)
    with pytest.raises(DataError, match="no folder of tokens"):
        TokenClips(tmp_path)


def test_what_has_no_codes_or_no_videos_is_refused(
    models: dict[str, Path], videos: Path, tmp_path: Path
) -> None:
    vae = zoo.build(TINY, seed=0, quantizer={"use": "kl", "latent_dim": 4})
    with pytest.raises(ZooError, match=r"continuous bottleneck.*vqvae-video-tiny"):
        tokenize(vae, videos, tmp_path / "a")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no videos"):
        tokenize(models["windows"], tmp_path / "empty", tmp_path / "b")
    bad = tmp_path / "bad"
    bad.mkdir()
    for number in range(3):
        (bad / f"{number}.mp4").write_bytes(b"nothing")
    shutil.copy(next((videos / "even").iterdir()), bad)
    with pytest.raises(DataError, match="3 of 4 videos cannot be used"):
        tokenize(models["windows"], bad, tmp_path / "c")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "bad", "c"}
