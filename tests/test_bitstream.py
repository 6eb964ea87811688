"""Files of tokens: exact round trips at any length, and hostile files refused."""

from __future__ import annotations

import dataclasses
import json
import random
import struct
import zlib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.assemblies import Autoencoder
from zoo.bitstream import _END, MAGIC, TokenReader, TokenWriter
from zoo.cli.group import cli
from zoo.data import read_video, write_video
from zoo.entropy import factors_of
from zoo.errors import DataError, ZooError
from zoo.outputs import Tokens
from zoo.token_header import Header, header_for
from zoo.windows import decode_video, encode_video, reconstruct_video

NAMES = ["cosmos-video-dv4x8x8-tiny", "cosmos-video-cv4x8x8-tiny", "vqvae-video-tiny"]


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return zoo.save(zoo.build(request.param, seed=0), tmp_path_factory.mktemp("model") / "model")


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    return done.exit_code, done.output


@settings(max_examples=25, deadline=None)
@given(
    codebook_size=st.sampled_from([0, 2, 3, 64_000, 2**18, 2**40]),
    coder=st.sampled_from(["packed", "static"]),
    frames=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    channels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_tokens_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory,
    codebook_size: int,
    coder: str,
    frames: list[int],
    channels: int,
    seed: int,
) -> None:
    coder = coder if codebook_size else "packed"
    factors = factors_of(codebook_size) if coder == "static" else ()
    header = Header("m", "f", 10, 13, 12.5, 0, (1, 4, 4), False, channels, codebook_size, coder, factors)
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    for num in frames:
        shape = (1, channels, num, 3, 4)
        if codebook_size:
            codes = torch.randint(codebook_size, shape, generator=generator)
            stays = torch.rand(shape, generator=generator) < seed / 99
            codes = codes[:, :, :1].where(stays, codes)  # from all new to all still
            pieces.append(Tokens(None, codes, (num, 10, 13)))
        else:
            pieces.append(Tokens(torch.randn(shape, generator=generator).half().float(), None, (num, 10, 13)))
    path = tmp_path_factory.mktemp("tokens") / "x.zoo"
    with TokenWriter(path, header) as writer:
        for piece in pieces:
            writer.write(piece)
    assert writer.num_bytes == path.stat().st_size
    with TokenReader(path) as reader:
        assert reader.header == header
        again = list(reader)
    assert [piece.size_THW for piece in again] == [piece.size_THW for piece in pieces]
    for a, b in zip(again, pieces, strict=True):
        for x, y in ((a.z_BDthw, b.z_BDthw), (a.indices_Bqthw, b.indices_Bqthw)):
            assert x is y is None or (x is not None and y is not None and torch.equal(x, y))


@pytest.mark.parametrize(("num_frames", "overlap"), [(1, 0), (19, 0), (40, 4)])
def test_a_decoded_file_is_what_reconstruct_makes(
    folder: Path, tmp_path: Path, num_frames: int, overlap: int
) -> None:
    model = zoo.load(folder)
    assert isinstance(model, Autoencoder)
    overlap = 0 if model.causal else overlap
    frames = (torch.rand(num_frames, 3, 36, 44) * 2 - 1).unbind()
    header = header_for(model, size_HW=(36, 44), fps=10, overlap=None if model.causal else overlap)
    with TokenWriter(tmp_path / "x.zoo", header) as writer:
        for tokens in encode_video(model, frames, overlap=overlap):
            writer.write(tokens)
    with TokenReader(tmp_path / "x.zoo") as reader:
        reader.check(model)
        made = torch.cat(list(decode_video(model, reader, overlap=overlap)), 1)
    windows = reconstruct_video(model, frames, overlap=overlap)
    wanted = torch.cat([window.y_CTHW for window in windows], 1)
    # A continuous latent is stored in half precision.
    tolerance = 1e-2 if model.quantizer.continuous else 1e-5
    torch.testing.assert_close(made, wanted, atol=tolerance, rtol=0)


def test_commands_encode_and_decode_a_clip(folder: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "in.mp4", torch.rand(3, 19, 36, 48) * 2 - 1, 10)
    code, said = run("encode", folder, tmp_path / "in.mp4", tmp_path / "x.zoo", "--json")
    assert code == 0, said
    assert json.loads(said)["bytes"] == (tmp_path / "x.zoo").stat().st_size
    facts = json.loads(said)
    is_continuous = "cv4x8x8" in (folder / "config.json").read_text()
    assert facts["coder"] == ("packed" if is_continuous else "static")
    assert (
        facts["packed_bytes"] == facts["bytes"] if is_continuous else facts["packed_bytes"] > facts["bytes"]
    )
    code, said = run("encode", folder, tmp_path / "in.mp4", tmp_path / "p.zoo", "--coder", "packed")
    assert code == 0, said
    assert (tmp_path / "p.zoo").stat().st_size >= facts["bytes"]
    code, said = run("encode", folder, tmp_path / "in.mp4", tmp_path / "s.zoo", "--coder", "static")
    assert (code, "half precision" in said) == ((1, True) if is_continuous else (0, False)), said
    code, said = run("decode", folder, tmp_path / "x.zoo", tmp_path / "out.mp4")
    assert code == 0, said
    video = read_video(tmp_path / "out.mp4")
    assert video.frames_THWC.shape == (19, 36, 48, 3)
    assert video.fps == pytest.approx(10)
    assert run("encode", folder, tmp_path / "in.mp4", tmp_path / "x.zoo")[0] == 2  # it exists


def test_damage_is_told_and_leaves_no_video(tmp_path: Path) -> None:
    model = zoo.build(NAMES[0], seed=0)
    assert isinstance(model, Autoencoder)
    folder, other = (
        zoo.save(model, tmp_path / "model"),
        zoo.save(zoo.build(NAMES[0], seed=1), tmp_path / "other"),
    )
    write_video(tmp_path / "in.mp4", torch.rand(3, 12, 32, 32) * 2 - 1, 10)
    assert run("encode", folder, tmp_path / "in.mp4", tmp_path / "x.zoo")[0] == 0
    good = (tmp_path / "x.zoo").read_bytes()
    header_end = len(MAGIC) + 4 + struct.unpack_from("<I", good, len(MAGIC))[0]

    def with_header(**fields: object) -> bytes:
        """Return the good file with other words in its header, which a file of version 1 has as they are."""
        words = json.dumps({"version": 2, **dataclasses.asdict(header), **fields}).encode()
        return MAGIC + struct.pack("<I", len(words)) + words + good[header_end:]

    with TokenReader(tmp_path / "x.zoo") as reader:
        header = reader.header

    def refused(data: bytes, model: Path = folder) -> str:
        (tmp_path / "bad.zoo").write_bytes(data)
        code, said = run("decode", model, tmp_path / "bad.zoo", tmp_path / "bad.mp4")
        assert code == 1, said
        assert not (tmp_path / "bad.mp4").exists()
        assert "Traceback" not in said
        return said

    assert "not a file of tokens" in refused(b"\x00" * 100)
    assert "not a file of tokens" in refused((tmp_path / "in.mp4").read_bytes())
    for length in (len(MAGIC) + 2, header_end - 3, header_end + 5, len(good) - 20, len(good) - 1):
        assert "cut off" in refused(good[:length]) or "damaged" in refused(good[:length])
    assert "checksum" in refused(
        good[: header_end + 13] + bytes([good[header_end + 13] ^ 1]) + good[header_end + 14 :]
    )
    assert "damaged" in refused(good + b"x")
    assert (tmp_path / "x.zoo").stat().st_size < 250
    assert "cannot be read" in refused(good[:20] + bytes([good[20] ^ 4]) + good[21:])
    assert "makes no sense" in refused(with_header(height=-2))
    assert "makes no sense" in refused(with_header(factors=[2] * 70))
    assert "makes no sense" in refused(with_header(factors=[64]))
    assert "makes no sense" in refused(with_header(coder="zip"))
    assert "makes no sense" in refused(with_header(height=1 << 19, width=1 << 19))
    assert "its checksum is wrong" in refused(with_header(height=99))
    assert "damaged" in refused(with_header(codebook_size=99_999))
    assert "damaged" in refused(with_header(factors=[1024, 1024]))
    assert "with the parts and weights" in refused(good, other)
    later = refused(with_header(version=7, extra="from later"))
    assert "version 7" in later
    assert "1 and 2" in later
    assert "damaged" in refused(good[:8] + struct.pack("<I", 100_000) + b"[" * 100_000)
    bomb = zlib.compress(b" " * (1 << 24))
    assert "cannot be read" in refused(MAGIC + struct.pack("<I", len(bomb)) + bomb + good[header_end:])
    # As many frames as a number of 32 bits can say, with a checksum that is right.
    payload = b"\x00" * 8
    for num in (1 << 20, _END - 1):
        fields = (num, len(payload))
        seed = zlib.crc32(good[len(MAGIC) + 4 : header_end])
        checksum = zlib.crc32(payload, zlib.crc32(struct.pack("<II", *fields), seed))
        piece = struct.pack("<III", *fields, checksum)
        assert "damaged after 0 frames" in refused(good[:header_end] + piece + payload)
    levels = {"use": "fsq", "levels": [5, 5, 5, 8, 8, 8]}
    turned = zoo.save(zoo.build(NAMES[0], seed=0, quantizer=levels), tmp_path / "turned")
    assert "with the parts and weights" in refused(good, turned)


def test_an_encoding_that_fails_leaves_nothing(tmp_path: Path) -> None:
    header = Header("m", "f", 8, 8, 10.0, None, (1, 4, 4), False, 1, 4)
    tokens = Tokens(None, torch.zeros(1, 1, 1, 2, 2, dtype=torch.int64), (1, 8, 8))

    def fail() -> None:
        with TokenWriter(tmp_path / "x.zoo", header) as writer:
            writer.write(tokens)
            raise DataError("stop")

    with pytest.raises(ZooError, match="stop"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_version_1_is_read(tmp_path: Path) -> None:
    codes = torch.arange(12).view(1, 1, 2, 2, 3) % 5
    header = {"version": 1, "model": "m", "fingerprint": "f", "height": 8, "width": 12, "fps": 10.0}
    header |= {"overlap": None, "stride": [1, 4, 4], "lead_frame": False, "channels": 1, "codebook_size": 5}
    words = json.dumps(header).encode()
    payload = sum(int(code) << 3 * i for i, code in enumerate(codes.flatten())).to_bytes(5, "little")
    piece = struct.pack("<III", 2, 5, zlib.crc32(payload)) + payload
    end = struct.pack("<III", _END, 0, 2)
    (tmp_path / "old.zoo").write_bytes(MAGIC + struct.pack("<I", len(words)) + words + piece + end)
    with TokenReader(tmp_path / "old.zoo") as reader:
        (tokens,) = reader
    assert tokens.indices_Bqthw is not None
    assert torch.equal(tokens.indices_Bqthw, codes)


def test_a_file_of_today_is_read_tomorrow(tmp_path: Path) -> None:
    codes = torch.arange(12).view(1, 1, 2, 2, 3) % 5
    header = Header("m", "f", 8, 12, 10.0, None, (1, 4, 4), False, 1, 5, "static", (5,))
    with TokenWriter(tmp_path / "x.zoo", header) as writer:
        writer.write(Tokens(None, codes, (2, 8, 12)))
    assert (tmp_path / "x.zoo").read_bytes().hex() == GOLDEN
    (tmp_path / "golden.zoo").write_bytes(bytes.fromhex(GOLDEN))
    with TokenReader(tmp_path / "golden.zoo") as reader:
        assert reader.header == header
        (tokens,) = reader
    assert tokens.indices_Bqthw is not None
    assert torch.equal(tokens.indices_Bqthw, codes)


@pytest.mark.parametrize("coder", ["packed", "static"])
def test_flipped_bits_give_an_error_or_the_same_codes(tmp_path: Path, coder: str) -> None:
    factors = factors_of(512) if coder == "static" else ()
    header = Header("m", "f", 32, 32, 10.0, None, (1, 4, 4), False, 1, 512, coder, factors)
    source = random.Random(0)
    codes = torch.randint(30, (2, 1, 1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    with TokenWriter(tmp_path / "x.zoo", header) as writer:
        for piece in codes:
            writer.write(Tokens(None, piece, (4, 32, 32)))
    good = (tmp_path / "x.zoo").read_bytes()
    refused = 0
    for _ in range(400):
        bad = bytearray(good)
        for _ in range(source.choice([1, 1, 2, 8])):
            bad[source.randrange(len(bad))] ^= 1 << source.randrange(8)
        (tmp_path / "bad.zoo").write_bytes(bad)
        try:
            with TokenReader(tmp_path / "bad.zoo") as reader:
                again = torch.stack([piece.indices_Bqthw for piece in reader])  # type: ignore[misc]
        except DataError:
            refused += 1
        else:
            assert torch.equal(again, codes)
    assert refused == 400


# Written by version 2; later versions have to go on reading it.
GOLDEN = (
    "895a4f4f0d0a1a0a3500000078f9d0967a26abc61521b95862200d250a2c906200e45f680c181a108a0160b80223c124"
    "16a7cff047812961cf13e5750045a14bb60200000008000000fe4b91f2d2adc02b76a494fbffffffff00000000020000"
    "00"
)
