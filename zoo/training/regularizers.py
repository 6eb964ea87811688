"""What keeps the two players' gradients in bounds: penalties on scores, slopes and path lengths.

Each is fp32 and takes what the players returned; the discriminators are run under autocast or not, before.
A discriminator's verdict on a clip is one number here, as in the losses of `zoo.training.objectives`: the
mean over each head's scores, then the mean over its heads. Discriminators share no weights, so each has a
penalty of its own and these are summed.

Lazily (`every` = k): the penalty is computed at each k-th update and multiplied by k, so its mean gradient is
that of the penalty at every update (StyleGAN2, https://arxiv.org/abs/1912.04958, appendix B). It joins the
loss of that update rather than taking an optimiser step of its own, so rates and betas stay as they are.

Shape legend: B batch, C colour channels, T H W frames and pixels; D latent width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.ranks import mean_everywhere, shared_draw

if TYPE_CHECKING:
    from zoo.outputs import Judged

MAX_HEADS = 32
"""Heads of one discriminator that LeCam keeps means for."""


def due(every: int, update: int) -> float:
    """Return the factor on a lazy penalty at update number `update`, counted from 0: `every`, or 0."""
    return float(every) if update % every == 0 else 0.0


def slopes(verdicts: Sequence[Judged], x_BCTHW: Tensor) -> list[Tensor]:
    """Return grad_x D(x) for each discriminator, fp32 and of the shape of x, itself differentiable.

    Where scores depend on the batch's other clips (minibatch deviation) the gradient is that of their sum.

    Args:
        verdicts: One per discriminator, all on `x_BCTHW` or on frames taken from it.
        x_BCTHW: What they judged; it must require a gradient.

    Raises:
        TrainingError: A verdict does not depend on the clips.
    """
    gradients = []
    with torch.autocast(x_BCTHW.device.type, enabled=False):
        for i, judged in enumerate(verdicts):
            heads = [logits.float().reshape(len(logits), -1).mean(1) for logits in judged.logits]
            verdict_B = torch.stack(heads).mean(0)
            if not verdict_B.requires_grad:
                raise TrainingError(
                    f"discriminator number {i + 1} was judged without gradient, so its slope is unknown; the "
                    "clips of a gradient penalty must require one"
                )
            (gradient,) = torch.autograd.grad(verdict_B.sum(), x_BCTHW, create_graph=True, allow_unused=True)
            if gradient is None:
                raise TrainingError(
                    f"discriminator number {i + 1} did not judge these clips: real to it are frames of made "
                    "ones, so train.objective.adversarial.r1 has no slope to hold; set r1: null"
                )
            gradients.append(gradient.float())
    return gradients


def gradient_penalty_r1(verdicts: Sequence[Judged], x_BCTHW: Tensor) -> Tensor:
    """E||grad_x D(x)||^2: squares summed over C, T, H, W, mean over clips, sum over discriminators.

    R1 on real clips, R2 on made ones (https://arxiv.org/abs/1801.04406); recipes weigh it by gamma / 2.

    Returns:
        Scalar.
    """
    return torch.stack([g.square().flatten(1).sum(1).mean() for g in slopes(verdicts, x_BCTHW)]).sum()


def gradient_penalty_wgan(verdicts: Sequence[Judged], x_BCTHW: Tensor) -> Tensor:
    """E(||grad_x D(x)|| - 1)^2 at clips from `between`, sum over discriminators.

    The penalty is of one clip alone: discriminators whose scores mix the batch (batch norm) do not suit it
    (https://arxiv.org/abs/1704.00028, section 4).

    Returns:
        Scalar.

    Raises:
        TrainingError: There is no verdict, or one does not depend on the clips.
    """
    if not verdicts:
        raise TrainingError(
            "to all discriminators frames of made clips are real, so there is no line from made clips to "
            "real ones; set train.objective.adversarial.gradient_penalty: null"
        )
    norms = [torch.linalg.vector_norm(g.flatten(1), dim=1) for g in slopes(verdicts, x_BCTHW)]
    return torch.stack([(norm_B - 1).square().mean() for norm_B in norms]).sum()


def between(real_x_BCTHW: Tensor, made_x_BCTHW: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return clips on the line from each made clip to the real one of its number, uniformly drawn.

    Args:
        real_x_BCTHW: Real clips.
        made_x_BCTHW: As many made clips.
        generator: Draws the places, on the CPU.

    Returns:
        x_BCTHW without history that requires a gradient.
    """
    share = shared_draw(lambda n: torch.rand(n, generator=generator), len(real_x_BCTHW)).to(
        real_x_BCTHW.device
    )
    made = made_x_BCTHW.detach().to(real_x_BCTHW.dtype)
    return made.lerp(real_x_BCTHW.detach(), share[:, None, None, None, None]).requires_grad_()


class LecamMeans(nn.Module):
    """LeCam: holds real scores down to the running mean of made ones, and made ones up to that of real ones.

    E max(0, r - mean f)^2 + E max(0, mean r - f)^2, the form in the authors' code; the paper's equation 3
    leaves out the max, which acts only where the two sides have crossed (https://arxiv.org/abs/2104.03310).
    The means begin with those of the first batch, and are kept for each head of each discriminator.
    """

    real: Tensor
    fake: Tensor
    updates: Tensor

    def __init__(self, num_discriminators: int, *, decay: float = 0.99) -> None:
        super().__init__()
        self.decay = decay
        for name in ("real", "fake"):
            self.register_buffer(name, torch.zeros(num_discriminators, MAX_HEADS))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, reals: Sequence[Judged], fakes: Sequence[Judged]) -> Tensor:
        """Move the means towards these scores, then return the penalty: mean over heads, sum over judges."""
        terms = []
        with torch.autocast(self.real.device.type, enabled=False):
            for i, (real, fake) in enumerate(zip(reals, fakes, strict=True)):
                heads = []
                for j, (r, f) in enumerate(zip(real.logits, fake.logits, strict=True)):
                    # Clones: the next call moves the buffers before this graph may have been walked.
                    mean_real, mean_fake = self._move(self.real, i, j, r), self._move(self.fake, i, j, f)
                    heads.append(
                        F.relu(r.float() - mean_fake).square().mean()
                        + F.relu(mean_real - f.float()).square().mean()
                    )
                terms.append(torch.stack(heads).mean())
        self.updates += 1
        return torch.stack(terms).sum()

    @torch.no_grad()
    def _move(self, means: Tensor, i: int, j: int, logits: Tensor) -> Tensor:
        newest = mean_everywhere(logits.float().mean())
        keep = torch.where(self.updates == 0, 0.0, self.decay)
        means[i, j] = keep * means[i, j] + (1 - keep) * newest
        return means[i, j].clone()


class PathLengthMean(nn.Module):
    """Path length: E(||J^T y|| - a)^2, y unit-scaled noise on the clip, a the running mean of the norms.

    It needs of a generator a continuous latent per clip that the whole clip depends on, kept in the graph.
    StyleGAN2 means its mapped styles w; a generator without such a mapping can give its noise.
    """

    mean: Tensor

    def __init__(self, *, decay: float = 0.01) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x_BCTHW: Tensor, latents: Sequence[Tensor], *, generator: torch.Generator) -> Tensor:
        """Return the penalty and move the mean.

        Args:
            x_BCTHW: Clips made from `latents`, in the graph.
            latents: Tensors (B, ..., D) that require a gradient. Squares are summed over D and over the
                tensors; over the axes between (layers, frames) they are averaged, as StyleGAN2 does, but for
                rows that the clip does not depend on.
            generator: Draws y, on the CPU.

        Returns:
            Scalar.
        """
        with torch.autocast(x_BCTHW.device.type, enabled=False):
            shape_CTHW = x_BCTHW.shape[1:]
            noise = shared_draw(lambda n: torch.randn(n, *shape_CTHW, generator=generator), len(x_BCTHW))
            noise = noise.to(x_BCTHW.device)
            # One pixel's worth of noise in all, whatever the size, as long as the clip is.
            noise = noise / (x_BCTHW[0, 0].numel() ** 0.5)
            gradients = torch.autograd.grad((x_BCTHW.float() * noise).sum(), list(latents), create_graph=True)
            squares = [_mean_of_used(g.float().square().sum(-1).reshape(len(g), -1)) for g in gradients]
            length_B = torch.stack(squares).sum(0).sqrt()
            with torch.no_grad():
                self.mean.lerp_(mean_everywhere(length_B.mean()), self.decay)
            return (length_B - self.mean.clone()).square().mean()


def _mean_of_used(squares_BN: Tensor) -> Tensor:
    """Return the mean of each clip's squares over those that are not 0."""
    return squares_BN.sum(1) / (squares_BN > 0).sum(1).clamp(min=1)
