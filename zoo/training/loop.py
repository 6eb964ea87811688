"""The training loop: the model's step and the discriminators' step, side by side, for every family.

A VQ-VAE takes the model's step alone; a VQGAN takes both; a GAN takes both with nothing to reconstruct. A
prior over tokens takes a step of its own: it has nothing to show to a discriminator.
This is the algorithm of https://arxiv.org/abs/1406.2661 with the model's update first, so that the clips
it made are judged once more, detached, instead of being made again.

Nothing here knows of files, bars or signals: that is `zoo.training.trainer`.

Shape legend: B batch, C colour channels, T H W frames and pixels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from zoo.assemblies import Assembly, Autoencoder, Gan, TokenPrior
from zoo.errors import TrainingError
from zoo.outputs import Judged
from zoo.ranks import num_parts, rank, share, shared_draw
from zoo.training import objectives
from zoo.training.augment import Augment
from zoo.training.categories import categories_of, categories_term
from zoo.training.contrastive import ContrastiveMemory
from zoo.training.finite import agreed, step_not_finite
from zoo.training.made import Made
from zoo.training.player import Numbers
from zoo.training.regularizers import between, due, gradient_penalty_r1, gradient_penalty_wgan
from zoo.training.run import Labelled, Run


def training_step(run: Run, batches: Iterator[Labelled]) -> Numbers:
    """Take one step: the model's update, then as many of the discriminators' as the recipe says.

    Each update of the discriminators after the first takes a fresh batch and fresh clips.

    Args:
        run: State of the run; `step` and `batches` move on.
        batches: Endless batches.

    Returns:
        The step's numbers; none of a step that was skipped because its clips are not finite.

    Raises:
        NotFiniteError: A loss, gradient or clip is not finite and the recipe does not skip it. What moves in
            a forward pass (codebooks, running statistics) is as before that update; where it was the
            discriminators', the model has taken its own.
    """
    run.set_numbers()
    adversarial = run.adversarial
    turns = adversarial.discriminator_steps if adversarial is not None else 0
    # All of them first: a loader that fails leaves the run between two steps.
    taken = [run.laid_out(next(batches)) for _ in range(max(1, turns))]
    run.batches += len(taken)
    for batch in taken:
        _check_labels(batch, run.model)
    if not agreed(all(batch.is_finite() for batch in taken)):
        what, advice = "the clips hold numbers that are not finite", "Look at the data"
        run.skip(run.player, step_not_finite(what, run.step, {}, advice=advice))
        run.step += 1
        return {}
    with run.acceleration.step():
        if rank():  # the first rank's chance is that of a run alone, which its checkpoints keep
            torch.manual_seed(run.generator(f"rank {rank()}").initial_seed())
        run.begin_update()
        if isinstance(run.model, TokenPrior):
            numbers = prior_step(run, taken[0])
        else:
            with run.autocast():
                taken = [batch._replace(x_BCTHW=run.model.shown(batch.x_BCTHW)) for batch in taken]
            made, numbers = model_step(run, taken[0])
        for turn in range(turns):
            run.begin_update()
            if turn:
                made = _make_aside(run, taken[turn], turn)
            numbers |= discriminator_step(run, taken[turn], made, turn=turn)
    run.let_go()
    if run.average is not None:
        run.average.update(run.model)
    run.step += 1
    return numbers


def model_step(run: Run, batch: Labelled) -> tuple[Made, Numbers]:
    """Update the model (encoder, quantizer, decoder; or generator) against fixed discriminators.

    Args:
        run: State of the run.
        batch: Clips; a GAN takes their number, length and labels only.

    Returns:
        What it made, detached, and the step's numbers: every term as it is before weighing, and `loss`,
        their weighted sum.
    """
    parts: list[Made] = []

    def loss_of(clips: slice) -> tuple[Tensor, Numbers]:
        if clips.start == 0:
            parts.clear()
        made, loss, numbers = _model_loss(run, batch.part(clips))
        parts.append(made.detach())
        return loss, numbers

    with _fixed(run.model.discriminator):
        numbers = run.learn(run.player, len(batch.x_BCTHW), loss_of, norm="grad_norm")
    return Made.joined(parts), numbers


def _model_loss(run: Run, batch: Labelled) -> tuple[Made, Tensor, Numbers]:
    """Return what the model makes of clips, what it loses by it, and the terms of that."""
    terms, numbers = run.train.objective, Numbers()
    x_BCTHW = batch.x_BCTHW
    with run.autocast():
        made = _make(run, batch)
    losses: list[Tensor] = []
    if terms.reconstruction is not None:
        term = objectives.reconstruction_term(terms.reconstruction, made.x_BCTHW, x_BCTHW)
        losses.append(terms.reconstruction.weight * term)
        numbers["reconstruction"] = term.detach()
    if terms.perceptual is not None:
        assert run.lpips is not None
        frames = run.generator("perceptual")
        term = objectives.perceptual_term(
            terms.perceptual, run.lpips, made.x_BCTHW, x_BCTHW, generator=frames
        )
        losses.append(terms.perceptual.weight * term)
        numbers["perceptual"] = term.detach()
    likeness = torch.stack(losses).sum() if losses else None
    if made.quantized is not None:
        numbers |= {f"quantizer/{k}": v.detach() for k, v in made.quantized.stats.items()}
        if terms.quantizer is not None:
            losses.append(terms.quantizer.weight * made.quantized.loss.float())
            numbers["quantizer"] = made.quantized.loss.detach()
    if (adversarial := run.adversarial) is not None:
        term, others = _adversarial_terms(run, batch, made, numbers)
        losses += others
        weight: Tensor | float = adversarial.weight
        if adversarial.adaptive:
            assert likeness is not None
            adaptive = objectives.adaptive_weight(likeness, term, run.model.last_layer)
            numbers["adaptive_weight"] = adaptive
            weight = weight * adaptive
        losses.append(weight * term)
    if made.own_loss is not None:
        losses.append(made.own_loss.float())
        numbers["own_loss"] = made.own_loss.detach()
    loss = torch.stack(losses).sum()
    numbers["loss"] = loss.detach()
    return made, loss, numbers


def prior_step(run: Run, batch: Labelled) -> Numbers:
    """Update a prior on codes.

    Args:
        run: State of the run.
        batch: Clips, or codes of clips.

    Returns:
        `tokens`, the cross entropy in nats a code, `loss` and `grad_norm`.
    """
    model, term = run.model, run.train.objective.tokens
    assert isinstance(model, TokenPrior)
    assert term is not None
    label_B = batch.label_B if model.num_classes else None

    def loss_of(clips: slice) -> tuple[Tensor, Numbers]:
        told_B = None if label_B is None else label_B[clips]
        with run.autocast():
            loss = model.loss(batch.x_BCTHW[clips], label_B=told_B, generator=run.generator("prior"))
        weighted = term.weight * loss.float()
        return weighted, {"tokens": loss.detach(), "loss": weighted.detach()}

    return run.learn(run.player, len(batch.x_BCTHW), loss_of, norm="grad_norm")


def _adversarial_terms(
    run: Run, batch: Labelled, made: Made, numbers: Numbers
) -> tuple[Tensor, list[Tensor]]:
    """Return what the model loses to its discriminators, and what else they teach it, weighted."""
    adversarial = run.adversarial
    assert adversarial is not None
    game, selection = objectives.GAMES[adversarial.loss], made.selection
    weights = [choice.weight for choice in run.model.recipe.discriminator]
    reals: list[Judged] | None = None
    with run.autocast():
        made_x_BCTHW = run.augmented(made.seen_x_BCTHW, "for the model")
        if game.paired or adversarial.feature_matching is not None:
            with torch.no_grad():
                real_x_BCTHW = run.augmented(selection.of(batch.x_BCTHW), "of real clips for the model")
                reals = run.model.judge(
                    real_x_BCTHW, selection, label_B=batch.label_B, reference_x_BCTHW=made_x_BCTHW
                )
        fakes = run.model.judge(made_x_BCTHW, selection, label_B=batch.label_B)
    term = objectives.generator_term(game, fakes, weights, reals)
    numbers["adversarial"] = term.detach()
    others = []
    if adversarial.feature_matching is not None:
        assert reals is not None
        matching = objectives.feature_matching_term(
            reals, fakes, weights, paired=isinstance(run.model, Autoencoder)
        )
        numbers["feature_matching"] = matching.detach()
        others.append(adversarial.feature_matching.weight * matching)
    if adversarial.contrastive is not None and adversarial.contrastive.match:
        memory = run.keepers["contrastive"]
        assert isinstance(memory, ContrastiveMemory)
        with run.autocast():
            likeness = memory.match(run.model, made_x_BCTHW, fakes, selection, label_B=batch.label_B)
        numbers["match"] = likeness.detach()
        others.append(adversarial.contrastive.match * likeness)
    if adversarial.categories is not None:
        assert made.kind_B is not None
        with run.autocast():
            naming = categories_term(run.model, fakes, made.kind_B)
        numbers["categories"] = naming.detach()
        others.append(adversarial.categories.weight * naming)
    if made.latents:
        assert adversarial.path_length is not None
        penalty = run.keepers["path_length"](
            made.x_BCTHW, made.latents, generator=run.generator("path length")
        )
        numbers["path_length"] = penalty.detach()
        others.append(adversarial.path_length.every * adversarial.path_length.weight * penalty)
    return term, others


def discriminator_step(run: Run, batch: Labelled, made: Made, *, turn: int = 0) -> Numbers:
    """Update the discriminators on real clips and on clips the model made; the model stays fixed.

    Real and made clips are judged in one pass, unless a discriminator's scores depend on the batch.

    Args:
        run: State of the run.
        batch: Real clips.
        made: Made clips without gradient.
        turn: Number of the update within the step.

    Returns:
        `discriminator_loss` without penalties, the penalties as they are weighed (lazy ones where they are
        due), `discriminator_grad_norm`, the mean raw scores `real_logits` and `fake_logits`,
        and `discriminator_wins`, the share of pairs in which the real clip has the higher score.
    """
    assert run.opponent is not None
    logits: list[list[Tensor]] = []

    def loss_of(clips: slice) -> tuple[Tensor, Numbers]:
        if clips.start == 0:
            logits.clear()
        loss, numbers, reals = _discriminator_loss(run, batch.part(clips), made.part(clips), turn=turn)
        logits.append([scores.detach() for judged in reals for scores in judged.logits])
        return loss, numbers

    numbers = run.learn(run.opponent, len(batch.x_BCTHW), loss_of, norm="discriminator_grad_norm")
    if "augment" in run.keepers and "discriminator_grad_norm" in numbers:
        augment = run.keepers["augment"]
        assert isinstance(augment, Augment)
        augment.update([torch.cat(parts) for parts in zip(*logits, strict=True)], len(batch.x_BCTHW))
        numbers |= {name: torch.tensor(value) for name, value in augment.numbers().items()}
    if "contrastive" in run.keepers and "discriminator_grad_norm" in numbers:
        memory = run.keepers["contrastive"]
        assert isinstance(memory, ContrastiveMemory)
        memory.follow(run.model)
    return numbers


def _discriminator_loss(
    run: Run, batch: Labelled, made: Made, *, turn: int
) -> tuple[Tensor, Numbers, list[Judged]]:
    """Return what the discriminators lose, the terms of that, and their verdicts on the real clips."""
    adversarial = run.adversarial
    assert adversarial is not None
    update = run.step * adversarial.discriminator_steps + turn
    r1, r2, gp = (
        0.0 if term is None else due(term.every, update)
        for term in (adversarial.r1, adversarial.r2, adversarial.gradient_penalty)
    )
    model, selection, label_B = run.model, made.selection, batch.label_B
    real_x_BCTHW, made_x_BCTHW = selection.of(batch.x_BCTHW).detach(), made.seen_x_BCTHW.detach()
    real_x_BCTHW.requires_grad_(bool(r1))
    made_x_BCTHW.requires_grad_(bool(r2))
    with run.autocast():
        real_seen = run.augmented(real_x_BCTHW, "real clips", turn)
        made_seen = run.augmented(made_x_BCTHW, "made clips", turn)
        reals, fakes = model.judge_both(
            real_seen, made_seen, selection, label_B=label_B, apart=bool(r1 or r2)
        )
    losses = {"": objectives.discriminator_term(objectives.GAMES[adversarial.loss], reals, fakes)}
    if adversarial.lecam is not None:
        losses["lecam"] = adversarial.lecam.weight * run.keepers["lecam"](reals, fakes)
    if adversarial.contrastive is not None:
        with run.autocast():
            again = (
                run.augmented(real_x_BCTHW, "real clips again", turn),
                run.augmented(made_x_BCTHW, "made clips again", turn),
            )
            term = run.keepers["contrastive"](
                model, (real_seen, made_seen), (reals, fakes), again, selection, label_B=label_B
            )
        losses["contrastive"] = adversarial.contrastive.weight * term
    if adversarial.categories is not None:
        told = (reals, label_B) if adversarial.categories.learn_from == "labels" else (fakes, made.kind_B)
        assert told[1] is not None
        with run.autocast():
            losses["naming"] = adversarial.categories.weight * categories_term(model, told[0], told[1])
    if adversarial.r1 is not None and r1:
        losses["r1"] = r1 * adversarial.r1.weight / 2 * gradient_penalty_r1(reals, real_x_BCTHW)
    if adversarial.r2 is not None and r2:
        losses["r2"] = r2 * adversarial.r2.weight / 2 * gradient_penalty_r1(fakes, made_x_BCTHW)
    if adversarial.gradient_penalty is not None and gp:
        x_BCTHW = between(real_seen, made_seen, generator=run.generator("between", turn))
        # Those to which frames of made clips are real see nothing of real ones, here neither.
        of_clips = [n for n, d in enumerate(model.discriminator) if not hasattr(d, "reference_frames")]
        with run.autocast():
            verdicts = [model.judge_one(n, x_BCTHW, selection, label_B=label_B) for n in of_clips]
        penalty = gradient_penalty_wgan(verdicts, x_BCTHW)
        losses["gradient_penalty"] = gp * adversarial.gradient_penalty.weight * penalty
    loss = torch.stack(list(losses.values())).sum()
    numbers = {"discriminator_loss": losses.pop("").detach(), **_scores(reals, fakes)}
    numbers |= {name: value.detach() for name, value in losses.items()}
    return loss, numbers, reals


def _scores(reals: list[Judged], fakes: list[Judged]) -> Numbers:
    """Sum up the raw scores of all heads."""
    pairs = [
        (real.detach().float(), fake.detach().float())
        for judged_real, judged_fake in zip(reals, fakes, strict=True)
        for real, fake in zip(judged_real.logits, judged_fake.logits, strict=True)
    ]
    return {
        "real_logits": torch.stack([real.mean() for real, _ in pairs]).mean(),
        "fake_logits": torch.stack([fake.mean() for _, fake in pairs]).mean(),
        "discriminator_wins": torch.stack([(real > fake).float().mean() for real, fake in pairs]).mean(),
    }


def _make(run: Run, batch: Labelled, *, turn: int = 0) -> Made:
    """Reconstruct clips, or make as many of the same length and labels from noise."""
    model, x_BCTHW = run.model, batch.x_BCTHW
    num, num_frames = len(x_BCTHW), x_BCTHW.shape[2]
    whole = model.select(num * num_parts(), num_frames, generator=run.generator("frames", turn))
    selection = whole.part(share(num * num_parts())).to(run.device)
    if isinstance(model, Autoencoder):
        result = model(x_BCTHW)
        return Made(result.x_BCTHW, selection.of(result.x_BCTHW), selection, result.quantized)
    assert isinstance(model, Gan)
    rng = run.generator("noise", turn)
    noise = shared_draw(lambda n: model.draw_noise(n, num_frames=num_frames, generator=rng), num)
    if model.num_classes:
        assert batch.label_B is not None
        noise["label"] = batch.label_B
    latents: tuple[Tensor, ...] = ()
    term = run.train.objective.adversarial and run.train.objective.adversarial.path_length
    if term and torch.is_grad_enabled() and due(term.every, run.step):
        # A kind is chosen, out of a few: there is no path along which one becomes another.
        paths = [noise[name] for name in noise if name != "category" and noise[name].is_floating_point()]
        latents = tuple(value.requires_grad_() for value in paths)
    x_BCTHW = model.make(noise, selection)
    own_loss = None
    if torch.is_grad_enabled() and hasattr(model.generator, "own_loss"):
        own_loss = model.generator.own_loss(noise)
    return Made(x_BCTHW, x_BCTHW, selection, latents=latents, own_loss=own_loss, kind_B=categories_of(noise))


def _check_labels(batch: Labelled, model: Assembly) -> None:
    """Refuse a batch without the labels that a part of the model is told.

    Raises:
        TrainingError: A clip has none, or one beyond those of the model.
    """
    parts = [getattr(model, "generator", None), *model.discriminator]
    counts: list[int] = [num for part in parts if (num := getattr(part, "num_classes", 0))]
    if not counts:
        return
    label_B, num = batch.label_B, min(counts)
    if label_B is None or bool(((label_B < 0) | (label_B >= num)).any()):
        found = "none" if label_B is None else sorted(set(label_B.tolist()))
        raise TrainingError(
            f"{model.name!r} is told {num} labels, 0 to {num - 1}; the data has {found} (-1 is a clip "
            "without one). Set num_classes of the parts that have it to what the data has, or to 0"
        )


def _make_aside(run: Run, batch: Labelled, turn: int) -> Made:
    """Make clips for the discriminators only; a codebook that learns by averaging must not see them."""
    tokenizer = isinstance(run.model, Autoencoder)
    run.model.train(not tokenizer)
    try:
        parts = []
        for clips, context in run.parts(len(batch.x_BCTHW)):
            with torch.no_grad(), run.autocast(), context:
                parts.append(_make(run, batch.part(clips), turn=turn))
        return Made.joined(parts)
    finally:
        run.model.train()


@contextlib.contextmanager
def _fixed(module: nn.Module) -> Iterator[None]:
    """Let gradients pass through a module without collecting any for its parameters."""
    changed = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in changed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)
