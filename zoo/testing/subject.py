"""The part under test: how to build it, what to feed it and how to read what it returns.

Shape legend: B batch, C colour channels, T H W frames and pixels; D latent channels, t h w the latent
grid, q codebooks.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zoo.outputs import Judged, Quantized
from zoo.parts import Kind, Part
from zoo.ports import Ports, ports_of
from zoo.testing.results import CheckFailure, fail

Inputs = dict[str, Tensor]
GRIDS = ((2, 2, 3), (3, 3, 2))
"""Two latent grids (t, h, w), of two lengths and with h != w."""
NUM_FRAMES = (3, 5)
"""Lengths asked of a generator."""


class Subject:
    """A part under test. Every build is fresh, so that no check sees what another one did.

    Args:
        part: The part; its `spec.example` options are what gets built.
        manifest: Module name of the manifest that offers it, when there is one.
    """

    def __init__(self, part: Part, *, manifest: str | None = None) -> None:
        self.part = part
        self.manifest = manifest
        self._ports: Ports | None = None

    @property
    def kind(self) -> Kind:
        return self.part.kind

    @property
    def ports(self) -> Ports:
        """The checked port attributes of the example."""
        if self._ports is None:
            self._ports = ports_of(self.kind, self.part.full_name, self.build())
        return self._ports

    @property
    def options(self) -> dict[str, Any]:
        """A copy of the example options that a part may keep."""
        return copy.deepcopy(dict(self.part.spec.example))

    def build(self, *, seed: int = 0, device: str = "cpu") -> nn.Module:
        """Build the example, from the given seed and without touching the global generator."""
        cls = self.part.load()
        try:
            with seeded(seed), torch.device(device):
                module = cls(**self.options)
        except Exception as error:
            raise fail(
                "the example options build the part",
                f"{cls.__name__}(**{self.options}) raised {type(error).__name__}: {error}",
                "mend `example` in the manifest, or the constructor",
            ) from error
        if not isinstance(module, nn.Module):
            raise fail(
                "a part is a torch.nn.Module",
                f"{self.part.spec.target} gave a {type(module).__name__}",
                "derive the class from torch.nn.Module",
            )
        if getattr(module, "emits", None) == "indices" and device == "cpu":
            _wake(module, seed)
        return module

    @property
    def is_prior(self) -> bool:
        """Whether the part is a generator that emits indices."""
        return self.kind == "generator" and bool(self.ports.emits == "indices")

    @property
    def makes_clips(self) -> bool:
        """Whether the part is a generator that emits clips."""
        return self.kind == "generator" and not self.is_prior

    @property
    def is_image(self) -> bool:
        """Whether the part works on single frames, x_BCHW or z_BDhw."""
        medium = {"encoder": "consumes", "decoder": "emits", "discriminator": "consumes"}.get(self.kind)
        return medium is not None and getattr(self.ports, medium) == "image"

    def sizes(self) -> list[tuple[int, int, int]]:
        """Two sizes that the part has to accept: (T, H, W), (t, h, w) or (num_frames, 0, 0)."""
        if self.kind == "encoder":
            return [self.pixels(grid) for grid in GRIDS]
        if self.is_prior:
            return [self.ports.grid_thw] * 2
        if self.kind == "generator":
            return [(num_frames, 0, 0) for num_frames in NUM_FRAMES]
        if self.kind == "discriminator":
            T, H, W = self.ports.min_size
            if self.ports.num_frames is not None:
                frames = (self.ports.num_frames,) * 2
            else:
                frames = (T, T + 2)
            small, large = self.ports.size_HW or (H, W), self.ports.size_HW or (H + 4, W + 8)
            return [(frames[0], *small), (frames[1], *large)]
        return list(GRIDS)

    def pixels(self, grid: tuple[int, int, int]) -> tuple[int, int, int]:
        """Size (T, H, W) of the clip that belongs to a latent grid (t, h, w)."""
        (t, h, w), (s_t, s_h, s_w) = grid, self.ports.stride
        return (1 + (t - 1) * s_t if self.ports.lead_frame else t * s_t, h * s_h, w * s_w)

    def inputs(
        self, module: Any, batch: int = 2, *, size: int = 0, seed: int = 0, device: str = "cpu"
    ) -> Inputs:
        """Draw valid inputs of the size with that number in `sizes()`.

        Video is in [-1, 1], latents are normal, codes of a prior even.
        """
        generator = torch.Generator().manual_seed(1000 + seed)
        T, H, W = self.sizes()[size]
        if self.is_prior:
            shape = (batch, self.ports.num_codebooks, T, H, W)
            codes = {"x": torch.randint(self.ports.codebook_size, shape, generator=generator)}
            if self.ports.num_classes:
                codes["label_B"] = torch.randint(self.ports.num_classes, (batch,), generator=generator)
            return {name: value.to(device) for name, value in codes.items()}
        if self.kind == "generator":
            noise = module.draw_noise(batch, T, generator=generator, device=torch.device(device))
            if not isinstance(noise, dict) or not all(isinstance(value, Tensor) for value in noise.values()):
                raise fail(
                    "draw_noise returns a dict of tensors",
                    f"it returned a {type(noise).__name__}",
                    "return a dict such as {'content': tensor}, batch first",
                )
            return noise
        inputs = {"x": self.tensor(batch, (T, H, W), generator)}
        if self.kind == "discriminator":
            if "times" in self.ports.conditions:
                steps = torch.randint(1, 4, (batch, T), generator=generator)
                inputs["times_BT"] = (steps.cumsum(1) - 1).float()
            if "label" in self.ports.conditions:
                inputs["label_B"] = torch.randint(self.ports.num_classes, (batch,), generator=generator)
        return {name: value.to(device) for name, value in inputs.items()}

    def tensor(self, batch: int, size: tuple[int, int, int], generator: torch.Generator) -> Tensor:
        """Draw one input of a part that is not a generator."""
        latent = self.kind in ("quantizer", "decoder")
        width = {"quantizer": "input_dim", "decoder": "latent_dim"}.get(self.kind, "in_channels")
        channels = getattr(self.ports, width)
        shape = (batch, channels, *(size[1:] if self.is_image else size))
        if latent:
            return torch.randn(shape, generator=generator)
        return torch.rand(shape, generator=generator) * 2 - 1

    def call(self, module: nn.Module, inputs: Inputs) -> Any:
        """Run the part's forward."""
        if self.makes_clips:
            return module(inputs)
        told = {name: value for name, value in inputs.items() if name != "x"}
        return module(inputs["x"], **told)

    def outputs(self, module: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        """Run the part's forward, and a prior's loss, and name every tensor that comes out.

        Raises:
            CheckFailure: The result is not of the type that the contract gives for the kind.
        """
        named = self.named(self.call(module, inputs))
        if self.is_prior:
            prior: Any = module
            told = {name: value for name, value in inputs.items() if name != "x"}
            rng = torch.Generator().manual_seed(0)
            named["loss"] = prior.loss(inputs["x"], generator=rng, **told)
        return named

    def named(self, result: Any) -> dict[str, Tensor]:
        """Name every tensor of a result."""
        wanted = {"quantizer": Quantized, "discriminator": Judged}.get(self.kind, Tensor)
        wrong = fail(
            f"forward of a {self.kind} returns {wanted.__name__}",
            f"it returned {_describe(result)}",
            f"return {wanted.__name__}, in training and in evaluation",
        )
        if not isinstance(result, wanted):
            raise wrong
        if isinstance(result, Tensor):
            return {"output": result}
        if isinstance(result, Judged):
            named = {f"logits[{n}]": logits for n, logits in enumerate(result.logits)}
            named |= {f"features[{n}]": features for n, features in enumerate(result.features)}
        else:
            assert isinstance(result, Quantized)
            named = {"z_BDthw": result.z_BDthw, "loss": result.loss}
            if result.indices_Bqthw is not None:
                named["indices_Bqthw"] = result.indices_Bqthw
            named |= {f"stats[{name}]": value for name, value in result.stats.items()}
        if not all(isinstance(value, Tensor) for value in named.values()):
            raise wrong
        return named

    def per_clip(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The outputs that belong to one clip each, batch first."""
        return {k: v for k, v in outputs.items() if k != "loss" and not k.startswith("stats[")}

    def objective(self, outputs: dict[str, Tensor]) -> Tensor:
        """A scalar that depends on all that the part is trained by, as a fixed random projection."""
        generator = torch.Generator().manual_seed(7)
        terms = []
        for name, value in outputs.items():
            if name == "loss":
                terms.append(value)
            elif value.is_floating_point() and not name.startswith(("stats[", "features[")):
                weights = torch.randn(value.shape, generator=generator).to(value.device, value.dtype)
                terms.append((value * weights).sum() / value.shape[0])
        return torch.stack([term.float() for term in terms]).sum()


def _wake(module: nn.Module, seed: int) -> None:
    """Give weights that start at zero, as the last of a transformer may, values that let inputs through."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=rng)


def _describe(result: Any) -> str:
    if isinstance(result, (tuple, list)):
        return f"{type(result).__name__}({', '.join(type(item).__name__ for item in result)})"
    return f"a {type(result).__name__}"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generator inside the block and put it back as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


@contextmanager
def without_onednn() -> Iterator[None]:
    """Take torch's own CPU kernels inside the block.

    oneDNN's bf16 Conv3d can be garbage that changes from call to call, whatever the part does (torch 2.13 on
    CPUs: the weight gradient of a strided one gave 1e33, 1e35 or NaN where fp32 gives 46; on a processor with
    AMX the output of a 3x3x3 kernel on one frame of 12 channels is NaN).
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*TF32 acceleration", category=UserWarning)
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def difference(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference, relative to the largest magnitude where that is above 1."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if a.numel() == 0 or torch.equal(a, b):
        return 0.0
    if not a.is_floating_point():
        return float("inf")
    scale = max(1.0, float(a.detach().abs().max()))
    return float((a.detach() - b.detach()).abs().max()) / scale


def require_equal(
    a: dict[str, Tensor], b: dict[str, Tensor], *, promised: str, todo: str, tolerance: float = 0.0
) -> None:
    """Raise `CheckFailure` unless both hold the same names and the same values."""
    if a.keys() != b.keys():
        raise fail(promised, f"outputs {sorted(a)} and {sorted(b)}", todo)
    for name, value in a.items():
        if not (gap := difference(value, b[name])) <= tolerance:
            raise fail(promised, f"{name} differs by {gap:.3g} (allowed {tolerance:.3g})", todo)


def require_finite(outputs: dict[str, Tensor], *, promised: str, todo: str) -> None:
    """Raise `CheckFailure` when an output holds NaN or infinity."""
    for name, value in outputs.items():
        if not bool(torch.isfinite(value).all()):
            raise fail(promised, f"{name} holds NaN or infinity", todo)


__all__ = [
    "GRIDS",
    "NUM_FRAMES",
    "CheckFailure",
    "Inputs",
    "Subject",
    "difference",
    "require_equal",
    "require_finite",
    "seeded",
    "without_onednn",
]
