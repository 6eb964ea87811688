"""Clips and batches: the right frames, the same ones on every run, bad files replaced and counted."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counting import numbers_in, write_counting

from zoo.data import Batch, ClipDataset, make_loader, open_clips
from zoo.data.clips import Taken
from zoo.data.container import Reader
from zoo.data.sampling import Draw
from zoo.errors import DataError
from zoo.recipes import Clip

CLIP = Clip(num_frames=8, height=24, width=40, fps=12.5)
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def dataset(folder: Path, split: str | None = "train", *, seed: int = 0, cache_mb: float = 16) -> ClipDataset:
    opened = open_clips(folder, clip=CLIP, split=split, seed=seed, augment=("flip",), cache_mb=cache_mb)
    assert isinstance(opened, ClipDataset)
    return opened


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one["x_BCTHW"], other["x_BCTHW"]) and (
        [value for key, value in one.items() if key not in ("x_BCTHW", "label_B", "index_B")]
        == [value for key, value in other.items() if key not in ("x_BCTHW", "label_B", "index_B")]
    )


@pytest.mark.parametrize("cache_mb", [0, 16])
def test_frames_are_those_at_the_times_asked_for(folder_of_videos: Path, cache_mb: float) -> None:
    opened = open_clips(folder_of_videos, clip=CLIP, split="train", cache_mb=cache_mb)
    for epoch in range(3):
        for index in range(len(opened)):
            item = opened[epoch, index]
            fps = 10 if "long" in item["source"] else 25
            numbers = numbers_in(item["x_CTHW"])
            assert numbers[0] == round(item["start_s"] * fps)
            # On screen at the time wanted, half a period of the faster rate forgiven.
            expected = numbers[0] + np.arange(8) * fps / 12.5 + 0.5 * min(1, fps / 12.5)
            assert numbers == np.floor(expected + 1e-3).astype(int).tolist()


def test_cached_read_and_sought_clips_are_equal(folder_of_videos: Path) -> None:
    cached, read = dataset(folder_of_videos), dataset(folder_of_videos, cache_mb=0)
    for epoch, index in itertools.product(range(3), range(len(cached))):
        one, other = cached[epoch, index], read[epoch, index]
        assert torch.equal(one.pop("x_CTHW"), other.pop("x_CTHW"))
        assert one == other
    assert cached.cache.used_bytes > 0
    assert read.cache.used_bytes == 0


def test_chance_depends_on_seed_epoch_and_index(folder_of_videos: Path) -> None:
    one, same_again, other = (dataset(folder_of_videos, seed=seed) for seed in (1, 1, 2))
    first = [one[index] for index in range(len(one))]
    for index in reversed(range(len(one))):
        assert torch.equal(same_again[index]["x_CTHW"], first[index]["x_CTHW"])
    one.set_epoch(5)
    starts = {tuple(item["start_s"] for item in ds) for ds in (same_again, one, other)}
    assert len(starts) == 3
    assert all(torch.equal(one[index]["x_CTHW"], same_again[5, index]["x_CTHW"]) for index in range(3))
    # Labels are the folders; evaluation takes the middle and never flips.
    assert one.labels == ["even", "odd"]
    assert [item["label"] for item in first] == [item["source"].startswith("odd") for item in first]
    whole = dataset(folder_of_videos, None)
    item = whole[[source.name for source in whole.sources].index("odd/clip 5.mkv")]
    assert abs(item["start_s"] + 0.28 - (50 - 1) / 25 / 2) <= 0.04


def test_a_short_video_holds_its_last_frame(tmp_path: Path) -> None:
    write_counting(tmp_path / "short.mkv", [0, 40, 80])
    item = open_clips(tmp_path, clip=Clip(num_frames=6, height=24, width=40, fps=25.0))[0]
    assert numbers_in(item["x_CTHW"]) == [0, 1, 2, 2, 2, 2]


def test_grey_and_range(folder_of_videos: Path) -> None:
    item = open_clips(folder_of_videos, clip=Clip(channels=1, num_frames=2, height=16, width=16))[0]
    x = item["x_CTHW"]
    assert (tuple(x.shape), x.dtype) == ((1, 2, 16, 16), torch.float32)
    assert -1 <= x.min() < -0.9
    assert 0.9 < x.max() <= 1.0001
    with pytest.raises(DataError, match="channels is 2"):
        open_clips(folder_of_videos, clip=Clip(channels=2))


def test_batches_do_not_depend_on_workers_and_resume_at_any_step(folder_of_videos: Path) -> None:
    state = torch.random.get_rng_state()
    alone = list(
        itertools.islice(make_loader(dataset(folder_of_videos), batch_size=5, num_workers=0, seed=3), 9)
    )
    workers = list(
        itertools.islice(make_loader(dataset(folder_of_videos), batch_size=5, num_workers=2, seed=3), 9)
    )
    later = make_loader(dataset(folder_of_videos), batch_size=5, num_workers=1, seed=3, start_step=6)
    assert all(same(one, other) for one, other in zip(alone, workers, strict=True))
    assert all(same(one, other) for one, other in zip(alone[6:], itertools.islice(later, 3), strict=True))
    assert torch.equal(state, torch.random.get_rng_state())
    assert tuple(alone[0]["x_BCTHW"].shape) == (5, 3, 8, 24, 40)
    assert alone[0]["label_B"].dtype == torch.int64


def test_every_epoch_visits_every_video_once(folder_of_videos: Path) -> None:
    opened = dataset(folder_of_videos)
    loader = make_loader(opened, batch_size=1, num_workers=0, seed=1)
    seen = [int(batch["index_B"]) for batch in itertools.islice(loader, 3 * len(opened))]
    epochs = [seen[at : at + len(opened)] for at in range(0, len(seen), len(opened))]
    assert all(sorted(epoch) == list(range(len(opened))) for epoch in epochs)
    assert epochs[0] != epochs[1]
    many = next(iter(make_loader(opened, batch_size=30, num_workers=0)))
    assert set(Counter(many["index_B"].tolist()).values()) <= {30 // len(opened), 30 // len(opened) + 1}


def test_one_pass_in_order(folder_of_videos: Path) -> None:
    opened = dataset(folder_of_videos, None)
    passes = list(make_loader(opened, batch_size=4, num_workers=0, shuffle=False))
    assert torch.cat([batch["index_B"] for batch in passes]).tolist() == list(range(13))
    short = make_loader(opened, batch_size=4, num_workers=0, shuffle=False, drop_last=True)
    assert [len(batch["sources"]) for batch in short] == [4, 4, 4]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_bad_files_are_replaced_counted_and_listed(
    folder_of_videos: Path, tmp_path: Path, num_workers: int
) -> None:
    shutil.copytree(folder_of_videos, tmp_path / "v")
    (tmp_path / "v" / "empty.mp4").touch()
    (tmp_path / "v" / "page.mp4").write_text("<html>not found</html>")
    opened = dataset(tmp_path / "v", None)
    batches = list(make_loader(opened, batch_size=5, num_workers=num_workers, shuffle=False))
    assert [len(batch["sources"]) for batch in batches] == [5, 5, 5]
    assert [name for name, _ in opened.skipped] == ["empty.mp4", "page.mp4"]
    assert "empty file" in opened.skipped[0][1]
    again = list(make_loader(dataset(tmp_path / "v", None), batch_size=5, num_workers=0, shuffle=False))
    assert all(same(one, other) for one, other in zip(batches, again, strict=True))
    indices = torch.cat([batch["index_B"] for batch in batches]).tolist()
    stood_in = [at for at, index in enumerate(indices) if index != at]
    assert [opened.sources[at].name for at in stood_in] == ["empty.mp4", "page.mp4"]  # type: ignore[attr-defined]


class Moody(ClipDataset):
    """Source 0 fails where the draw is late, the others never do."""

    def __len__(self) -> int:
        return 4

    def _name(self, index: int) -> str:
        return str(index)

    def _take(self, index: int, chance: Draw) -> tuple[Taken, str, int]:
        if index == 0 and chance.time > 0.5:
            raise DataError("damaged at the end")
        return Taken([np.full((24, 40, 3), index, np.uint8)] * 8, chance.time), str(index), -1


def test_an_item_does_not_depend_on_failures_before_it() -> None:
    facts = {"clip": CLIP, "labels": [], "description": "moody", "random": True}
    walked, indices = Moody(**facts), set()
    for epoch in range(20):
        item, alone = walked[epoch, 0], Moody(**facts)[epoch, 0]
        assert (item["index"], item["start_s"]) == (alone["index"], alone["start_s"])
        # What stands in for a source says so: whoever measures can leave it out.
        assert (item["index"] == 0) is not item["skipped"]
        indices.add(item["index"])
    assert len(indices) > 1
    assert 0 in indices


def test_a_bad_frame_matters_only_to_clips_that_hold_it(
    folder_of_videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = Reader.rgb

    def fails_late(reader: Reader, picture: Any, size: Any = None) -> Any:
        if picture.time > 1.9:
            raise DataError("this picture cannot be converted")
        return rgb(reader, picture, size)

    monkeypatch.setattr(Reader, "rgb", fails_late)
    seen = []
    for cache_mb in (0, 16):
        facts = {"clip": CLIP, "split": "train", "cache_mb": cache_mb, "max_bad": 1.0}
        opened = open_clips(folder_of_videos, **facts)
        seen.append([(item["source"], item["start_s"]) for item in opened for _ in range(2)])
    assert seen[0] == seen[1]
    assert 0 < len(opened.skipped) < len(opened)


STOPPED = """
import signal, sys, time
from zoo.data import make_loader, open_clips
from zoo.recipes import Clip

caught = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, frame: caught.append(number))
clips = open_clips(sys.argv[1], clip=Clip(num_frames=8, height=24, width=40), split="train", cache_mb=0)
batches = iter(make_loader(clips, batch_size=2, num_workers=2))
next(batches)
print("ready", flush=True)
while len(set(caught)) < 2:
    next(batches)
for _ in range(20):
    next(batches)
print("went on", flush=True)
# The loader is alive when Python exits.
"""


def test_workers_outlive_signals_to_the_group_and_end_with_their_parent(folder_of_videos: Path) -> None:
    command = [sys.executable, "-c", STOPPED, str(folder_of_videos)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            for number in (signal.SIGINT, signal.SIGTERM):
                os.killpg(process.pid, number)
                time.sleep(0.2)
            # Reads to the end, which comes when no worker holds the pipe any longer.
            assert process.communicate(timeout=60)[0] == "went on\n"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0


@pytest.mark.parametrize("num_workers", [0, 2])
def test_too_many_bad_files_are_an_error(folder_of_videos: Path, tmp_path: Path, num_workers: int) -> None:
    shutil.copytree(folder_of_videos / "odd", tmp_path / "v")
    for number in range(8):
        (tmp_path / "v" / f"bad{number}.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"of 14 videos cannot be used, more than the 50% allowed") as caught:
        list(make_loader(dataset(tmp_path / "v", None), batch_size=2, num_workers=num_workers, shuffle=False))
    assert "not a readable video" in str(caught.value)
    assert "Traceback" not in str(caught.value)
