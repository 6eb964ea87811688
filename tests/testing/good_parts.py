"""Small parts that keep every promise, one per kind and variant. broken_parts.py breaks them one by one.

Shape legend: B batch, C colour channels, T H W frames and pixels; D latent channels, t h w the latent
grid, q codebooks, N = t h w q codes in raster order, K values of a code, E width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from zoo.outputs import Judged, Quantized
from zoo.sampling import Chance, Sampling, choose, draw_seeds, shaped
from zoo.streaming import is_first_piece


class Encoder(nn.Module):
    causal = False

    def __init__(self, *, in_channels: int = 3, widths: list[int]) -> None:
        super().__init__()
        self.in_channels, self.latent_dim, self.stride = in_channels, widths[-1], (2, 4, 4)
        self.patch = nn.Conv3d(in_channels, widths[0], self.stride, self.stride)
        self.out = nn.Conv3d(widths[0], widths[-1], 1)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.out(torch.tanh(self.patch(x_BCTHW)))


class CausalEncoder(Encoder):
    causal = True

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        num = self.stride[0] - 1 if is_first_piece() else 0
        return super().forward(F.pad(x_BCTHW, (0, 0, 0, 0, num, 0)))


class ImageEncoder(nn.Module):
    causal, consumes = False, "image"

    def __init__(self, *, in_channels: int = 1) -> None:
        super().__init__()
        self.in_channels, self.latent_dim, self.stride = in_channels, 4, (1, 4, 4)
        self.patch = nn.Conv2d(in_channels, 4, 4, 4)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.patch(x_BCHW)


class Decoder(nn.Module):
    causal = False

    def __init__(self, *, latent_dim: int = 4) -> None:
        super().__init__()
        self.latent_dim, self.out_channels, self.stride = latent_dim, 3, (2, 4, 4)
        self.patch = nn.ConvTranspose3d(latent_dim, 8, self.stride, self.stride)
        self.out = nn.Conv3d(8, 3, 1)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.out.weight

    def forward(self, z_BDthw: Tensor) -> Tensor:
        return torch.tanh(self.out(torch.relu(self.patch(z_BDthw))))


class CausalDecoder(Decoder):
    causal = True

    def forward(self, z_BDthw: Tensor) -> Tensor:
        x_BCTHW = super().forward(z_BDthw)
        return x_BCTHW[:, :, self.stride[0] - 1 :] if is_first_piece() else x_BCTHW


class Quantizer(nn.Module):
    continuous = False

    def __init__(self, *, latent_dim: int = 4, codebook_size: int = 8, commitment: float = 0.25) -> None:
        super().__init__()
        self.latent_dim, self.codebook_size, self.num_codebooks = latent_dim, codebook_size, 1
        self.commitment = commitment
        self.codes = nn.Parameter(torch.randn(codebook_size, latent_dim))

    def nearest(self, z_BDthw: Tensor) -> Tensor:
        flat = rearrange(z_BDthw, "B D t h w -> (B t h w) D")
        B, _, t, h, w = z_BDthw.shape
        return torch.cdist(flat, self.codes).argmin(-1).reshape(B, 1, t, h, w)

    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        return rearrange(self.codes[indices_Bqthw[:, 0]], "B t h w D -> B D t h w")

    def forward(self, z_BDthw: Tensor) -> Quantized:
        with torch.autocast("cpu", enabled=False):
            z_BDthw = z_BDthw.float()
            indices = self.nearest(z_BDthw)
            codes = self.lookup(indices)
            loss = F.mse_loss(codes, z_BDthw.detach()) + self.commitment * F.mse_loss(z_BDthw, codes.detach())
            # The code itself plus an exact zero, so that what is emitted is what lookup gives.
            z = codes.detach() + (z_BDthw - z_BDthw.detach())
            return Quantized(z, indices, loss, {"loss": loss.detach()})


class Continuous(nn.Module):
    codebook_size, num_codebooks, continuous = 0, 0, True

    def __init__(self, *, latent_dim: int = 4) -> None:
        super().__init__()
        self.latent_dim = latent_dim

    def forward(self, z_BDthw: Tensor) -> Quantized:
        z = z_BDthw.float()
        return Quantized(z, None, z.square().mean(), {"energy": z.detach().square().mean()})


class Generator(nn.Module):
    emits, conditions = "video", ()

    def __init__(self, *, content_dim: int = 5, motion_dim: int = 3) -> None:
        super().__init__()
        self.noise_dim, self.out_channels, self.size_HW = content_dim + motion_dim, 3, (8, 16)
        self.content_dim, self.motion_dim = content_dim, motion_dim
        self.frame = nn.Linear(self.noise_dim, 3 * 8 * 16)

    @property
    def last_layer(self) -> nn.Parameter:
        return self.frame.weight

    def draw_noise(
        self,
        num: int,
        num_frames: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | None = None,
    ) -> dict[str, Tensor]:
        source = generator.device if generator is not None else None
        content = torch.randn(num, self.content_dim, generator=generator, device=source)
        motion = torch.randn(num, num_frames, self.motion_dim, generator=generator, device=source)
        return {"content": content.to(device), "motion": motion.to(device)}

    def forward(self, noise: dict[str, Tensor]) -> Tensor:
        content = repeat(noise["content"], "B N -> B T N", T=noise["motion"].shape[1])
        frames = torch.tanh(self.frame(torch.cat([content, noise["motion"]], -1)))
        return rearrange(frames, "B T (C H W) -> B C T H W", C=3, H=8)


class Prior(nn.Module):
    """Codes in raster order, each drawn by the sum of the vectors of those before it."""

    emits, order = "indices", "raster"

    def __init__(
        self,
        *,
        codebook_size: int = 8,
        num_codebooks: int = 2,
        grid: Sequence[int] = (3, 3, 2),
        num_classes: int = 3,
    ) -> None:
        super().__init__()
        self.codebook_size, self.num_codebooks, self.num_classes = codebook_size, num_codebooks, num_classes
        self.grid_thw = tuple(grid)
        self.conditions = ("label",) if num_classes else ()
        self.codes = nn.Embedding(num_codebooks * codebook_size, 6)
        self.start = nn.Embedding(num_classes or 1, 6)
        self.head = nn.Linear(6, codebook_size)

    def flat(self, indices_Bqthw: Tensor) -> Tensor:
        return rearrange(indices_Bqthw, "B q t h w -> B (t h w q)")

    def grids(self, x: Tensor) -> Tensor:
        _, h, w = self.grid_thw
        return rearrange(x, "B (t h w q) ... -> B q t h w ...", h=h, w=w, q=self.num_codebooks)

    def vectors(self, codes_BN: Tensor, *, first: int = 0) -> Tensor:
        place_N = torch.arange(first, first + codes_BN.shape[1], device=codes_BN.device)
        return self.codes(codes_BN + place_N % self.num_codebooks * self.codebook_size)

    def begin(self, label_B: Tensor | None, codes: Tensor) -> Tensor:
        return self.start(codes.new_zeros(len(codes)) if label_B is None else label_B)

    def logits(self, sum_E: Tensor) -> Tensor:
        return self.head(torch.tanh(sum_E))

    def forward(self, indices_Bqthw: Tensor, *, label_B: Tensor | None = None) -> Tensor:
        x_BNE = self.vectors(self.flat(indices_Bqthw))
        before_BNE = F.pad(x_BNE[:, :-1], (0, 0, 1, 0)).cumsum(1)
        return self.grids(self.logits(self.begin(label_B, indices_Bqthw)[:, None] + before_BNE))

    def loss(
        self,
        indices_Bqthw: Tensor,
        *,
        label_B: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        logits = self(indices_Bqthw, label_B=label_B)
        return F.cross_entropy(logits.float().flatten(0, -2), indices_Bqthw.flatten())

    def draw_noise(
        self,
        num: int,
        num_frames: int,
        *,
        generator: torch.Generator | None = None,
        device: torch.device | None = None,
    ) -> dict[str, Tensor]:
        noise = {"seed": draw_seeds(num, generator=generator, device=device)}
        if self.num_classes:
            noise["label"] = torch.randint(self.num_classes, (num,), generator=generator).to(device)
        return noise

    @torch.no_grad()
    def frames(
        self, noise: dict[str, Tensor], sampling: Sampling, *, given_Bqthw: Tensor | None = None
    ) -> Iterator[Tensor]:
        chance = Chance(noise["seed"])
        sum_BE = self.begin(noise.get("label"), noise["seed"])
        if given_Bqthw is not None:
            sum_BE = sum_BE + self.vectors(self.flat(given_Bqthw)).sum(1)
        _, h, w = self.grid_thw
        while True:
            codes = []
            for place in range(h * w * self.num_codebooks):
                code_B = choose(shaped(self.logits(sum_BE), sampling), chance.uniform())
                sum_BE = sum_BE + self.vectors(code_B[:, None], first=place)[:, 0]
                codes.append(code_B)
            yield self.grids(torch.stack(codes, 1))[:, :, 0]


class AnyOrderPrior(Prior):
    """Codes in any order, each drawn by the sum of the vectors of the others that are known."""

    order = "any"

    def forward(self, indices_Bqthw: Tensor, *, label_B: Tensor | None = None) -> Tensor:
        return self.seen(indices_Bqthw, torch.ones_like(indices_Bqthw, dtype=torch.bool), label_B)

    def seen(self, indices_Bqthw: Tensor, known_Bqthw: Tensor, label_B: Tensor | None) -> Tensor:
        x_BNE = self.vectors(self.flat(indices_Bqthw)) * self.flat(known_Bqthw)[..., None]
        sum_BE = self.begin(label_B, indices_Bqthw) + x_BNE.sum(1)
        return self.grids(self.logits(sum_BE[:, None] - x_BNE))

    def loss(
        self,
        indices_Bqthw: Tensor,
        *,
        label_B: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        known_Bqthw = torch.rand(indices_Bqthw.shape, generator=generator, device="cpu") < 0.5
        logits = self.seen(indices_Bqthw, known_Bqthw.to(indices_Bqthw.device), label_B)
        return F.cross_entropy(logits.float().flatten(0, -2), indices_Bqthw.flatten())

    def fill(
        self, indices_Bqthw: Tensor, known_Bqthw: Tensor, noise: dict[str, Tensor], sampling: Sampling
    ) -> Tensor:
        return self.drawn(indices_Bqthw, known_Bqthw, noise, sampling, Chance(noise["seed"]))

    @torch.no_grad()
    def drawn(
        self,
        indices_Bqthw: Tensor,
        known_Bqthw: Tensor,
        noise: dict[str, Tensor],
        sampling: Sampling,
        chance: Chance,
    ) -> Tensor:
        codes_BN, known_BN = self.flat(indices_Bqthw).clone(), self.flat(known_Bqthw)
        sum_BE = self.begin(noise.get("label"), noise["seed"])
        sum_BE = sum_BE + (self.vectors(codes_BN) * known_BN[..., None]).sum(1)
        for place in range(codes_BN.shape[1]):
            code_B = choose(shaped(self.logits(sum_BE), sampling), chance.uniform())
            known_B = known_BN[:, place]
            codes_BN[:, place] = torch.where(known_B, codes_BN[:, place], code_B)
            sum_BE = sum_BE + self.vectors(code_B[:, None], first=place)[:, 0] * ~known_B[:, None]
        return self.grids(codes_BN)

    def frames(
        self, noise: dict[str, Tensor], sampling: Sampling, *, given_Bqthw: Tensor | None = None
    ) -> Iterator[Tensor]:
        chance = Chance(noise["seed"])
        t, h, w = self.grid_thw
        blank = noise["seed"].new_zeros(len(noise["seed"]), self.num_codebooks, 1, h, w)
        window = blank[:, :, :0] if given_Bqthw is None else given_Bqthw
        while True:
            window = torch.cat([window, blank], 2)[:, :, -t:]
            known = torch.ones_like(window, dtype=torch.bool)
            known[:, :, -1] = False
            window = self.drawn(window, known, noise, sampling, chance)
            yield window[:, :, -1]


class Discriminator(nn.Module):
    consumes, min_size = "video", (2, 8, 8)

    def __init__(self, *, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.down = nn.Conv3d(in_channels, 8, (2, 4, 4), (2, 4, 4))
        self.score = nn.Conv3d(8, 1, (1, 2, 2))

    def forward(self, x_BCTHW: Tensor) -> Judged:
        features = F.softplus(self.down(x_BCTHW))
        return Judged([self.score(features)], [features])


class ImageDiscriminator(nn.Module):
    consumes, min_size, in_channels = "image", (1, 4, 4), 3

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Conv2d(3, 8, 4), nn.Tanh(), nn.Conv2d(8, 1, 1))

    def forward(self, x_BCHW: Tensor) -> Judged:
        return Judged([self.score(x_BCHW)], [])
