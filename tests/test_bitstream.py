"""Files of tokens: exact round trips at any length, and hostile files refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.assemblies import Autoencoder
from zoo.bitstream import MAGIC, Header, TokenReader, TokenWriter, header_for
from zoo.cli.group import cli
from zoo.data import read_video, write_video
from zoo.errors import DataError, ZooError
from zoo.outputs import Tokens
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
    frames=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    channels=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_tokens_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, codebook_size: int, frames: list[int], channels: int, seed: int
) -> None:
    header = Header("m", "f", 10, 13, 12.5, 0, (1, 4, 4), False, channels, codebook_size)
    generator = torch.Generator().manual_seed(seed)
    pieces = []
    for num in frames:
        shape = (1, channels, num, 3, 4)
        if codebook_size:
            pieces.append(
                Tokens(None, torch.randint(codebook_size, shape, generator=generator), (num, 10, 13))
            )
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
    assert "makes no sense" in refused(good.replace(b'"height": 32', b'"height": -2'))
    assert "damaged" in refused(good.replace(b'"height": 32', b'"height": 99'))
    assert "version" in refused(good.replace(b'"version": 1', b'"version": 7'))
    assert "with the parts and weights" in refused(good, other)
    assert "damaged" in refused(good.replace(b'"codebook_size": 64000', b'"codebook_size": 99999'))
    assert "damaged" in refused(good[:8] + struct.pack("<I", 100_000) + b"[" * 100_000)
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
