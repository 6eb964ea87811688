"""The blocks of StyleGAN2 do what they are defined to do; `test_stylegan_v` has the public code's numbers.

Shapes: B images, C I O channels, H W pixels, y x sides of a kernel.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo_gan.stylegan2.layers import (
    Conv2dLayer,
    FullyConnectedLayer,
    MinibatchStd,
    SynthesisLayer,
    modulated_conv2d,
)
from zoo_gan.stylegan2.networks import (
    DiscriminatorBlock,
    DiscriminatorEpilogue,
    MappingNetwork,
    SynthesisNetwork,
    channels_by_resolution,
)
from zoo_gan.stylegan2.resampling import (
    conv2d_down,
    conv2d_up,
    downsample_2d,
    filter_2d,
    make_filter,
    upsample_2d,
)

TAPS = (1, 3, 3, 1)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spread(x_BCHW: Tensor) -> Tensor:
    """Zeros between the pixels, and after the last."""
    B, C, H, W = x_BCHW.shape
    y_BCHW = torch.zeros(B, C, 2 * H, 2 * W, dtype=x_BCHW.dtype)
    y_BCHW[:, :, ::2, ::2] = x_BCHW
    return y_BCHW


def filtered(x_BCHW: Tensor, before: int, after: int, gain: float = 1.0) -> Tensor:
    """The [1, 3, 3, 1] filter tap by tap, along one axis after the other."""
    x = F.pad(x_BCHW, (before, after, before, after))
    for axis in (2, 3):
        length = x.shape[axis] - 3
        x = torch.stack([tap / 8 * x.narrow(axis, n, length) for n, tap in enumerate(TAPS)]).sum(0)
    return x * gain


@pytest.mark.parametrize("kernel", [1, 3])
def test_resampling_is_its_definition(kernel: int) -> None:
    """Up: spread, (convolve,) filter; down: filter, (convolve,) drop every second pixel."""
    x, filter_ff = drawn(2, 3, 6, 8), make_filter().double()
    weight = drawn(5, 3, kernel, kernel, seed=1)
    margin = kernel // 2
    torch.testing.assert_close(upsample_2d(x, filter_ff), filtered(spread(x), 2, 1, 4.0))
    torch.testing.assert_close(downsample_2d(x, filter_ff), filtered(x, 1, 1)[:, :, ::2, ::2])
    torch.testing.assert_close(filter_2d(x, filter_ff, padding=(2, 1)), filtered(x, 2, 1))
    torch.testing.assert_close(
        conv2d_up(x, weight, filter_ff),
        # The public operators flip the kernel where they double the image.
        F.conv2d(filtered(spread(x), 2 + margin, 1 + margin, 4.0), weight.flip(2, 3)),
    )
    torch.testing.assert_close(
        conv2d_down(x, weight, filter_ff),
        F.conv2d(filtered(x, 1 + margin, 1 + margin), weight)[:, :, ::2, ::2],
    )


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("demodulate", [True, False])
def test_modulation_is_a_kernel_for_each_image(up: int, demodulate: bool) -> None:
    x, weight, styles, taps = drawn(3, 4, 6, 6), drawn(5, 4, 3, 3, seed=1), drawn(3, 4, seed=2), make_filter()
    y = modulated_conv2d(x, weight, styles, demodulate=demodulate, up=up, resample_filter=taps.double())
    for n in range(3):
        kernel = weight * styles[n][None, :, None, None]
        if demodulate:
            kernel = kernel / kernel.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
        alone = x[n : n + 1]
        wanted = conv2d_up(alone, kernel, taps.double()) if up == 2 else F.conv2d(alone, kernel, padding=1)
        torch.testing.assert_close(y[n : n + 1], wanted, rtol=1e-6, atol=1e-6)


def test_gradients_of_gradients() -> None:
    """Against finite differences, through a modulated layer and through the end of a discriminator."""
    torch.manual_seed(0)
    layer = SynthesisLayer(2, 3, w_dim=4, resolution=4, up=2).double()
    block = DiscriminatorBlock(0, 2, 3, img_channels=2).double()
    end = DiscriminatorEpilogue(3, resolution=2, group_size=2).double()

    def judged(x: Tensor, w: Tensor) -> Tensor:
        return end(block(layer(x, w)))

    inputs = (drawn(2, 2, 2, 2).requires_grad_(), drawn(2, 4, seed=1).requires_grad_())
    # The channel counts of layer and block agree on purpose only here.
    block.fromrgb = Conv2dLayer(3, 2, 1, activation="lrelu").double()
    assert torch.autograd.gradcheck(judged, inputs)
    assert torch.autograd.gradgradcheck(judged, inputs)


def test_minibatch_deviation() -> None:
    """Groups are every n-th image; where the batch does not divide, they are smaller; eval has none."""
    x_BCHW = drawn(8, 6, 4, 4)
    appended = MinibatchStd(4, num_channels=2)(x_BCHW)[:, 6:]
    for n in range(8):
        members = x_BCHW[n % 2 :: 2]
        for k in range(2):
            deviation = members[:, 3 * k : 3 * k + 3].std(dim=0, correction=0).mean()
            torch.testing.assert_close(appended[n, k], deviation.expand(4, 4), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(MinibatchStd(4)(x_BCHW[:6]), MinibatchStd(3)(x_BCHW[:6]))
    alone = MinibatchStd(4).eval()
    torch.testing.assert_close(alone(x_BCHW)[:1], alone(x_BCHW[:1]))


def test_scales_stay_in_full_precision_under_autocast() -> None:
    """Styles, lengths and scores are float32, convolutions bfloat16."""
    torch.manual_seed(0)
    net = SynthesisNetwork(image_size=8, img_channels=3, w_dim=6, channel_base=64)
    judge = torch.nn.Sequential(
        DiscriminatorBlock(0, 8, 8, img_channels=3), DiscriminatorEpilogue(8, resolution=4)
    )
    w_BD = torch.randn(4, 6)
    with torch.no_grad():
        images = net(w_BD)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(w_BD)
            assert FullyConnectedLayer(6, 3)(w_BD.bfloat16()).dtype == torch.float32
            assert Conv2dLayer(3, 2, 3)(images).dtype == torch.bfloat16
            assert judge(images).dtype == torch.float32
    assert half.dtype == torch.float32
    assert 1e-5 < float((half - images).norm() / images.norm()) < 0.02


@torch.no_grad()
def test_layers_keep_the_variance() -> None:
    """Equalised weights are standard normal, and what comes out has variance 1, whatever the width."""
    torch.manual_seed(0)
    x_BD, x_BCHW = torch.randn(256, 200), torch.randn(4, 64, 16, 16)
    dense = FullyConnectedLayer(200, 300, activation="lrelu", lr_multiplier=0.01)
    assert float(dense.weight.std()) == pytest.approx(100, rel=0.05)
    assert float(dense(x_BD).square().mean()) == pytest.approx(1, rel=0.1)
    layer = SynthesisLayer(64, 64, w_dim=8, resolution=16)
    y_BCHW = layer(x_BCHW, torch.randn(4, 8))
    assert float(y_BCHW[..., 1:-1, 1:-1].square().mean()) == pytest.approx(1, rel=0.1)


def test_noise_is_drawn_in_training_and_fixed_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = SynthesisLayer(3, 3, w_dim=4, resolution=8, noise="pixel")
    x, w = torch.randn(2, 3, 8, 8), torch.randn(2, 4)
    torch.testing.assert_close(layer(x, w), layer.eval()(x, w))
    with torch.no_grad():
        layer.noise_strength.fill_(0.5)
    before = torch.get_rng_state()
    assert torch.equal(layer(x, w), layer(x, w))
    assert torch.equal(before, torch.get_rng_state())
    layer.train()
    assert not torch.allclose(layer(x, w), layer(x, w))


def test_mapping_follows_the_mean_of_its_results() -> None:
    torch.manual_seed(0)
    mapping = MappingNetwork(z_dim=5, c_dim=2, w_dim=7, num_layers=3, w_avg_beta=0.9)
    z, c = torch.randn(6, 5), F.one_hot(torch.arange(6) % 2).float()
    w = mapping(z, c)
    torch.testing.assert_close(mapping.w_avg, 0.1 * w.detach().mean(0))
    mapping.eval()
    torch.testing.assert_close(mapping(z * 3, c), w)  # only the direction of a latent counts
    torch.testing.assert_close(mapping(z, c, truncation=0.25), mapping.w_avg.lerp(w, 0.25))
    assert not torch.allclose(mapping(z, 1 - c), w)


def test_every_layer_reads_its_own_latent() -> None:
    torch.manual_seed(0)
    net = SynthesisNetwork(image_size=16, img_channels=3, w_dim=6, channel_base=128, channel_max=8)
    assert channels_by_resolution(16, channel_base=128, channel_max=8) == {4: 8, 8: 8, 16: 8}
    assert net.num_ws == 6  # 1 + 2 + 2 convolutions, and the last colours
    ws = torch.randn(1, 6, 6)
    with torch.no_grad():
        image = net(ws)
        for n in range(6):
            other = ws.clone()
            other[:, n] += 1
            assert float((net(other) - image).abs().max()) > 1e-4
        same = ws[:, :1].expand(-1, 6, -1)
        torch.testing.assert_close(net(same), net(ws[:, 0]))
