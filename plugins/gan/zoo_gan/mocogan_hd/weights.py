"""Names of the public MoCoGAN-HD weights, turned into ours.

The public code keeps four things apart: the image generator (``g_ema`` of a StyleGAN2 in the layout of
rosinality's stylegan2-pytorch), the motion net (``modelR_*.pth``), its directions (``pca_comp.npy`` and
``pca_stdev.npy``) and the discriminators (``modelD_3d_*.pth``, ``modelD_img_*.pth``). No file is opened here:
hand over names and tensors that were read safely.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Size, Tensor

from zoo.converting.public_state import PublicState
from zoo.errors import WeightsError
from zoo_gan.mocogan_hd.generator import MoCoGANHDGenerator
from zoo_gan.stylegan2.resampling import make_filter

NUM_SAMPLES = 100_000
"""Latents that a converter estimates directions from."""

_CONV = {
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
    "weight": "conv.weight",
}
_LAYER = _CONV | {"bias": "activate.bias", "noise_strength": "noise.weight"}
_COLOURS = _CONV | {"bias": "bias"}
_MOTION = "enc_cell.weight_ih"


def map_mocogan_hd_state_dict(
    state: Mapping[str, Any],
    *,
    hidden_dim: int = 384,
    num_directions: int = 384,
    layer_noise: str = "pixel",
    prefix: str | None = None,
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public MoCoGAN-HD, or of its image generator alone, to those of our GAN.

    With a motion net (``enc_cell.*``, ``cell.*``, ``w``, ``b``, ``fc1.*``, ``fc2.*``, under any prefix) the
    result is the trained model. Its directions have to be there too, as ``pca_comp`` and ``pca_stdev``: they
    cannot be estimated again, since directions of like deviation come out turned. Without a motion net the
    result is the image generator with a fresh one, and directions estimated from `NUM_SAMPLES` latents by a
    fixed seed, to be trained on.

    Args:
        state: Names to tensors, of one or more public files together.
        hidden_dim: Width of the LSTM, for a fresh motion net.
        num_directions: Directions of the walk; more of them in ``pca_comp`` are cut off, as published.
        layer_noise: "pixel", or "none" to leave the layers' noise out.
        prefix: Which image generator to take where there are several; ``g_ema.`` if it is one of them.

    Returns:
        Our names to tensors, complete, and the sorted names of `state` that have no place.

    Raises:
        WeightsError: There is no such image generator, several are, a tensor is missing, or a shape does not
            fit.
    """
    inner = state.get("state_dict")
    if isinstance(inner, Mapping):
        state = inner
    if prefix is None and "g_ema.input.input" in state:
        prefix = "g_ema."
    image = _image_state(state, prefix)
    motion = _motion_state(state)
    if motion is not None:
        hidden_dim = motion.tensors[_MOTION].shape[0] // 4
    options = _image_options(image) | {
        "layer_noise": layer_noise,
        "hidden_dim": hidden_dim,
        "num_directions": num_directions,
    }
    with torch.device("meta"):
        model = MoCoGANHDGenerator(**options)
    mapped, unused = _map_image(image, model)
    if motion is None:
        mapped |= _fresh_motion(mapped, options)
    else:
        known, left = _take_motion(motion, state, model, num_directions)
        mapped |= known
        unused = sorted(set(unused) & set(left) - {"pca_comp", "pca_stdev"})
    return {f"generator.{name}": mapped[name] for name in model.state_dict()}, unused


def load_image_generator(
    generator: MoCoGANHDGenerator,
    state: Mapping[str, Any],
    *,
    num_samples: int = 1_000_000,
    seed: int = 0,
    prefix: str | None = None,
) -> list[str]:
    """Fill the image generator of a model by public StyleGAN2 weights and estimate the directions anew.

    The motion net stays as it is.

    Args:
        generator: The model, of the same size.
        state: Names to tensors in the layout of rosinality's stylegan2-pytorch.
        num_samples: Latents that the directions are estimated from; the default is the published number.
        seed: Seed of these.
        prefix: Which image generator to take where there are several; ``g_ema.`` if it is one of them.

    Returns:
        The sorted names of `state` that have no place.

    Raises:
        WeightsError: These are not such weights, or of another size.
    """
    if prefix is None and "g_ema.input.input" in state:
        prefix = "g_ema."
    mapped, unused = _map_image(_image_state(state, prefix), generator)
    generator.load_state_dict(mapped, strict=False)
    generator.estimate_directions(num_samples, generator=torch.Generator().manual_seed(seed))
    return unused


def map_discriminator_state_dict(
    state: Mapping[str, Any], *, prefix: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a public discriminator to those of `mocogan-hd-video`, `-pair` or `-image`.

    Which of them it is for shows in the names and axes; our part says when a shape does not fit.

    Args:
        state: Names to tensors of ``modelD_3d`` or ``modelD_img``.
        prefix: Which network to take where there are several.

    Returns:
        Our names to tensors, and the sorted names of `state` that have no place: the moving average, queues
        and pointer of the contrastive loss, which are no part of the network.

    Raises:
        WeightsError: There is no such discriminator, or several are.
    """
    if any(name.endswith("scale0_layer0.0.weight") for name in state):
        family, landmark = "MoCoGAN-HD patch discriminator", "netD.scale0_layer0.0.weight"
    else:
        family, landmark = "MoCoGAN-HD image discriminator", "modelD.proj0.weight_orig"
    axes = next((len(value.shape) for name, value in state.items() if name.endswith(landmark)), 2)
    public = PublicState(state, family=family, needed={landmark: axes}, prefix=prefix)
    mapped = {}
    for name, tensor in public.tensors.items():
        if name.startswith("netD."):
            mapped[name] = tensor
        elif name.startswith("modelD."):
            mapped[_normed_name(name.removeprefix("modelD."))] = tensor
    expected = {
        name: public.tensors[name].shape for name in public.tensors if name.startswith(("netD.", "modelD."))
    }
    return mapped, public.take(expected)[1]


def _normed_name(name: str) -> str:
    """Our name of a tensor under spectral norm; the public blocks are lists of one block."""
    head, _, last = name.rpartition(".")
    if head.startswith("blocks."):
        _, number, _, layer = head.split(".")
        head = f"blocks.{number}.{layer}"
    renamed = {"weight_orig": "original", "weight_u": "0._u", "weight_v": "0._v"}
    return f"{head}.parametrizations.weight.{renamed[last]}" if last in renamed else f"{head}.{last}"


def _image_state(state: Mapping[str, Any], prefix: str | None) -> PublicState:
    needed = {"input.input": 4, "style.1.weight": 2, "conv1.conv.weight": 5, "to_rgb1.conv.weight": 5}
    return PublicState(state, family="StyleGAN2 (rosinality's layout)", needed=needed, prefix=prefix)


def _motion_state(state: Mapping[str, Any]) -> PublicState | None:
    if not any(name == _MOTION or name.endswith("." + _MOTION) for name in state):
        return None
    return PublicState(state, family="MoCoGAN-HD motion net", needed={_MOTION: 2})


def _image_options(image: PublicState) -> dict[str, Any]:
    """Read the options of the image generator off the shapes."""
    tensors = image.tensors
    num_blocks = image.count(r"to_rgbs\.(\d+)\.")
    image_size = 4 << num_blocks
    last = tensors.get(f"convs.{2 * num_blocks - 1}.conv.weight", tensors["conv1.conv.weight"])
    num_mapping_layers = next(n for n in range(1, len(tensors) + 2) if f"style.{n}.weight" not in tensors) - 1
    return {
        "out_channels": tensors["to_rgb1.conv.weight"].shape[1],
        "image_size": image_size,
        "channel_base": last.shape[1] * image_size,
        "channel_max": tensors["input.input"].shape[1],
        "style_dim": tensors["style.1.weight"].shape[1],
        "num_mapping_layers": num_mapping_layers,
    }


def _map_image(image: PublicState, model: MoCoGANHDGenerator) -> tuple[dict[str, Tensor], list[str]]:
    """Return our names of the image generator to tensors of the model's shapes, and what has no place.

    Patterns of layer noise are the one thing that may lack: the public code draws them where a file has none.
    """
    wanted = {
        name: value.shape
        for name, value in model.state_dict().items()
        if not name.startswith("motion.") and not name.endswith("resample_filter")
    }
    public = {name: _public_image_name(name) for name in wanted}
    expected = {}
    for name, shape in wanted.items():
        found = image.tensors.get(public[name])
        # The public kernels have an axis for the image, and scalars have one of length 1.
        fits = found is not None and _long_axes(found.shape) == _long_axes(shape)
        expected[public[name]] = found.shape if found is not None and fits else shape
    if not any(name.startswith("noises.") for name in image.tensors):
        expected = {name: shape for name, shape in expected.items() if not name.startswith("noises.")}
    taps = {n: v for n, v in image.tensors.items() if n.endswith(("blur.kernel", "upsample.kernel"))}
    known, unused = image.take(expected | {name: value.shape for name, value in taps.items()})
    mapped = {n: known[public[n]].reshape(shape) for n, shape in wanted.items() if public[n] in known}
    rng = torch.Generator().manual_seed(0)
    mapped |= {n: torch.randn(shape, generator=rng) for n, shape in wanted.items() if n not in mapped}
    plain = make_filter()
    for name, kernel in taps.items():
        if kernel.shape != plain.shape or not torch.allclose(kernel.float() / kernel.float().sum(), plain):
            raise WeightsError(f"{name} is another filter than [1, 3, 3, 1], the only one that is built here")
    mapped |= {name: plain.clone() for name in model.state_dict() if name.endswith("resample_filter")}
    return mapped, unused


def _long_axes(shape: Size) -> list[int]:
    return [length for length in shape if length != 1]


def _public_image_name(name: str) -> str:
    """``synthesis.b8.conv0.weight`` -> ``convs.0.conv.weight``."""
    part, _, rest = name.partition(".")
    if part == "mapping":
        layer, _, field = rest.partition(".")
        return f"style.{int(layer.removeprefix('fc')) + 1}.{field}"
    block, layer, field = rest.split(".", 2)
    if layer == "input":
        return "input.input"
    level = int(block.removeprefix("b")).bit_length() - 3
    if layer == "torgb":
        return f"{'to_rgb1' if level == 0 else f'to_rgbs.{level - 1}'}.{_COLOURS[field]}"
    number = 2 * level - (layer == "conv0")
    if field == "noise_const":
        return f"noises.noise_{number}"
    return f"{'conv1' if number == 0 else f'convs.{number - 1}'}.{_LAYER[field]}"


def _take_motion(
    motion: PublicState, state: Mapping[str, Any], model: MoCoGANHDGenerator, num_directions: int
) -> tuple[dict[str, Tensor], list[str]]:
    shapes = {name: value.shape for name, value in model.motion.state_dict().items()}
    known, unused = motion.take({name: s for name, s in shapes.items() if not name.startswith("pca_")})
    for name in ("pca_comp", "pca_stdev"):
        directions = state.get(name)
        if not isinstance(directions, Tensor):
            raise WeightsError(
                f"there is a motion net but not {name!r}, the directions that it was trained with; put the "
                "arrays of pca_comp.npy and pca_stdev.npy under these names into a safetensors file and give "
                "it too, or leave out the motion net to start a fresh one"
            )
        cut = directions[:num_directions].to(known["w"].dtype)
        if cut.shape != shapes[name]:
            raise WeightsError(f"{name} is {tuple(directions.shape)} where {tuple(shapes[name])} fits")
        known[name] = cut
    return {f"motion.{name}": value for name, value in known.items()}, unused


def _fresh_motion(mapped: Mapping[str, Tensor], options: Mapping[str, Any]) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MoCoGANHDGenerator(**options, num_samples=2)
    model.load_state_dict(dict(mapped), strict=False)
    model.estimate_directions(NUM_SAMPLES, generator=torch.Generator().manual_seed(0))
    return {name: value for name, value in model.state_dict().items() if name.startswith("motion.")}
