"""``zoo eval --out``, ``zoo compare`` and ``zoo metrics fetch``."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

Zoo = Callable[..., Result]


def test_eval_writes_what_compare_puts_side_by_side_or_refuses(
    run_zoo: Zoo, gan: Path, clip: Path, tmp_path: Path
) -> None:
    videos = tmp_path / "videos"
    videos.mkdir()
    for name in ("a.mp4", "b.mp4"):
        (videos / name).write_bytes(clip.read_bytes())
    a, b = tmp_path / "a.json", tmp_path / "b.json"
    words = ["eval", gan, "--data", videos, "--metrics", "frame_distance"]
    assert run_zoo(*words).exit_code == 2  # and no network is named
    words[-1:] = ["lpips_diversity", "--device", "cpu"]
    assert run_zoo(*words, "--out", a).exit_code == 0
    document = json.loads(a.read_text())
    # Frames of 16x16 are too small for LPIPS: nothing is compared, and the reason is told.
    assert "smaller than 31x31" in document["left_out"]["lpips_diversity"]
    refused = run_zoo(*words, "--out", a)
    assert refused.exit_code == 2
    assert "exists" in refused.stderr
    for path, seed in ((a, 0), (b, 1)):
        document["values"] = {"fvd": 100.5 + seed}
        document["intervals"] = {"fvd": {"low": 90.0, "high": 110.0}}
        document["protocols"] = {"fvd": {"num_real": 2, "seed": seed}}
        path.write_text(json.dumps(document))
    different = run_zoo("compare", a, b)
    assert different.exit_code == 1
    assert "seed: 0 and 1" in different.stderr
    assert "100.5" not in different.stdout
    apart = run_zoo("compare", a, b, "--apart")
    assert apart.exit_code == 0
    assert "not comparable with the above: seed 1, not 0" in apart.stdout
    same = run_zoo("compare", a, a, "--json")
    assert json.loads(same.stdout)["fvd"][0][0]["value"] == 100.5
    assert "100.5  (90 to 110)" in run_zoo("compare", a).stdout
    assert run_zoo("compare", clip).exit_code == 1


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("[" * 100_000, "nested more than"),
        ('{"values": {"fvd": ' + "9" * 400 + '}, "protocols": {"fvd": {}}}', "too large"),
        ('{"values": {"fvd": NaN}, "protocols": {"fvd": {}}}', "NaN is no number"),
        ('{"values": {"fvd": "1\\u001b[2J"}, "protocols": {"fvd": {}}}', "the value of fvd"),
        ('{"values": {"fvd": [1]}, "protocols": {"fvd": {}}}', "the value of fvd"),
        ('{"values": {"fvd": 1}, "protocols": {"fvd": [1]}}', "the protocol of fvd"),
        ('{"values": {"fvd": 1}, "protocols": {"fvd": {}}, "intervals": [1]}', "the interval of fvd"),
        ('{"values": {"fvd": 1}, "protocols": {"fvd": {}}, "intervals": {"fvd": "abc"}}', "the interval"),
        (
            '{"values": {"fvd": 1}, "protocols": {"fvd": {}}, "intervals": {"fvd": {"low": 1}}}',
            "the interval",
        ),
    ],
)
def test_compare_refuses_what_eval_does_not_write(
    run_zoo: Zoo, tmp_path: Path, document: str, says: str
) -> None:
    path = tmp_path / "a.json"
    path.write_text(document)
    refused = run_zoo("compare", path)
    assert refused.exit_code == 1
    assert says in refused.stderr
    assert "\x1b" not in refused.stderr


def test_compare_writes_nothing_to_a_terminal_but_text(run_zoo: Zoo, tmp_path: Path) -> None:
    name = "\x1b]0;owned\x07"
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps({"values": {name: 1.0}, "protocols": {name: {name: name}}}))
    found = run_zoo("compare", path)
    assert found.exit_code == 0
    assert "\x1b" not in found.output
    assert found.output.count("owned") == 2


def test_a_file_name_that_is_no_utf_8_stays_valid_json(run_zoo: Zoo, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.json")
    path.write_text(json.dumps({"values": {"fvd": 1.0}, "protocols": {"fvd": {}}}))
    found = json.loads(run_zoo("compare", path, "--json").stdout_bytes.decode("utf-8"))
    assert found["fvd"][0][0]["document"] == str(path)


def test_fvd_without_weights_says_what_to_type(
    run_zoo: Zoo, gan: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZOO_I3D", raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    found = run_zoo("eval", gan, "--data", clip, "--metrics", "fvd", "--device", "cpu")
    assert found.exit_code == 1
    assert "Type: zoo metrics fetch" in found.stderr
    fetched = run_zoo("metrics", "fetch", "--from", clip)
    assert fetched.exit_code == 1
    assert "no safetensors file" in fetched.stderr
    assert not list(tmp_path.iterdir())
