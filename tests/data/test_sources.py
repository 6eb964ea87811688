"""Every kind of source: folders, files, saved data sets, parquet, streams, digits, the Hub, the demo."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
import re
import shutil
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from counting import write_counting
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.data import ClipDataset, ClipStream, check_data, demo_clips, make_loader, moving_mnist, open_clips
from zoo.data.check import _check_one
from zoo.data.clips import Source
from zoo.data.folders import _fraction, find_files, hold_out
from zoo.data.hub import load_datasets
from zoo.data.reach import Reach
from zoo.data.stream import read_rows
from zoo.data.video import Limits
from zoo.errors import DataError
from zoo.recipes import Clip

CLIP = Clip(num_frames=4, height=16, width=16, fps=10.0)


def names(dataset: Any) -> list[str]:
    return [source.name for source in dataset.sources]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A `datasets.Dataset` of 100 videos with labels, two of them broken."""
    datasets = load_datasets()
    folder = tmp_path_factory.mktemp("rows")
    data = [
        write_counting(folder / f"{n}.mkv", [40 * t for t in range(20 + n)]).read_bytes() for n in range(5)
    ]
    videos = [{"path": None, "bytes": b"broken" if n in (40, 70) else data[n % 5]} for n in range(100)]
    features = datasets.Features(
        {"video": datasets.Video(decode=False), "label": datasets.ClassLabel(names=["a", "b"])}
    )
    return datasets.Dataset.from_dict(
        {"video": videos, "label": [n % 2 for n in range(100)]}, features=features
    )


def test_a_folder_without_splits_holds_out_one_in_ten_by_hash(folder_of_videos: Path, tmp_path: Path) -> None:
    shutil.copytree(folder_of_videos, tmp_path / "v")
    train, test, whole = (
        names(open_clips(tmp_path / "v", clip=CLIP, split=s)) for s in ("train", "test", None)
    )
    assert sorted(train + test) == sorted(whole)
    assert 1 <= len(test) <= 4
    # Names with "test" in them make no split, hidden files and other suffixes are no videos, and
    # adding a file moves none of the others.
    shutil.copy(tmp_path / "v" / whole[0], tmp_path / "v" / "test_x.mkv")
    shutil.copy(tmp_path / "v" / whole[0], tmp_path / "v" / ".hidden.mkv")
    (tmp_path / "v" / "notes.txt").write_text("no video")
    more = names(open_clips(tmp_path / "v", clip=CLIP, split="train"))
    assert set(train) <= set(more)
    assert set(more) - set(train) <= {"test_x.mkv"}


def test_holding_out_never_leaves_a_side_empty() -> None:
    for num in range(2, 40):
        names = [f"{num}-{n}" for n in range(num)]
        held, rest = (hold_out(names, split, source="x") for split in ("test", "train"))
        assert held
        assert rest
        assert sorted(held + rest) == list(range(num))
    assert 60 < len(hold_out([str(n) for n in range(1000)], "test", source="x")) < 140


@given(st.lists(st.integers(0, 300), unique=True, min_size=2), st.lists(st.integers(301, 600), unique=True))
def test_added_files_move_none_where_the_hash_chose(old: list[int], added: list[int]) -> None:
    names, more = [str(n) for n in old], [str(n) for n in added]
    chosen = [_fraction(name) < 0.1 for name in names]
    before, after = (hold_out(every, "test", source="x") for every in (names, names + more))
    if any(chosen) and not all(chosen):
        assert before == [at for at in after if at < len(names)]


@given(st.sets(st.sampled_from(["train", "test", "validation", "extra", "Training", "a"]), min_size=1))
@settings(max_examples=25, deadline=None)
def test_no_row_is_both_trained_on_and_held_out(splits: set[str]) -> None:
    datasets = load_datasets()
    rows = {name: [f"{name} {n}".encode() for n in range(50)] for name in splits}
    loaded = {name: datasets.Dataset.from_dict({"video": videos}) for name, videos in rows.items()}
    parts: dict[str, set[Any]] = {}
    for split in ("train", "test", "val"):
        opened: Any = open_clips(datasets.DatasetDict(loaded), clip=CLIP, split=split)
        parts[split] = {source.content() for source in opened.sources}
    streams = {name: data.to_iterable_dataset() for name, data in loaded.items()}
    stream: Any = open_clips(datasets.IterableDatasetDict(streams), clip=CLIP, split="train")
    head: Any = open_clips(datasets.IterableDatasetDict(streams), clip=CLIP, split="test")
    streamed = {row.content for row in read_rows(stream._columns, first=stream._skip_rows)}
    for trained, held in (
        (parts["train"], parts["test"]),
        (parts["train"], parts["val"]),
        (streamed, {source.content() for source in head.sources}),
    ):
        assert trained
        assert held
        assert not trained & held


def test_split_folders_and_labels_from_metadata(folder_of_videos: Path, tmp_path: Path) -> None:
    clips = [file.path for file in find_files(folder_of_videos)]
    for folder, chosen in {"Train/x": clips[:4], "validation/y": clips[4:6], "other": clips[6:7]}.items():
        (tmp_path / folder).mkdir(parents=True)
        for path in chosen:
            shutil.copy(path, tmp_path / folder)
    train, test = (open_clips(tmp_path, clip=CLIP, split=s) for s in ("train", "test"))
    assert [name.split("/")[0] for name in names(train)] == ["Train"] * 4
    assert [name.split("/")[0] for name in names(test)] == ["validation"] * 2
    assert train.labels == test.labels == ["other", "x", "y"]
    with (tmp_path / "Train" / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerows(
            [["file_name", "label"], [f"x/{clips[0].name}", "jump"], [f"x/{clips[1].name}", "run"]]
        )
    train = open_clips(tmp_path, clip=CLIP, split="train")
    assert train.labels == ["jump", "run"]
    assert [item["label"] for item in itertools.islice(train, 3)] == [0, 1, -1]


def test_one_file_and_images(folder_of_videos: Path, tmp_path: Path) -> None:
    from zoo.data import write_video

    one = open_clips(find_files(folder_of_videos)[0].path, clip=CLIP, split="train")
    assert len(one) == 1
    write_video(tmp_path / "a.png", torch.rand(3, 1, 20, 30) * 2 - 1, 1)
    for lone in (tmp_path, tmp_path / "a.png"):
        assert len(open_clips(lone, clip=CLIP, split="train")) == 1
        with pytest.raises(DataError, match="one video: nothing can be held out"):
            open_clips(lone, clip=CLIP, split="test")
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    images = open_clips(tmp_path, clip=Clip(num_frames=1, height=16, width=16), split="test")
    assert tuple(images[0]["x_CTHW"].shape) == (3, 1, 16, 16)


def test_datasets_objects_saved_folders_and_parquet_are_the_same_clips(rows: Any, tmp_path: Path) -> None:
    rows.save_to_disk(str(tmp_path / "saved"))
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    (tmp_path / "many" / "data").mkdir(parents=True)
    rows.select(range(80)).to_parquet(str(tmp_path / "many" / "data" / "train-00000-of-00001.parquet"))
    rows.select(range(80, 100)).to_parquet(str(tmp_path / "many" / "data" / "test-00000-of-00001.parquet"))
    kinds = [rows, tmp_path / "saved", tmp_path / "rows.parquet"]
    opened = [open_clips(kind, clip=CLIP, split="train", seed=4) for kind in kinds]
    for dataset in opened:
        assert isinstance(dataset, ClipDataset)
        assert dataset.labels == ["a", "b"]
        assert torch.equal(dataset[7]["x_CTHW"], opened[0][7]["x_CTHW"])
        assert dataset[7]["label"] == opened[0][7]["label"]
    held = open_clips(rows, clip=CLIP, split="test")
    assert len(opened[0]) + len(held) == 100
    many = open_clips(tmp_path / "many", clip=CLIP, split="test")
    assert len(many) == 20
    assert len(open_clips(tmp_path / "many", clip=CLIP, split="train")) == 80
    batches = make_loader(open_clips(rows, clip=CLIP), batch_size=25, num_workers=0, shuffle=False)
    assert sum(len(batch["sources"]) for batch in batches) == 100
    assert sum(not report.ok for report in check_data(tmp_path / "rows.parquet")) == 2


def test_other_columns_and_label_types(rows: Any, tmp_path: Path) -> None:
    datasets = load_datasets()
    data = [row["bytes"] for row in rows[:4]["video"]]
    binary = datasets.Dataset.from_dict({"clip": data, "label": ["z", "y", "z", None]})
    opened = open_clips(binary, clip=CLIP)
    assert opened.labels == ["y", "z"]
    assert [item["label"] for item in opened] == [1, 0, 1, -1]
    (tmp_path / "v.mkv").write_bytes(data[0])
    paths = datasets.Dataset.from_dict({"video": [str(tmp_path / "v.mkv")]})
    assert open_clips(paths, clip=CLIP)[0]["source"].endswith("#0")
    with pytest.raises(DataError, match=r"no column holds videos.*text"):
        open_clips(datasets.Dataset.from_dict({"text": ["a"]}), clip=CLIP)


def test_rows_name_files_only_where_the_dataset_came_from(rows: Any, tmp_path: Path) -> None:
    datasets = load_datasets()
    (tmp_path / "data" / "sub").mkdir(parents=True)
    for place in ("secret.mkv", "data/sub/in.mkv"):
        (tmp_path / place).write_bytes(rows[0]["video"]["bytes"])
    (tmp_path / "data" / "link.mkv").symlink_to(tmp_path / "secret.mkv")
    secret, inside = tmp_path / "secret.mkv", tmp_path / "data" / "sub" / "in.mkv"
    good = ["sub/in.mkv", str(inside), "sub/../sub/in.mkv"]
    bad = [str(secret), "../secret.mkv", "link.mkv", f"file://{secret}", f"local://{inside}"]
    bad += ["http://127.0.0.1:9/x.mp4", "hf://datasets/a/b/x.mp4", "sub/\0.mkv"]
    table = datasets.Dataset.from_dict({"video": [*good, *bad]})
    table.to_parquet(str(tmp_path / "data" / "rows.parquet"))
    opened = open_clips(tmp_path / "data" / "rows.parquet", clip=CLIP, max_bad=1.0)
    item = opened[0]
    for index in range(len(good) + len(bad)):
        assert torch.equal(opened[index]["x_CTHW"], item["x_CTHW"])
    reasons = [reason for _, reason in opened.skipped]
    assert len(reasons) == len(bad)
    assert all("the row names" in reason for reason in reasons)
    assert [report.ok for report in check_data(tmp_path / "data" / "rows.parquet")] == (
        [True] * len(good) + [False] * len(bad)
    )
    with pytest.raises(DataError, match="names a file outside"):
        Reach.of_hub().content({"path": str(inside)})


def test_a_saved_folder_has_no_files_read_but_its_own(rows: Any, tmp_path: Path) -> None:
    for name in ("secret", "data", "splits"):
        rows.save_to_disk(str(tmp_path / name))
    data, state = tmp_path / "data", tmp_path / "data" / "state.json"
    arrow = json.loads(state.read_text())["_data_files"][0]["filename"]
    outside = tmp_path / "secret" / arrow
    good = state.read_text()
    for named in (f"../secret/{arrow}", str(outside)):
        state.write_text(json.dumps({**json.loads(good), "_data_files": [{"filename": named}]}))
        with pytest.raises(DataError, match="outside of it"):
            open_clips(data, clip=CLIP)
    state.write_text(good)
    (data / arrow).rename(tmp_path / "own")
    (data / arrow).symlink_to(outside)
    with pytest.raises(DataError, match="outside of it"):
        open_clips(data, clip=CLIP)
    (data / arrow).unlink()
    os.mkfifo(data / arrow)
    with pytest.raises(DataError, match="no regular file"):
        open_clips(data, clip=CLIP)
    (tmp_path / "splits" / "state.json").unlink()
    for splits in (["../secret"], [str(tmp_path / "secret")]):
        (tmp_path / "splits" / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
        with pytest.raises(DataError, match="outside of it"):
            open_clips(tmp_path / "splits", clip=CLIP)
    (data / arrow).unlink()
    (tmp_path / "own").rename(data / arrow)
    assert open_clips(data, clip=CLIP)[0]["x_CTHW"].isfinite().all()


def test_parquet_that_unfolds_to_many_times_its_size_is_refused(tmp_path: Path) -> None:
    zeros, noise = bytes(12 << 20), np.random.default_rng(0).bytes(12 << 20)
    for value, use_dictionary, refused in (
        (zeros, True, "the column video unfolds from"),
        (zeros, False, "the column video unfolds from"),
        (noise, True, "the column video repeats values"),
        (noise, False, ""),
    ):
        path = tmp_path / "rows.parquet"
        table = pa.table({"video": pa.array([value] * 4, pa.binary())})
        options = {"use_dictionary": use_dictionary, "dictionary_pagesize_limit": 1 << 30}
        pq.write_table(table, path, compression="zstd", **options)
        if refused:
            with pytest.raises(DataError, match=refused):
                open_clips(path, clip=CLIP)
        else:
            assert open_clips(path, clip=CLIP)


def test_rows_of_the_hub_name_files_there(rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    class Hub(MemoryFileSystem):  # type: ignore[misc]
        protocol = "hf"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return "/" + path.removeprefix("hf://").strip("/")

    monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "hf", Hub)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    video = rows[0]["video"]["bytes"]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("v.mkv", video)
    Hub().pipe({"/datasets/a/b/v.mkv": video, "/datasets/a/b/v.zip": archive.getvalue()})
    (tmp_path / "cached.mkv").write_bytes(video)
    reach = Reach.of_hub()
    assert reach.content("hf://datasets/a/b/v.mkv") == video
    assert reach.content("zip://v.mkv::hf://datasets/a/b/v.zip") == video
    assert reach.content({"bytes": None, "path": str(tmp_path / "cached.mkv")}).endswith("cached.mkv")
    with pytest.raises(DataError, match="more than the 100 bytes"):
        reach.fetch("hf://datasets/a/b/v.mkv", limits=Limits(max_bytes=100))
    for url in (
        "hf://x::file:///etc/hosts",
        "simplecache::hf://datasets/a/b/v.mkv",
        "http://hf/x",
        "zip://x",
    ):
        with pytest.raises(DataError, match="only hf:// is"):
            reach.content(url)


def test_whatever_a_row_raises_it_is_skipped(rows: Any) -> None:
    def fail(batch: dict[str, Any]) -> dict[str, Any]:
        if any(video["bytes"] == b"broken" for video in batch.get("video", [])):
            raise OverflowError("from deep inside")
        return batch

    # Through a transform, as a damaged row would make `datasets` itself fail; 40 is one that does.
    opened = open_clips(rows.select(range(38, 43)).with_transform(fail), clip=CLIP)
    assert len(list(opened)) == 5
    assert [reason for _, reason in opened.skipped] == ["Dataset#2: OverflowError: from deep inside"]

    def stop() -> bytes:
        raise KeyboardInterrupt

    report = _check_one(opened.sources[2])  # type: ignore[attr-defined]
    assert report.reason == "OverflowError: from deep inside"
    with pytest.raises(KeyboardInterrupt):
        _check_one(Source("x", -1, stop))


def test_a_stream_repeats_resumes_and_does_not_depend_on_workers(rows: Any, tmp_path: Path) -> None:
    rows.to_parquet(str(tmp_path / "rows.parquet"))
    stream = f"stream:{tmp_path / 'rows.parquet'}"

    def opened(split: str) -> Any:
        return open_clips(stream, clip=CLIP, split=split, seed=2, augment=("flip",))

    train = opened("train")
    assert isinstance(train, ClipStream)
    assert train.labels == ["a", "b"]
    # 68 rows are left for training: batch 20 is in the second epoch, batch 50 in the fourth.
    batches = list(itertools.islice(make_loader(train, batch_size=4, num_workers=0), 54))
    threads = itertools.islice(make_loader(opened("train"), batch_size=4, num_workers=2), 54)
    for one, other in zip(batches, threads, strict=True):
        assert torch.equal(one["x_BCTHW"], other["x_BCTHW"])
        assert one["sources"] == other["sources"]
    for step in (3, 20, 50):
        later = make_loader(opened("train"), batch_size=4, num_workers=0, start_step=step)
        for one, other in zip(batches[step:], itertools.islice(later, 3), strict=False):
            assert torch.equal(one["x_BCTHW"], other["x_BCTHW"])
            assert one["sources"] == other["sources"]
    epoch = {name for batch in batches[:17] for name in batch["sources"]}
    held = {item["source"] for item in opened("test")}
    assert len(held) == 32
    assert len(epoch) == 66
    assert not epoch & held
    assert len(train.skipped) == 2


def test_a_stream_object(rows: Any) -> None:
    stream = open_clips(rows.to_iterable_dataset(num_shards=3), clip=CLIP, split="train")
    batch = next(iter(make_loader(stream, batch_size=8)))
    assert tuple(batch["x_BCTHW"].shape) == (8, 3, 4, 16, 16)
    broken = rows.select([40, 70] * 40).to_iterable_dataset()
    with pytest.raises(DataError, match="can be used"):
        next(iter(make_loader(open_clips(broken, clip=CLIP, split="train"), batch_size=8)))


def test_a_broken_torchcodec_does_no_harm(rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise RuntimeError('could not load libtorchcodec')")
    datasets = load_datasets()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torchcodec", raising=False)
    monkeypatch.setattr(datasets.config, "TORCHCODEC_AVAILABLE", True)
    assert open_clips(rows, clip=CLIP)[0]["label"] == 0
    assert datasets.config.TORCHCODEC_AVAILABLE is False


def test_moving_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = np.zeros((100, 28, 28), np.uint8)
    digits[:, 4:24, 10:18] = 100 + np.arange(100, dtype=np.uint8)[:, None, None]
    np.savez(tmp_path / "digits.npz", images=digits)
    (tmp_path / "idx").write_bytes(
        b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in digits.shape) + digits.tobytes()
    )
    clip = Clip(num_frames=20)
    monkeypatch.setenv("ZOO_MNIST", str(tmp_path / "idx"))
    train = open_clips("moving-mnist", clip=clip, split="train", seed=1)
    again = open_clips(f"moving-mnist:{tmp_path / 'digits.npz'}", clip=clip, split="train", seed=1)
    test = open_clips("moving-mnist", clip=clip, split="test")
    assert torch.equal(train[5]["x_CTHW"], again[5]["x_CTHW"])
    assert not torch.equal(train[0, 5]["x_CTHW"], train[1, 5]["x_CTHW"])
    assert (len(train), len(test)) == (10_000, 1_000)
    x = train[5]["x_CTHW"]
    assert tuple(x.shape) == (3, 20, 64, 64)
    frames = ((x[0] + 1) * 127.5).round().int()
    values = set(frames.unique().tolist()) - {0}
    assert 1 <= len(values) <= 2
    assert (
        max(values) < 190 <= min(set(((test[5]["x_CTHW"] + 1) * 127.5).round().int().unique().tolist()) - {0})
    )
    # The brighter digit is always whole, moves at most 3.6 pixels a frame, and moves.
    bright = frames == max(values)
    assert (bright.flatten(1).sum(1) == 160).all()
    tops = bright.any(2).int().argmax(1)
    lefts = bright.any(1).int().argmax(1)
    steps = torch.stack([tops.diff(), lefts.diff()]).float().norm(dim=0)
    assert 2 < steps.max() <= 5.1
    small = open_clips("moving-mnist", clip=Clip(num_frames=2, height=32, width=32), split="test")
    assert tuple(small[0]["x_CTHW"].shape) == (3, 2, 32, 32)
    monkeypatch.delenv("ZOO_MNIST")
    with pytest.raises(DataError, match="ZOO_MNIST"):
        open_clips("moving-mnist", clip=clip)
    with pytest.raises(DataError, match="holds no digits"):
        open_clips(f"moving-mnist:{__file__}", clip=clip)


def test_digits_that_are_damaged_or_unfold_to_any_size_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving_mnist, "_MAX_BYTES", 1 << 16)
    head = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (100, 28, 28))
    whole = gzip.compress(head + np.random.default_rng(0).bytes(100 * 28 * 28))
    files = {
        "too large": gzip.compress(bytes(1 << 20)),
        "damaged": whole[:100] + bytes(100) + whole[200:],
        "no arrays": b"",
    }
    with zipfile.ZipFile(tmp_path / "no arrays", "w") as archive:
        archive.writestr("images", b"no array")
    files["no arrays"] = (tmp_path / "no arrays").read_bytes()
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match="holds no digits"):
            moving_mnist.load_digits(tmp_path / name)


def test_errors_say_what_was_asked_and_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"no/such/folder.*a folder of videos"):
        open_clips("no/such/folder", clip=CLIP)
    with pytest.raises(DataError, match="no videos or images"):
        open_clips(tmp_path, clip=CLIP)
    with pytest.raises(DataError, match="unknown split 'tset'"):
        open_clips("demo", clip=CLIP, split="tset")
    with pytest.raises(DataError, match="type list"):
        open_clips([1, 2], clip=CLIP)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        open_clips(tmp_path / "pipe", clip=CLIP)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    for name in ("nobody/no-such-clips", "stream:nobody/no-such-clips:small"):
        with pytest.raises(DataError, match=r"nobody/no-such-clips.*hf download"):
            open_clips(name, clip=CLIP)


def test_demo_clips_are_there_small_licensed_and_readable() -> None:
    folder = demo_clips()
    reports = check_data("demo")
    assert len(reports) >= 20
    assert all(report.ok and min(report.height, report.width) == 128 for report in reports)
    assert all(report.duration_s > 2 for report in reports)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 8_000_000
    patterns = re.findall(r"`((?:train|test)/[^`.]+)`", (folder / "LICENSES.md").read_text())
    stems = [report.source.removesuffix(".mp4") for report in reports]
    assert [stem for stem in stems if not any(fnmatch(stem, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(fnmatch(stem, pattern) for stem in stems)] == []
    train, test = (open_clips("demo", clip=CLIP, split=split) for split in ("train", "test"))
    assert {len(train) + len(test)} == {len(reports)}
    films = [{name.split("/")[1].split("_")[0] for name in names(part)} for part in (train, test)]
    assert not films[0] & films[1]
