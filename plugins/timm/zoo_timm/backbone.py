"""Chosen stages of a timm backbone, for frames in [-1, 1] of any size the backbone can take.

Shape legend: B batch, C colour channels, H W pixels; D feature channels, h w the feature grid. A frame of a
clip counts as one of the batch here.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import PluginError, UnknownNameError, ZooError
from zoo.torchvision_repair import import_timm

timm = import_timm()

_ANY_SIZE = {"dynamic_img_size": True, "dynamic_img_pad": True, "strict_img_size": False}
"""Arguments by which timm's transformers take other frame sizes than the one they were trained on."""


class Backbone(nn.Module):
    """Compute the features of some stages of a timm model (https://github.com/huggingface/pytorch-image-models).

    Attributes:
        channels: Feature channels, one number a stage.
        reductions: Pixels for each step of the feature grid, one number a stage.
    """

    def __init__(self, *, name: str, stages: Sequence[int], in_channels: int, pretrained: bool) -> None:
        """Build the backbone up to the last stage asked for.

        Args:
            name: A name of `timm.list_models()`, with or without the tag of its weights.
            stages: Indices into the model's features, shallow first.
            in_channels: Colour channels.
            pretrained: Download the published weights, unless built on the meta device.

        Raises:
            UnknownNameError: timm has no such model or no such weights.
            ZooError: The model offers no features, or not these; or its weights cannot be fetched.
        """
        super().__init__()
        _check_name(name)
        self.name = name
        self.stages = list(stages)
        plan = _plan(name)
        _check_stages(name, self.stages, plan)
        accepted = inspect.signature(type(plan).__init__).parameters
        any_size = {option: value for option, value in _ANY_SIZE.items() if option in accepted}
        self.net = _create(
            name,
            pretrained=pretrained and torch.empty(0).device.type != "meta",
            features_only=True,
            # Of timm's ways to features this one leaves the layers behind the last stage out, so that every
            # weight learns, and keeps the names that the weights have in timm.
            feature_cls="getter",
            out_indices=tuple(self.stages),
            in_chans=in_channels,
            **any_size,
        )
        self.channels: list[int] = self.net.feature_info.channels()
        self.reductions: list[int] = self.net.feature_info.reduction()
        self.trained_size: tuple[int, int] = tuple(plan.pretrained_cfg["input_size"][1:])
        self.any_size = bool(any_size) or not plan.pretrained_cfg.get("fixed_input_size", False)
        self.mean: Tensor
        self.std: Tensor
        for key in ("mean", "std"):
            self.register_buffer(key, _per_channel(plan.pretrained_cfg[key], in_channels))

    def forward(self, x_BCHW: Tensor) -> list[Tensor]:
        """Return the features of frames in [-1, 1], [f_BDhw] with one entry a stage, shallow first.

        Raises:
            ZooError: The backbone cannot take frames of this size.
        """
        unit_BCHW = x_BCHW * 0.5 + 0.5
        try:
            features: list[Tensor] = self.net((unit_BCHW - self.mean) / self.std)
        except (AssertionError, RuntimeError) as error:
            # Models of one size refuse another in as many ways as there are models.
            if self.any_size or tuple(x_BCHW.shape[-2:]) == self.trained_size:
                raise
            height, width = x_BCHW.shape[-2:]
            raise ZooError(
                f"timm backbone {self.name!r} cannot take frames of {height}x{width}, only of "
                f"{self.trained_size[0]}x{self.trained_size[1]} ({error}). Choose a backbone that takes any "
                "size, such as 'resnet18' or 'vit_tiny_patch16_224'"
            ) from error
        return features


def _check_name(name: str) -> None:
    if not isinstance(name, str) or ":" in name or "/" in name:
        raise ZooError(f"timm backbone is {name!r}; give a name of timm.list_models(), such as 'resnet18'")
    if timm.is_model(name):
        return
    architecture = name.partition(".")[0]
    names = timm.list_models()
    close = difflib.get_close_matches(architecture, names, n=5, cutoff=0.6)
    close = close or timm.list_models(f"*{re.sub(r'[^a-z0-9]+', '*', architecture.lower())}*")[:5]
    hint = f"Close names: {', '.join(close)}" if close else "Examples: resnet18, convnext_atto"
    raise UnknownNameError(
        f"timm {timm.__version__} has no backbone {name!r}. {hint}. timm.list_models() lists all {len(names)}"
    )


def _plan(name: str) -> Any:
    """The whole model without memory, to learn what its class accepts and offers."""
    with torch.device("meta"):
        try:
            return timm.create_model(name, pretrained=False)
        except RuntimeError as error:
            architecture, _, tag = name.partition(".")
            if not tag:
                raise
            tags = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", pretrained=True)]
            raise UnknownNameError(
                f"timm backbone {architecture!r} has no weights {tag!r}; it has: {', '.join(tags) or 'none'}"
            ) from error


def _check_stages(name: str, stages: list[int], plan: Any) -> None:
    known = list(getattr(plan, "feature_info", None) or [])
    if not known or not hasattr(plan, "forward_intermediates"):
        raise ZooError(f"timm backbone {name!r} offers no features; choose another, such as 'resnet18'")
    if not stages or not set(stages) <= set(range(len(known))) or stages != sorted(set(stages)):
        offers = ", ".join(
            f"{i}: {at['num_chs']} channels, 1/{at['reduction']}" for i, at in enumerate(known)
        )
        raise ZooError(
            f"stages of timm backbone {name!r} are {stages}; give indices in rising order out of {{{offers}}}"
        )


def _create(name: str, *, pretrained: bool, **options: Any) -> Any:
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except Exception as error:
        if pretrained:
            raise ZooError(
                f"the pretrained weights of timm backbone {name!r} cannot be fetched "
                f"({type(error).__name__}: {error}). Connect to the internet once (they are then kept), "
                "or set pretrained=false"
            ) from error
        raise PluginError(
            f"timm {timm.__version__} cannot give features of backbone {name!r} "
            f"({type(error).__name__}: {error}); choose another, such as 'resnet18'"
        ) from error


def _per_channel(values: Sequence[float], channels: int) -> Tensor:
    """(1, C, 1, 1); the mean over RGB for frames that are not RGB."""
    if len(values) != channels:
        values = [sum(values) / len(values)] * channels
    return torch.tensor(values).reshape(1, channels, 1, 1)
