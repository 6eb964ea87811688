"""The encoder `timm`: ports that hold for many backbones, the input range, and errors that help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file, save_file

from zoo.errors import UnknownNameError, ZooError
from zoo.torchvision_repair import import_timm
from zoo_timm.encoder import TimmEncoder

timm = import_timm()

BACKBONES = [
    ("test_resnet", 0),
    ("test_resnet", 4),
    ("test_efficientnet", 2),
    ("test_convnext", 1),
    ("test_mambaout", 1),
    ("test_nfnet", 1),
    ("test_vit", 2),
    ("test_vit4", 1),
    ("test_byobnet", 1),
]


@pytest.mark.parametrize("temporal_stride", [1, 4])
@pytest.mark.parametrize(("backbone", "stage"), BACKBONES)
def test_ports_hold_and_every_weight_learns(backbone: str, stage: int, temporal_stride: int) -> None:
    encoder = TimmEncoder(backbone=backbone, stage=stage, temporal_stride=temporal_stride, latent_dim=5)
    s_t, s_h, s_w = encoder.stride
    assert (s_t, s_h) == (temporal_stride, s_w)
    z_BDthw = encoder(torch.rand(2, 3, 2 * s_t, 2 * s_h, 3 * s_w) * 2 - 1)
    assert z_BDthw.shape == (2, 5, 2, 2, 3)
    z_BDthw.square().mean().backward()
    assert [n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("in_channels", [1, 3, 4])
def test_frames_reach_the_backbone_as_timm_prepares_them(in_channels: int) -> None:
    encoder = TimmEncoder(backbone="test_resnet", stage=2, in_channels=in_channels).eval()
    frame_1HWC = torch.randint(0, 256, (1, 32, 32, in_channels)).float() / 255
    config = timm.get_pretrained_cfg("test_resnet")
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    if in_channels != 3:
        mean, std = mean.mean(), std.mean()
    prepared = rearrange((frame_1HWC - mean) / std, "b h w c -> b c h w")
    (wanted,) = encoder.backbone.net(prepared)
    (got,) = encoder.backbone(rearrange(frame_1HWC, "b h w c -> b c h w") * 2 - 1)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["resnet18", "vit_base_patch16_dinov3", "swin_tiny_patch4_window7_224"])
def test_large_backbones_take_any_size_on_the_meta_device(backbone: str) -> None:
    with torch.device("meta"):
        encoder = TimmEncoder(backbone=backbone, stage=1, temporal_stride=2, pretrained=True).eval()
        s_t, s_h, s_w = encoder.stride
        assert encoder(torch.zeros(1, 3, 3 * s_t, 4 * s_h, 6 * s_w)).shape == (1, 256, 3, 4, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "resnet19"}, "Close names: .*resnet18"),
        ({"backbone": "ResNet-18"}, "Close names: .*resnet18"),
        ({"backbone": "resnet18.nothing"}, "'nothing'; it has: .*a1_in1k"),
        ({"backbone": "hf-hub:someone/something"}, "give a name of timm.list_models"),
        ({"stage": 9}, r"0: 64 channels, 1/2, .*4: 512 channels, 1/32"),
        ({"stage": -1}, "rising order"),
        ({"temporal_stride": 3}, "must be 1, 2, 4"),
        ({"latent_dim": 0}, "latent_dim .* must be 1 or more"),
    ],
)
def test_a_wrong_option_says_what_exists(options: dict[str, object], message: str) -> None:
    unknown = message.startswith("Close") or "it has" in message
    with pytest.raises(UnknownNameError if unknown else ZooError, match=message):
        TimmEncoder(**options)  # type: ignore[arg-type]


def test_a_wrong_size_or_backbone_that_cannot_follow_is_refused() -> None:
    encoder = TimmEncoder(backbone="test_resnet", stage=1, temporal_stride=2, latent_dim=8)
    with pytest.raises(ZooError, match=re.escape("in multiples of (2, 4, 4); got (2, 9, 8)")):
        encoder(torch.zeros(1, 3, 2, 9, 8))
    with pytest.raises(ZooError, match="in_channels=3; the clip has 1"):
        encoder(torch.zeros(1, 1, 2, 8, 8))
    with torch.device("meta"):
        for backbone in ("mixer_b16_224", "hiera_tiny_224"):
            fixed = TimmEncoder(backbone=backbone, temporal_stride=1)
            with pytest.raises(ZooError, match="cannot take frames of 64x64, only of 224x224"):
                fixed(torch.zeros(1, 3, 1, 64, 64))
        inception = TimmEncoder(backbone="inception_v3", temporal_stride=1)
        with pytest.raises(ZooError, match=r"not \(16, 16\) as its reduction 4"):
            inception(torch.zeros(1, 3, 1, 64, 64))


def run_offline(code: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HF_HUB_CACHE": str(cache),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_pretrained_weights_come_from_the_hub_cache_or_say_why_not(tmp_path: Path) -> None:
    code = (
        "from zoo_timm.encoder import TimmEncoder\n"
        "from safetensors.torch import save_file\n"
        "try:\n"
        "    encoder = TimmEncoder(backbone='test_resnet.r160_in1k', stage=2, pretrained=True)\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "else:\n"
        f"    save_file(encoder.backbone.net.state_dict(), {str(tmp_path / 'got.safetensors')!r})\n"
    )
    missing = run_offline(code, tmp_path / "cache")
    assert missing.returncode == 0, missing.stderr
    assert "pretrained weights of timm backbone 'test_resnet.r160_in1k' cannot be fetched" in missing.stdout
    assert "or set pretrained=false" in missing.stdout

    repository = tmp_path / "cache" / "models--timm--test_resnet.r160_in1k"
    commit = "0" * 40
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    published = timm.create_model("test_resnet", pretrained=False)
    save_file(published.state_dict(), repository / "snapshots" / commit / "model.safetensors")
    found = run_offline(code, tmp_path / "cache")
    assert found.stdout == "", found.stdout + found.stderr
    got = load_file(tmp_path / "got.safetensors")
    wanted = published.state_dict()
    assert "model.conv1.0.weight" in got
    assert all(torch.equal(tensor, wanted[name.removeprefix("model.")]) for name, tensor in got.items())
