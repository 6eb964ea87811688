"""Hostile videos: `zoo data check` and the loading of clips refuse or cap them, and open nothing else."""

from __future__ import annotations

import io
import os
import random
import shutil
import socket
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from chaos.experiment import Experiment, Outcome
from chaos.judging import Judges, Verdict, canaries, faults, summary

from zoo.data.limits import Limits, grant_memory

SECONDS, PEAK_MB = 5.0, 512.0
_HUGE = 20 << 30
_LATE = ["av.subtitles.codeccontext", "av.subtitles.subtitle"]
"""What PyAV itself imports when it meets subtitles."""


def clip(path: str) -> None:
    """Draw a clip of a file as training does."""
    from zoo.data import open_clips
    from zoo.recipes import Clip

    open_clips(path, clip=Clip(num_frames=8, height=32, width=32))[0]


def film(codec: str, form: str, *, size: int = 64, num: int = 12, rate: int = 8) -> bytes:
    """Make a small good video."""
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width = stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(num):
            frame = av.VideoFrame.from_ndarray(
                np.full((size, size, 3), 20 * i % 255, np.uint8), format="rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return out.getvalue()


def gif_bomb(width: int, height: int, num: int) -> bytes:
    """Make a GIF whose every frame changes one pixel of a huge picture."""
    head = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(3) + b"\xff\xff\xff"
    frame = b"\x21\xf9\x04\x04\x02\x00\x00\x00" + b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0)
    return head + (frame + b"\x02\x02\x44\x01\x00") * num + b";"


def png(width: int, height: int, *, rows: int) -> bytes:
    """Make a grey PNG that claims a size and holds so many rows of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compressobj(9)
    data = b"".join(packed.compress(bytes(width + 1)) for _ in range(rows)) + packed.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _field(data: bytes, box: bytes, at: int, value: bytes) -> bytes:
    """Return an MP4 with other bytes at a place within a box, counted from behind its name."""
    start = data.index(box) + 4 + at
    return data[:start] + value + data[start + len(value) :]


def lying_headers() -> dict[str, bytes]:
    """MP4s and others whose headers claim what is not so."""
    good = film("mpeg4", "mp4")
    most, gif = b"\xff\xff\xff\xff", gif_bomb(64, 64, 3)
    big = struct.pack(">I", 0x7FFFFFFF)
    nested = b"".join(struct.pack(">I", 8 * (20_000 - i)) + b"moov" for i in range(20_000))
    frame = b"FRAME\n" + bytes(384)
    made = {
        "mp4 that lasts for ever": _field(_field(good, b"mvhd", 16, most), b"mdhd", 16, most),
        "mp4 that lasts nothing": _field(_field(good, b"mvhd", 16, bytes(4)), b"mdhd", 16, bytes(4)),
        "mp4 of time scale 0": _field(good, b"mdhd", 12, bytes(4)),
        "mp4 of time scale 2^32": _field(good, b"mdhd", 12, most),
        "mp4 of frames that last 2^32": _field(good, b"stts", 12, most),
        "mp4 of frames that last 0": _field(good, b"stts", 12, bytes(4)),
        "mp4 of 2^32 equal times": _field(good, b"stts", 8, most),
        "mp4 of 2^31 time entries": _field(good, b"stts", 4, big),
        "mp4 of 2^32 samples": _field(good, b"stsz", 8, most),
        "mp4 of 2^27 samples of a byte": _field(
            _field(good, b"stsz", 4, struct.pack(">II", 1, 1 << 27)), b"stts", 8, struct.pack(">I", 1 << 27)
        ),
        "mp4 of 2^24 samples of a byte": _field(
            _field(good, b"stsz", 4, struct.pack(">II", 1, 1 << 24)), b"stts", 8, struct.pack(">I", 1 << 24)
        ),
        "mp4 of samples of 2 GB": _field(good, b"stsz", 12, big * 4),
        "mp4 of chunks beyond the end": _field(good, b"stco", 8, most),
        "mp4 of 2^31 chunks": _field(good, b"stco", 4, big),
        "mp4 of 2^31 sample groups": _field(good, b"stsc", 4, big),
        "mp4 of chunks of 2^31": _field(good, b"stsc", 12, big),
        "mp4 of 65535x65535": _field(good, b"mp4v", 24, most),
        "mp4 turned by nonsense": _field(good, b"tkhd", 40, most * 9),
        "mp4 with a box of 2^64 bytes": good.replace(b"\x00\x00\x00\x08free", b"\x00\x00\x00\x01free", 1),
        "mp4 with a moov of 0 bytes": _field(good, b"moov", -8, bytes(4)),
        "mp4 with 20,000 boxes in one another": nested + good,
        "mp4 without a moov": good[: good.index(b"moov") - 4],
        "mp4 with two moovs": good + good[good.index(b"moov") - 4 :],
        "mp4 cut in its moov": good[: good.index(b"moov") + 200],
        "avi of 2^32 frames": _field(film("mpeg4", "avi"), b"avih", 20, most),
        "gif of no frames": gif[:19] + b";",
        "gif of no bytes behind its header": gif[:13],
        "gif whose block never ends": gif[:-2],
        "y4m of 100000x100000": b"YUV4MPEG2 W100000 H100000 F8:1 C420\nFRAME\n" + bytes(1000),
        "y4m of -1x-1": b"YUV4MPEG2 W-1 H-1 F8:1 C420\nFRAME\n" + bytes(1000),
        "y4m at 0 frames a second": b"YUV4MPEG2 W16 H16 F0:0 C420\n" + frame * 3,
        "y4m at 10^9 frames a second": b"YUV4MPEG2 W16 H16 F1000000000:1 C420\n" + frame * 9,
        "y4m at a frame in 10^9 s": b"YUV4MPEG2 W16 H16 F1:1000000000 C420\n" + frame * 9,
        "y4m of frames without a size": b"YUV4MPEG2 F8:1\nFRAME\n" * 100,
        "bmp of 65535x65535": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 1 << 30, 0, 0, 54, 40, 65535, 65535, 1, 24, 0, 0, 1, 1, 0, 0)
        + bytes(4096),
        "webm of nothing but its header": b"\x1a\x45\xdf\xa3" + bytes([0x84]) + b"webm",
        "random bytes": random.Random(1).randbytes(1 << 20),
    }  # fmt: skip
    webm = film("libvpx", "webm")
    made |= {f"webm bent, {i}": _bent(webm, i) for i in range(12)}
    made |= {f"mp4 bent, {i}": _bent(good, i) for i in range(12)}
    return made | {f"avi bent, {i}": _bent(film("mpeg4", "avi"), i) for i in range(6)}


def _bent(data: bytes, seed: int) -> bytes:
    rng, bent = random.Random(seed), bytearray(data)
    for _ in range(30):
        bent[rng.randrange(len(bent))] = rng.choice([0, 0x7F, 0xFF, rng.randrange(256)])
    return bytes(bent)


def flash_bomb(megabytes: int) -> bytes:
    """Make a deflated Flash film of nothing but zeros."""
    packed = zlib.compressobj(9)
    data = b"".join(packed.compress(bytes(1 << 20)) for _ in range(megabytes)) + packed.flush()
    return b"CWS\x0a" + struct.pack("<I", 1 << 31) + data


def bombs() -> dict[str, bytes]:
    """Small files that unfold to much, frames that are too large, and sizes that change on the way."""
    small, large = film("mjpeg", "mjpeg", size=64), film("mjpeg", "mjpeg", size=9000, num=1)
    lead = film("mpeg4", "m4v", size=64)
    return {
        "flash film of 1.2 GB": flash_bomb(1200),
        "flash film of 1.2 GB behind a tag": b"ID3\x03\0\0\0\0\0\x0a" + bytes(10) + flash_bomb(1200),
        "gif of 4096x4096, 20,000 frames": gif_bomb(4096, 4096, 20_000),
        "gif of 65535x65535": gif_bomb(65535, 65535, 10),
        "gif of 4470x4470, 2,000 frames": gif_bomb(4470, 4470, 2000),
        "gif of 64x64, 300,000 frames": gif_bomb(64, 64, 300_000),
        "png of 30000x30000": png(30_000, 30_000, rows=30_000),
        "png that claims 60000x60000": png(60_000, 60_000, rows=3),
        "png of 4470x4470": png(4470, 4470, rows=4470),
        "mjpeg that grows to 9000x9000": small + large,
        "mjpeg that starts with 9000x9000": large + small,
        "mjpeg that grows and shrinks": (small + film("mjpeg", "mjpeg", size=512)) * 4,
        "mpeg4 that grows to 4000x4000": lead + film("mpeg4", "m4v", size=4000, num=2) + lead,
        "mjpeg of 200,000 broken pictures": small + b"\xff\xd8\xff\xe0\xff\xd9" * 200_000,
        "h264 of 4096x4096, still": film("libx264", "mp4", size=4096, num=90),
    }


def playlists(secret: Path, port: int) -> dict[str, bytes]:
    """Texts by which FFmpeg would open other files and addresses."""
    url, web = f"file://{secret}", f"http://127.0.0.1:{port}/"
    hls = "#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1.0,\n{}\n#EXT-X-ENDLIST\n"
    texts = {
        "hls of a file": hls.format(url),
        "hls of a path": hls.format(secret),
        "hls of an address": hls.format(web),
        "hls of concat": hls.format(f"concat:{web}|{secret}"),
        "hls of subfile": hls.format(f"subfile,,start,0,end,99,,:{secret}"),
        "hls with a key": hls.format(url).replace("#EXTINF", f'#EXT-X-KEY:URI="{url}"\n#EXTINF'),
        "hls of crypto": hls.format(f"crypto:{secret}"),
        "hls of data": hls.format("data:video/mp4;base64,AAAA"),
        "a master hls": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{web}\n",
        "ffconcat of a file": f"ffconcat version 1.0\nfile '{secret}'\n",
        "ffconcat of an address": f"ffconcat version 1.0\nfile {web}\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><AdaptationSet>'
        f'<Representation id="1"><BaseURL>{url}</BaseURL></Representation></AdaptationSet></Period></MPD>',
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{url}"/></svg>',
        "pls": f"[playlist]\nFile1={web}\nNumberOfEntries=1\n",
        "asx": f'<asx version="3.0"><entry><ref href="{web}"/></entry></asx>',
        "rtsp text": f"RTSPtext\nrtsp://127.0.0.1:{port}/\n",
        "smil": f'<smil><body><video src="{web}"/></body></smil>',
        "lavfi": f"movie={secret}\n",
        "ffmetadata": f";FFMETADATA1\ntitle={url}\n",
    }  # fmt: skip
    made = {f"playlist: {name}": text.encode() for name, text in texts.items()}
    mov = film("mpeg4", "mov")
    alias = struct.pack(">I", 12 + len(url) + 1) + b"url " + struct.pack(">I", 0) + url.encode() + b"\0"
    made["playlist: mov of another file"] = mov.replace(b"\0\0\0\x0curl \0\0\0\x01", alias, 1)
    return made


def odd_names(secret: Path, port: int) -> list[str]:
    """Names of good files that FFmpeg would take for something else."""
    return [
        "concat:secret.mp4|secret.mp4.mp4", "subfile,,start,0,end,9,,:secret.mp4", "img%03d.png.mp4",
        "file:secret.mp4", "crypto:secret.mp4", "data:,x.mp4", "pipe:0.mp4", "tcp:127.0.0.1.mp4", "-.mp4",
        f"http:127.0.0.1:{port}.mp4", "cache:secret.mp4", "async:secret.mp4", "md5:.mp4", "tee:secret.mp4",
        "a.m3u8.mp4", "*.mp4", "--force.mp4", "\x1b[2J.mp4", "new\nline.mp4", "x" * 200 + ".mp4",
    ]  # fmt: skip


def sparse(folder: Path) -> list[Path]:
    """Files of 20 GB without a block on disk: nothing, or a good beginning and then nothing."""
    made = []
    for suffix, start in {
        ".mp4": b"", ".ts": b"\x47\x40\x00\x10" + bytes(184), ".h264": b"\0\0\0\x01\x67",
        ".mkv": film("mpeg4", "matroska"), ".avi": film("mpeg4", "avi"), ".mov": film("mpeg4", "mp4"),
        ".flv": b"FLV\x01\x05\0\0\0\x09" + bytes(4), ".mpg": film("mpeg1video", "mpeg", rate=25),
        ".ogv": b"OggS" + bytes(60), ".gif": gif_bomb(64, 64, 5)[:-1], ".mjpeg": b"\xff\xd8\xff",
        ".m4v": film("mpeg4", "m4v"), ".webm": b"\x1a\x45\xdf\xa3\x84webm",
        ".y4m": b"YUV4MPEG2 W16 H16 F8:1 C420\n",
    }.items():  # fmt: skip
        path = folder / f"sparse{suffix}.mp4"
        path.write_bytes(start)
        os.truncate(path, _HUGE)
        made.append(path)
    return made


def _listen() -> tuple[socket.socket, list[str]]:
    """Open a port, and note who connects."""
    server = socket.create_server(("127.0.0.1", 0))
    seen: list[str] = []

    def wait() -> None:
        try:
            while True:
                connection, address = server.accept()
                seen.append(f"a connection from {address}")
                connection.close()
        except OSError:
            return

    threading.Thread(target=wait, daemon=True).start()
    return server, seen


def judge_all(folder: Path, *, every: int = 1) -> list[str]:
    """Hand all hostile and odd videos to the command and to the loading of clips.

    Returns:
        The summary first, then what is wrong.
    """
    grant_memory(Limits(max_pixels=2**28))  # to make them; they are judged in processes of their own
    secret = folder / "secret.mp4"
    secret.write_bytes(film("mpeg4", "mp4"))
    server, seen = _listen()
    port = server.getsockname()[1]
    (folder / "v").mkdir()
    files: list[tuple[Path, bool | None]] = []

    def write(made: dict[str, bytes], taken: bool | None) -> None:
        for name, data in [*made.items()][::every]:
            path = folder / "v" / f"{name.replace('/', '_')}.mp4"
            path.write_bytes(data)
            files.append((path, taken))

    write(lying_headers(), None)
    write(bombs(), None)
    lists = playlists(secret, port)
    write(lists, False)
    within = b"LIST" + struct.pack("<I", 200) + b"GAB2\0" + lists["playlist: hls of a file"]
    write({"avi with a playlist for subtitles": film("mpeg4", "avi") + within}, None)
    files += [(path, None) for path in sparse(folder / "v")[::every]]
    for name in odd_names(secret, port)[::every]:
        shutil.copy(secret, folder / "v" / name)
        files.append((folder / "v" / name, True))
    special: dict[str, Callable[[Path], object]] = {
        "pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: path.symlink_to("/dev/zero"),
        "loop": lambda path: path.symlink_to(path),
    }  # fmt: skip
    for kind, make in special.items():
        make(folder / "v" / f"{kind}.mp4")
        files.append((folder / "v" / f"{kind}.mp4", False))
    for form, codec in (("mp4", "mpeg4"), ("webm", "libvpx"), ("mpegts", "mpeg1video"), ("gif", "gif")):
        data = film(codec, form, rate=25) if codec != "gif" else gif_bomb(64, 64, 12)
        write({f"good {form}": data}, True)
    verdicts: list[Verdict] = []
    wrong: list[str] = []
    warm = [
        ("chaos.weight_files:command", ["data", "check", str(secret)]),
        ("chaos.video_files:clip", [str(secret)]),
    ]
    with server, Judges(["chaos.video_files", *_LATE], warm) as court, canaries(secret) as opened:
        for path, taken in files:
            asks = (("chaos.weight_files:command", ("data", "check")), ("chaos.video_files:clip", ()))
            for ask, words in asks:
                label = f"{ask.rpartition(':')[2]} {path.name[:80]}"
                one = court.judge(label, ask, *words, str(path), allowed=[str(path)], limit_s=60)
                verdicts.append(one)
                fine = taken or (taken is None and one.kind == "taken")
                wrong += faults([one], seconds=SECONDS, peak_mb=PEAK_MB, taken=[label] if fine else [])
    wrong += [f"opened: {path}" for path in opened] + seen
    return [summary(verdicts), *wrong]


def _videos(folder: Path, quick: bool) -> Outcome:
    told, *wrong = judge_all(folder, every=4 if quick else 1)
    opened = sum("opened" in fault or "connection" in fault for fault in wrong)
    return Outcome(f"{told}; {opened} other files or addresses opened", not wrong, "; ".join(wrong[:4]))


EXPERIMENTS = [
    Experiment(
        18,
        "Hostile videos, for `zoo data check` and drawing clips",
        f"Refused, or capped, in {SECONDS:g} s and {PEAK_MB:g} MB (230 of them torch's); nothing else "
        "opened; good ones taken",
        _videos,
    )
]
