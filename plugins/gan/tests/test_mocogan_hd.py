"""MoCoGAN-HD: our parts give the numbers the public code gave, and the walk keeps its promises.

`golden_mocogan_hd.json` was made by running that code (its commit stands inside) in float64 on the weights
and inputs below, which need no random generator; its StyleGAN2 operators, which are CUDA, by the reference
that stands beside them.

Shapes: B batch, C colours, T H W frames and pixels.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from golden import assert_like, fill, noise
from torch import Tensor, nn

from zoo.errors import PortError, WeightsError, ZooError
from zoo_gan.mocogan_hd.discriminator import PairDiscriminator, VideoDiscriminator
from zoo_gan.mocogan_hd.generator import MoCoGANHDGenerator
from zoo_gan.mocogan_hd.image_discriminator import ImageDiscriminator
from zoo_gan.mocogan_hd.motion import principal_directions
from zoo_gan.mocogan_hd.weights import (
    load_image_generator,
    map_discriminator_state_dict,
    map_mocogan_hd_state_dict,
)

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden_mocogan_hd.json").read_text())
STYLE_DIM, NUM_DIRECTIONS = 12, 6
SMALL: dict[str, Any] = {
    "image_size": 32,
    "channel_base": 128,
    "channel_max": 16,
    "style_dim": STYLE_DIM,
    "num_mapping_layers": 3,
    "hidden_dim": 10,
    "num_directions": NUM_DIRECTIONS,
    "num_samples": 300,
}
CLASSES = {"video": VideoDiscriminator, "pair": PairDiscriminator, "image": ImageDiscriminator}


def public_generator_state() -> dict[str, Tensor]:
    """Tensors as the public files hold them: the image generator under g_ema, the motion net, directions."""
    state = {}
    for name, shape in GOLDEN["generator"]["shapes"].items():
        short = name.removeprefix("g_ema.")
        if name.endswith("kernel"):
            taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
            state[name] = torch.outer(taps, taps) / 16
        elif short == "pca_stdev":
            state[name] = noise(short, shape).abs()
        elif name.startswith("g_ema.") or short == "pca_comp":
            # Standard weights of the mapping are large: its learning rate is a hundredth.
            large = 170 if short.startswith("style.") and short.endswith("weight") else 1
            state[name] = noise(short, shape) * large
        else:
            public = f"modelR.{name}"
            state[name] = fill({public: shape})[public] * 3
    return state


def golden_generator(dtype: torch.dtype, **options: Any) -> MoCoGANHDGenerator:
    mapped, unused = map_mocogan_hd_state_dict(public_generator_state(), num_directions=NUM_DIRECTIONS)
    assert unused == []
    generator = MoCoGANHDGenerator(**SMALL | options).double()
    state = {name.removeprefix("generator."): value for name, value in mapped.items()}
    kept = {name: value for name, value in state.items() if name in generator.state_dict()}
    assert state.keys() - kept.keys() == {n for n in state if "noise_" in n and "layer_noise" in options}
    generator.load_state_dict(kept)
    return generator.to(dtype)


def golden_noise(dtype: torch.dtype) -> dict[str, Tensor]:
    drawn = {"content": noise("content", (2, STYLE_DIM)), "motion": noise("motion", (2, 4, STYLE_DIM))}
    return {name: value.to(dtype) * 1.7 for name, value in drawn.items()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)], ids=str)
def test_clips_equal_the_public_code(dtype: torch.dtype, tolerance: float) -> None:
    """Frames, the gradients of all that they pass through, the noise's reconstruction; float64 but for the
    epsilon beside a kernel's length, which StyleGAN2's authors add before scaling it, the public code after.
    """
    golden = GOLDEN["generator"]
    generator, drawn = golden_generator(dtype, train_image_generator=True), golden_noise(dtype)
    x_BCTHW = generator(drawn)
    assert_like(x_BCTHW, golden["clip"], tolerance)
    loss = generator.own_loss(drawn)
    assert loss.item() == pytest.approx(golden["loss"], abs=tolerance)
    (x_BCTHW * noise("weigh", x_BCTHW.shape).to(dtype)).sum().backward()
    parameters = dict(generator.named_parameters())
    for name, gradient in golden["gradients"].items():
        assert_like(parameters[name].grad, gradient, 10 * tolerance)
    quiet = golden_generator(dtype, layer_noise="none")(drawn)
    assert_like(quiet, golden["without_layer_noise"], tolerance)
    assert_like(generator.eval()(drawn), golden["clip"], 10.0)
    assert generator(drawn).abs().max() == 1


@pytest.mark.parametrize(
    ("name", "mode"),
    [(name, m) for name, case in GOLDEN["discriminators"].items() for m in ("train", "eval") if m in case],
)
def test_scores_equal_the_public_code(name: str, mode: str) -> None:
    """Scores, features, the gradient with respect to the clip and R1's with respect to a weight.

    The image discriminator is compared in eval mode: in train mode torch's spectral norm is half a step of
    its power iteration behind the public one, which is the same once that has settled.
    """
    golden = GOLDEN["discriminators"][name]
    state = {}
    for key, shape in golden["state"].items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
        elif key.endswith("running_var"):
            state[key] = 1 + 0.5 * noise(key, shape)
        elif key.endswith(("weight_u", "weight_v")):
            state[key] = F.normalize(noise(key, shape), dim=0)
        else:
            state |= fill({key: shape}, scales=r"layer[123]\.1\.weight")
    is_image = name.startswith("image")
    discriminator = CLASSES[name.split("-")[0]](base_channels=4, **golden["options"]).double()
    head = "module.modelD." if is_image else "module."
    public = {head + key: value for key, value in state.items()} | {"module.q_ptr": torch.zeros(1)}
    mapped, unused = map_discriminator_state_dict(public)
    assert unused == ["module.q_ptr"]
    discriminator.load_state_dict(mapped)
    discriminator.train(mode == "train")
    x = noise("frame" if is_image else "clip", golden["shape"]).requires_grad_()
    judged = discriminator(x)
    for logits, expected in zip(judged.logits, golden[mode]["logits"], strict=True):
        assert_like(logits, expected, 1e-9)
    if is_image:
        assert isinstance(discriminator, ImageDiscriminator)
        assert_like(discriminator.project(judged.features), golden[mode]["projection"], 1e-9)
        return
    assert_like(judged.features[-1], golden[mode]["features"], 1e-9)
    score = torch.stack([(logits * noise("s", logits.shape)).sum() for logits in judged.logits]).sum()
    (gradient,) = torch.autograd.grad(score, x, create_graph=True)
    assert_like(gradient, golden[mode]["gradient"], 1e-8)
    gradient.square().sum().backward()
    assert_like(discriminator.get_parameter("netD.scale1_layer1.0.weight").grad, golden[mode]["r1"], 1e-8)


def test_published_number_of_parameters() -> None:
    def count(module: nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    with torch.device("meta"):
        generators = {size: MoCoGANHDGenerator(image_size=size) for size in (256, 1024)}
        found = {f"image_generator_{n}": count(g) - count(g.motion) for n, g in generators.items()}
        found["motion"] = count(generators[256].motion)
        found["mocogan-hd-video"] = count(VideoDiscriminator())
        found["mocogan-hd-pair"] = count(PairDiscriminator())
        for size in (128, 256):
            found[f"mocogan-hd-image-{size}"] = count(ImageDiscriminator(image_size=size))
    assert found == GOLDEN["parameters"]


def test_frames_are_drawn_without_the_others() -> None:
    """Frames [a, b) of a clip are those of the whole, and the image generator draws no more than them."""
    generator = golden_generator(torch.float32).eval()
    drawn = generator.draw_noise(2, 40, generator=torch.Generator().manual_seed(0))
    shorter = generator.draw_noise(2, 9, generator=torch.Generator().manual_seed(0))
    whole = generator(drawn)
    drawn_images = []
    generator.synthesis.register_forward_pre_hook(lambda _, args: drawn_images.append(len(args[0])))
    part = generator(drawn, torch.arange(30.0, 34.0).expand(2, -1))
    torch.testing.assert_close(part, whole[:, :, 30:34], rtol=0, atol=1e-5)
    assert drawn_images == [2 * 4]
    torch.testing.assert_close(generator(shorter), whole[:, :, :9], rtol=0, atol=1e-5)
    assert generator(generator.draw_noise(1, 1)).shape == (1, 3, 1, 32, 32)
    with pytest.raises(PortError, match=r"frames 38 to 41 with noise of 40 frames; draw noise for 42"):
        generator(drawn, torch.arange(38.0, 42.0).expand(2, -1))


def test_directions_are_the_principal_components() -> None:
    """Those that a singular value decomposition of all samples at once gives, in any number of batches."""
    turn = torch.linalg.qr(noise("turn", (5, 5)).float())[0] * torch.tensor([5.0, 3.0, 2.0, 1.0, 0.1])
    rng = torch.Generator().manual_seed(1)
    found, deviations = principal_directions(
        lambda z: z @ turn.T + 100, dim=5, num_directions=3, num_samples=9000, generator=rng
    )
    rng.manual_seed(1)
    w = torch.cat([torch.randn(n, 5, generator=rng) for n in (4000, 4000, 1000)]).double() @ turn.T.double()
    _, values, rows = torch.linalg.svd(w - w.mean(dim=0), full_matrices=False)
    torch.testing.assert_close(deviations.double(), values[:3] / 8999**0.5, rtol=1e-5, atol=0)
    alike = (found.double() * rows[:3]).sum(dim=1).abs()
    torch.testing.assert_close(alike, torch.ones_like(alike), rtol=0, atol=1e-6)
    assert (found.gather(1, found.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_a_frozen_image_generator_stands_still_while_the_motion_learns() -> None:
    generator = MoCoGANHDGenerator(**SMALL)
    trained = {name for name, parameter in generator.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"motion"}
    assert generator.last_layer is generator.motion.w
    drawn = generator.draw_noise(2, 4)
    before = generator(drawn)
    optimizer = torch.optim.Adam([p for p in generator.parameters() if p.requires_grad], lr=0.1)
    before.square().sum().backward()
    optimizer.step()
    after = generator(drawn)
    assert torch.equal(after[:, :, 0], before[:, :, 0])
    assert all((after[:, :, t] != before[:, :, t]).any() for t in (1, 2, 3))


def test_the_head_learns_which_noise_moved_the_clip() -> None:
    torch.manual_seed(0)
    generator = MoCoGANHDGenerator(**SMALL | {"hidden_dim": 32})
    optimizer = torch.optim.Adam(generator.motion.parameters(), lr=0.01)
    losses = []
    for _ in range(60):
        loss = generator.own_loss(generator.draw_noise(16, 5))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > -0.2
    assert losses[-1] < -0.5
    assert generator.motion.cell.weight_ih.grad is not None
    with pytest.raises(PortError, match="noise of one frame has no step"):
        generator.own_loss(generator.draw_noise(1, 1))


def test_an_image_generator_alone_starts_a_model() -> None:
    public = public_generator_state()
    image = {name: value.float() for name, value in public.items() if name.startswith("g_ema.")}
    other = {name.replace("g_ema", "g"): value for name, value in image.items()}
    mapped, unused = map_mocogan_hd_state_dict(image | other, hidden_dim=10, num_directions=NUM_DIRECTIONS)
    assert unused == sorted(other)
    start = MoCoGANHDGenerator(**SMALL)
    start.load_state_dict({name.removeprefix("generator."): value for name, value in mapped.items()})
    loaded = MoCoGANHDGenerator(**SMALL)
    load_image_generator(loaded, image, num_samples=100_000, seed=0)
    for name in ("motion.pca_comp", "motion.pca_stdev", "mapping.fc2.weight", "synthesis.b32.conv1.weight"):
        torch.testing.assert_close(start.state_dict()[name], loaded.state_dict()[name])
    first = torch.ones(1, STYLE_DIM)
    frames = [g.synthesis(g.mapping(first)) for g in (start, loaded)]
    assert torch.equal(*frames)
    bare = {name: value for name, value in image.items() if ".noises." not in name}
    mapped, _ = map_mocogan_hd_state_dict(bare, hidden_dim=10, num_directions=NUM_DIRECTIONS)
    assert mapped["generator.synthesis.b32.conv1.noise_const"].std() > 0.9
    quiet, unused = map_mocogan_hd_state_dict(
        image, hidden_dim=10, num_directions=NUM_DIRECTIONS, layer_noise="none"
    )
    assert all("noise" in name for name in unused)
    wanted = MoCoGANHDGenerator(**SMALL | {"layer_noise": "none"}).state_dict()
    assert {name.removeprefix("generator.") for name in quiet} == wanted.keys()


def test_other_weights_are_refused() -> None:
    public = public_generator_state()
    with pytest.raises(WeightsError, match=r"not 'pca_comp', the directions .* pca_comp\.npy"):
        map_mocogan_hd_state_dict({n: v for n, v in public.items() if n != "pca_comp"}, num_directions=6)
    with pytest.raises(WeightsError, match=r"lack g_ema\.convs\.1\.noise\.weight"):
        map_mocogan_hd_state_dict(
            {n: v for n, v in public.items() if n != "g_ema.convs.1.noise.weight"}, num_directions=6
        )
    with pytest.raises(WeightsError, match=r"style\.2\.bias is \(7,\) where \(12,\) fits"):
        map_mocogan_hd_state_dict(public | {"g_ema.style.2.bias": torch.zeros(7)}, num_directions=6)
    with pytest.raises(WeightsError, match="no StyleGAN2"):
        map_mocogan_hd_state_dict({"weight": torch.zeros(1)})
    with pytest.raises(WeightsError, match="no MoCoGAN-HD image discriminator"):
        map_discriminator_state_dict({"weight": torch.zeros(1)})


def test_pairs_are_the_first_frame_and_another() -> None:
    discriminator = PairDiscriminator(base_channels=4)
    frames_BK = discriminator.draw_frames(200, 5, generator=torch.Generator().manual_seed(0))
    assert (frames_BK[:, 0] == 0).all()
    assert sorted(set(frames_BK[:, 1].tolist())) == [1, 2, 3, 4]
    with pytest.raises(ZooError, match="clips of 1 have too few"):
        discriminator.draw_frames(1, 1)
    with pytest.raises(ZooError, match="was given 3"):
        discriminator(torch.zeros(1, 3, 3, 16, 16))


@pytest.mark.parametrize(
    ("cls", "size"),
    [(VideoDiscriminator, (4, 64, 64)), (PairDiscriminator, (2, 64, 64)), (ImageDiscriminator, (64, 64))],
)
def test_pooled_frames_are_judged_as_smaller_ones(cls: type[nn.Module], size: tuple[int, ...]) -> None:
    options: dict[str, Any] = {"base_channels": 4} | ({"image_size": 32} if cls is ImageDiscriminator else {})
    plain, pooled = cls(**options).eval(), cls(**options, pool=2).eval()
    pooled.load_state_dict(plain.state_dict())
    x = noise("clip", (2, 3, *size)).float()
    small = F.avg_pool2d(x, 2) if x.ndim == 4 else F.avg_pool3d(x, (1, 2, 2))
    for a, b in zip(pooled(x).logits, plain(small).logits, strict=True):
        torch.testing.assert_close(a, b)
    sides = zip(pooled.min_size, plain.min_size, strict=True)
    assert [a / b for a, b in sides] == [1, 2, 2]


@pytest.mark.parametrize(
    ("build", "complaint"),
    [
        (lambda: MoCoGANHDGenerator(**SMALL | {"num_directions": 13}), "give num_directions=12 or less"),
        (lambda: MoCoGANHDGenerator(**SMALL | {"image_size": 24}), "image_size is 24"),
        (lambda: MoCoGANHDGenerator(**SMALL | {"layer_noise": "clip"}), "'pixel' or 'none'"),
        (lambda: MoCoGANHDGenerator(**SMALL | {"residual_scale": 0}), "residual_scale is 0"),
        (lambda: VideoDiscriminator(view="triples"), "'pairs' or 'frames'"),
        (lambda: VideoDiscriminator(norm="group"), "'instance', 'batch'"),
        (lambda: VideoDiscriminator(time_stride=3), "give 1 or 2"),
        (lambda: ImageDiscriminator(image_size=48), "give one of 32, 64, 128, 256"),
    ],
)
def test_options_out_of_range_are_named(build: Any, complaint: str) -> None:
    with pytest.raises(ZooError, match=complaint):
        build()
