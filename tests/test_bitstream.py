"""Files of tokens: exact round trips at any length, and hostile files refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.assemblies import Autoencoder
from zoo.bitstream import MAGIC, Header, TokenReader, TokenWriter
from zoo.cli.group import cli
from zoo.data import read_video, write_video
from zoo.errors import DataError, ZooError
from zoo.outputs import Tokens

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


@pytest.mark.parametrize("num_frames", [1, 19, 40])
def test_a_decoded_file_is_what_reconstruct_makes(folder: Path, tmp_path: Path, num_frames: int) -> None:
    pixels = np.random.default_rng(num_frames).integers(0, 256, (num_frames, 6, 8, 3), dtype=np.uint8)
    frames = torch.from_numpy(pixels).permute(3, 0, 1, 2) / 127.5 - 1
    write_video(tmp_path / "in.mp4", frames.repeat_interleave(6, 2).repeat_interleave(6, 3), 10)
    code, said = run("encode", folder, tmp_path / "in.mp4", tmp_path / "x.zoo", "--overlap", 0, "--json")
    assert code == 0, said
    code, said = run("decode", folder, tmp_path / "x.zoo", tmp_path / "out.mp4")
    assert code == 0, said
    code, said = run("reconstruct", folder, tmp_path / "in.mp4", tmp_path / "same.mp4", "--overlap", 0)
    assert code == 0, said
    out, same = read_video(tmp_path / "out.mp4"), read_video(tmp_path / "same.mp4")
    assert out.frames_THWC.shape == (num_frames, 36, 48, 3)
    # Rounding (a continuous latent is stored in half precision) makes the video codec choose otherwise at times.
    assert float((out.frames_THWC.float() - same.frames_THWC.float()).abs().mean()) <= 0.1


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
    assert "with the weights" in refused(good, other)


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
