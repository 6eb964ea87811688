"""Numbers carry how they were measured, and unlike ones are not put side by side."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

import zoo.metrics
from zoo.assemblies.sampler import nth_seed
from zoo.errors import WeightsError, ZooError
from zoo.metrics import ClipDistances, FrameNetwork, ProtocolError, compare, load_i3d
from zoo.metrics.i3d_weights import FILE, VARIABLE
from zoo.metrics.protocol import RealClips
from zoo.outputs import Tokens
from zoo.recipes import Clip
from zoo.torchvision_repair import repair_torchvision

evaluate = functools.partial(zoo.metrics.evaluate, num_workers=0)


class Clips(Dataset[Any]):
    """Moving stripes of 9 frames, each clip its own."""

    description = "stripes"
    random = False

    def __init__(self, num: int, *, fps: float | None = 8.0, shift: float = 0.0) -> None:
        self.num, self.shift = num, shift
        self.clip = Clip(num_frames=9, height=32, width=32, fps=fps)

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, index: int) -> dict[str, Any]:
        t, w = torch.meshgrid(torch.arange(9.0), torch.arange(32.0), indexing="ij")
        x_CTHW = torch.sin(0.3 * (index + 1) * t + 0.2 * (index + 1) * w + self.shift)[None, :, None]
        x_CTHW = x_CTHW.expand(3, -1, 32, -1)
        facts = {"label": -1, "source": f"{index}", "start_s": 0.0, "index": index, "skipped": []}
        return {"x_CTHW": x_CTHW, **facts}


class Painter(nn.Module):
    """Draws noise, clip i of a seed always the same."""

    name = "painter"

    def __init__(self, strength: float = 0.5) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.tensor(strength))

    def sample(self, num: int, *, num_frames: int | None = None, seed: int = 0) -> Tensor:
        random = [torch.Generator().manual_seed((1000 * seed + index) % 2**63) for index in range(num)]
        return torch.stack(
            [self.strength * torch.randn(3, num_frames or 9, 32, 32, generator=r) for r in random]
        )


class Codes(nn.Module):
    codebook_size, num_codebooks, continuous = 0, 1, True


class Copier(nn.Module):
    """An autoencoder whose latent is the clip, darker by `offset`."""

    name = "copier"

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.quantizer = Codes()
        self.offset = nn.Parameter(torch.tensor(offset))

    def encode(self, x_BCTHW: Tensor) -> Tokens:
        return Tokens(x_BCTHW, None, (x_BCTHW.shape[2], x_BCTHW.shape[3], x_BCTHW.shape[4]))

    def decode(self, tokens: Tokens) -> Tensor:
        assert tokens.z_BDthw is not None
        return tokens.z_BDthw - self.offset


@pytest.fixture
def weights(shared_data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = shared_data / "weights" / FILE
    if not path.is_file():
        pytest.skip(f"no weights of I3D: {path}")
    monkeypatch.setenv(VARIABLE, str(path))
    return path


def test_a_gans_distances_are_those_of_its_samples_and_say_how_they_were_measured(weights: Path) -> None:
    metrics = ["fvd", "kvd", "precision", "recall"]
    result = evaluate(
        Painter(), Clips(5), metrics=metrics, batch_size=3, num_samples=4, seed=2, replicates=20
    )
    assert set(result["values"]) == set(metrics)
    assert result["values"]["fvd"] > 100
    for name, interval in result["intervals"].items():
        assert interval["low"] <= result["values"][name] <= interval["high"]
        assert (interval["replicates"], interval["seed"], interval["level"]) == (20, 2, 0.95)
    assert set(result["intervals"]) == set(metrics)
    protocol = result["protocols"]["fvd"]
    assert protocol["detector_sha256"] == load_i3d().sha256
    assert "224x224" in protocol["resize"]
    assert "middle of each video" in protocol["clip_rule"]
    fields = ("num_frames", "fps", "height", "width", "channels", "num_real", "num_fake", "seed")
    assert [protocol[field] for field in fields] == [9, 8.0, 32, 32, 3, 5, 4, 2]
    json.dumps(result, allow_nan=False)


@pytest.mark.slow
def test_a_gans_distances_are_those_of_its_samples(weights: Path) -> None:
    data, model, metrics = Clips(5), Painter(), ["fvd", "kvd", "precision", "recall"]
    result = evaluate(model, data, metrics=metrics, batch_size=3, num_samples=4, seed=2, replicates=0)
    by_hand = ClipDistances(metrics, seed=2, replicates=0)
    for index in (4, 2, 0, 1, 3):  # in any order
        by_hand.add_real(data[index]["x_CTHW"][None])
    by_hand.add_fake(model.sample(4, num_frames=9, seed=nth_seed(2, 0)).detach())
    expected = by_hand.figures().values
    assert set(expected) == set(result["values"]) == set(metrics)
    for name, value in expected.items():
        assert result["values"][name] == pytest.approx(value, rel=1e-4)


def test_fvd_of_reconstructions_and_clips_too_short_for_it(weights: Path) -> None:
    result = evaluate(Copier(0.0), Clips(2), metrics=["rfvd", "psnr"], batch_size=1, replicates=0)
    assert result["values"]["rfvd"] == pytest.approx(0, abs=1e-3)
    assert result["intervals"] == {}
    assert set(result["protocols"]) == set(result["values"])
    short = Clips(2)
    short.clip = Clip(num_frames=8, height=32, width=32)
    items = [{**short[i], "x_CTHW": short[i]["x_CTHW"][:, :8]} for i in range(2)]
    result = evaluate(Painter(), items, metrics=["fvd", "lpips_diversity"])  # type: ignore[arg-type]
    assert "8 frames are shorter than the 9" in result["left_out"]["fvd"]
    assert set(result["values"]) == {"lpips_diversity", "lpips_diversity_of_real_clips"}
    few = evaluate(Painter(), Clips(1), metrics=["precision"])
    assert "at least 4 clips of each side" in few["left_out"]["precision"]


def test_frame_distance_has_the_networks_name_and_refuses_a_random_one(tmp_path: Path) -> None:
    repair_torchvision()
    import timm

    network = timm.create_model("test_resnet", pretrained=False)
    path = tmp_path / "weights.safetensors"
    save_file(network.state_dict(), path)
    backbone = FrameNetwork("test_resnet", path)
    found = evaluate(Painter(), Clips(3), metrics=["frame_distance"], frame_network=backbone)
    assert list(found["values"]) == ["frame_distance[test_resnet]"]
    assert found["values"]["frame_distance[test_resnet]"] > 0
    protocol = found["protocols"]["frame_distance[test_resnet]"]
    assert protocol["detector_sha256"] == backbone.sha256
    assert "not FID" in protocol["estimator"]
    again = FrameNetwork("test_resnet", path)
    x = torch.rand(2, 3, 3, 20, 30) * 2 - 1
    facts = network.pretrained_cfg
    y = nn.functional.interpolate(x[0, :, 1][None], facts["input_size"][1:], mode="bilinear", antialias=True)
    mean, std = (torch.tensor(facts[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    expected = network.eval().forward_head(
        network.forward_features((y / 2 + 0.5 - mean) / std), pre_logits=True
    )
    torch.testing.assert_close(again(x)[1], expected[0].detach(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ZooError, match="a random network measures nothing"):
        FrameNetwork("test_resnet", None)
    with pytest.raises(ZooError, match="timm has no model 'resnet-none'"):
        FrameNetwork("resnet-none", path)
    with pytest.raises(WeightsError, match="is not of test_vit"):
        FrameNetwork("test_vit", path)
    with pytest.raises(ZooError, match="--frame-backbone"):
        evaluate(Painter(), Clips(2), metrics=["frame_distance"])


def test_figures_measured_alike_stand_side_by_side_and_others_are_refused_by_field() -> None:
    documents = {
        name: evaluate(model, data, metrics=["lpips_diversity"], seed=seed, replicates=10)
        for name, model, data, seed in (
            ("a", Painter(0.5), Clips(4), 0),
            ("b", Painter(0.1), Clips(4), 0),
            ("other clips", Painter(0.5), Clips(4, shift=0.2), 0),
            ("other rate", Painter(0.5), Clips(4, fps=None), 0),
            ("other seed", Painter(0.5), Clips(4), 1),
            ("fewer", Painter(0.5), Clips(2), 0),
        )
    }
    groups = compare({name: documents[name] for name in ("a", "b")})
    assert [[row.document for row in group] for group in groups["lpips_diversity"]] == [["a", "b"]]
    for name, fields in {
        "other clips": ["real_sha256"],
        "other rate": ['fps: 8.0 and "each video\'s own"'],
        "other seed": ["seed: 0 and 1"],
        "fewer": ["num_real: 4 and 2", "num_fake: 4 and 2", "real_sha256"],
    }.items():
        pair = {key: documents[key] for key in ("a", name)}
        with pytest.raises(ProtocolError) as refused:
            compare(pair)
        for field in fields:
            assert field in str(refused.value)
        assert f"lpips_diversity of a and of {name}" in str(refused.value)
        assert "height" not in str(refused.value)
        apart = compare(pair, metrics=["lpips_diversity"], apart=True)["lpips_diversity"]
        assert [[row.document for row in group] for group in apart] == [["a"], [name]]
    damaged = copy.deepcopy(documents["b"])
    damaged["protocols"]["lpips_diversity"]["detector_sha256"] = "0" * 64
    with pytest.raises(ProtocolError, match="detector_sha256"):
        compare({"a": documents["a"], "damaged": damaged}, metrics=["lpips_diversity"])
    with pytest.raises(ZooError, match="none of the files has 'fvd'; there is: lpips_diversity"):
        compare(documents, metrics=["fvd"])
    del damaged["protocols"]
    with pytest.raises(ZooError, match=r"does not say how .*Measure anew"):
        compare({"a": documents["a"], "damaged": damaged})


def test_the_fingerprint_of_real_clips_knows_no_order_and_sees_one_pixel() -> None:
    x = torch.stack([Clips(3)[index]["x_CTHW"] for index in range(3)])
    found = []
    for clips in ([x], [x[2:], x[:2]], [x.roll(1, 4)], [x[:2]], [x, x[:1]]):
        real = RealClips()
        for part in clips:
            real.update(part)
        found.append(real.sha256)
    assert found[0] == found[1]
    assert len(set(found)) == 4
    x[0, 0, 0, 0, 0] += 0.02
    real = RealClips()
    real.update(x)
    assert real.sha256 not in found
