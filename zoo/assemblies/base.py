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
        pairs = [
            self.judge_sides(n, real_x_BCTHW, made_x_BCTHW, selection, label_B=label_B, apart=apart)
            for n in range(len(self.discriminator))
        ]
        return [real for real, _ in pairs], [fake for _, fake in pairs]

    def judge_sides(
        self,
        number: int,
        real_x_BCTHW: Tensor,
        made_x_BCTHW: Tensor,
        selection: Selection,
        *,
        label_B: Tensor | None = None,
        apart: bool = False,
        by: nn.Module | None = None,
    ) -> tuple[Judged, Judged]:
        """Let one discriminator judge both sides, as `judge_both` does all.

        To a discriminator with reference frames, those of the made clips are the real side.

        Args:
            number: Which discriminator.
            real_x_BCTHW: As for `judge_both`, and so are the others that are not named here.
            made_x_BCTHW: Made clips.
            selection: What `select` gave.
            label_B: Labels.
            apart: Two passes in any case.
            by: Another network that judges in its place.
        """
        discriminator, selection = by or self.discriminator[number], selection.to(real_x_BCTHW.device)
        made_x_BCTHW = made_x_BCTHW.to(real_x_BCTHW.dtype)
        refers = hasattr(discriminator, "reference_frames")
        source_x_BCTHW = made_x_BCTHW if refers else real_x_BCTHW
        real = _shown(discriminator, number, source_x_BCTHW, selection, reference=refers)
        made = _shown(discriminator, number, made_x_BCTHW, selection)
        if apart or getattr(discriminator, "mixes_batch", False):
            return _judge(discriminator, *real, label_B), _judge(discriminator, *made, label_B)
        labels = None if label_B is None else label_B.repeat(2)
        x_BCTHW, frames_BT = (torch.cat(sides) for sides in zip(real, made, strict=True))
        both = _judge(discriminator, x_BCTHW, frames_BT, labels)
        first, second = (
            Judged(*([value.chunk(2)[n] for value in values] for values in both)) for n in (0, 1)
        )
        return first, second

    def shown(self, x_BCTHW: Tensor) -> Tensor:
        """Turn real clips into what the discriminators judge: the clips themselves, or their latents."""
        return x_BCTHW

    def networks(self) -> dict[str, nn.Module]:
        """Return the encoder, decoder and generator, those that there are, without a frozen tokenizer's."""
        names = ("encoder", "decoder", "generator")
        return {name: part for name, part in self.named_children() if name in names}

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
        self,
        x_BCTHW: Tensor,
        selection: Selection | None = None,
        *,
        label_B: Tensor | None = None,
        reference_x_BCTHW: Tensor | None = None,
    ) -> list[Judged]:
        """Let every discriminator judge a batch of clips.

        Args:
            x_BCTHW: Clips in [-1, 1], cut down to the frames of the selection.
            selection: What `select` gave. Left out, a discriminator that draws frames sees those that a fixed
                seed gives, and the others see every frame.
            label_B: int64 label of each clip, for discriminators that are told it.
            reference_x_BCTHW: Made clips whose reference frames are judged instead, by discriminators that
                have some: what is real to them.

        Returns:
            One verdict for each discriminator, in the recipe's order.

        Raises:
            ZooError: A discriminator has to be told labels and there are none.
        """
        if selection is None:
            rng = torch.Generator("cpu").manual_seed(0)
            places = [_wanted_frames(d, len(x_BCTHW), x_BCTHW.shape[2], rng) for d in self.discriminator]
            selection = Selection(None, places)
        verdicts = []
        for number, discriminator in enumerate(self.discriminator):
            refers = reference_x_BCTHW is not None and hasattr(discriminator, "reference_frames")
            shown_x_BCTHW = reference_x_BCTHW if refers else x_BCTHW
            assert shown_x_BCTHW is not None
            verdicts.append(
                self.judge_one(number, shown_x_BCTHW, selection, label_B=label_B, reference=refers)
            )
        return verdicts

    def judge_one(
        self,
        number: int,
        x_BCTHW: Tensor,
        selection: Selection,
        *,
        label_B: Tensor | None = None,
        reference: bool = False,
    ) -> Judged:
        """Let one discriminator judge a batch of clips, or the reference frames of made ones."""
        discriminator, selection = self.discriminator[number], selection.to(x_BCTHW.device)
        shown = _shown(discriminator, number, x_BCTHW, selection, reference=reference)
        return _judge(discriminator, *shown, label_B)

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


def _shown(
    discriminator: nn.Module, number: int, x_BCTHW: Tensor, selection: Selection, *, reference: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the frames that a discriminator is shown, and their numbers.

    Of those that it draws, `reference_frames` come first: they are shown apart from the others.
    """
    frames_BT, places_BK = selection.frames_BT, selection.places[number]
    if frames_BT is None:
        frames_BT = torch.arange(x_BCTHW.shape[2], device=x_BCTHW.device).expand(len(x_BCTHW), -1)
    if places_BK is None:
        return x_BCTHW, frames_BT
    if num := getattr(discriminator, "reference_frames", 0):
        places_BK = places_BK[:, :num] if reference else places_BK[:, num:]
    return take_frames(x_BCTHW, places_BK), frames_BT.gather(1, places_BK)


def _judge(discriminator: Any, x_BCTHW: Tensor, frames_BT: Tensor, label_B: Tensor | None) -> Judged:
    """Tell a discriminator what it has to be told of the clips that it judges."""
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
