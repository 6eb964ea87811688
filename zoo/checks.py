"""What parts refuse, in the same words: clips, images, latents, indices and options that do not fit.

In a plugin, an encoder and a decoder begin::

    def forward(self, x_BCTHW):
        require_clip(
            "encoder mine", x_BCTHW, in_channels=self.in_channels, stride=self.stride, lead_frame=True
        )

    def forward(self, z_BDthw):
        require_latent("decoder mine", z_BDthw, latent_dim=self.latent_dim)

Shape legend: B batch, C colour channels, T H W frames and pixels, D latent channels, t h w the latent grid,
q codebooks.
"""

from __future__ import annotations

from torch import Tensor

from zoo.errors import PortError, RecipeError
from zoo.streaming import is_first_piece


def require_clip(
    label: str, x_BCTHW: Tensor, *, in_channels: int, stride: tuple[int, int, int], lead_frame: bool
) -> None:
    """Refuse a clip, or a piece of a stream, that an encoder cannot take.

    Args:
        label: Who refuses, such as "encoder mine".
        x_BCTHW: Video with T = k*s_t frames, and one more at its start when there is a lead frame.
        in_channels: What C must be.
        stride: (s_t, s_h, s_w).
        lead_frame: Whether the first frame is a latent frame of its own (see `zoo.ports`).

    Raises:
        PortError: T does not fit, H or W is not a multiple of the stride, or C is not `in_channels`.
    """
    s_t, s_h, s_w = stride
    size = x_BCTHW.shape[2:]
    lead = int(lead_frame and is_first_piece())
    fits = x_BCTHW.ndim == 5 and min(size) > 0 and (size[0] - lead) % s_t == 0
    if not fits or size[1] % s_h or size[2] % s_w:
        time = f"T = {'1 + ' * lead}k * {s_t} and " if s_t > 1 else ""
        raise PortError(
            f"{label} got a clip of shape {tuple(x_BCTHW.shape)}; it takes (B, C, T, H, W) with {time}"
            f"H, W multiples of its stride {s_h}, {s_w}"
        )
    _require_channels(label, x_BCTHW, in_channels)


def require_images(label: str, x_BCHW: Tensor, *, in_channels: int, stride: tuple[int, int, int]) -> None:
    """Refuse images that an encoder cannot take; arguments as of `require_clip`.

    Raises:
        PortError: H or W is not a multiple of the stride, or C is not `in_channels`.
    """
    _, s_h, s_w = stride
    size = x_BCHW.shape[2:]
    if x_BCHW.ndim != 4 or min(size) < 1 or size[0] % s_h or size[1] % s_w:
        raise PortError(
            f"{label} got images of shape {tuple(x_BCHW.shape)}; it takes (B, C, H, W) with H, W multiples "
            f"of its stride {s_h}, {s_w}"
        )
    _require_channels(label, x_BCHW, in_channels)


def require_latent(label: str, z_BDthw: Tensor, *, latent_dim: int, meaning: str | None = None) -> None:
    """Refuse a latent that a decoder or quantizer cannot take.

    Args:
        label: Who refuses, such as "decoder mine".
        z_BDthw: The latent.
        latent_dim: What D must be.
        meaning: The option that D comes from, for the error.

    Raises:
        PortError: The axes are others, D is not `latent_dim`, or there is nothing.
    """
    _require_width(label, z_BDthw, "(B, D, t, h, w)", latent_dim, meaning)


def require_image_latents(label: str, z_BDhw: Tensor, *, latent_dim: int) -> None:
    """Refuse latents of images that a decoder cannot take; arguments as of `require_latent`.

    Raises:
        PortError: The axes are others, D is not `latent_dim`, or there is nothing.
    """
    _require_width(label, z_BDhw, "(B, D, h, w)", latent_dim)


def require_indices(label: str, indices_Bqthw: Tensor, *, num_codebooks: int = 1) -> None:
    """Refuse indices that a quantizer cannot look up.

    Raises:
        PortError: They are not (B, num_codebooks, t, h, w).
    """
    if indices_Bqthw.ndim != 5 or indices_Bqthw.shape[1] != num_codebooks:
        raise PortError(
            f"{label} got indices of shape {tuple(indices_Bqthw.shape)}; it takes "
            f"(B, {num_codebooks}, t, h, w)"
        )


def require_positive(label: str, **options: int) -> None:
    """Raise `RecipeError` when one of the options is less than 1."""
    for option, value in options.items():
        if value < 1:
            raise RecipeError(f"{label}: {option} is {value}; it must be at least 1")


def is_power_of_two(number: int) -> bool:
    """Return whether a number is 1, 2, 4, 8, ..."""
    return number > 0 and number & (number - 1) == 0


def _require_channels(label: str, x: Tensor, in_channels: int) -> None:
    if x.shape[1] != in_channels:
        raise PortError(f"{label} has in_channels={in_channels} and got {x.shape[1]} channels")


def _require_width(label: str, z: Tensor, axes: str, width: int, meaning: str | None = None) -> None:
    if z.ndim != len(axes.split(",")) or z.shape[1] != width or min(z.shape[2:]) < 1:
        named = f"{meaning} = " if meaning else ""
        raise PortError(
            f"{label} got a latent of shape {tuple(z.shape)}; it takes {axes} with D = {named}{width}"
        )
