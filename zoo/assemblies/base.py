"""What every assembly shares: its name and recipe, its discriminators, its parameters by player.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.outputs import Judged, Selection, take_frames
from zoo.parts import Kind
from zoo.ports import Ports
from zoo.recipes import Recipe


class Assembly(nn.Module):
    """A model made of parts.

    Attributes:
        name: Name of the recipe it was built from.
        recipe: The recipe after inheritance and overrides.
        labels: Names of the labels that clips are made of; empty where they have none, or no names.
        provided_by: For every part (``encoder``, ``discriminator.0``, ...), who offers it.
        discriminator: The discriminators, used in training only; may be empty.
        needs: Kinds of part the assembly is made of; any may have discriminators beside them.
        projections: Further fields of a recipe that it reads.
        has_tokenizer: Whether it stands on a trained autoencoder, its sub-module `tokenizer`.
    """

    needs: ClassVar[tuple[Kind, ...]]
    projections: ClassVar[tuple[str, ...]] = ()
    has_tokenizer: ClassVar[bool] = False

    name: str
    recipe: Recipe
    labels: list[str]
    provided_by: dict[str, dict[str, str]]

    def __init__(self, recipe: Recipe, **parts: Any) -> None:
        """Wire parts; each assembly takes those it needs by keyword."""
        super().__init__()
        assert not parts, "an assembly passes only the recipe on"
        self.name = ""
        self.recipe = recipe
        self.labels = []
        self.provided_by = {}
        self.discriminator = nn.ModuleList()

    @classmethod
    def offers(cls, recipe: Recipe, kind: Kind, ports: Mapping[Kind, Ports]) -> dict[str, Any]:
        """Return options for a part that follow from the parts before it.

        Those that the part has and the recipe leaves out are passed on to it.

        Args:
            recipe: The recipe.
            kind: Which part.
            ports: What the parts before it say of themselves.
        """
        return {}

    def before_training(self) -> None:
        """Make ready for a run, once the weights are those that it starts with."""

    @property
    def last_layer(self) -> nn.Parameter:
        """The last weight before the pixels, for the adaptive adversarial weight."""
        raise NotImplementedError

    def rehearse(self, shape_BCTHW: tuple[int, ...]) -> Tensor:
        """Run once from end to end, as training would, and return the clips made, of the given shape."""
        raise NotImplementedError

    def judge_both(
        self,
        real_x_BCTHW: Tensor,
        made_x_BCTHW: Tensor,
        selection: Selection,
        *,
        label_B: Tensor | None = None,
        apart: bool = False,
    ) -> tuple[list[Judged], list[Judged]]:
        """Let every discriminator judge as many real and made clips, in one pass where that changes no score.

        Args:
            real_x_BCTHW: Real clips, cut down to the frames of the selection.
            made_x_BCTHW: Made clips alike.
            selection: What `select` gave.
            label_B: Label of each clip, the same of both.
            apart: Judge them in two passes in any case, as a penalty on one side's slopes is cheaper.

        Returns:
            The verdicts on the real clips, and on the made ones.
        """
        two = selection.to(real_x_BCTHW.device).repeat(2)
        both_x_BCTHW = torch.cat([real_x_BCTHW, made_x_BCTHW.to(real_x_BCTHW.dtype)])
        labels = None if label_B is None else label_B.repeat(2)
        reals, fakes = list[Judged](), list[Judged]()
        for discriminator, places_BK in zip(self.discriminator, two.places, strict=True):
            shown = (both_x_BCTHW, two.frames_BT, places_BK, labels)
            if apart or getattr(discriminator, "mixes_batch", False):
                real, fake = (_judge(discriminator, *(_half(value, n) for value in shown)) for n in (0, 1))
            else:
                both = _judge(discriminator, *shown)
                real, fake = (Judged(*([_half(v, n) for v in vs] for vs in both)) for n in (0, 1))
            reals.append(real)
            fakes.append(fake)
        return reals, fakes

    def shown(self, x_BCTHW: Tensor) -> Tensor:
        """Turn real clips into what the discriminators judge: the clips themselves, or their latents."""
        return x_BCTHW

    def player_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every parameter but the discriminators': the model's side of the game."""
        for name, parameter in self.named_parameters():
            if not name.startswith(("discriminator.", "tokenizer.")):
                yield parameter

    def num_parameters(self) -> int:
        """Return how many weights the model has without its discriminators."""
        return sum(parameter.numel() for parameter in self.player_parameters())

    def part(self, field: str) -> nn.Module:
        """Return the module of a field such as ``encoder`` or ``discriminator.0``."""
        return self.get_submodule(field)

    def recipe_part(self, field: str) -> str:
        """Return the name of the part behind a field such as ``encoder`` or ``discriminator.0``."""
        kind, _, index = field.partition(".")
        choice = getattr(self.recipe, kind)
        return str((choice[int(index)] if index else choice).use)

    def select(self, num: int, num_frames: int, *, generator: torch.Generator | None = None) -> Selection:
        """Draw which frames the discriminators see of clips of `num_frames`.

        A discriminator says itself which frames it wants (`draw_frames`); of those that do not, one that
        consumes images sees one frame of each clip, drawn here, and any other sees all of them.

        Args:
            num: Clips.
            num_frames: Frames of each.
            generator: Source of randomness, on the CPU; torch's global one when left out.

        Returns:
            The selection, on the CPU.
        """
        drawn = list[Tensor | None]()
        for discriminator in self.discriminator:
            frames_BK = _wanted_frames(discriminator, num, num_frames, generator)
            if frames_BK is None and discriminator.consumes == "image":
                frames_BK = torch.randint(num_frames, (num, 1), generator=generator, device="cpu")
            drawn.append(frames_BK)
        some = [frames_BK for frames_BK in drawn if frames_BK is not None]
        if not some or len(some) < len(drawn):
            return Selection(None, drawn)
        places, start = list[Tensor | None](), 0
        for frames_BK in some:
            end = start + frames_BK.shape[1]
            places.append(torch.arange(start, end, device="cpu").expand(num, -1))
            start = end
        return Selection(torch.cat(some, dim=1), places)

    def judge(
        self, x_BCTHW: Tensor, selection: Selection | None = None, *, label_B: Tensor | None = None
    ) -> list[Judged]:
        """Let every discriminator judge a batch of clips.

        Args:
            x_BCTHW: Clips in [-1, 1], cut down to the frames of the selection.
            selection: What `select` gave. Left out, a discriminator that draws frames sees those that a fixed
                seed gives, and the others see every frame.
            label_B: int64 label of each clip, for discriminators that are told it.

        Returns:
            One verdict for each discriminator, in the recipe's order.

        Raises:
            ZooError: A discriminator has to be told labels and there are none.
        """
        if selection is None:
            rng = torch.Generator("cpu").manual_seed(0)
            places = [_wanted_frames(d, len(x_BCTHW), x_BCTHW.shape[2], rng) for d in self.discriminator]
            selection = Selection(None, places)
        selection = selection.to(x_BCTHW.device)
        return [
            _judge(discriminator, x_BCTHW, selection.frames_BT, places_BK, label_B)
            for discriminator, places_BK in zip(self.discriminator, selection.places, strict=True)
        ]

    def extra_repr(self) -> str:
        return f"name={self.name!r}"


def _wanted_frames(
    discriminator: Any, num: int, num_frames: int, generator: torch.Generator | None
) -> Tensor | None:
    """Let a discriminator draw the frames it wants to see; None when it has no such wish."""
    if not hasattr(discriminator, "draw_frames"):
        return None
    with torch.device("cpu"):
        frames_BK: Tensor = discriminator.draw_frames(num, num_frames, generator=generator)
    return frames_BK


def _judge(
    discriminator: Any,
    x_BCTHW: Tensor,
    frames_BT: Tensor | None,
    places_BK: Tensor | None,
    label_B: Tensor | None,
) -> Judged:
    """Show a discriminator its frames, and tell it what it has to be told."""
    if frames_BT is None:
        frames_BT = torch.arange(x_BCTHW.shape[2], device=x_BCTHW.device).expand(len(x_BCTHW), -1)
    if places_BK is not None:
        x_BCTHW, frames_BT = take_frames(x_BCTHW, places_BK), frames_BT.gather(1, places_BK)
    told = dict[str, Tensor]()
    conditions = getattr(discriminator, "conditions", ())
    if "label" in conditions:
        if label_B is None:
            raise ZooError(
                f"{type(discriminator).__name__} judges clips with their labels and was given none; use data "
                "with labels, or set num_classes: 0"
            )
        told["label_B"] = label_B
    if discriminator.consumes == "video":
        if "times" in conditions:
            told["times_BT"] = frames_BT.float()
        return cast(Judged, discriminator(x_BCTHW, **told))
    if "label_B" in told:
        told["label_B"] = told["label_B"].repeat_interleave(x_BCTHW.shape[2])
    return cast(Judged, discriminator(rearrange(x_BCTHW, "b c t h w -> (b t) c h w"), **told))


def _half(value: Any, which: int) -> Any:
    """Return the first or the second half of a batch."""
    return None if value is None else value.chunk(2)[which]


def check_clips(x_BCTHW: Any, channels: int) -> None:
    """Refuse anything that is not a batch of clips with the right number of channels.

    Raises:
        ZooError: With the shape that is wanted and the one that was found.
    """
    wanted = f"a float tensor of shape (batch, {channels}, frames, height, width) in [-1, 1]"
    if not isinstance(x_BCTHW, Tensor):
        raise ZooError(f"expected {wanted}; got {type(x_BCTHW).__name__}")
    if x_BCTHW.ndim != 5 or x_BCTHW.shape[1] != channels or 0 in x_BCTHW.shape:
        hint = " For one clip add a batch axis: x[None]." if x_BCTHW.ndim == 4 else ""
        raise ZooError(f"expected {wanted}; got shape {tuple(x_BCTHW.shape)}.{hint}")
    if not x_BCTHW.is_floating_point():
        raise ZooError(f"expected {wanted}; got {x_BCTHW.dtype}. For bytes: x.float() / 127.5 - 1.")
