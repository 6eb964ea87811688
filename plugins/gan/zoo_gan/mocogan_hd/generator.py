"""The generator of MoCoGAN-HD: clips are walks through the latent space of an image generator.

Shape legend: B clips, T frames, S steps between them, C colour channels, H W pixels; Z numbers drawn for a
clip and for each step, D numbers of a latent (as many).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import PortError, ZooError
from zoo_gan.checks import check_counts, check_image_size, drawn_run
from zoo_gan.mocogan_hd.motion import MotionWalk, principal_directions
from zoo_gan.noise import draw_clips, normal_rows
from zoo_gan.stylegan2.networks import MappingNetwork, SynthesisNetwork

PART = "generator 'mocogan-hd'"
_PATH = "path"


class MoCoGANHDGenerator(nn.Module):
    """Makes clips of any length by a walk through the latent space of a StyleGAN2 image generator.

    The clip's code is mapped to the latent of its first frame. An LSTM walks on from there, by noise for each
    step, along the principal directions of the latent space (`zoo_gan.mocogan_hd.motion`), and the image
    generator draws each frame from its latent alone. A frame costs what an image costs; only the small states
    of the LSTM depend on the frames before it.

    The defaults are the published network at 256x256. As published, the image generator is trained beforehand
    and stands still: it has no gradients, and its weights come in by the converter `mocogan-hd` or by
    `zoo_gan.mocogan_hd.weights.load_image_generator`, which also estimates the directions anew. With
    ``train_image_generator=True``, which is ours, it learns with the motion, from nothing if need be; the
    directions stay those of its first latents unless `estimate_directions` is called again.

    The published objective has a term of its own for the motion: the negative cosine similarity of each
    step's noise and what a head guesses of it from the LSTM's states, without which the LSTM may ignore its
    noise. It is `own_loss`, which `zoo train` adds; the head is ``motion.fc1`` and ``motion.fc2``.

    Colours are unbounded in train mode, as published, and clamped to [-1, 1] in eval mode, as the public code
    clamps what it writes. The noise of the image generator's layers is a fixed pattern for all clips (the
    public code draws one for each clip in training).

    Source: MoCoGAN-HD, https://arxiv.org/abs/2104.15069; StyleGAN2, https://arxiv.org/abs/1912.04958

    Args:
        out_channels: Colour channels of a frame.
        image_size: Height and width of a frame in pixels, a power of two of at least 16.
        channel_base: Channels times the frame's side, as far as `channel_max` goes.
        channel_max: Most channels of a layer.
        style_dim: Numbers of a latent, of a clip's code and of a step's noise.
        num_mapping_layers: Layers that map a code to a latent.
        layer_noise: "pixel" for StyleGAN2's noise in each layer, by learned strengths that start at 0; or
            "none".
        hidden_dim: Width of the LSTM.
        num_directions: Principal directions that the walk goes along, at most `style_dim`.
        residual_scale: Largest step along a direction, in deviations of the latents.
        num_samples: Latents from which the directions are estimated on construction, at least 2. (The public
            code takes 1,000,000 of the trained image generator: call `estimate_directions`.)
        train_image_generator: Whether the image generator learns.

    Raises:
        ZooError: An option is out of its range.
    """

    emits = "video"
    time = "frames"
    conditions: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        out_channels: int = 3,
        image_size: int = 256,
        channel_base: int = 32768,
        channel_max: int = 512,
        style_dim: int = 512,
        num_mapping_layers: int = 8,
        layer_noise: str = "pixel",
        hidden_dim: int = 384,
        num_directions: int = 384,
        residual_scale: float = 0.2,
        num_samples: int = 10_000,
        train_image_generator: bool = False,
    ) -> None:
        super().__init__()
        check_image_size(PART, image_size)
        check_counts(
            PART,
            out_channels=out_channels,
            channel_base=channel_base,
            channel_max=channel_max,
            style_dim=style_dim,
            num_mapping_layers=num_mapping_layers,
            hidden_dim=hidden_dim,
            num_directions=num_directions,
            num_samples=num_samples,
        )
        if num_directions > style_dim:
            raise ZooError(
                f"{PART}: num_directions is {num_directions}; latents of {style_dim} numbers have no more "
                f"directions than that, so give num_directions={style_dim} or less"
            )
        if num_samples < 2:
            raise ZooError(f"{PART}: num_samples is {num_samples}; give 2 or more")
        if not residual_scale > 0:
            raise ZooError(f"{PART}: residual_scale is {residual_scale!r}; give a number above 0")
        if layer_noise not in ("pixel", "none"):
            raise ZooError(f"{PART}: layer_noise is {layer_noise!r}; give 'pixel' or 'none'")
        self.out_channels = out_channels
        self.size_HW = (image_size, image_size)
        self.noise_dim = style_dim
        self.train_image_generator = train_image_generator
        self.mapping = MappingNetwork(
            z_dim=style_dim, c_dim=0, w_dim=style_dim, num_layers=num_mapping_layers, w_avg_beta=None
        )
        self.synthesis = SynthesisNetwork(
            image_size=image_size,
            img_channels=out_channels,
            w_dim=style_dim,
            channel_base=channel_base,
            channel_max=channel_max,
            noise=layer_noise,
        )
        self.motion = MotionWalk(
            style_dim=style_dim,
            hidden_dim=hidden_dim,
            num_directions=num_directions,
            residual_scale=residual_scale,
        )
        self.mapping.requires_grad_(train_image_generator)
        self.synthesis.requires_grad_(train_image_generator)
        self.train()
        self.estimate_directions(num_samples)

    def train(self, mode: bool = True) -> MoCoGANHDGenerator:
        """Set the mode; the image generator stays in eval mode, where its layer noise is a fixed pattern."""
        super().train(mode)
        self.synthesis.eval()
        return self

    @property
    def last_layer(self) -> nn.Parameter:
        """The last weight that learns: of the colours, or, where those are frozen, of the motion."""
        return self.synthesis.last_layer if self.train_image_generator else self.motion.w

    def estimate_directions(
        self, num_samples: int = 1_000_000, *, generator: torch.Generator | None = None
    ) -> None:
        """Set the directions of the walk to the principal components of the image generator's latents.

        To be called when the image generator has got other weights. On the meta device it does nothing.

        Args:
            num_samples: Latents that are drawn, at least 2; the default is the published number.
            generator: Source of randomness; torch's global one for the CPU when left out.
        """
        directions = self.motion.pca_comp
        if directions.device.type == "meta":
            return
        found, deviations = principal_directions(
            self.mapping,
            dim=self.noise_dim,
            num_directions=len(directions),
            num_samples=num_samples,
            generator=generator,
            device=directions.device,
        )
        directions.copy_(found)
        self.motion.pca_stdev.copy_(deviations)

    def draw_noise(
        self,
        num: int,
        num_frames: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> dict[str, Tensor]:
        """Draw what `forward` needs for `num` clips.

        Every clip has a seed of its own, drawn from `generator`. So the first clips of a larger draw, and the
        first steps of a longer one, are those of a smaller draw from an equal generator.

        Args:
            num: Clips, at least 1.
            num_frames: Frames in each clip, at least 1.
            generator: Where randomness comes from; torch's global one for the CPU when left out.
            device: Where the noise goes; the device of the weights when left out.

        Returns:
            ``content`` (num, Z) and ``motion`` (num, num_frames - 1, Z), one row for each step from a frame
            to the next; standard normal.

        Raises:
            ZooError: `num` or `num_frames` is below 1.
        """
        check_counts(PART, num=num, num_frames=num_frames)
        drawn = draw_clips(
            lambda source: {"rows": normal_rows(num_frames, self.noise_dim, source)},
            num,
            like=self.motion.w,
            generator=generator,
            device=device,
        )
        rows = drawn["rows"]
        return {"content": rows[:, 0].clone(), "motion": rows[:, 1:].clone()}

    def forward(self, noise: dict[str, Tensor], times_BT: Tensor | None = None) -> Tensor:
        """Make a clip from each row of noise, or some frames of it.

        Args:
            noise: What `draw_noise` or `walked` returns; any number of clips and frames.
            times_BT: Which frames to draw: each row the same run of whole numbers; all of them when left out.

        Returns:
            x_BCTHW; in [-1, 1] in eval mode, without bounds in train mode.

        Raises:
            PortError: A tensor is missing or has another shape than `draw_noise` gives it, or `times_BT` is
                no run of frames that it was drawn for.
        """
        self._check_noise(noise)
        is_walked = _PATH in noise
        moved = noise[_PATH if is_walked else "motion"]
        start, end = 0, moved.shape[1] + (not is_walked)
        if times_BT is not None:
            start, end = drawn_run(PART, times_BT, num_clips=len(moved), num_frames=end)
        w_BTD = noise[_PATH] if is_walked else self._path(noise, num_steps=end - 1)
        w_BTD = w_BTD[:, start:end]
        frames = self.synthesis(rearrange(w_BTD, "B T D -> (B T) D"))
        x_BCTHW: Tensor = rearrange(frames, "(B T) C H W -> B C T H W", T=w_BTD.shape[1])
        return x_BCTHW if self.training else x_BCTHW.clamp(-1, 1)

    def walked(self, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        """Walk through all of a clip's latents at once, so that its frames can be made run by run from there.

        Args:
            noise: What `draw_noise` returns.

        Returns:
            ``path`` (num, num_frames, D): the latent of each frame.

        Raises:
            PortError: As `forward`.
        """
        self._check_noise(noise)
        return {_PATH: self._path(noise)}

    def _path(self, noise: dict[str, Tensor], *, num_steps: int | None = None) -> Tensor:
        path_BTD: Tensor = self.motion(self.mapping(noise["content"]), noise["motion"][:, :num_steps])
        return path_BTD

    def own_loss(self, noise: dict[str, Tensor]) -> Tensor:
        """Return minus the mean cosine similarity of each step's noise and what the head guesses of it.

        The published objective adds it to the generator's with weight 1. It draws no frames.

        Args:
            noise: What `draw_noise` returns, of two frames or more.

        Raises:
            PortError: The noise is not what `draw_noise` returns, or of one frame.
        """
        self._check_noise(noise)
        if not noise["motion"].shape[1]:
            raise PortError(f"{PART}: noise of one frame has no step to reconstruct; draw it for 2 or more")
        guess_BSZ = self.motion.reconstruct(self.mapping(noise["content"]), noise["motion"])
        return -F.cosine_similarity(guess_BSZ, noise["motion"], dim=2).mean()

    def _check_noise(self, noise: dict[str, Tensor]) -> None:
        drawn = {"content": ("clips",), "motion": ("clips", "frames - 1")}
        for name, axes in ({_PATH: ("clips", "frames")} if _PATH in noise else drawn).items():
            wanted = f"({', '.join(axes)}, {self.noise_dim})"
            if name not in noise:
                raise PortError(
                    f"{PART} needs noise {name!r} of shape {wanted}; it was given "
                    f"{', '.join(map(repr, noise)) or 'none'}; make it with draw_noise(num, num_frames)"
                )
            shape = tuple(noise[name].shape)
            same_batch = len(shape) == len(axes) + 1 and shape[0] == len(next(iter(noise.values()))) > 0
            if not same_batch or shape[-1] != self.noise_dim:
                raise PortError(
                    f"{PART} needs noise {name!r} of shape {wanted}, as many clips as 'content'; it was "
                    f"given {shape}; make it with draw_noise(num, num_frames)"
                )
