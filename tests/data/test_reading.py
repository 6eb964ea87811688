"""Reading: every odd file of the collection, upright, in the right colours, at the right times."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from counting import counting_frame, number_on, write_counting

from zoo.data import Limits, check_data, iter_frames, probe_video, read_video
from zoo.data.container import Reader
from zoo.errors import DataError

REFUSALS = {
    "truncated.avi": "no frame can be decoded",
    "truncated_mjpeg.mov": "no frame can be decoded",
    "truncated.MTS": "no frame can be decoded",
    "unreadable.mkv": "not a readable video",
    "audio_only.mp4": "no video stream (1 audio)",
    "audio_only.flv": "no video stream (1 audio)",
    "audio_only.m4a": "no video stream (1 audio)",
    "no_streams.mp4": "no video stream (no streams at all)",
    "truncated_no_moov.mp4": "not a readable video",
    "zero_byte.mp4": "empty file (0 bytes)",
    "text_not_video.mp4": "not a readable video",
}
PATCHES = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (20, 200, 120)]


def test_every_odd_file_gives_its_frames_or_a_reason(shared_data: Path) -> None:
    with (shared_data / "odd" / "MANIFEST.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    # audio_only.m4a does not look like a video: a folder leaves it out, by itself it is refused.
    reports = {report.source: report for report in check_data(shared_data / "odd")}
    assert set(rows) - set(reports) == {"audio_only.m4a"}
    reports["audio_only.m4a"] = check_data(shared_data / "odd" / "audio_only.m4a")[0]
    assert len(reports) == 53
    wrong = []
    for name, row in rows.items():
        report = reports[name]
        if name in REFUSALS:
            good = not report.ok and REFUSALS[name] in str(report.reason)
        else:
            turned = row["rotation"] in ("90", "-90")
            size = (int(row["width"]), int(row["height"]))
            if name == "multi_stream_nasa.mp4":
                size = (480, 270)
            good = report.ok and report.num_frames == int(row["frames_skipping_errors"])
            good = good and (report.width, report.height) == (size[::-1] if turned else size)
            video = read_video(shared_data / "odd" / name, num_frames=3)
            good = good and tuple(video.frames_THWC.shape[1:]) == (report.height, report.width, 3)
            good = good and len(video.times_s) == min(3, report.num_frames)
            good = good and video.times_s == sorted(video.times_s) and video.times_s[0] == 0
        if not good:
            wrong.append((name, report, row["frames_skipping_errors"]))
    assert not wrong


@pytest.mark.parametrize(("name", "clockwise"), [("0", 0), ("90", 1), ("180", 2), ("270", 3)])
def test_rotation_is_applied(shared_data: Path, name: str, clockwise: int) -> None:
    path = shared_data / "odd" / f"rotated_{name}.mov"
    upright = read_video(path, num_frames=1).frames_THWC[0].numpy()
    with Reader(path) as reader:
        stored = reader._convert(next(reader.pictures()).picture, 320, 568, "rgb24")
    assert np.array_equal(upright, np.rot90(stored, -clockwise))
    info = probe_video(path)
    assert (info.height, info.width) == upright.shape[:2]


def test_damaged_packets_are_counted(shared_data: Path) -> None:
    video = read_video(shared_data / "odd" / "theora.ogv")
    assert len(video.frames_THWC) == 249
    assert video.num_damaged > 0


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", [1, 5, 2], ids=["bt709", "bt601", "unsaid"])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_colours(tmp_path: Path, pixel_format: str, matrix: int, full_range: bool) -> None:
    picture = np.repeat(np.array(PATCHES, np.uint8), 16, axis=0)[None].repeat(32, axis=0)
    path = tmp_path / "patches.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], 32, pixel_format
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full_range else 1
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format=pixel_format,
            src_color_range=2,
            dst_color_range=2 if full_range else 1,
            dst_colorspace=5 if matrix == 2 else matrix,
        )
        frame.pts = 0
        container.mux([*stream.encode(frame), *stream.encode(None)])
    seen = read_video(path).frames_THWC[0, 16, 8::16].int()
    assert (seen - torch.tensor(PATCHES)).abs().max() <= 3


def test_alpha_is_laid_over_black(tmp_path: Path) -> None:
    picture = np.zeros((16, 48, 4), np.uint8)
    picture[..., :3] = (200, 100, 40)
    picture[:, 16:32, 3] = 128
    picture[:, 32:, 3] = 255
    path = tmp_path / "alpha.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("qtrle", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 16, "argb"
        frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format="argb")
        container.mux([*stream.encode(frame), *stream.encode(None)])
    seen = read_video(path).frames_THWC[0, 8, 8::16].tolist()
    assert seen == [[0, 0, 0], [100, 50, 20], [200, 100, 40]]


def test_start_num_frames_and_fps_choose_by_time(tmp_path: Path) -> None:
    path = write_counting(tmp_path / "count.mkv", [40 * t for t in range(100)])
    assert [number_on(f) for f in read_video(path, start_s=1.0, num_frames=3).frames_THWC] == [25, 26, 27]
    assert [number_on(f) for f in read_video(path, start_s=1.01, num_frames=2).frames_THWC] == [25, 26]
    assert [number_on(f) for f in read_video(path, fps=5.0).frames_THWC] == list(range(0, 100, 5))
    assert len(read_video(path, fps=50.0).frames_THWC) == 200
    assert [number_on(f) for f in read_video(path, start_s=2.0, fps=5.0, num_frames=4).frames_THWC] == [
        50,
        55,
        60,
        65,
    ]
    assert [round(frame.time_s, 3) for frame in iter_frames(path, start_s=3.9)] == [3.88, 3.92, 3.96]
    assert torch.equal(read_video(path.read_bytes()).frames_THWC, read_video(path).frames_THWC)
    with pytest.raises(DataError, match=r"ends at 3\.96 s, asked for 9\.00 s"):
        read_video(path, start_s=9.0)


def test_limits_refuse_before_memory_is_taken(tmp_path: Path) -> None:
    path = write_counting(tmp_path / "count.mkv", [40 * t for t in range(30)])
    with pytest.raises(DataError, match="80x48 is more than the 1000 pixels"):
        list(iter_frames(path, limits=Limits(max_pixels=1000)))
    with pytest.raises(DataError, match="more than 10 frames"):
        read_video(path, limits=Limits(max_frames=10))
    with pytest.raises(DataError, match="read a part"):
        read_video(path, limits=Limits(max_bytes=100_000))


def test_frames_of_a_varying_rate_come_at_their_times(tmp_path: Path) -> None:
    path = write_counting(tmp_path / "vary.mkv", [0, 40, 80, 120, 400, 440, 480, 520, 560])
    assert [number_on(frame.pixels_HWC) for frame in iter_frames(path, fps=25.0)] == (
        [0, 1, 2, 3, 3, 3, 3, 3, 3, 3, 4, 5, 6, 7, 8]
    )
    assert [number_on(f.pixels_HWC) for f in iter_frames(path, fps=12.5)] == [0, 2, 3, 3, 3, 4, 6, 8]
    # A leap of the clock must not fill the disk.
    with pytest.raises(DataError, match="more than 10 frames"):
        list(iter_frames(path, fps=25.0, limits=Limits(max_frames=10)))


PEAK = """
import resource, sys
from zoo.data import read_video

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

read_video(sys.argv[1], num_frames=2)
before = peak()
video = read_video(sys.argv[1])
print((peak() - before) / video.frames_THWC.numel())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts in kB on Linux")
def test_a_video_is_in_memory_once(tmp_path: Path) -> None:
    path = tmp_path / "large.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        grey = av.VideoFrame.from_ndarray(np.full((1080, 1280), 128, np.uint8), format="yuv420p")
        for number in range(60):
            grey.pts = number
            container.mux(stream.encode(grey))
        container.mux(stream.encode(None))
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 1.4


def test_hostile_names_and_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    good = write_counting(tmp_path / "good.mkv", [0, 40, 80])
    with pytest.raises(DataError, match="no such file"):
        read_video("concat:good.mkv|good.mkv")
    for name in ("concat:good.mkv|good.mkv", "a b ünï 視頻 %03d.mkv", "http:", "-i.mkv", "pipe:0"):
        Path(name).write_bytes(good.read_bytes())
        assert len(read_video(name).frames_THWC) == 3
    Path("folder.mp4").mkdir()
    with pytest.raises(DataError, match="is a folder"):
        read_video("folder.mp4")
    os.mkfifo("pipe.mp4")
    with pytest.raises(DataError, match="not a regular file"):
        read_video("pipe.mp4")
    with pytest.raises(DataError, match="not a regular file"):
        read_video("/dev/zero")
    with pytest.raises(DataError):
        read_video("nul\0.mp4")
    with av.open("good.ts", "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 80, 48, "yuv420p"
        for number in range(60):
            picture = av.VideoFrame.from_ndarray(counting_frame(number), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p")))
        container.mux(stream.encode(None))
    assert len(read_video("good.ts").frames_THWC) == 60
    segment = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
    for at, text in enumerate(
        [
            segment.format("good.ts"),
            segment.format(tmp_path / "good.ts"),
            "ffconcat version 1.0\nfile good.mkv\n",
        ]
    ):
        Path(f"list{at}.mp4").write_text(text)
        with pytest.raises(DataError, match=f"list{at}.mp4"):
            read_video(f"list{at}.mp4")
    reports = {report.source: report for report in check_data(".")}
    assert not reports["pipe.mp4"].ok
    assert "folder.mp4" not in reports
