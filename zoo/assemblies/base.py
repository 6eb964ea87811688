"""What every assembly shares: its name and recipe, its discriminators, its parameters by player.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.outputs import Judged
from zoo.parts import Kind
from zoo.recipes import Recipe


class Assembly(nn.Module):
    """A model made of parts.

    Attributes:
        name: Name of the recipe it was built from.
        recipe: The recipe after inheritance and overrides.
        provided_by: For every part (``encoder``, ``discriminator.0``, ...), who offers it.
        discriminator: The discriminators, used in training only; may be empty.
        needs: Kinds of part the assembly is made of; any may have discriminators beside them.
        projections: Further fields of a recipe that it reads.
    """

    needs: ClassVar[tuple[Kind, ...]]
    projections: ClassVar[tuple[str, ...]] = ()

    name: str
    recipe: Recipe
    provided_by: dict[str, dict[str, str]]

    def __init__(self, recipe: Recipe, **parts: Any) -> None:
        """Wire parts; each assembly takes those it needs by keyword."""
        super().__init__()
        assert not parts, "an assembly passes only the recipe on"
        self.name = ""
        self.recipe = recipe
        self.provided_by = {}
        self.discriminator = nn.ModuleList()

    @property
    def last_layer(self) -> nn.Parameter:
        """The last weight before the pixels, for the adaptive adversarial weight."""
        raise NotImplementedError

    def rehearse(self, shape_BCTHW: tuple[int, ...]) -> Tensor:
        """Run once from end to end, as training would, and return the clips made, of the given shape."""
        raise NotImplementedError

    def player_parameters(self) -> Iterator[nn.Parameter]:
        """Yield every parameter but the discriminators': the model's side of the game."""
        for name, parameter in self.named_parameters():
            if not name.startswith("discriminator."):
                yield parameter

    def num_parameters(self) -> int:
        """Return how many weights the model has without its discriminators."""
        return sum(parameter.numel() for parameter in self.player_parameters())

    def recipe_part(self, field: str) -> str:
        """Return the name of the part behind a field such as ``encoder`` or ``discriminator.0``."""
        kind, _, index = field.partition(".")
        choice = getattr(self.recipe, kind)
        return str((choice[int(index)] if index else choice).use)

    def judge(self, x_BCTHW: Tensor, *, frame_B: Tensor | None = None) -> list[Judged]:
        """Let every discriminator judge a batch of clips.

        Args:
            x_BCTHW: Clips in [-1, 1].
            frame_B: int64 index of the frame an image discriminator sees of each clip; every frame
                of every clip when left out.

        Returns:
            One verdict for each discriminator, in the recipe's order.
        """
        verdicts = []
        for discriminator in self.discriminator:
            seen: Tensor = x_BCTHW
            if discriminator.consumes == "image":
                if frame_B is None:
                    seen = rearrange(x_BCTHW, "b c t h w -> (b t) c h w")
                else:
                    seen = x_BCTHW[torch.arange(len(x_BCTHW), device=x_BCTHW.device), :, frame_B]
            verdicts.append(discriminator(seen))
        return verdicts

    def extra_repr(self) -> str:
        return f"name={self.name!r}"


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
