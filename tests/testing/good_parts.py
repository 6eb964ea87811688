"""Small parts that keep every promise, one per kind and variant. broken_parts.py breaks them one by one.

Shape legend: B batch, C colour channels, T H W frames and pixels; D latent channels, t h w the latent
grid, q codebooks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from zoo.outputs import Judged, Quantized
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
