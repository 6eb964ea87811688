"""The generator of MoCoGAN: what is seen and how it moves come from separate codes.

Shape legend: B clips, T frames, C colour channels, H W pixels; K content numbers, M motion numbers,
N categories, Z = K + N + M what a frame is drawn from.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from zoo.errors import PortError, ZooError
from zoo.precision import full_precision
from zoo_gan.checks import check_counts, check_natural, drawn_run, num_halvings
from zoo_gan.noise import draw_clips, normal_rows

PART = "generator 'mocogan'"
_PATH = "path"


class MoCoGANGenerator(nn.Module):
    """Makes clips of any length from one content code, one category and a path of motion codes.

    A GRU cell turns independent noise, one vector a frame, into a path of motion codes. One DCGAN
    image generator draws every frame from content, category and its motion code, so a clip may be
    longer than those trained on, and in eval mode its beginning does not depend on its end (in train
    mode the batch norms pool over all frames of the batch).

    The defaults are the published network at 64x64, with the 6 categories that its training script
    defaults to. State-dict names are those of the authors' code (``recurrent.*``, ``main.{n}.*``), so
    its weights load unchanged; `zoo_gan.mocogan.weights` reads the options off them. Another
    `image_size` drops the widest stages of the DCGAN or puts wider ones in front. Weights start as
    torch's layers start, as published.

    Source: MoCoGAN, https://arxiv.org/abs/1707.04993

    Args:
        out_channels: Colour channels of a frame.
        image_size: Height and width of a frame in pixels, a power of two of at least 16.
        base_channels: Channels before the last layer; each earlier stage has twice as many.
        content_dim: Numbers that describe a whole clip.
        motion_dim: Numbers that describe the motion at a frame; also the width of the GRU.
        num_categories: Kinds of clip, drawn uniformly with the noise; 0 for none.
        labelled: Whether the kinds are the labels of the data: noise then holds ``label`` in place of
            ``category``. Train it with a discriminator that names them (the objective's `categories`).

    Raises:
        ZooError: An option is out of its range.
    """

    emits = "video"
    time = "frames"

    def __init__(
        self,
        *,
        out_channels: int = 3,
        image_size: int = 64,
        base_channels: int = 64,
        content_dim: int = 50,
        motion_dim: int = 10,
        num_categories: int = 6,
        labelled: bool = False,
    ) -> None:
        super().__init__()
        num_doublings = num_halvings(PART, image_size=image_size)
        check_counts(
            PART,
            out_channels=out_channels,
            base_channels=base_channels,
            content_dim=content_dim,
            motion_dim=motion_dim,
        )
        check_natural(PART, num_categories=num_categories)
        if labelled and not num_categories:
            raise ZooError(f"{PART} has no categories to be labels; set num_categories to those of the data")
        self.out_channels = out_channels
        self.size_HW = (image_size, image_size)
        self.content_dim = content_dim
        self.motion_dim = motion_dim
        self.num_categories = num_categories
        self.num_classes = num_categories if labelled else 0
        self.conditions: tuple[str, ...] = ("label",) if labelled else ()
        # Numbers drawn for a clip of one frame: the GRU's start is noise as well as its first step.
        self.noise_dim = content_dim + num_categories + 2 * motion_dim
        frame_dim = content_dim + num_categories + motion_dim

        self.recurrent = nn.GRUCell(motion_dim, motion_dim)
        widths = [base_channels << level for level in reversed(range(num_doublings))]
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(frame_dim, widths[0], 4, bias=False),  # 1x1 -> 4x4
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        ]
        for width_in, width_out in pairwise(widths):
            layers += [_double(width_in, width_out), nn.BatchNorm2d(width_out), nn.ReLU()]
        self.main = nn.Sequential(*layers, _double(base_channels, out_channels), nn.Tanh())

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight of the last transposed convolution."""
        weight = self.main[-2].weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def draw_noise(
        self,
        num: int,
        num_frames: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Draw what `forward` needs for `num` clips.

        Every clip has a seed of its own, drawn from `generator`. So the first clips of a larger draw,
        and the first frames of a longer one, are those of a smaller draw from an equal generator.

        Args:
            num: Clips, at least 1.
            num_frames: Frames in each clip, at least 1.
            generator: Where randomness comes from; torch's global one for the CPU when left out.
            device: Where the noise goes; the device of the weights when left out.

        Returns:
            ``content`` (num, K) and ``motion_start`` (num, M), standard normal; ``motion``
            (num, num_frames, M), standard normal, one vector a frame; ``category`` (num, N), one-hot, or,
            where it is `labelled`, ``label`` (num,), int64.

        Raises:
            ZooError: `num` or `num_frames` is below 1.
        """
        check_counts(PART, num=num, num_frames=num_frames)
        return draw_clips(
            partial(self._draw_clip, num_frames=num_frames),
            num,
            like=self.last_layer,
            generator=generator,
            device=device,
        )

    def _draw_clip(self, source: torch.Generator, *, num_frames: int) -> dict[str, Tensor]:
        """Draw the noise of one clip on the CPU, without its batch axis."""
        kind = torch.zeros((), dtype=torch.int64, device="cpu")
        if self.num_categories:
            kind = torch.randint(self.num_categories, (1,), generator=source, device="cpu")[0]
        category = (
            F.one_hot(kind, self.num_categories).float()
            if self.num_categories
            else torch.zeros(0, device="cpu")
        )
        return {
            "content": torch.randn(self.content_dim, generator=source, device="cpu"),
            "motion_start": torch.randn(self.motion_dim, generator=source, device="cpu"),
            "motion": normal_rows(num_frames, self.motion_dim, source),
            **({"label": kind} if self.num_classes else {"category": category}),
        }

    def forward(self, noise: dict[str, Tensor], times_BT: Tensor | None = None) -> Tensor:
        """Make a clip from each row of noise.

        Args:
            noise: What `draw_noise` or `walked` returns; any number of clips and frames.
            times_BT: Frames to make, the same consecutive numbers in each row; all of them when left out.

        Returns:
            x_BCTHW in [-1, 1].

        Raises:
            PortError: A tensor is missing or has another shape than `draw_noise` gives it, or `times_BT` is
                no run of frames that it was drawn for.
        """
        self._check_noise(noise)
        is_walked = _PATH in noise
        moved_BTM = noise[_PATH if is_walked else "motion"]
        first, end = 0, moved_BTM.shape[1]
        if times_BT is not None:
            first, end = drawn_run(PART, times_BT, num_clips=len(moved_BTM), num_frames=end)
        path_BTM = moved_BTM[:, :end]
        if not is_walked:
            path_BTM = self._motion_path(noise["motion_start"], path_BTM)
        category_BN = noise["category"] if not self.num_classes else self._one_hot(noise["label"])
        still_BK = torch.cat([noise["content"], category_BN], dim=1)
        z_BTZ = torch.cat([repeat(still_BK, "B K -> B T K", T=end - first), path_BTM[:, first:]], dim=2)
        frames = self.main(rearrange(z_BTZ, "B T Z -> (B T) Z 1 1"))
        x_BCTHW: Tensor = rearrange(frames, "(B T) C H W -> B C T H W", T=end - first)
        return x_BCTHW

    def walked(self, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        """Walk through all of a clip's motion at once, so that its frames can be made run by run from there.

        Args:
            noise: What `draw_noise` returns.

        Returns:
            The same with ``path`` (num, num_frames, M), the GRU's states, in the place of the motion's noise.

        Raises:
            PortError: As `forward`.
        """
        self._check_noise(noise)
        kept = {name: value for name, value in noise.items() if not name.startswith("motion")}
        return {**kept, _PATH: self._motion_path(noise["motion_start"], noise["motion"])}

    def _one_hot(self, label_B: Tensor) -> Tensor:
        return F.one_hot(label_B, self.num_categories).to(self.last_layer.dtype)

    def _motion_path(self, start_BM: Tensor, steps_BTM: Tensor) -> Tensor:
        """Walk from `start_BM`, one GRU step a frame; the start itself is not part of the path."""
        # A state that feeds itself drifts in half precision, so autocast stops here.
        with full_precision(steps_BTM):
            state, path = start_BM, []
            for step_BM in steps_BTM.unbind(dim=1):
                state = self.recurrent(step_BM, state)
                path.append(state)
            return torch.stack(path, dim=1)

    def _check_noise(self, noise: dict[str, Tensor]) -> None:
        rest: dict[str, tuple[int, ...]] = {
            "content": (self.content_dim,),
            **dict.fromkeys([_PATH] if _PATH in noise else ["motion_start", "motion"], (self.motion_dim,)),
            **({"label": ()} if self.num_classes else {"category": (self.num_categories,)}),
        }
        for name, last in rest.items():
            axes = ("clips", "frames", *last) if name in ("motion", _PATH) else ("clips", *last)
            wanted = f"({', '.join(map(str, axes))}{',' if len(axes) == 1 else ''})"
            if name not in noise:
                raise PortError(
                    f"{PART} needs noise {name!r} of shape {wanted}; it was given "
                    f"{', '.join(map(repr, noise)) or 'none'}; make it with draw_noise(num, num_frames)"
                )
            shape = tuple(noise[name].shape)
            same_batch = len(shape) == len(axes) and shape[0] == noise["content"].shape[0]
            if (
                not same_batch
                or shape[len(shape) - len(last) :] != last
                or 0 in shape[: len(shape) - len(last)]
            ):
                raise PortError(
                    f"{PART} needs noise {name!r} of shape {wanted}, as many clips as 'content'; it was "
                    f"given {shape}; make it with draw_noise(num, num_frames)"
                )


def _double(width_in: int, width_out: int) -> nn.ConvTranspose2d:
    """A transposed convolution that doubles height and width."""
    return nn.ConvTranspose2d(width_in, width_out, 4, stride=2, padding=1, bias=False)
