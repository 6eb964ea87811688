"""What is wrong with options of the GPT prior."""

from __future__ import annotations

from zoo.errors import RecipeError

PART = "generator 'gpt'"
PATTERNS = ("parallel", "delay")
POSITIONS = ("rope", "learned")
_LEAST_ROPE = 6


def check_name(option: str, value: str, names: tuple[str, ...]) -> None:
    """Refuse a name that is none of those there are."""
    if value not in names:
        raise RecipeError(f"{PART}: {option} is {value!r}; it must be one of {', '.join(names)}")


def check_width(hidden_dim: int, num_heads: int, positions: str) -> None:
    """Refuse heads that the width cannot be shared out to, or whose channels three axes cannot share."""
    head_dim = hidden_dim // num_heads
    if hidden_dim % num_heads:
        raise RecipeError(
            f"{PART}: hidden_dim is {hidden_dim}; it must be a multiple of num_heads = {num_heads}"
        )
    if positions == "rope" and (head_dim % 2 or head_dim < _LEAST_ROPE):
        raise RecipeError(
            f"{PART}: a head has hidden_dim / num_heads = {head_dim} channels; with positions = 'rope' it "
            f"needs an even number of at least {_LEAST_ROPE}. Take fewer heads, or positions = 'learned'"
        )


def check_classes(num_classes: int, label_dropout: float) -> None:
    """Refuse a number of classes below 0, and labels to drop where there are none."""
    if num_classes < 0:
        raise RecipeError(f"{PART}: num_classes is {num_classes}; it must be 0 or more")
    if label_dropout and not num_classes:
        raise RecipeError(f"{PART}: label_dropout is {label_dropout} and num_classes is 0; set num_classes")
