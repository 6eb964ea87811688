"""A model measured as a codec, beside H.264 and H.265."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray

import zoo
from zoo.bitstream import TokenWriter
from zoo.cli.group import cli
from zoo.data import open_clips, read_video, to_float, to_uint8
from zoo.errors import DataError, ZooError
from zoo.metrics import evaluate, rate_distortion
from zoo.metrics.rates import _curve
from zoo.metrics.video_codecs import CODECS, MOST_CRF, VideoCodec, at_bits, decode, encode
from zoo.report.rate_distortion import rate_distortion_svg
from zoo.token_header import header_for

CLIPS = Path(zoo.__file__).parent / "assets" / "clips" / "test"
there = [codec for codec in CODECS if codec.is_there]
each_codec = pytest.mark.parametrize("codec", there, ids=lambda codec: codec.name)


@pytest.fixture(scope="module")
def frames_THW3() -> NDArray[np.uint8]:
    return read_video(CLIPS / "juggle_1.mp4", num_frames=12).frames_THWC.numpy()[:, :72, :90]


def error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(((a.astype(float) - b.astype(float)) ** 2).mean())


def test_this_pyav_has_both_encoders() -> None:
    assert [codec.name for codec in there] == ["H.264", "H.265"]


@each_codec
@pytest.mark.parametrize("wanted", [0.1, 0.5])
def test_bits_are_met_and_pay_off(codec: VideoCodec, frames_THW3: NDArray[np.uint8], wanted: float) -> None:
    pixels = frames_THW3[..., 0].size
    coded = at_bits(codec, frames_THW3, wanted * pixels, fps=12)
    assert coded.bits / pixels == pytest.approx(wanted, rel=0.05)
    coarse = encode(codec, frames_THW3, fps=12, crf=coded.crf + 8)
    decoded = [decode(codec, each, (72, 90)) for each in (coded, coarse)]
    assert decoded[0].shape == frames_THW3.shape
    assert coarse.bits < coded.bits
    assert error(decoded[0], frames_THW3) < error(decoded[1], frames_THW3) < 500
    # Encoders sign their streams with hundreds of bytes, which no measure should count.
    assert b"x26" not in coded.data


@each_codec
def test_ends_of_the_range_and_odd_sides(codec: VideoCodec, frames_THW3: NDArray[np.uint8]) -> None:
    odd = frames_THW3[:3, :65, :71]
    assert at_bits(codec, odd, 1, fps=12).crf == MOST_CRF
    fine = at_bits(codec, odd, 1e9, fps=12)
    assert fine.crf < 1
    assert decode(codec, fine, (65, 71)).shape == odd.shape
    small = np.ascontiguousarray(odd[:, :33, :35])
    if codec.least > 33:
        with pytest.raises(DataError, match="64x64 or more, not 33x35"):
            encode(codec, small, fps=12, crf=30)
    else:
        assert decode(codec, encode(codec, small, fps=12, crf=30), (33, 35)).shape == small.shape


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = zoo.build("vqvae-video-tiny", seed=0, clip={"num_frames": 8})
    return zoo.save(model, tmp_path_factory.mktemp("codec") / "model")


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli, [str(word) for word in words])
    return done.exit_code, done.output


def test_figures_are_those_of_the_files(folder: Path, tmp_path: Path) -> None:
    model = zoo.load(folder)
    clips = open_clips(str(CLIPS), clip=model.recipe.clip)
    result = rate_distortion(model, clips, coder="packed", num_clips=2, num_workers=0)
    values, pixels = result["values"], 8 * 64 * 64
    plain = evaluate(model, clips, metrics=["psnr", "ssim", "lpips"], num_clips=2, num_workers=0)["values"]
    for name in ("psnr_db", "ssim", "lpips"):  # but for the rounding to 8 bits
        assert values[name] == pytest.approx(plain[name], rel=0.02)
    header = header_for(model, size_HW=(64, 64), fps=12.0, overlap=0, coder="packed")
    sizes = []
    for index in (0, 3):
        x_CTHW = to_float(to_uint8(clips[index]["x_CTHW"]))
        path = tmp_path / f"{index}.zoo"
        with torch.no_grad(), TokenWriter(path, header) as writer:
            writer.write(model.encode(x_CTHW[None]))
        sizes.append(path.stat().st_size)
    assert values["bits_per_pixel"] == pytest.approx(8 * sum(sizes) / 2 / pixels, rel=1e-9)
    for name, point in result["codecs"].items():
        assert point["bits_per_pixel"] == pytest.approx(values["bits_per_pixel"], rel=0.05)
        curve = result["curves"][name]
        assert len(curve) == 5
        for figure, sign in (("bits_per_pixel", 1), ("psnr_db", 1), ("ssim", 1), ("lpips", -1)):
            assert np.all(sign * np.diff([each[figure] for each in curve]) > 0), (name, figure)
    assert set(result["protocols"]) == set(values)


def test_commands_print_a_table_and_draw(folder: Path, tmp_path: Path) -> None:
    words = ("eval", folder, "--data", CLIPS, "--num-clips", 1)
    code, said = run(*words, "--codec", "--plot", tmp_path / "rates.svg", "--out", tmp_path / "rates.json")
    assert code == 0, said
    for told in ("bits/pixel", "H.264", "H.265", "LPIPS", "of what codes of a fixed width take"):
        assert told in said
    document = json.loads((tmp_path / "rates.json").read_text())
    assert set(document["curves"]) == {"vqvae-video-tiny", "H.264", "H.265"}
    drawing = ElementTree.parse(tmp_path / "rates.svg").getroot()
    assert len(drawing.findall(".//{*}polyline")) == 9
    code, said = run("compare", tmp_path / "rates.json", tmp_path / "rates.json")
    assert code == 0, said
    code, said = run(*words, "--plot", tmp_path / "other.svg")
    assert (code, "belongs to --codec" in said) == (2, True), said
    code, said = run(*words, "--codec", "--metrics", "psnr")
    assert (code, "leave that out" in said) == (2, True), said
    code, said = run(*words, "--codec", "--plot", tmp_path / "other.png")
    assert (code, "ends in .svg" in said) == (2, True), said


def test_names_of_any_length_stand_beside_each_other_in_the_picture() -> None:
    name = "vidtok-video-fsq-causal-41616-262144-v1.1"  # the longest there is
    point = {"bits_per_pixel": 0.1, "psnr_db": 30.0}
    drawing = ElementTree.fromstring(
        rate_distortion_svg({"curves": {name: [point], "H.264": [point], "H.265": [point]}})
    )
    keys = drawing.findall("{*}text")
    assert [key.text for key in keys] == [name, "H.264", "H.265"]
    spans = [(float(key.attrib["x"]), float(key.attrib["x"]) + 6.3 * len(key.text or "")) for key in keys]
    assert spans[0][0] > 0
    assert spans[-1][1] < float(drawing.attrib["viewBox"].split()[2])
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


def test_points_that_an_end_of_the_encoder_brings_together_are_one() -> None:
    points = [{"bits_per_pixel": bits, "crf": crf} for bits, crf in ((0.05, 50.9), (0.0499, 51), (0.08, 45))]
    assert _curve(points) == [points[0], points[2]]
    assert _curve(points[::-1]) == [points[1], points[2]]


def test_small_grey_clips_have_what_can_be_measured() -> None:
    model = zoo.build(
        "vqvae-video-tiny",
        seed=0,
        clip={"channels": 1, "height": 32, "width": 32, "num_frames": 4},
        encoder={"in_channels": 1},
        decoder={"out_channels": 1},
    )
    x_CTHW = torch.rand(1, 4, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1

    class One(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> dict[str, object]:
            return {"x_CTHW": x_CTHW, "index": 0, "skipped": [], "label": -1, "source": "a", "start_s": 0.0}

    result = rate_distortion(model, One(), num_workers=0)
    assert "H.264" in result["codecs"]
    assert "64x64" in result["left_out"]["H.265"]


def test_a_gan_is_no_codec() -> None:
    gan = zoo.build("gan-video-tiny", seed=0)
    with pytest.raises(ZooError, match="only an autoencoder"):
        rate_distortion(gan, [])  # type: ignore[arg-type]
