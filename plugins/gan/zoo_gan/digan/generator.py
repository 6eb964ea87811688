"""The generator of DIGAN: a network that is asked for the colour at a place and a time.

Shape legend: B clips, T moments, C colour channels, H W pixels; K content numbers, M motion numbers,
D numbers of the style latent.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.checks import is_power_of_two
from zoo.errors import PortError, ZooError
from zoo.precision import full_precision
from zoo_gan.checks import check_counts
from zoo_gan.digan.layers import ColourLayer, FactorizedLayer, Grid, MotionCoordinates, enlarge
from zoo_gan.noise import draw_clips
from zoo_gan.stylegan2.networks import MappingNetwork, channels_by_resolution

PART = "generator 'digan'"


class CoordinateBlock(nn.Module):
    """The layers of one resolution, ending in colours that are added to those below.

    Args:
        in_channels: Channels in; 0 for the first block, which starts from coordinates.
        out_channels: Channels out.
        out_colours: Colour channels.
        doubles: Whether height and width are doubled, with coordinates read once more.
        num_extra: Layers beyond the published two, or one of the first block.
        w_dim: Width of the style latent.
        motion_dim: Width of the motion code.
        num_frequencies: Half the Fourier features.
        rank: As in `FactorizedLayer`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        out_colours: int,
        doubles: bool,
        num_extra: int,
        w_dim: int,
        motion_dim: int,
        num_frequencies: int,
        rank: int,
    ) -> None:
        super().__init__()
        self.is_first = in_channels == 0
        self.doubles = doubles
        num_features = 0
        if self.is_first or doubles:
            self.coords = MotionCoordinates(
                w_dim=w_dim, motion_dim=motion_dim, num_frequencies=num_frequencies
            )
            num_features = 2 * num_frequencies
        width = num_features
        if not self.is_first:
            self.conv0 = FactorizedLayer(in_channels + num_features, out_channels, w_dim=w_dim, rank=rank)
            width = out_channels
        self.conv1 = FactorizedLayer(width, out_channels, w_dim=w_dim, rank=rank)
        self.extra_convs = nn.ModuleList(
            FactorizedLayer(out_channels, out_channels, w_dim=w_dim, rank=rank) for _ in range(num_extra)
        )
        self.torgb = ColourLayer(out_channels, out_colours, w_dim=w_dim)

    def forward(
        self,
        x: Tensor | None,
        colours: Tensor | None,
        *,
        w_BD: Tensor,
        motion_BM: Tensor,
        time_BT: Tensor,
        grid: Grid,
    ) -> tuple[Tensor, Tensor]:
        """Return channels and colours on the grid, given those of the block before; none for the first."""
        if x is None:
            x = self.coords(w_BD, motion_BM, time_BT, grid)
        elif self.doubles:
            x = self.conv0.enlarged(x, self.coords(w_BD, motion_BM, time_BT, grid), w_BD, grid)
        else:
            x = self.conv0(x, w_BD)
        x = self.conv1(x, w_BD)
        for layer in self.extra_convs:
            x = layer(x, w_BD)
        more = self.torgb(x, w_BD)
        if colours is not None:
            # The picture sums many small steps, which half precision would lose.
            with full_precision(more):
                more = (enlarge(colours, grid) if self.doubles else colours) + more
        return x, more


class DIGANGenerator(nn.Module):
    """Makes the frame at any real time, at any size, from the coordinates of its pixels.

    A content code becomes the style of the clip. It decides sines and cosines of the pixels' coordinates, and
    together with one motion code how their phases move as time goes on. The first layers work on a grid of
    `grid_size` points a side, later ones on grids that are doubled by repeating points, with new coordinates.
    No layer sees a neighbouring pixel or another moment, so frames are made independently of one another, and
    another size is the same network on finer or coarser grids.

    The defaults are the published network at 128x128, trained on 16 frames. Beyond those, time goes on: the
    network extrapolates. State-dict names are near those of the authors' code (see `zoo_gan.digan.weights`).

    In train mode frames are unbounded, as published; in eval mode they are clamped to [-1, 1].

    Source: DIGAN, https://arxiv.org/abs/2202.10571, on INR-GAN, https://arxiv.org/abs/2011.12026

    Args:
        out_channels: Colour channels of a frame.
        image_size: Height and width of a frame in pixels when no other size is asked for, a power of two.
        grid_size: Points a side of the first grid, a power of two from 4 to `image_size`.
        channel_base: Channels times pixels of a side, as far as `channel_max` goes.
        channel_max: Most channels of a layer.
        content_dim: Numbers of a clip's content code.
        motion_dim: Numbers of its motion code.
        w_dim: Numbers of the style latent that the content is mapped to.
        mapping_layers: Layers that map it.
        num_frequencies: Sines of the coordinates, and cosines, at each grid.
        rank: Rank at which the style scales a kernel.
        extra_layer_sizes: Sizes in pixels of the grids that have a layer more.
        clip_frames: Frames of the clips that the network is trained on, at least 2; time is counted in
            their length.
        truncation: In eval mode, how far the style latent stays from its mean: 1 leaves it, less trades
            variety for quality.

    Raises:
        ZooError: An option is out of its range.
    """

    emits = "video"
    time = "continuous"
    conditions: tuple[str, ...] = ()
    size_HW: tuple[int, int] | None = None

    def __init__(
        self,
        *,
        out_channels: int = 3,
        image_size: int = 128,
        grid_size: int = 32,
        channel_base: int = 32768,
        channel_max: int = 512,
        content_dim: int = 512,
        motion_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 2,
        num_frequencies: int = 128,
        rank: int = 10,
        extra_layer_sizes: list[int] = [128, 256],  # noqa: B006 - read, never changed
        clip_frames: int = 16,
        truncation: float = 1.0,
    ) -> None:
        super().__init__()
        check_counts(
            PART,
            out_channels=out_channels,
            image_size=image_size,
            grid_size=grid_size,
            channel_base=channel_base,
            channel_max=channel_max,
            content_dim=content_dim,
            motion_dim=motion_dim,
            w_dim=w_dim,
            mapping_layers=mapping_layers,
            num_frequencies=num_frequencies,
            rank=rank,
            clip_frames=clip_frames,
        )
        if (
            not is_power_of_two(image_size)
            or not is_power_of_two(grid_size)
            or not 4 <= grid_size <= image_size
        ):
            raise ZooError(
                f"{PART}: image_size is {image_size} and grid_size {grid_size}; give powers of two, "
                "grid_size from 4 to image_size"
            )
        check_clip_frames(PART, clip_frames)
        self.out_channels = out_channels
        self.image_size = image_size
        self.content_dim = content_dim
        self.motion_dim = motion_dim
        self.noise_dim = content_dim + motion_dim
        self.clip_frames = clip_frames
        self.truncation = truncation
        self.mapping = MappingNetwork(z_dim=content_dim, c_dim=0, w_dim=w_dim, num_layers=mapping_layers)
        channels = channels_by_resolution(image_size, channel_base=channel_base, channel_max=channel_max)
        # Those up to the first grid all work on it: they are more layers rather than more pixels.
        self._steps = {name: image_size // max(name, grid_size) for name in channels}
        self.synthesis = nn.ModuleDict()
        width = 0
        for size, width_out in channels.items():
            self.synthesis[f"b{size}"] = CoordinateBlock(
                width,
                width_out,
                out_colours=out_channels,
                doubles=size > grid_size,
                num_extra=int(max(size, grid_size) in extra_layer_sizes),
                w_dim=w_dim,
                motion_dim=motion_dim,
                num_frequencies=num_frequencies,
                rank=rank,
            )
            width = width_out

    @property
    def last_layer(self) -> nn.Parameter:
        """The weight that makes the colours of the last grid."""
        weight = self.synthesis[f"b{self.image_size}"].get_submodule("torgb").weight
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

        Every clip has a seed of its own, drawn from `generator`. So the first clips of a larger draw are
        those of a smaller one from an equal generator, and a longer clip goes on where a shorter one ends.

        Args:
            num: Clips, at least 1.
            num_frames: Frames in each clip, at least 1.
            generator: Where randomness comes from; torch's global one for the CPU when left out.
            device: Where the noise goes; the device of the weights when left out.

        Returns:
            ``content`` (num, K) and ``motion`` (num, num_frames, M), standard normal. A clip has one motion
            code; it is there once for each frame, as a view, to tell `forward` how many there are.

        Raises:
            ZooError: `num` or `num_frames` is below 1.
        """
        check_counts(PART, num=num, num_frames=num_frames)
        drawn = draw_clips(
            lambda source: {"codes": torch.randn(self.noise_dim, generator=source, device="cpu")},
            num,
            like=self.last_layer,
            generator=generator,
            device=device,
        )
        codes = drawn["codes"]
        motion = codes[:, None, self.content_dim :].expand(-1, num_frames, -1)
        return {"content": codes[:, : self.content_dim], "motion": motion}

    def forward(
        self,
        noise: dict[str, Tensor],
        times_BT: Tensor | None = None,
        size_HW: tuple[int, int] | None = None,
    ) -> Tensor:
        """Make moments of the clip that each row of noise stands for.

        Args:
            noise: What `draw_noise` returns; any number of clips and frames.
            times_BT: Moments in frames, any real numbers, for each clip in any order; every frame in turn
                when left out. From 0 to ``clip_frames - 1`` is what the network is trained on.
            size_HW: Height and width in pixels, any; `image_size` when left out.

        Returns:
            x_BCTHW, a frame for each moment; within [-1, 1] in eval mode.

        Raises:
            PortError: A tensor is missing or has another shape than `draw_noise` gives it, or a side of
                `size_HW` is below 1.
        """
        self._check(noise, times_BT, size_HW)
        content_BK, motion_BTM = noise["content"], noise["motion"]
        if times_BT is None:
            frames_T = torch.arange(motion_BTM.shape[1], device=content_BK.device)
            times_BT = frames_T.expand(content_BK.shape[0], -1)
        w_BD = self.mapping(content_BK, truncation=1.0 if self.training else self.truncation)
        time_BT = times_BT.to(w_BD.dtype) / (self.clip_frames - 1)
        full_HW = (self.image_size, self.image_size) if size_HW is None else (size_HW[0], size_HW[1])
        x, colours = None, None
        for size, step in self._steps.items():
            x, colours = self.synthesis[f"b{size}"](
                x,
                colours,
                w_BD=w_BD,
                motion_BM=motion_BTM[:, 0],
                time_BT=time_BT,
                grid=Grid(full_HW, step),
            )
        assert isinstance(colours, Tensor)
        return colours if self.training else colours.clamp(-1, 1)

    def _check(
        self, noise: dict[str, Tensor], times_BT: Tensor | None, size_HW: tuple[int, int] | None
    ) -> None:
        wanted: dict[str, tuple[str | int, ...]] = {
            "content": ("clips", self.content_dim),
            "motion": ("clips", "frames", self.motion_dim),
        }
        for name, axes in wanted.items():
            found = tuple(noise[name].shape) if name in noise else None
            if (
                found is None
                or len(found) != len(axes)
                or found[0] != noise["content"].shape[0]
                or found[-1] != axes[-1]
                or found[1] < 1
            ):
                raise PortError(
                    f"{PART} needs noise {name!r} of shape ({', '.join(map(str, axes))}); it was given "
                    f"{found if found is not None else ', '.join(map(repr, noise)) or 'none'}; make it with "
                    "draw_noise(num, num_frames)"
                )
        clips = noise["content"].shape[0]
        if times_BT is not None and (
            times_BT.ndim != 2 or times_BT.shape[0] != clips or times_BT.shape[1] < 1
        ):
            raise PortError(
                f"{PART} needs times_BT of shape ({clips}, moments), a row for each clip; it was given "
                f"{tuple(times_BT.shape)}"
            )
        if size_HW is not None and (len(size_HW) != 2 or min(size_HW) < 1):
            raise PortError(f"{PART} was asked for frames of {size_HW}; give (height, width), both 1 or more")


def check_clip_frames(part: str, clip_frames: int) -> None:
    """Refuse a clip without duration.

    Raises:
        ZooError: `clip_frames` is below 2.
    """
    if clip_frames < 2:
        raise ZooError(f"{part}: clip_frames is {clip_frames}; give 2 or more, 16 are published")
