"""Weights are checked first and loaded second; whatever is wrong leaves the model as it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY

import zoo
from zoo.errors import OutputExistsError, WeightsError
from zoo.weights import check, load_parts, load_weights


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return zoo.save(
        zoo.build(TINY, seed=3, discriminator={"use": "patch3d", "base_channels": 4, "num_layers": 1}),
        tmp_path / "model",
    )


def test_a_new_process_gives_equal_bits(folder: Path, tmp_path: Path) -> None:
    x = torch.rand(1, 3, 5, 18, 17) * 2 - 1
    save_file({"x": x}, tmp_path / "x.safetensors")
    code = (
        "import sys, torch, zoo; from safetensors.torch import load_file, save_file;"
        "torch.set_num_threads(1);"
        "m = zoo.load(sys.argv[1]); x = load_file(sys.argv[2])['x'];"
        "save_file({'y': m.reconstruct(x).contiguous(), 'i': m.encode(x).indices_Bqthw}, sys.argv[3])"
    )
    out = tmp_path / "y.safetensors"
    subprocess.run(
        [sys.executable, "-c", code, str(folder), str(tmp_path / "x.safetensors"), str(out)], check=True
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = zoo.build(TINY, seed=3)
        assert torch.equal(load_file(out)["y"], model.reconstruct(x))
        assert torch.equal(load_file(out)["i"], model.encode(x).indices_Bqthw)
    finally:
        torch.set_num_threads(threads)


def test_loading_restores_all_and_leaves_the_global_generator(folder: Path) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    model = zoo.load(folder)
    assert torch.equal(before, torch.get_rng_state())
    assert (model.name, len(model.discriminator), model.training) == ("custom", 1, False)
    assert model.provided_by["encoder"]["plugin"] == "vqvae"
    assert check(folder).problems == []
    assert check(folder / "model.safetensors").problems == []


def test_tied_weights_are_saved_and_come_back_equal(tmp_path: Path) -> None:
    model = zoo.build(TINY, seed=3)
    bias = model.post_quant.bias
    model.post_quant.bias = next(
        p for p in model.decoder.parameters() if p.shape == bias.shape and p is not bias
    )
    x = torch.rand(1, 3, 4, 16, 16) * 2 - 1
    expected = model.reconstruct(x)
    assert torch.equal(zoo.load(zoo.save(model, tmp_path / "tied")).reconstruct(x), expected)


def test_parts_move_between_models(folder: Path) -> None:
    source = zoo.load(folder)
    fsq = zoo.build(TINY, quantizer="fsq", init={"encoder": folder, "decoder": folder}, seed=9)
    for part in ("encoder", "decoder"):
        for name, tensor in getattr(source, part).state_dict().items():
            assert torch.equal(tensor, getattr(fsq, part).state_dict()[name])
    before = {k: v.clone() for k, v in fsq.state_dict().items()}
    with pytest.raises(WeightsError, match="quantizer"):
        load_parts(fsq, {"encoder": folder, "quantizer": folder})
    with pytest.raises(WeightsError, match=r"no part 'encodr' with weights; it has: .*encoder"):
        load_parts(fsq, {"encodr": folder})
    assert all(torch.equal(v, fsq.state_dict()[k]) for k, v in before.items())


def damage(folder: Path, how: str) -> None:
    weights, config = folder / "model.safetensors", folder / "config.json"
    data = weights.read_bytes()
    document = json.loads(config.read_text())
    if how == "truncated":
        weights.write_bytes(data[: len(data) // 2])
    elif how == "one bit":
        weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "missing":
        weights.unlink()
    elif how == "pickle":
        torch.save({"a": torch.zeros(1)}, weights)
    elif how == "html":
        weights.write_bytes(b"<!DOCTYPE html><html>404</html>")
    elif how == "lfs":
        weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    elif how == "header":
        weights.write_bytes((2**60).to_bytes(8, "little") + data[8:])
    elif how == "climbing":
        document["weights"] = {"../" + k: v for k, v in document["weights"].items()}
    elif how == "other model":
        document["recipe"]["quantizer"]["codebook_size"] = 17
    elif how == "other part":
        document["recipe"]["quantizer"] = {"use": "no-such-part"}
        document["provided_by"]["quantizer"]["distribution"] = "zoo-somewhere"
    elif how == "newer":
        document["format"] = 99
    elif how == "not json":
        config.write_text("{")
        return
    elif how == "no config":
        config.unlink()
        return
    config.write_text(json.dumps(document))


DAMAGE = {
    "truncated": "not a whole safetensors file",
    "one bit": "SHA-256 differs",
    "empty": "not a whole safetensors file",
    "missing": "no such file",
    "pickle": "zip archive",
    "html": "HTML",
    "lfs": "Git LFS pointer",
    "header": "not a whole safetensors file",
    "climbing": "not the name of a safetensors file",
    "other model": r"is torch.float32 \(16, 4\); the model has torch.float32 \(17, 4\)",
    "other part": "pip install zoo-somewhere",
    "newer": "pip install -U",
    "not json": "not valid JSON",
    "no config": "no config.json",
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_bad_folder_is_refused_and_the_model_stays(folder: Path, how: str) -> None:
    model = zoo.build(TINY, seed=4, discriminator={"use": "patch3d", "base_channels": 4, "num_layers": 1})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    damage(folder, how)
    with pytest.raises(WeightsError, match=DAMAGE[how]):
        zoo.load(folder)
    assert check(folder).problems
    if how not in ("other model", "other part"):
        with pytest.raises(WeightsError):
            load_weights(model, folder)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


def test_nan_weights_are_warned_of(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    next(t for t in tensors.values() if t.is_floating_point()).view(-1)[0] = float("nan")
    save_file(tensors, folder / "nan.safetensors")
    assert "NaN" in check(folder / "nan.safetensors").warnings[0]


def test_a_tensor_of_any_size_is_checked_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "w.safetensors", list[int]()
    save_file({"w": torch.cat([torch.zeros((20 << 20) - 1), torch.tensor([torch.nan])])}, path)
    empty = torch.empty

    def noted(size: int, **options: torch.dtype) -> torch.Tensor:
        asked.append(size)
        return empty(size, **options)

    monkeypatch.setattr("zoo.safetensors_files.torch.empty", noted)
    assert check(path).warnings == ["w holds NaN or infinite values"]
    assert max(asked) <= 8 << 20
    assert sum(asked) == 80 << 20


def test_no_memory_for_a_tensor_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.build(TINY, seed=9, discriminator={"use": "patch3d", "base_channels": 4, "num_layers": 1})

    def none_left(*_: object, **__: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("zoo.safetensors_files.torch.empty", none_left)
    with pytest.raises(WeightsError, match="there is no memory for"):
        load_weights(model, folder)


def test_the_model_of_a_run_is_not_looked_for_outside_of_it(folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "model").symlink_to(folder)
    with pytest.raises(WeightsError, match="leads out"):
        zoo.load(run)
    assert "leads out" in check(run).problems[0]
    (run / "model").unlink()
    folder.rename(run / "first")
    (run / "model").symlink_to("first")
    assert zoo.load(run).name == "custom"


def test_nothing_is_overwritten_without_force_and_nothing_foreign_ever(folder: Path, tmp_path: Path) -> None:
    model = zoo.build(TINY, seed=5)
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(OutputExistsError, match="--force"):
        zoo.save(model, folder)
    assert (folder / "model.safetensors").read_bytes() == before
    zoo.save(model, folder, force=True)
    assert (folder / "model.safetensors").read_bytes() != before
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(WeightsError, match="not a model folder"):
        zoo.save(model, tmp_path / "thesis", force=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "thesis"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        folder = zoo.save(zoo.build(TINY), tmp_path / "m")
    finally:
        os.umask(old)
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o640}


def test_a_full_disk_leaves_the_old_model(folder: Path) -> None:
    """A limit on the size of files stands in for the disk, in a process of its own."""
    before = (folder / "model.safetensors").read_bytes()
    code = (
        "import resource, signal, sys, zoo\nfrom tiny import TINY\nmodel = zoo.build(TINY, seed=8)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try: zoo.save(model, sys.argv[1], force=True)\n"
        "except zoo.ZooError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", code, str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "cannot be written" in result.stdout
    assert (folder / "model.safetensors").read_bytes() == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_killed_while_saving_leaves_a_whole_model(tmp_path: Path) -> None:
    code = (
        "import sys, zoo\nfrom tiny import TINY\n"
        "models = [zoo.build(TINY, seed=s) for s in (1, 2)]\n"
        "zoo.save(models[0], sys.argv[1])\nprint('go', flush=True)\n"
        "while True:\n    for m in models: zoo.save(m, sys.argv[1], force=True)"
    )
    here = str(Path(__file__).parent)
    folder = tmp_path / "model"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": here},
    )
    assert process.stdout is not None
    process.stdout.readline()
    for delay in (0.05, 0.12):
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(delay)
    process.kill()
    process.wait()
    process.stdout.close()
    assert zoo.load(folder).name == "custom"


def test_loading_never_asks_for_pretrained_weights(tmp_path: Path) -> None:
    encoder = {"use": "timm", "backbone": "test_resnet", "stage": 1, "temporal_stride": 2, "latent_dim": 8}
    folder = zoo.save(zoo.build(TINY, encoder=encoder, seed=0), tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config["recipe"]["encoder"]["pretrained"] = True
    (folder / "config.json").write_text(json.dumps(config))
    assert zoo.load(folder).name == "custom"


def test_what_is_no_model_says_what_one_is() -> None:
    with pytest.raises(WeightsError, match=r"zoo train vqvae-video-tiny"):
        zoo.load("vqvae-video-tiny")
    with pytest.raises(WeightsError, match=r"hf://owner/name@<40-digit commit>"):
        zoo.load("no/such/folder")
