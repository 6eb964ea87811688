"""Loss terms by name: what `train.objective` of a recipe weighs.

Every term is fp32 and a pure function of what the model returned. Discriminators return raw scores
("logits"): a sigmoid belongs to the loss, never to the discriminator. With D(x) = sigmoid(score):

| name           | discriminator minimises       | generator minimises |
|----------------|-------------------------------|---------------------|
| minimax        | -log D(x) - log(1 - D(G(z)))  | log(1 - D(G(z)))    |
| non-saturating | the same                      | -log D(G(z))        |
| hinge          | max(0, 1 - r) + max(0, 1 + f) | -f                  |
| least-squares  | (r - 1)^2 / 2 + f^2 / 2       | (f - 1)^2 / 2       |
| wasserstein    | f - r                         | -f                  |
| relativistic   | softplus(f - r)               | softplus(r - f)     |

where r and f are the raw scores of real and made clips; "relativistic" pairs the i-th real clip with the
i-th made one. Sources: minimax and (section 3) non-saturating https://arxiv.org/abs/1406.2661, hinge
https://arxiv.org/abs/1705.02894, least squares https://arxiv.org/abs/1611.04076, Wasserstein
https://arxiv.org/abs/1701.07875, relativistic pairing https://arxiv.org/abs/1807.00734 and R3GAN
https://arxiv.org/abs/2501.05441. What keeps the discriminators smooth is in `zoo.training.regularizers`.

Shape legend: B batch, C colour channels, T H W frames and pixels, N images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.ranks import mean_everywhere, shared_draw
from zoo.spectral_norm import is_normalized

if TYPE_CHECKING:
    from zoo.assemblies import Assembly
    from zoo.outputs import Judged
    from zoo.recipes import Adversarial, Objective, Perceptual, Recipe, Reconstruction

MAX_ADAPTIVE_WEIGHT = 1e4
"""Largest adaptive weight, as in VQGAN."""
_GRADIENT_FLOOR = 1e-4
_ZERO_IS_UNDECIDED = ("non-saturating", "hinge", "minimax")


def bce_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """Minus the value function: -log D(x) - log(1 - D(G(z))), means over all scores, from raw scores."""
    return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()


def minimax_generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
    """log(1 - D(G(z))): the generator's side of the minimax game; flat where the discriminator wins."""
    return -F.softplus(fake_logits).mean()


def non_saturating_generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
    """-log D(G(z)): the same fixed point as minimax, with a gradient where the discriminator wins."""
    return F.softplus(-fake_logits).mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """max(0, 1 - r) + max(0, 1 + f): scores beyond the margin stop counting."""
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def hinge_generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
    """-f."""
    return -fake_logits.mean()


def least_squares_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """(r - 1)^2 / 2 + f^2 / 2: real clips are to score 1, made ones 0."""
    return (real_logits - 1).square().mean() / 2 + fake_logits.square().mean() / 2


def least_squares_generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
    """(f - 1)^2 / 2."""
    return (fake_logits - 1).square().mean() / 2


def wasserstein_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """f - r: minus the critic's estimate of the distance; unbounded unless something holds its slope."""
    return fake_logits.mean() - real_logits.mean()


def relativistic_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """softplus(f - r): each real clip is to score above the made clip it is paired with."""
    return F.softplus(fake_logits - real_logits).mean()


def relativistic_generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:
    """softplus(r - f): each made clip is to score above the real clip it is paired with."""
    assert real_logits is not None
    return F.softplus(real_logits - fake_logits).mean()


class Game(NamedTuple):
    """The two losses of an adversarial game, each on the raw scores of one head.

    Attributes:
        discriminator_loss: Of (real_logits, fake_logits).
        generator_loss: Of (fake_logits, real_logits); the latter are read by a paired game only.
        paired: Whether scores are compared pair by pair, so that the generator's loss needs those of real
            clips, and as many of them.
    """

    discriminator_loss: Callable[[Tensor, Tensor], Tensor]
    generator_loss: Callable[[Tensor, Tensor | None], Tensor]
    paired: bool = False


GAMES: dict[str, Game] = {
    "minimax": Game(bce_discriminator_loss, minimax_generator_loss),
    "non-saturating": Game(bce_discriminator_loss, non_saturating_generator_loss),
    "hinge": Game(hinge_discriminator_loss, hinge_generator_loss),
    "least-squares": Game(least_squares_discriminator_loss, least_squares_generator_loss),
    "wasserstein": Game(wasserstein_discriminator_loss, hinge_generator_loss),
    "relativistic": Game(relativistic_discriminator_loss, relativistic_generator_loss, paired=True),
}


def generator_term(
    game: Game,
    fakes: Sequence[Judged],
    weights: Sequence[float],
    reals: Sequence[Judged] | None = None,
) -> Tensor:
    """What the model loses to its discriminators: the weighted sum over them of the mean over heads.

    Args:
        game: One of `GAMES`.
        fakes: One verdict on made clips per discriminator.
        weights: One factor per discriminator.
        reals: Verdicts on as many real clips, which a paired game needs; no gradient goes to them.

    Returns:
        Scalar.

    Raises:
        TrainingError: The game is paired and there are no real scores, or not as many.
    """
    if game.paired and reals is None:
        raise TrainingError(
            "this game compares each made clip with a real one, and the generator was given no scores of "
            "real clips: pass reals=, or choose another train.objective.adversarial.loss (non-saturating)"
        )
    terms = []
    for i, (judged, weight) in enumerate(zip(fakes, weights, strict=True)):
        losses = []
        for j, fake in enumerate(judged.logits):
            real = reals[i].logits[j].detach().float() if reals is not None else None
            _check_pairs(game, real, fake)
            losses.append(game.generator_loss(fake.float(), real))
        terms.append(weight * _mean(losses))
    return torch.stack(terms).sum()


def discriminator_term(game: Game, reals: Sequence[Judged], fakes: Sequence[Judged]) -> Tensor:
    """What the discriminators lose: the sum over them of the mean over heads.

    They share no weights, so no factor is needed between them.

    Returns:
        Scalar.
    """
    terms = []
    for real, fake in zip(reals, fakes, strict=True):
        losses = []
        for r, f in zip(real.logits, fake.logits, strict=True):
            _check_pairs(game, r, f)
            losses.append(game.discriminator_loss(r.float(), f.float()))
        terms.append(_mean(losses))
    return torch.stack(terms).sum()


def feature_matching_term(
    reals: Sequence[Judged], fakes: Sequence[Judged], weights: Sequence[float], *, paired: bool
) -> Tensor:
    """Mean absolute difference of features, mean over layers, weighted sum over discriminators.

    Sources: pix2pixHD, https://arxiv.org/abs/1711.11585, for pairs; https://arxiv.org/abs/1606.03498 for the
    rest, with the absolute difference in place of its square.

    Args:
        reals: Verdicts on real clips; no gradient goes to their features.
        fakes: Verdicts on made clips.
        weights: One factor per discriminator.
        paired: Whether a made clip is a copy of the real one of its number, to be compared with it. Otherwise
            the means over the batch are compared: what two unrelated clips differ by is not to shrink.

    Returns:
        Scalar.

    Raises:
        TrainingError: A discriminator returns no features.
    """
    terms = []
    for i, (real, fake, weight) in enumerate(zip(reals, fakes, weights, strict=True)):
        if not fake.features:
            raise TrainingError(
                f"train.objective.adversarial.feature_matching has no input: discriminator number {i + 1} "
                "returns no features. Set feature_matching: null, or one that has some (patch3d)"
            )
        distances = []
        for theirs, mine in zip(real.features, fake.features, strict=True):
            pair = theirs.detach().float(), mine.float()
            a, b = pair if paired else (mean_everywhere(side.mean(0)) for side in pair)
            distances.append(F.l1_loss(b, a))
        terms.append(weight * _mean(distances))
    return torch.stack(terms).sum()


def reconstruction_term(term: Reconstruction, made_x_BCTHW: Tensor, x_BCTHW: Tensor) -> Tensor:
    """Mean absolute or mean squared difference over every value of the clips, both in [-1, 1].

    VQ-VAE's log p(x|z) up to scale (https://arxiv.org/abs/1711.00937).
    """
    made, real = made_x_BCTHW.float(), x_BCTHW.float()
    return F.l1_loss(made, real) if term.loss == "l1" else F.mse_loss(made, real)


def perceptual_term(
    term: Perceptual,
    lpips: nn.Module,
    made_x_BCTHW: Tensor,
    x_BCTHW: Tensor,
    *,
    generator: torch.Generator,
) -> Tensor:
    """Mean LPIPS between frames, over all frames or over `term.num_frames` drawn from each clip.

    Args:
        term: The recipe's term.
        lpips: Maps two x_NCHW in [-1, 1] to one distance per image.
        made_x_BCTHW: Reconstructions.
        x_BCTHW: Originals.
        generator: Draws the frames, on the CPU.

    Returns:
        Scalar.
    """
    num_clips, _, num_frames = x_BCTHW.shape[:3]
    if term.num_frames is not None and term.num_frames < num_frames:
        order_BT = shared_draw(lambda n: torch.rand(n, num_frames, generator=generator), num_clips).argsort(1)
        frames_BT = order_BT[:, : term.num_frames].to(x_BCTHW.device)
        clips_B1 = torch.arange(num_clips, device=x_BCTHW.device)[:, None]
        # Two index tensors around a slice put the indexed axes first.
        pairs = [x[clips_B1, :, frames_BT] for x in (made_x_BCTHW, x_BCTHW)]
        images = [rearrange(pair, "b t c h w -> (b t) c h w").float() for pair in pairs]
    else:
        images = [rearrange(x, "b c t h w -> (b t) c h w").float() for x in (made_x_BCTHW, x_BCTHW)]
    distance: Tensor = lpips(*images)
    return distance.mean()


def adaptive_weight(reference_loss: Tensor, adversarial_loss: Tensor, last_layer: Tensor) -> Tensor:
    """|d reference / d last layer| / (|d adversarial / d last layer| + 1e-4), cut to [0, 1e4], detached.

    It keeps the adversarial pull on the decoder as strong as that of the reconstruction
    (VQGAN, https://arxiv.org/abs/2012.09841, equation 7). Both graphs are kept.

    Args:
        reference_loss: Weighted reconstruction and perceptual terms, scalar.
        adversarial_loss: The generator's adversarial term, scalar.
        last_layer: The decoder's last weight, a part of both graphs.

    Returns:
        Scalar without gradient.
    """
    reference, adversarial = (
        mean_everywhere(torch.autograd.grad(loss, last_layer, retain_graph=True)[0]).norm()
        for loss in (reference_loss, adversarial_loss)
    )
    weight: Tensor = reference / (adversarial + _GRADIENT_FLOOR)
    return weight.detach().clamp(0, MAX_ADAPTIVE_WEIGHT)


def objective_of_whole_batches(terms: Objective) -> str:
    """Return the first term that is not a mean over clips, and so cannot be accumulated; empty if none is."""
    adversarial = terms.adversarial
    if adversarial is None:
        return ""
    found = {
        "adaptive": adversarial.adaptive,
        "lecam": adversarial.lecam is not None,
        "path_length": adversarial.path_length is not None,
        "contrastive": adversarial.contrastive is not None,
        "feature_matching": adversarial.feature_matching is not None and terms.reconstruction is None,
    }
    return next((f"train.objective.adversarial.{name}" for name, is_there in found.items() if is_there), "")


def check_objective(name: str, recipe: Recipe) -> None:
    """Refuse an objective that leaves a player without a loss, or names a term whose parts are missing.

    Raises:
        TrainingError: Says which term, and what to set.
    """
    terms = recipe.train.objective
    if recipe.train.accumulate > 1 and (whole := objective_of_whole_batches(terms)):
        raise TrainingError(
            f"train.accumulate is {recipe.train.accumulate}, and {whole} is not a mean over clips: it needs "
            "whole batches. Set the one to 1 or the other off"
        )
    asked = {term for term in type(terms).model_fields if getattr(terms, term) is not None}
    if recipe.assembly == "gan" and (foreign := asked - {"adversarial"}):
        raise TrainingError(
            f"{name!r} is a GAN: it reconstructs nothing, so {_list(foreign)} of train.objective has no "
            f"input; leave them out (train.objective.{min(foreign)}: null)"
        )
    if (recipe.assembly == "token-prior") != ("tokens" in asked) or ("tokens" in asked and len(asked) > 1):
        what = "a prior over tokens" if recipe.assembly == "token-prior" else f"a {recipe.assembly}"
        cure = "set it to {}" if recipe.assembly == "token-prior" else "set it to null"
        raise TrainingError(
            f"{name!r} is {what}: train.objective.tokens is what a prior is trained with, and nothing else "
            f"is; {cure}, and the other terms to null: {_list(asked - {'tokens'}) or 'none'}"
        )
    if recipe.assembly == "token-prior":
        if recipe.discriminator:
            raise TrainingError(
                f"{name!r} is a prior over tokens, which shows nothing to discriminators; set "
                "discriminator: []"
            )
        return
    if "adversarial" in asked and not recipe.discriminator:
        raise TrainingError(
            f"{name!r} has an adversarial term but no discriminator; add one (discriminator: patch3d), or "
            "set train.objective.adversarial: null"
        )
    if recipe.discriminator and "adversarial" not in asked:
        raise TrainingError(
            f"{name!r} has discriminators but no adversarial term, so they would never learn or count; set "
            "train.objective.adversarial, or discriminator: []"
        )
    if not asked & {"reconstruction", "perceptual", "adversarial"}:
        raise TrainingError(
            f"{name!r} has no objective to train the model with; set train.objective.reconstruction "
            "(or perceptual, or adversarial)"
        )
    if terms.perceptual is not None:
        from zoo.metrics.lpips import MIN_SIZE

        clip = recipe.clip
        if min(clip.height, clip.width) < MIN_SIZE or clip.channels not in (1, 3):
            raise TrainingError(
                f"{name!r} has a perceptual term, which needs grey or RGB frames of at least "
                f"{MIN_SIZE}x{MIN_SIZE} pixels; its clips have {clip.channels} channels of "
                f"{clip.height}x{clip.width}. Set train.objective.perceptual: null, or a larger clip"
            )
    adversarial = terms.adversarial
    if adversarial is None:
        return
    if adversarial.adaptive and not asked & {"reconstruction", "perceptual"}:
        raise TrainingError(
            f"{name!r} weighs its adversarial term against a reconstruction it does not have; set "
            "train.objective.adversarial.adaptive: false"
        )
    if adversarial.start_step and not asked & {"reconstruction", "perceptual"}:
        raise TrainingError(
            f"{name!r} has nothing to learn from before step {adversarial.start_step}; set "
            "train.objective.adversarial.start_step: 0"
        )
    _check_stabilisers(name, recipe, adversarial)


def _check_stabilisers(name: str, recipe: Recipe, adversarial: Adversarial) -> None:
    if adversarial.path_length is not None and recipe.assembly == "autoencoder":
        raise TrainingError(
            f"{name!r} is an autoencoder: it has no noise, along which path_length measures; set "
            "train.objective.adversarial.path_length: null"
        )
    augment = adversarial.augment
    if adversarial.contrastive is not None and augment is None:
        raise TrainingError(
            f"{name!r} compares two views of each frame (contrastive), and without augmentation they are the "
            "same; set train.objective.adversarial.augment: {use: diffaugment}, or contrastive: null"
        )
    if augment is None:
        return
    if adversarial.contrastive is not None and augment.use == "diffaugment" and "speed" in augment.policy:
        raise TrainingError(
            f"{name!r} compares two views of each frame (contrastive), and at two speeds they are two "
            "frames; leave speed out of train.objective.adversarial.augment"
        )
    if augment.use == "ada" and adversarial.loss not in _ZERO_IS_UNDECIDED:
        raise TrainingError(
            f"{name!r} has augment: {{use: ada}}, which reads overfitting from the sign of real clips' "
            f"scores; with loss {adversarial.loss!r} zero is not where a discriminator is undecided. Use "
            f"loss {' or '.join(_ZERO_IS_UNDECIDED)}, or augment: {{use: diffaugment}}"
        )
    if not (augment.geometric or augment.color if augment.use == "ada" else augment.policy):
        cure = "geometric or color: true" if augment.use == "ada" else "policy: [color, translation, cutout]"
        raise TrainingError(
            f"{name!r} has augment: {{use: {augment.use}}} with nothing to do; set its {cure}, "
            "or train.objective.adversarial.augment: null"
        )
    coloured = augment.color if augment.use == "ada" else "color" in augment.policy
    is_latent = recipe.assembly == "latent-gan"
    if coloured and (is_latent or recipe.clip.channels == 2):
        what = "latents" if is_latent else "clips of 2 channels"
        raise TrainingError(
            f"{name!r} changes the colours of {what}, which are no colours; clips of 1, 3 or 4 channels have "
            "some. Leave color out of train.objective.adversarial.augment (of ada: color: false)"
        )


def check_slopes(model: Assembly, adversarial: Adversarial) -> None:
    """Refuse the Wasserstein game where nothing holds the slope of a discriminator.

    Raises:
        TrainingError: It says what to set.
    """
    held = adversarial.gradient_penalty or adversarial.r1 or adversarial.r2
    if adversarial.loss == "wasserstein" and not held and not all(map(is_normalized, model.discriminator)):
        raise TrainingError(
            f"{model.name!r} plays the Wasserstein game and nothing holds the slope of its discriminators, "
            "so their scores would grow without end; set "
            "train.objective.adversarial.gradient_penalty: {weight: 10}"
        )


def _check_pairs(game: Game, real: Tensor | None, fake: Tensor) -> None:
    if game.paired and real is not None and real.shape != fake.shape:
        raise TrainingError(
            "a relativistic game needs as many real as made clips: their scores have shapes "
            f"{list(real.shape)} and {list(fake.shape)}"
        )


def _list(names: set[str]) -> str:
    return ", ".join(sorted(names))


def _mean(losses: list[Tensor]) -> Tensor:
    return torch.stack(losses).mean()
