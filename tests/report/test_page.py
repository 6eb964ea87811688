"""The page: well-formed, self-contained, safe, and there at any time."""

from __future__ import annotations

import base64
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from zoo.data import read_video, write_video
from zoo.errors import DataError
from zoo.report import write_report

HOSTILE = (
    "\"'><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)> {{ 7 * 7 }} </style>&amp;"
)
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """Checks that tags nest and collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data

    def assert_self_contained(self) -> None:
        assert not {"script", "link", "iframe", "object", "embed", "base", "img", "form", "a"} & set(
            self.tags
        )
        for name, value in self.attributes:
            assert not name.startswith("on"), name
            if name in ("src", "href", "srcset", "poster", "action", "xlink:href", "style"):
                assert value.startswith("data:video/mp4;base64,"), (name, value[:60])


def evaluation() -> dict[str, Any]:
    return {
        "step": 60,
        "assembly": "autoencoder",
        "values": {
            "psnr_db": 26.5,
            "ssim": 0.71,
            "lpips": 0.21,
            "bits_per_clip": 960.0,
            "bits_per_pixel": 0.23,
        },
        "baselines": {
            "nearest": {"psnr_db": 22.25, "ssim": 0.6, "lpips": 0.2, "grid_thw": [1, 5, 8]},
            "mean colour": {"psnr_db": 12.0, "ssim": 0.3, "lpips": 0.7},
        },
        "codebook": {
            "codebook_size": 4,
            "num_codebooks": 1,
            "entropy_bits": 1.5,
            "perplexity": 2.83,
            "histogram": [[20, 10, 10, 0]],
        },
        "left_out": {},
        "protocol": {"num_clips": 4, "of_clips": 8, "choice": "evenly spaced", "psnr_db": "data range 2"},
    }


def write_run(folder: Path, *, facts: dict[str, Any] | None = None, prefix: str = "") -> Path:
    """Write the folder of a run with every kind of file in it."""
    folder.mkdir(parents=True)
    everything = {
        "name": "vqvae-video-tiny",
        "status": "finished",
        "command": "zoo train vqvae-video-tiny --data clips",
        "steps": 60,
        "seconds": 75.0,
        "data_wait_share": 0.034,
        "data": {"description": "12 clips"},
        "skipped": [["odd/empty.mp4", "no video stream"]],
        "evaluation": evaluation(),
        "recipe": {"summary": "A small one.", "encoder": {"use": "videogpt"}, "clip": {"channels": 3}},
        "versions": {"torch": "2.13.0"},
        **(facts or {}),
    }
    (folder / "run.json").write_text(json.dumps(everything))
    lines = [
        {
            "step": step,
            "kind": "train",
            f"{prefix}loss": math.exp(-step / 9),
            "reconstruction": 0.5,
            "lr": 1e-3,
        }
        for step in range(1, 61)
    ]
    lines += [{"step": step, "kind": "eval", "psnr_db": 20 + step / 10} for step in (20, 40, 60)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    x_CTHW = torch.linspace(-1, 1, 4 * 16 * 24).view(1, 4, 16, 24).expand(3, -1, -1, -1)
    for name, shift in (("original", 0.0), ("step-00000020", 0.5), ("step-00000060", 0.1)):
        (folder / "samples" / name).mkdir(parents=True)
        for number in range(2):
            write_video(folder / "samples" / name / f"{number}.mp4", (x_CTHW + shift).clamp(-1, 1), 8)
    return folder


def read(folder: Path) -> tuple[str, Page]:
    text = write_report(folder).read_text(encoding="utf-8")
    page = Page(text)
    page.assert_self_contained()
    return text, page


def test_the_whole_page(tmp_path: Path) -> None:
    text, page = read(write_run(tmp_path / "run"))
    for wanted in (
        "vqvae-video-tiny",
        "zoo train vqvae-video-tiny --data clips",
        "finished, step 60 of 60",
        "The model is 4.25 dB above its best baseline, nearest-neighbour resizing at the same stored bits.",
        "3 of 4 codes occur in 40 tokens",
        "Perplexity 2.8",
        "odd/empty.mp4",
        "no video stream",
        "3.4",
        "1/104 of 24-bit RGB",
        "60 steps",
        "clips measured",
        "videogpt",
        "2.13.0",
    ):
        assert wanted in page.text, wanted
    # The best of each column is marked: PSNR and SSIM of the model, LPIPS of nearest neighbour.
    assert re.findall(r'class="num best">([^<]+)<', text) == ["26.50", "0.710", "0.200"]
    assert page.tags.count("video") == 2
    assert page.text.count("nearest, same bits") == 2
    assert page.tags.count("svg") == 5  # loss, reconstruction, learning rate, PSNR, codebook
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)


def test_a_video_holds_original_reconstruction_and_baseline_side_by_side(tmp_path: Path) -> None:
    text, _ = read(write_run(tmp_path / "run"))
    encoded = re.findall(r"data:video/mp4;base64,([A-Za-z0-9+/=]+)", text)[0]
    (tmp_path / "strip.mp4").write_bytes(base64.b64decode(encoded))
    strip = read_video(tmp_path / "strip.mp4")
    assert strip.frames_THWC.shape == (4, 16 * 8, 3 * 24 * 8 + 2 * 8, 3)
    assert strip.fps == 8
    x = strip.x_CTHW
    original, made = x[..., : 24 * 8], x[..., 24 * 8 + 8 : 2 * 24 * 8 + 8]
    # The latest step is shown: 0.1 brighter, not the 0.5 of step 20.
    assert float((made - original).mean()) == pytest.approx(0.1, abs=0.03)


def test_hostile_strings_stay_text(tmp_path: Path) -> None:
    hostile = evaluation()
    hostile["baselines"][HOSTILE] = {"psnr_db": 1.0}
    hostile["protocol"][HOSTILE] = HOSTILE
    hostile["left_out"][HOSTILE] = HOSTILE
    facts = {
        "name": HOSTILE,
        "status": HOSTILE,
        "command": HOSTILE,
        "data": {HOSTILE: HOSTILE},
        "skipped": [[HOSTILE, HOSTILE]],
        "evaluation": hostile,
        "recipe": {"summary": HOSTILE, HOSTILE: [HOSTILE]},
        HOSTILE: {HOSTILE: [HOSTILE]},
    }
    folder = write_run(tmp_path / "run", facts=facts, prefix=HOSTILE)
    broken = folder / "samples" / "step-00000060" / "<b>1.mp4"
    broken.write_bytes(b"no video")
    _, page = read(folder)
    clean = Page(write_report(write_run(tmp_path / "clean")).read_text(encoding="utf-8"))
    assert set(page.tags) <= {*clean.tags, "p"}
    assert {name for name, _ in page.attributes} == {name for name, _ in clean.attributes}
    assert page.text.count(HOSTILE) >= 12
    assert "<b>1.mp4" in page.text


def test_a_run_at_any_time(tmp_path: Path) -> None:
    """Every subset of files, half written lines and numbers that are not finite give a page."""
    folder = tmp_path / "run"
    folder.mkdir()
    with pytest.raises(DataError, match="not the folder of a run"):
        write_report(folder)
    (folder / "run.json").write_text(json.dumps({"name": "early", "status": "running", "evaluation": None}))
    _, page = read(folder)
    assert "early" in page.text
    assert "metrics.jsonl is not there yet" in page.text
    assert "svg" not in page.tags

    lines = [
        '{"step": 1, "kind": "train", "loss": 2.0}',
        '{"step": 2, "kind": "train", "loss": NaN}',
        '{"step": 3, "ki',
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    (folder / "samples" / "original").mkdir(parents=True)
    _, page = read(folder)
    assert page.tags.count("svg") == 1
    assert "1 value(s) not finite" in page.text
    assert "1 line(s) cannot be read" in page.text

    (folder / "run.json").write_text('{"name": "ear')
    _, page = read(folder)
    assert "run.json cannot be read" in page.text
    (folder / "run.json").unlink()
    out = tmp_path / "elsewhere" / "page.html"
    assert write_report(folder, out=out) == out
    Page(out.read_text())


@pytest.mark.parametrize(
    ("status", "expected"),
    [("running", 60), ("finished", 58), ("interrupted", 58), ("stopped: TrainingError: step 59", 58)],
)
def test_a_run_that_is_over_tells_the_step_it_saved(tmp_path: Path, status: str, expected: int) -> None:
    folder = write_run(tmp_path / "run", facts={"status": status, "step": 58})
    _, page = read(folder)
    assert f"{status}, step {expected} of 60" in page.text
    assert f"{expected} steps" in page.text
    _, page = read(write_run(tmp_path / "late", facts={"status": status, "step": 61}))
    assert f"{status}, step 61 of 60" in page.text


BIG = "9" * 400


@pytest.mark.parametrize(
    ("facts", "metrics"),
    [
        ("[" * 100_000, "{}"),
        ("{}", "[" * 100_000),
        ('{"recipe": ' + '{"a": ' * 600 + "1" + "}" * 601, ""),
        (f'{{"step": {BIG}, "steps": {BIG}, "seconds": {BIG}}}', f'{{"step": {BIG}, "loss": 1}}'),
        ("{}", f'{{"step": 1, "loss": {BIG}}}'),
        (
            '{"step": 1e308, "steps": 1e308}',
            '{"step": 1e308, "loss": 1e308}\n{"step": 1.7e308, "loss": -1e308}',
        ),
        ("{}", '{"step": -1.7e308, "loss": 1}\n{"step": 1.7e308, "loss": 5}'),
        ("{}", '{"step": 1, "loss": 5e-324}\n{"step": 2, "loss": 1e308}\n{"step": 3, "loss": 1e-300}'),
        ("{}", '{"step": 5e-324, "r1": 5e-324}\n{"step": 1e-323, "r1": 1e-323}'),
        (f'{{"evaluation": {{"values": {{"psnr_db": {BIG}}}}}}}', ""),
        ('{"skipped": [["\\udcff.mp4", "no video"]], "name": "\\ud800"}', '{"step": 1, "\\ud800": 1}'),
        *(
            (f'{{"evaluation": {{"codebook": {{"histogram": {histogram}}}}}}}', "")
            for histogram in ('[["a"]]', "[[1, null]]", "[[1, 2], [1]]", "[[true, [1]]]", "[]", f"[[{BIG}]]")
        ),
    ],
)
def test_whatever_numbers_and_texts_a_run_left_there_is_a_page(
    tmp_path: Path, facts: str, metrics: str
) -> None:
    (tmp_path / "run.json").write_text(facts)
    (tmp_path / "metrics.jsonl").write_text(metrics)
    read(tmp_path)


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    (tmp_path / "metrics.jsonl").symlink_to(tmp_path / "lines")
    (tmp_path / "lines").write_text('{"step": 1, "loss": 1}\n')
    _, page = read(tmp_path)
    assert "run.json cannot be read: it is no regular file" in page.text
    (tmp_path / "run.json").unlink()
    (tmp_path / "run.json").symlink_to("/dev/zero")
    _, page = read(tmp_path)
    assert "run.json cannot be read: it is no regular file" in page.text


def test_what_was_skipped_is_told_when_it_is_known_only(tmp_path: Path) -> None:
    for number, (facts, expected) in enumerate(
        [
            ({"skipped": None}, None),
            ({"skipped": [], "status": "running"}, "No file was skipped so far."),
            ({"skipped": []}, "No file was skipped."),
        ]
    ):
        _, page = read(write_run(tmp_path / str(number), facts=facts))
        assert ("No file was skipped" in page.text) == (expected is not None)
        assert expected is None or expected in page.text


def test_an_evaluation_that_failed_and_grey_clips_are_told(tmp_path: Path) -> None:
    facts = {"evaluation_error": "at step 60: all broken", "recipe": {"clip": {"channels": 1}}}
    _, page = read(write_run(tmp_path / "run", facts=facts))
    assert "The model could not be measured: at step 60: all broken" in page.text
    assert "1/35 of 8-bit pixels" in page.text


def test_losses_over_decades_are_drawn_by_their_logarithm(tmp_path: Path) -> None:
    text, _ = read(write_run(tmp_path / "run"))
    assert text.count("loss, log scale") == 1


def test_a_gan_shows_its_samples(tmp_path: Path) -> None:
    result = {
        "values": {"lpips_diversity": 0.31, "lpips_diversity_of_real_clips": 0.42},
        "baselines": {},
        "codebook": None,
        "protocol": {},
    }
    folder = write_run(tmp_path / "run", facts={"name": "gan-video-tiny", "evaluation": result})
    for path in (folder / "samples" / "original").iterdir():
        path.unlink()
    (folder / "samples" / "original").rmdir()
    _, page = read(folder)
    assert "Samples" in page.text
    assert page.tags.count("video") == 1
    assert "0.310" in page.text
    assert "real clips: 0.420" in page.text
    assert "baseline" not in page.text
