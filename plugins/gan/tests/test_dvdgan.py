"""DVD-GAN: the port's numbers with the port's weights, frames made alone, work linear in time.

`golden_dvdgan.json` holds fingerprints (see golden.py) that the PyTorch port gave at the commit it names, in
float64. Its power iteration runs in eval mode too, so our vectors take the same step first. The generator is
compared on one clip, since the port mixes the conditions up in a batch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import assert_like, fill, noise
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from zoo.errors import PortError, WeightsError, ZooError
from zoo.spectral_norm import spectral_norm
from zoo_gan.dvdgan import layers, weights
from zoo_gan.dvdgan.discriminators import DualDiscriminator, SpatialDiscriminator, TemporalDiscriminator
from zoo_gan.dvdgan.generator import DVDGANGenerator
from zoo_gan.dvdgan.weights import (
    map_dvdgan_discriminator,
    map_dvdgan_generator,
    map_dvdgan_state_dict,
)

GOLDEN_FILE = Path(__file__).parent / "golden_dvdgan.json"
PORT: dict[str, Any] = {
    "gru_multipliers": [1, 2, 1],
    "gru_kernels": [[3, 5, 3], [3, 5, 3], [3, 5, 3], [3, 5, 5]],
    "gru_activation": "tanh",
    "attention": "none",
    "spectral_norm": "blocks",
}
SMALL: dict[str, Any] = {"base_channels": 2, "channel_multipliers": [4, 4, 2], "noise_dim": 6}
JUDGES: dict[str, type[SpatialDiscriminator] | type[TemporalDiscriminator]] = {
    "dvd-spatial": SpatialDiscriminator,
    "dvd-temporal": TemporalDiscriminator,
}


def golden() -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads(GOLDEN_FILE.read_text())
    return numbers


def filled(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values for the port's names."""
    return fill({name: value.shape for name, value in state.items()}, scales="running_var|gamma")


def step(module: nn.Module) -> list[nn.Module]:
    """Let the power iterations take the step that the port takes in each forward pass, and stay there.

    Returns:
        Where they are.
    """
    module.train()
    norms = []
    for child in module.modules():
        if parametrize.is_parametrized(child, "weight"):
            assert isinstance(child.weight, Tensor)  # to read it is what takes the step
            norms.append(child.parametrizations["weight"][0].eval())
    return norms


def port_names(module: nn.Module, name: str) -> dict[str, Tensor]:
    """State of our part under the port's names."""
    stem = weights._discriminator_stem(name)
    renamed = {}
    for key, value in module.state_dict().items():
        if name == "dvdgan":
            renamed[weights._generator_name(key)] = value
        else:
            value = value[..., None] if key.startswith("attention.") and value.ndim == 3 else value
            renamed[weights._discriminator_name(key, stem)] = value
    return renamed


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_generator_gives_the_ports_clip_and_gradients(mode: str) -> None:
    options = {"base_channels": 2, "noise_dim": 6, "class_dim": 6, "num_classes": 3}
    theirs = filled(port_names(DVDGANGenerator(**options, **PORT), "dvdgan"))
    found, ours, unused = map_dvdgan_generator(theirs | {"steps": torch.zeros(())})
    assert unused == ["steps"]
    generator = DVDGANGenerator(**found).double()
    generator.load_state_dict(ours)
    norms = step(generator)
    generator.train(mode == "train")
    for norm in norms:
        norm.eval()
    content = noise("content", (1, 6)).requires_grad_()
    x_BCTHW = generator({"content": content[:, None].expand(1, 5, 6), "label": torch.tensor([2])})
    x_BTCHW = x_BCTHW.transpose(1, 2)
    (x_BTCHW * noise("weigh", x_BTCHW.shape)).sum().backward()
    published = golden()["generator"][mode]
    assert_like(x_BCTHW, published["video"], 1e-9)
    assert_like(content.grad, published["grad"], 1e-8)


@pytest.mark.parametrize("name", JUDGES)
def test_discriminators_give_the_ports_scores_and_gradients(name: str) -> None:
    theirs = filled(port_names(JUDGES[name](base_channels=2, num_classes=3, spectral_norm="blocks"), name))
    options, ours, unused = map_dvdgan_discriminator(theirs, name=name)
    assert unused == []
    discriminator = JUDGES[name](**options).double()
    discriminator.load_state_dict(ours)
    step(discriminator)
    if name == "dvd-spatial":
        x = noise("frames", (2, 3, 3, 32, 32)).requires_grad_()
        seen = x
    else:
        # The port halves the clip outside: each of its pixels is four equal ones here.
        x = noise("clip", (2, 3, 8, 32, 32)).requires_grad_()
        seen = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
    (logits,) = discriminator(seen, torch.tensor([2, 0])).logits
    (logits.reshape(-1) * noise("weigh", (logits.numel(),))).sum().backward()
    published = golden()["discriminators"][name]
    assert_like(logits, published["logits"], 1e-9)
    assert_like(x.grad, published["grad"], 1e-8)


def test_the_ports_size() -> None:
    with torch.device("meta"):
        parts: dict[str, nn.Module] = {
            "generator": DVDGANGenerator(num_classes=101, **PORT),
            "dvd-spatial": SpatialDiscriminator(num_classes=101),
            "dvd-temporal": TemporalDiscriminator(num_classes=101),
        }
    counts = {name: sum(weight.numel() for weight in part.parameters()) for name, part in parts.items()}
    assert counts == golden()["parameters"]


def test_a_whole_gan_of_the_port_is_converted() -> None:
    options = {"base_channels": 1, "noise_dim": 6, "class_dim": 6, "num_classes": 3}
    generator = DVDGANGenerator(**options, **PORT)
    state = port_names(generator, "dvdgan")
    for head, (name, cls) in zip(("ds.", "dt."), JUDGES.items(), strict=True):
        judge = cls(base_channels=1, num_classes=3, spectral_norm="blocks")
        state |= {head + key: value for key, value in port_names(judge, name).items()}
    mapped, unused = map_dvdgan_state_dict(state, discriminators=list(JUDGES))
    assert unused == []
    assert {name.split(".")[0] for name in mapped} == {"generator", "discriminator"}
    assert {name.split(".")[1] for name in mapped if name.startswith("disc")} == {"0", "1"}
    alone, unused = map_dvdgan_state_dict(state, discriminators=["dvd"])
    assert len(unused) == len(mapped) - len(alone)
    lacking = {name: value for name, value in state.items() if name != "conv.4.conv0.module.bias"}
    with pytest.raises(WeightsError, match=r"lack conv\.4\.conv0\.module\.bias"):
        map_dvdgan_state_dict(lacking)


def test_gru_is_the_published_recurrence() -> None:
    """Frame by frame and gate by gate, from the equations."""
    torch.manual_seed(0)
    gru = layers.ConvGRU(3, 4, kernel_size=5, activation="relu", spectral=True).eval().double()
    x_BTCHW = torch.randn(2, 6, 3, 5, 7, dtype=torch.float64)
    h = torch.zeros(2, 4, 5, 7, dtype=torch.float64)
    expected = []
    for x in x_BTCHW.unbind(1):
        both = torch.cat([x, h], dim=1)
        reset, update = (
            F.conv2d(both, gate.weight, gate.bias, padding=2).sigmoid()
            for gate in (gru.reset_gate, gru.update_gate)
        )
        candidate = F.conv2d(
            torch.cat([x, reset * h], dim=1), gru.out_gate.weight, gru.out_gate.bias, padding=2
        )
        h = (1 - update) * h + update * candidate.relu()
        expected.append(h)
    torch.testing.assert_close(gru(x_BTCHW), torch.stack(expected, dim=1))


def test_separable_attention_is_attention_on_lines() -> None:
    torch.manual_seed(0)
    attention = layers.SeparableAttention(8, spectral=False)
    for layer in attention.axes:
        nn.init.ones_(layer.gamma)
    x = torch.randn(2, 3, 8, 4, 5)
    height, width, time = attention.axes
    expected = torch.stack([height(x[:, t, :, :, w]) for t in range(3) for w in range(5)])
    expected = expected.reshape(3, 5, 2, 8, 4).permute(2, 0, 3, 4, 1)
    expected = torch.stack([width(expected[:, t, :, h]) for t in range(3) for h in range(4)])
    expected = expected.reshape(3, 4, 2, 8, 5).permute(2, 0, 3, 1, 4)
    expected = torch.stack([time(expected[..., h, w].transpose(1, 2)) for h in range(4) for w in range(5)])
    expected = expected.reshape(4, 5, 2, 8, 3).permute(2, 4, 3, 0, 1)
    torch.testing.assert_close(attention(x), expected)


def test_spectral_norm_finds_the_largest_singular_value() -> None:
    torch.manual_seed(0)
    layer = spectral_norm(nn.Conv2d(5, 7, 3))
    for _ in range(50):
        _ = layer.weight
    assert torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2).item() == pytest.approx(1, abs=1e-4)
    stored = layer.state_dict()
    layer.eval()
    assert torch.equal(layer.weight, layer.weight)
    assert all(torch.equal(stored[name], value) for name, value in layer.state_dict().items())


def test_frames_alone_are_those_of_the_clip_and_cost_less() -> None:
    generator = DVDGANGenerator(**SMALL, attention="none").eval()
    assert generator.time == "frames"
    drawn = generator.draw_noise(2, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with FlopCounterMode(display=False) as all_frames:
            whole = generator(drawn)
        with FlopCounterMode(display=False) as two_frames:
            part = generator(drawn, torch.arange(5, 7).float().expand(2, -1))
    torch.testing.assert_close(part, whole[:, :, 5:7], rtol=0, atol=1e-5)
    assert two_frames.get_total_flops() < 0.6 * all_frames.get_total_flops()
    with pytest.raises(PortError, match="frames 8 to 9 by noise of 9 frames"):
        generator(drawn, torch.arange(8, 10).float().expand(2, -1))
    with pytest.raises(PortError, match="whole clips only"):
        DVDGANGenerator(**SMALL)(drawn, torch.arange(5, 7).float().expand(2, -1))


def test_work_is_linear_in_time() -> None:
    generator = DVDGANGenerator(**SMALL, attention="none").eval()
    work = {}
    for num_frames in (8, 16, 32):
        drawn = generator.draw_noise(1, num_frames)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            generator(drawn)
        work[num_frames] = counter.get_total_flops()
    once = 2 * work[8] - work[16]  # the spectral norms, which no frame adds to
    assert 0 <= once < 0.01 * work[8]
    assert work[32] - once == pytest.approx(4 * (work[8] - once), rel=1e-6)


def test_a_clip_has_its_own_condition_in_any_batch() -> None:
    """Also with batch norms in eval mode and a label that a caller chose."""
    generator = DVDGANGenerator(**SMALL, num_classes=4, class_dim=3)
    drawn = generator.draw_noise(3, 4, generator=torch.Generator().manual_seed(0))
    generator(drawn)
    generator.eval()
    drawn["label"] = torch.tensor([3, 1, 1])
    together = generator(drawn)
    for clip in range(3):
        alone = generator({name: value[clip : clip + 1] for name, value in drawn.items()})
        torch.testing.assert_close(alone[0], together[clip], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(generator(drawn | {"label": torch.tensor([0, 1, 1])})[0], together[0])


def test_noise_of_fewer_clips_and_frames_is_the_beginning_of_more() -> None:
    generator = DVDGANGenerator(**SMALL, num_classes=50)
    few = generator.draw_noise(2, 3, generator=torch.Generator().manual_seed(5))
    many = generator.draw_noise(4, 7, generator=torch.Generator().manual_seed(5))
    assert torch.equal(few["content"], many["content"][:2, :3])
    assert torch.equal(few["label"], many["label"][:2])
    assert len(many["label"].unique()) > 1


@pytest.mark.parametrize("num_frames", [5, 8, 20])
def test_drawn_frames_are_uniform_and_ascending(num_frames: int) -> None:
    discriminator = SpatialDiscriminator(base_channels=1)
    frames_BK = discriminator.draw_frames(400, num_frames, generator=torch.Generator().manual_seed(0))
    assert frames_BK.shape == (400, min(8, num_frames))
    assert frames_BK.dtype == torch.int64
    assert bool((frames_BK.diff(dim=1) > 0).all())
    share = frames_BK.flatten().bincount(minlength=num_frames) / 400
    torch.testing.assert_close(
        share, torch.full((num_frames,), min(8, num_frames) / num_frames), rtol=0.25, atol=0
    )


def test_dual_is_the_two_parts_and_sums_frames() -> None:
    options = {"base_channels": 2, "channel_multipliers": [1, 2, 4], "num_classes": 3, "num_frames_drawn": 3}
    dual = DualDiscriminator(**options, reduction="none").eval()
    x, label_B = torch.randn(2, 3, 9, 16, 16), torch.tensor([0, 2])
    still, moving = dual(x, label_B).logits
    assert (still.shape, moving.shape) == ((2, 3), (2, 2))
    torch.testing.assert_close(still, dual.spatial(x[:, :, [0, 4, 8]], label_B).logits[0])
    torch.testing.assert_close(moving, dual.temporal(x, label_B).logits[0])
    summed = DualDiscriminator(**options).eval()
    summed.load_state_dict(dual.state_dict())
    torch.testing.assert_close(summed(x, label_B).logits[0], still.sum(dim=1, keepdim=True))
    dual.train()
    assert not torch.equal(dual(x, label_B).logits[0], dual(x, label_B).logits[0])
    with pytest.raises(PortError, match="num_classes=3 and needs label_B"):
        dual.temporal(x)


BAD_OPTIONS: list[tuple[type[nn.Module], dict[str, Any], str]] = [
    (DVDGANGenerator, {"channel_multipliers": [8]}, "one for each group"),
    (DVDGANGenerator, {"gru_kernels": [3, 5]}, r"gru_kernels is \[3, 5\]"),
    (DVDGANGenerator, {"gru_kernels": [4]}, "odd sides"),
    (DVDGANGenerator, {"gru_multipliers": [2]}, "the last multiplier is 1"),
    (DVDGANGenerator, {"attention": "full"}, "give 'separable' or 'none'"),
    (DVDGANGenerator, {"num_classes": -1}, "num_classes is -1"),
    (SpatialDiscriminator, {"reduction": "mean"}, "give 'sum' or 'none'"),
    (TemporalDiscriminator, {"channel_multipliers": [2]}, "at least two blocks"),
    (DualDiscriminator, {"num_frames_drawn": 0}, "num_frames_drawn is 0"),
]


@pytest.mark.parametrize(("cls", "options", "complaint"), BAD_OPTIONS)
def test_bad_options_are_refused_in_words(
    cls: type[nn.Module], options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ZooError, match=complaint):
        cls(**options)
