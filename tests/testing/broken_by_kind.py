"""Parts that each break one promise of their own kind, or of a prior. `BROKEN` says which.

Shape legend: B batch, C colour channels, T H W frames and pixels; D latent channels, t h w the latent
grid, q codebooks, N = t h w q codes in raster order, E width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from good_parts import (
    AnyOrderPrior,
    CausalDecoder,
    CausalEncoder,
    Continuous,
    Decoder,
    Discriminator,
    Encoder,
    Generator,
    Prior,
    Quantizer,
)
from torch import Tensor, nn

from zoo.outputs import Judged, Quantized
from zoo.sampling import Chance, Sampling, draw_seeds
from zoo.testing.runner import Family


class WrongStride(Encoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        self.stride = (2, 4, 2)


class SwapsHeightAndWidth(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW).transpose(-1, -2)


class SlicesChannels(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW[:, : self.in_channels])


class DetachedEncoder(Encoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW.detach())


class OneFrameIsTooFew(CausalEncoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if x_BCTHW.shape[2] == 1:
            raise IndexError("no frame 1")
        return super().forward(x_BCTHW)


class NormPoolsOverTime(CausalEncoder):
    def __init__(self, *, widths: list[int]) -> None:
        super().__init__(widths=widths)
        self.norm = nn.GroupNorm(1, widths[-1])

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.norm(super().forward(x_BCTHW))


class LooksAhead(CausalDecoder):
    def forward(self, z_BDthw: Tensor) -> Tensor:
        return super().forward(z_BDthw + F.pad(z_BDthw[:, :, 1:], (0, 0, 0, 0, 0, 1)))


class ForgetsPieces(CausalEncoder):
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        x_BCTHW = x_BCTHW + 0.1 * F.pad(x_BCTHW[:, :, :-1], (0, 0, 0, 0, 1, 0))
        return super().forward(x_BCTHW)


class CutsEveryPiece(CausalDecoder):
    def forward(self, z_BDthw: Tensor) -> Tensor:
        return Decoder.forward(self, z_BDthw)[:, :, self.stride[0] - 1 :]


class TooManyFrames(Decoder):
    causal = True


class DetachedDecoder(Decoder):
    def forward(self, z_BDthw: Tensor) -> Tensor:
        return super().forward(z_BDthw.detach())


class LastLayerIsCopy(Decoder):
    @property
    def last_layer(self) -> Any:
        return self.out.weight.detach().clone()


class LastLayerUnused(Decoder):
    def __init__(self, *, latent_dim: int = 4) -> None:
        super().__init__(latent_dim=latent_dim)
        self.spare = nn.Parameter(torch.zeros(3))

    @property
    def last_layer(self) -> nn.Parameter:
        return self.spare


class LastLayerIsBias(Decoder):
    @property
    def last_layer(self) -> Any:
        return self.out.bias


class SigmoidDecoder(Decoder):
    def forward(self, z_BDthw: Tensor) -> Tensor:
        return (super().forward(z_BDthw) + 1) / 2


class ChannelsLast(Quantizer):
    def forward(self, z_BDthw: Tensor) -> Quantized:
        result = super().forward(z_BDthw)
        return result._replace(z_BDthw=result.z_BDthw.movedim(1, -1))


class IntIndices(Quantizer):
    def forward(self, z_BDthw: Tensor) -> Quantized:
        result = super().forward(z_BDthw)
        return result._replace(indices_Bqthw=result.indices_Bqthw.int())


class FlatIndices(Quantizer):
    def forward(self, z_BDthw: Tensor) -> Quantized:
        result = super().forward(z_BDthw)
        return result._replace(indices_Bqthw=result.indices_Bqthw.flatten(2))


class ContinuousWithIndices(Continuous):
    def forward(self, z_BDthw: Tensor) -> Quantized:
        return super().forward(z_BDthw)._replace(indices_Bqthw=z_BDthw[:, :1].long())


class CountsFromOne(Quantizer):
    def lookup(self, indices_Bqthw: Tensor) -> Tensor:
        return super().lookup((indices_Bqthw - 1).clamp(min=0))

    def forward(self, z_BDthw: Tensor) -> Quantized:
        result = super().forward(z_BDthw)
        return result._replace(indices_Bqthw=result.indices_Bqthw + 1)


class LookupOfOtherCode(Quantizer):
    def forward(self, z_BDthw: Tensor) -> Quantized:
        result = super().forward(z_BDthw)
        return result._replace(indices_Bqthw=self.codebook_size - 1 - result.indices_Bqthw)


class OneCodeShort(Quantizer):
    def __init__(self, *, latent_dim: int = 4, codebook_size: int = 8) -> None:
        super().__init__(latent_dim=latent_dim, codebook_size=codebook_size)
        self.codebook_size += 1


class AllCodesAlike(Quantizer):
    def __init__(self, *, latent_dim: int = 4, codebook_size: int = 8) -> None:
        super().__init__(latent_dim=latent_dim, codebook_size=codebook_size)
        nn.init.ones_(self.codes)


class LearnsInEval(Quantizer):
    def forward(self, z_BDthw: Tensor) -> Quantized:
        result = super().forward(z_BDthw)
        with torch.no_grad():
            self.codes.mul_(0.99).add_(0.01 * z_BDthw.mean())
        return result


class DriftsApart(Quantizer):
    def forward(self, z_BDthw: Tensor) -> Quantized:
        result = super().forward(z_BDthw)
        if self.training:
            with torch.no_grad():
                self.codes.mul_(0.99).add_(0.01 * z_BDthw.mean())
        return result


class NoStraightThrough(Quantizer):
    def forward(self, z_BDthw: Tensor) -> Quantized:
        result = super().forward(z_BDthw)
        return result._replace(z_BDthw=result.z_BDthw.detach(), loss=result.loss.detach())


class LossPerClip(Quantizer):
    def forward(self, z_BDthw: Tensor) -> Quantized:
        result = super().forward(z_BDthw)
        return result._replace(loss=result.loss.expand(z_BDthw.shape[0]))


class AttachedStats(Quantizer):
    def forward(self, z_BDthw: Tensor) -> Quantized:
        result = super().forward(z_BDthw)
        return result._replace(stats={"loss": result.loss})


class FollowsAutocast(Quantizer):
    def forward(self, z_BDthw: Tensor) -> Quantized:
        if torch.is_autocast_enabled(z_BDthw.device.type):
            z_BDthw = 1.5 * z_BDthw.bfloat16().float()
        return super().forward(z_BDthw)


class AlwaysCodeZero(Quantizer):
    def nearest(self, z_BDthw: Tensor) -> Tensor:
        return super().nearest(z_BDthw) * 0


class NoiseBatchLast(Generator):
    def draw_noise(self, num: int, num_frames: int, **where: Any) -> dict[str, Tensor]:
        noise = super().draw_noise(num, num_frames, **where)
        return noise | {"content": noise["content"].T}

    def forward(self, noise: dict[str, Tensor]) -> Tensor:
        return super().forward(noise | {"content": noise["content"].T})


class IgnoresContent(Generator):
    def forward(self, noise: dict[str, Tensor]) -> Tensor:
        return super().forward(noise | {"content": noise["content"] * 0})


class IgnoresGenerator(Generator):
    def draw_noise(
        self, num: int, num_frames: int, *, generator: Any = None, device: Any = None
    ) -> dict[str, Tensor]:
        return super().draw_noise(num, num_frames, device=device)


class OwnGenerator(Generator):
    def __init__(self, *, content_dim: int = 5) -> None:
        super().__init__(content_dim=content_dim)
        self.seed = 0

    def draw_noise(
        self, num: int, num_frames: int, *, generator: Any = None, device: Any = None
    ) -> dict[str, Tensor]:
        self.seed += 1
        generator = generator or torch.Generator().manual_seed(self.seed)
        return super().draw_noise(num, num_frames, generator=generator, device=device)


class IgnoresDevice(Generator):
    def draw_noise(
        self, num: int, num_frames: int, *, generator: Any = None, device: Any = None
    ) -> dict[str, Tensor]:
        return super().draw_noise(num, num_frames, generator=generator)


class WrongNoiseDim(Generator):
    def __init__(self, *, content_dim: int = 5) -> None:
        super().__init__(content_dim=content_dim)
        self.noise_dim = 1000


class AlwaysFourFrames(Generator):
    def draw_noise(self, num: int, num_frames: int, **where: Any) -> dict[str, Tensor]:
        return super().draw_noise(num, 4, **where)


class CountsFromTheCall(Generator):
    time = "frames"

    def forward(self, noise: dict[str, Tensor], times_BT: Tensor | None = None) -> Tensor:
        x_BCTHW = super().forward(noise)
        return x_BCTHW if times_BT is None else x_BCTHW[:, :, : times_BT.shape[1]]


class LongerDrawDiffers(Generator):
    time = "frames"

    def forward(self, noise: dict[str, Tensor], times_BT: Tensor | None = None) -> Tensor:
        x_BCTHW = super().forward(noise)
        return x_BCTHW if times_BT is None else x_BCTHW[:, :, times_BT[0].long()]


class WalksElsewhere(LongerDrawDiffers):
    def walked(self, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value + 1 for name, value in noise.items()}


class ForgetsLabel(Generator):
    conditions: Any = ("label",)
    num_classes = 3

    def draw_noise(self, num: int, num_frames: int, **where: Any) -> dict[str, Tensor]:
        noise = super().draw_noise(num, num_frames, **where)
        return noise | {"label": torch.zeros(num, dtype=torch.int64, device=where.get("device"))}


class WrongSize(Generator):
    def __init__(self, *, content_dim: int = 5) -> None:
        super().__init__(content_dim=content_dim)
        self.size_HW = (16, 8)


class BytesRange(Generator):
    def forward(self, noise: dict[str, Tensor]) -> Tensor:
        return 127.5 * (super().forward(noise) + 1)


class SigmoidGenerator(Generator):
    def forward(self, noise: dict[str, Tensor]) -> Tensor:
        return (super().forward(noise) + 1) / 2


class SmallSeeds(Prior):
    def draw_noise(self, num: int, num_frames: int, **where: Any) -> dict[str, Tensor]:
        noise = super().draw_noise(num, num_frames, **where)
        return noise | {"seed": noise["seed"].int()}


class NoLabelInNoise(Prior):
    def draw_noise(self, num: int, num_frames: int, **where: Any) -> dict[str, Tensor]:
        return {"seed": super().draw_noise(num, num_frames, **where)["seed"]}


class LabelsFromOne(Prior):
    def draw_noise(self, num: int, num_frames: int, **where: Any) -> dict[str, Tensor]:
        noise = super().draw_noise(num, num_frames, **where)
        return noise | {"label": noise["label"] + 1}


class SeedsFromTheGlobalOne(Prior):
    def draw_noise(
        self, num: int, num_frames: int, *, generator: Any = None, device: Any = None
    ) -> dict[str, Tensor]:
        noise = super().draw_noise(num, num_frames, generator=generator, device=device)
        return noise | {"seed": draw_seeds(num, device=device)}


class SeedsAreFixed(Prior):
    def draw_noise(
        self, num: int, num_frames: int, *, generator: Any = None, device: Any = None
    ) -> dict[str, Tensor]:
        generator = generator or torch.Generator().manual_seed(0)
        return super().draw_noise(num, num_frames, generator=generator, device=device)


class LossPerCode(Prior):
    def loss(self, indices_Bqthw: Tensor, **told: Any) -> Tensor:
        return super().loss(indices_Bqthw, **told).expand(indices_Bqthw.shape)


class MasksFromTheGlobalOne(AnyOrderPrior):
    def loss(self, indices_Bqthw: Tensor, *, label_B: Any = None, generator: Any = None) -> Tensor:
        return super().loss(indices_Bqthw, label_B=label_B)


class LossOfUnknownWeights(Prior):
    def __init__(self, *, num_classes: int = 3) -> None:
        super().__init__(num_classes=num_classes)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, indices_Bqthw: Tensor, *, label_B: Any = None) -> Tensor:
        return self.scale * super().forward(indices_Bqthw, label_B=label_B)

    def loss(self, indices_Bqthw: Tensor, *, label_B: Any = None, generator: Any = None) -> Tensor:
        logits = super().forward(indices_Bqthw, label_B=label_B)
        return F.cross_entropy(logits.flatten(0, -2), indices_Bqthw.flatten())


class LossWritesIntoCodes(Prior):
    def loss(self, indices_Bqthw: Tensor, **told: Any) -> Tensor:
        indices_Bqthw[:, :, 0] = 0
        return super().loss(indices_Bqthw, **told)


class LossReadsValues(Prior):
    def loss(self, indices_Bqthw: Tensor, **told: Any) -> Tensor:
        assert indices_Bqthw.max().item() < self.codebook_size
        return super().loss(indices_Bqthw, **told)


class LossOfHalf(Prior):
    def loss(self, indices_Bqthw: Tensor, **told: Any) -> Tensor:
        loss = super().loss(indices_Bqthw, **told)
        # Fine in fp32; bf16 rounds 1 + 1e-4 to 1.
        return loss * 1e-4 / (1 + 1e-4 * torch.ones((), dtype=self.head(self.start.weight).dtype) - 1)


class NoLogitForTheLast(Prior):
    def loss(self, indices_Bqthw: Tensor, **told: Any) -> Tensor:
        rare = (indices_Bqthw == self.codebook_size - 1).float().mean()
        return super().loss(indices_Bqthw, **told) - torch.log(1 - rare)


class EndsWithTheWindow(Prior):
    def frames(self, noise: dict[str, Tensor], sampling: Sampling, **given: Any) -> Iterator[Tensor]:
        return islice(super().frames(noise, sampling, **given), self.grid_thw[0])


class FramesOfFloats(Prior):
    def frames(self, noise: dict[str, Tensor], sampling: Sampling, **given: Any) -> Iterator[Tensor]:
        return (frame.float() for frame in super().frames(noise, sampling, **given))


class SwappedFrames(Prior):
    def frames(self, noise: dict[str, Tensor], sampling: Sampling, **given: Any) -> Iterator[Tensor]:
        return (frame.transpose(-1, -2) for frame in super().frames(noise, sampling, **given))


class MaskCode(Prior):
    def frames(self, noise: dict[str, Tensor], sampling: Sampling, **given: Any) -> Iterator[Tensor]:
        return (frame + 1 for frame in super().frames(noise, sampling, **given))


class IgnoresTheSeed(Prior):
    def frames(self, noise: dict[str, Tensor], sampling: Sampling, **given: Any) -> Iterator[Tensor]:
        return super().frames(noise | {"seed": torch.arange(len(noise["seed"]))}, sampling, **given)


class FramesFromTheGlobalOne(Prior):
    def frames(self, noise: dict[str, Tensor], sampling: Sampling, **given: Any) -> Iterator[Tensor]:
        return super().frames(noise | {"seed": draw_seeds(len(noise["seed"]))}, sampling, **given)


class SeedOfTheFirstClip(Prior):
    def frames(self, noise: dict[str, Tensor], sampling: Sampling, **given: Any) -> Iterator[Tensor]:
        seed_B = noise["seed"][0] // 2 + torch.arange(len(noise["seed"]))
        return super().frames(noise | {"seed": seed_B}, sampling, **given)


class GivesTheGivenAgain(Prior):
    def frames(
        self, noise: dict[str, Tensor], sampling: Sampling, *, given_Bqthw: Any = None
    ) -> Iterator[Tensor]:
        if given_Bqthw is not None:
            yield from given_Bqthw.unbind(2)
        yield from super().frames(noise, sampling, given_Bqthw=given_Bqthw)


class IgnoresTheGiven(Prior):
    def frames(
        self, noise: dict[str, Tensor], sampling: Sampling, *, given_Bqthw: Any = None
    ) -> Iterator[Tensor]:
        return super().frames(noise, sampling)


class WritesIntoTheGiven(AnyOrderPrior):
    def frames(
        self, noise: dict[str, Tensor], sampling: Sampling, *, given_Bqthw: Any = None
    ) -> Iterator[Tensor]:
        for frame in super().frames(noise, sampling, given_Bqthw=given_Bqthw):
            if given_Bqthw is not None:
                given_Bqthw[:, :, -1] = frame
            yield frame


class SeesTheCodeItself(Prior):
    def forward(self, indices_Bqthw: Tensor, *, label_B: Any = None) -> Tensor:
        x_BNE = self.vectors(self.flat(indices_Bqthw)).cumsum(1)
        return self.grids(self.logits(self.begin(label_B, indices_Bqthw)[:, None] + x_BNE))


class FlatLogits(Prior):
    def forward(self, indices_Bqthw: Tensor, *, label_B: Any = None) -> Tensor:
        return super().forward(indices_Bqthw, label_B=label_B).flatten(2, 4)

    def loss(self, indices_Bqthw: Tensor, **told: Any) -> Tensor:
        return super().loss(indices_Bqthw.flatten(2), **told)

    def flat(self, indices_Bqthw: Tensor) -> Tensor:
        return indices_Bqthw.transpose(1, -1).flatten(1)


class MakesKnownCodesAnew(AnyOrderPrior):
    def fill(self, indices_Bqthw: Tensor, known_Bqthw: Tensor, *told: Any) -> Tensor:
        return super().fill(indices_Bqthw, torch.zeros_like(known_Bqthw), *told)


class ReadsUnknownCodes(AnyOrderPrior):
    def fill(self, indices_Bqthw: Tensor, known_Bqthw: Tensor, *told: Any) -> Tensor:
        filled = super().fill(indices_Bqthw, torch.ones_like(known_Bqthw), *told)
        return torch.where(known_Bqthw, indices_Bqthw, self.codebook_size - 1 - filled)


class FillsFromOneSeed(AnyOrderPrior):
    def fill(
        self, indices_Bqthw: Tensor, known_Bqthw: Tensor, noise: dict[str, Tensor], sampling: Sampling
    ) -> Tensor:
        chance = Chance(noise["seed"][:1].expand(len(noise["seed"])))
        return self.drawn(indices_Bqthw, known_Bqthw, noise, sampling, chance)


class IgnoresTheLabel(Prior):
    def forward(self, indices_Bqthw: Tensor, *, label_B: Any = None) -> Tensor:
        return super().forward(indices_Bqthw)


class BareTensors(Discriminator):
    def forward(self, x_BCTHW: Tensor) -> Judged:
        result = super().forward(x_BCTHW)
        return Judged(tuple(result.logits), result.features)  # type: ignore[arg-type]


class MeanOverBatch(Discriminator):
    def forward(self, x_BCTHW: Tensor) -> Judged:
        result = super().forward(x_BCTHW)
        return Judged([result.logits[0].mean()], result.features)


class MinSizeTooSmall(Discriminator):
    min_size = (2, 4, 4)


class DetachedDiscriminator(Discriminator):
    def forward(self, x_BCTHW: Tensor) -> Judged:
        return super().forward(x_BCTHW.detach())


class DetachedFeatures(Discriminator):
    def forward(self, x_BCTHW: Tensor) -> Judged:
        result = super().forward(x_BCTHW)
        return Judged(result.logits, [features.detach() for features in result.features])


class _OnceDifferentiable(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clone()


class NoSecondDerivative(Discriminator):
    def forward(self, x_BCTHW: Tensor) -> Judged:
        features = _OnceDifferentiable.apply(F.softplus(self.down(x_BCTHW)))
        return Judged([self.score(features)], [features])


class NoSecondDerivativeInHalf(Discriminator):
    def forward(self, x_BCTHW: Tensor) -> Judged:
        features = F.softplus(self.down(x_BCTHW))
        if torch.is_autocast_enabled("cpu"):
            features = _OnceDifferentiable.apply(features)
        return Judged([self.score(features)], [features])


class UnsortedFrames(Discriminator):
    def draw_frames(self, num: int, num_frames: int, *, generator: Any = None) -> Tensor:
        return torch.rand(num, num_frames, generator=generator).argsort(1)


class MixesBatchUnsaid(Discriminator):
    def forward(self, x_BCTHW: Tensor) -> Judged:
        judged = super().forward(x_BCTHW)
        if not self.training:
            return judged
        return Judged([logits - logits.mean() for logits in judged.logits], judged.features)


class SigmoidDiscriminator(Discriminator):
    def forward(self, x_BCTHW: Tensor) -> Judged:
        result = super().forward(x_BCTHW)
        return Judged([logits.sigmoid() for logits in result.logits], result.features)


class TanhDiscriminator(Discriminator):
    def forward(self, x_BCTHW: Tensor) -> Judged:
        result = super().forward(x_BCTHW)
        return Judged([logits.tanh() for logits in result.logits], result.features)


class SoftplusDiscriminator(Discriminator):
    def forward(self, x_BCTHW: Tensor) -> Judged:
        result = super().forward(x_BCTHW)
        return Judged([F.softplus(logits) for logits in result.logits], result.features)


BROKEN: list[tuple[Family, str, str]] = [
    ("encoder", "shapes", "WrongStride"),
    ("encoder", "shapes", "SwapsHeightAndWidth"),
    ("encoder", "channels", "SlicesChannels"),
    ("encoder", "gradient_reaches_input", "DetachedEncoder"),
    ("encoder", "single_frame", "OneFrameIsTooFew"),
    ("encoder", "past_never_moves", "NormPoolsOverTime"),
    ("decoder", "past_never_moves", "LooksAhead"),
    ("encoder", "pieces_equal_one_shot", "ForgetsPieces"),
    ("decoder", "pieces_equal_one_shot", "CutsEveryPiece"),
    ("decoder", "shapes", "TooManyFrames"),
    ("decoder", "gradient_reaches_latent", "DetachedDecoder"),
    ("decoder", "last_layer_is_parameter", "LastLayerIsCopy"),
    ("decoder", "last_layer_moves_output", "LastLayerUnused"),
    ("decoder", "last_layer_moves_output", "LastLayerIsBias"),
    ("decoder", "reaches_both_signs", "SigmoidDecoder"),
    ("quantizer", "shapes", "ChannelsLast"),
    ("quantizer", "indices_or_none", "IntIndices"),
    ("quantizer", "indices_or_none", "FlatIndices"),
    ("quantizer", "indices_or_none", "ContinuousWithIndices"),
    ("quantizer", "indices_in_range", "CountsFromOne"),
    ("quantizer", "lookup_equals_output", "LookupOfOtherCode"),
    ("quantizer", "lookup_knows_every_code", "OneCodeShort"),
    ("quantizer", "lookup_knows_every_code", "AllCodesAlike"),
    ("quantizer", "codebook_still_in_eval", "LearnsInEval"),
    ("quantizer", "ranks_agree", "DriftsApart"),
    ("quantizer", "straight_through", "NoStraightThrough"),
    ("quantizer", "loss_is_scalar", "LossPerClip"),
    ("quantizer", "stats_are_detached", "AttachedStats"),
    ("quantizer", "fp32_under_autocast", "FollowsAutocast"),
    ("quantizer", "many_codes_are_used", "AlwaysCodeZero"),
    ("generator", "noise_is_batch_first", "NoiseBatchLast"),
    ("generator", "noise_matters", "IgnoresContent"),
    ("generator", "seed_reproduces", "IgnoresGenerator"),
    ("generator", "noise_without_generator", "OwnGenerator"),
    ("generator", "noise_goes_to_device", "IgnoresDevice"),
    ("generator", "noise_has_dim", "WrongNoiseDim"),
    ("generator", "shapes", "AlwaysFourFrames"),
    ("generator", "shapes", "WrongSize"),
    ("generator", "moments_made_alone", "CountsFromTheCall"),
    ("generator", "moments_made_alone", "WalksElsewhere"),
    ("generator", "longer_draw_begins_alike", "LongerDrawDiffers"),
    ("generator", "label_matters", "ForgetsLabel"),
    ("generator", "video_range", "BytesRange"),
    ("generator", "reaches_both_signs", "SigmoidGenerator"),
    ("prior", "noise_is_a_seed", "SmallSeeds"),
    ("prior", "noise_is_a_seed", "NoLabelInNoise"),
    ("prior", "noise_is_a_seed", "LabelsFromOne"),
    ("prior", "noise_is_a_seed", "SeedsFromTheGlobalOne"),
    ("prior", "noise_is_a_seed", "SeedsAreFixed"),
    ("prior", "loss_is_nats", "LossPerCode"),
    ("prior", "loss_is_nats", "MasksFromTheGlobalOne"),
    ("prior", "parameters_get_gradients", "LossOfUnknownWeights"),
    ("prior", "inputs_untouched", "LossWritesIntoCodes"),
    ("prior", "rng_untouched", "MasksFromTheGlobalOne"),
    ("prior", "flat_input_finite", "NoLogitForTheLast"),
    ("prior", "autocast_finite", "LossOfHalf"),
    ("prior", "meta_shapes", "LossReadsValues"),
    ("prior", "frames_are_codes", "EndsWithTheWindow"),
    ("prior", "frames_are_codes", "FramesOfFloats"),
    ("prior", "frames_are_codes", "SwappedFrames"),
    ("prior", "frames_are_codes", "MaskCode"),
    ("prior", "frames_are_codes", "IgnoresTheSeed"),
    ("prior", "frames_are_codes", "FramesFromTheGlobalOne"),
    ("prior", "frames_alone_as_in_a_batch", "SeedOfTheFirstClip"),
    ("prior", "frames_go_on", "GivesTheGivenAgain"),
    ("prior", "frames_go_on", "IgnoresTheGiven"),
    ("prior", "frames_go_on", "WritesIntoTheGiven"),
    ("prior", "never_sees_later_codes", "SeesTheCodeItself"),
    ("prior", "never_sees_later_codes", "FlatLogits"),
    ("prior", "fill_keeps_what_is_known", "MakesKnownCodesAnew"),
    ("prior", "fill_keeps_what_is_known", "ReadsUnknownCodes"),
    ("prior", "fill_keeps_what_is_known", "FillsFromOneSeed"),
    ("prior", "label_matters", "IgnoresTheLabel"),
    ("discriminator", "logits_and_features_are_lists", "BareTensors"),
    ("discriminator", "logits_and_features_are_lists", "MeanOverBatch"),
    ("discriminator", "shapes", "MinSizeTooSmall"),
    ("discriminator", "gradient_reaches_input", "DetachedDiscriminator"),
    ("discriminator", "features_carry_gradient", "DetachedFeatures"),
    ("discriminator", "double_backward", "NoSecondDerivative"),
    ("discriminator", "double_backward_under_autocast", "NoSecondDerivativeInHalf"),
    ("discriminator", "frames_drawn", "UnsortedFrames"),
    ("discriminator", "batch_in_training", "MixesBatchUnsaid"),
    ("discriminator", "logits_are_unbounded", "SigmoidDiscriminator"),
    ("discriminator", "logits_are_unbounded", "TanhDiscriminator"),
    ("discriminator", "logits_are_unbounded", "SoftplusDiscriminator"),
]
