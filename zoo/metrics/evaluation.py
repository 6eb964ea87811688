"""Measure a model on a data set, and say exactly what was measured.

Shape legend: B clips, C colour channels, T H W frames and pixels; N frames as images.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from zoo.assemblies import TokenPrior
from zoo.assemblies.sampler import clip_source, nth_seed
from zoo.errors import ZooError
from zoo.metrics import lpips as lpips_module
from zoo.metrics.baselines import BITS_PER_LATENT, best_nearest, mean_colour, model_bits
from zoo.metrics.bootstrap import REPLICATES, draws, interval
from zoo.metrics.chosen import ChosenClips, Stopped, evenly_spaced, read_batches
from zoo.metrics.codebook import CodebookUsage
from zoo.metrics.distribution import DISTRIBUTION_METRICS, ClipDistances
from zoo.metrics.frame_distance import FrameNetwork
from zoo.metrics.i3d_weights import tensors_sha256
from zoo.metrics.pictures import (
    PSNR_CAP_DB,
    UNITS,
    Pictures,
    lpips_per_clip,
    lpips_protocol,
    lpips_reason,
    picture_protocols,
)
from zoo.metrics.protocol import RealClips, shared_protocol

AUTOENCODER_DEFAULTS = ("psnr", "ssim", "lpips", "codebook", "baselines")
AUTOENCODER_METRICS = (*AUTOENCODER_DEFAULTS, "rfvd")
GAN_DEFAULTS: tuple[str, ...] = ("lpips_diversity",)
GAN_METRICS: tuple[str, ...] = (*DISTRIBUTION_METRICS, *GAN_DEFAULTS)
PRIOR_DEFAULTS = ("bits_per_code", *GAN_DEFAULTS)
PRIOR_METRICS = (*GAN_METRICS, "bits_per_code")

_SAMPLES_AT_ONCE = 8  # a part of what sample i is: it comes from seed number i // 8


class _Setting(NamedTuple):
    """What both kinds of model are measured with."""

    wanted: tuple[str, ...]
    seed: int
    replicates: int
    num_samples: int | None
    frame_network: FrameNetwork | None
    progress: bool
    stop: Callable[[], bool] | None
    real: RealClips


def evaluate(
    model: nn.Module,
    dataset: Dataset[Any],
    *,
    metrics: Sequence[str] | None = None,
    batch_size: int = 8,
    num_clips: int | None = None,
    num_workers: int | None = None,
    num_samples: int | None = None,
    replicates: int = REPLICATES,
    frame_network: FrameNetwork | None = None,
    seed: int = 0,
    progress: bool = False,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Return the figures of a model on held-out clips, with their protocol, as plain data for JSON.

    The model is put in evaluation mode and back; no gradient is kept. Clips are taken one batch at a
    time; one that cannot be read is left out and named in the protocol. An autoencoder is measured on
    decode(encode(x)); a GAN or a prior on samples it draws from `seed`, a prior on the clips' codes besides.

    Args:
        model: An assembly: autoencoder or gan.
        dataset: Clips as `zoo.data.open_clips` gives them.
        metrics: Some of `AUTOENCODER_METRICS`, `GAN_METRICS` or `PRIOR_METRICS`; when left out those that
            need no weights from elsewhere. Those that the clips are too small for are listed under
            ``left_out`` with the reason.
        batch_size: Clips in memory at once; the figures do not depend on it.
        num_clips: Clips measured, evenly spaced over the data set; all when left out.
        num_workers: Processes that decode clips; chosen by `zoo.data.make_loader` when left out.
        num_samples: Clips that a GAN makes for the distances between sets; as many as are measured when
            left out.
        replicates: Replicates of the bootstrap behind each interval; 0 leaves intervals out.
        frame_network: The network of ``frame_distance``.
        seed: Seed of a GAN's noise, of its pairs and of the bootstrap.
        progress: Show a bar on standard error.
        stop: Asked before every batch whether to stop.

    Returns:
        ``values`` (name with unit -> number), ``intervals`` (name -> confidence interval), ``protocols``
        (name -> how it was measured, as data that `zoo.metrics.compare` compares), ``baselines`` (name ->
        values), ``codebook`` (counts and figures), ``left_out`` (metric -> reason) and ``protocol`` (of
        all of it, in words).

    Raises:
        ZooError: An unknown metric, an empty data set, a model of another kind, or weights of a measuring
            network that are not there.
        DataError: None of the clips can be read, or too many of the data set.
        Stopped: `stop` said so.
    """
    is_autoencoder = hasattr(model, "encode") and hasattr(model, "decode")
    if not is_autoencoder and not hasattr(model, "sample"):
        raise ZooError(f"{type(model).__name__} neither encodes and decodes nor samples: nothing to measure")
    known, defaults = GAN_METRICS, GAN_DEFAULTS
    if is_autoencoder:
        known, defaults = AUTOENCODER_METRICS, AUTOENCODER_DEFAULTS
    elif isinstance(model, TokenPrior):
        known, defaults = PRIOR_METRICS, PRIOR_DEFAULTS
        if not model.samples_alone:
            known = defaults = ("bits_per_code",)
    wanted = tuple(defaults if metrics is None else metrics)
    if unknown := [metric for metric in wanted if metric not in known]:
        raise ZooError(
            f"{model_name(model)} has no metric {', '.join(map(repr, unknown))}; "
            f"choose from {', '.join(known)}"
        )
    chosen = evenly_spaced(len(dataset), num_clips)  # type: ignore[arg-type]
    if not is_autoencoder:  # neighbours in a data set are often alike: pairs are drawn from all of it
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))
        chosen = [chosen[int(index)] for index in order]
    if num_samples is not None and num_samples < 1:
        raise ZooError(f"{num_samples} samples were asked for; at least 1 is made")
    read, real = ChosenClips(dataset, chosen), RealClips()
    batches = read_batches(read, batch_size=batch_size, num_workers=num_workers, progress=progress, stop=stop)
    setting = _Setting(wanted, seed, replicates, num_samples, frame_network, progress, stop, real)
    measure = _evaluate_autoencoder if is_autoencoder else _evaluate_gan
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            result = measure(model, _noted(batches, real), setting)
    finally:
        model.train(was_training)
    shared = shared_protocol(
        dataset, real, size_CTHW=result.pop("size"), num_fake=result.pop("num_fake"), seed=seed
    )
    result["protocols"] = {name: {**shared, **result["protocols"].get(name, {})} for name in result["values"]}
    result["protocol"] = {
        "model": model_name(model),
        "state_sha256": state_sha256(model),
        "data": read.description,
        "num_clips": len(chosen) - len(read.skipped),
        "skipped": [reason for _, reason in sorted(read.skipped.items())],
        "of_clips": len(dataset),  # type: ignore[arg-type]
        "choice": "all clips" if len(chosen) == len(dataset) else "evenly spaced over the data set",  # type: ignore[arg-type]
        **result["protocol"],
    }
    return result


def _noted(batches: Iterable[Tensor], real: RealClips) -> Iterator[Tensor]:
    for x_BCTHW in batches:
        real.update(x_BCTHW)
        yield x_BCTHW


def _evaluate_autoencoder(model: Any, batches: Iterator[Tensor], setting: _Setting) -> dict[str, Any]:
    wanted = setting.wanted
    meter: Pictures | None = None
    usage: CodebookUsage | None = None
    rivals = ("mean colour", "nearest") if "baselines" in wanted else ()
    totals: dict[str, dict[str, float]] = {name: {} for name in ("model", *rivals)}
    grids: Counter[tuple[int, int, int]] = Counter()
    num, bits, size = 0, 0.0, (0, 0, 0, 0)
    device = next(model.parameters()).device
    codebook_size = int(model.quantizer.codebook_size)
    distances: ClipDistances | None = None
    if "rfvd" in wanted:
        distances = ClipDistances(
            ["fvd"], device=device, seed=setting.seed, replicates=setting.replicates, prefix="r"
        )
    for x_BCTHW in batches:
        x_BCTHW = x_BCTHW.to(device)
        if meter is None:
            meter = Pictures([metric for metric in wanted if metric in UNITS], x_BCTHW)
            if "codebook" in wanted and codebook_size:
                usage = CodebookUsage(codebook_size, int(model.quantizer.num_codebooks))
        tokens = model.encode(x_BCTHW)
        if usage is not None:
            usage.update(tokens.indices_Bqthw)
        if tokens.indices_Bqthw is not None:
            # What is measured is what the bits pay for: the indices alone.
            tokens = tokens._replace(z_BDthw=None)
        decoded_BCTHW = model.decode(tokens).float().clamp(-1, 1)
        _add(totals["model"], meter.sums(x_BCTHW, decoded_BCTHW))
        if distances is not None:
            distances.add_real(x_BCTHW)
            distances.add_fake(decoded_BCTHW)
        bits = model_bits(tokens.indices_Bqthw, tokens.z_BDthw, codebook_size=codebook_size)
        if rivals:
            y_BCTHW, used = best_nearest(x_BCTHW, bits)
            grids.update(used)
            _add(totals["nearest"], meter.sums(x_BCTHW, y_BCTHW))
            _add(totals["mean colour"], meter.sums(x_BCTHW, mean_colour(x_BCTHW)))
        num += len(x_BCTHW)
        size = tuple(x_BCTHW.shape[1:])  # type: ignore[assignment]
    assert meter is not None
    means = {who: {name: total / num for name, total in sums.items()} for who, sums in totals.items()}
    values = dict(means.pop("model"))
    if usage is not None:
        values["codebook_used_share"] = usage.used_share
        values["codebook_perplexity"] = usage.perplexity
    values["bits_per_clip"] = bits
    channels, frames, height, width = size
    values["bits_per_pixel"] = bits / (frames * height * width)
    left_out = dict(meter.left_out)
    if "codebook" in wanted and usage is None:
        left_out["codebook"] = "the bottleneck is continuous: it has no codes to count"
    if "nearest" in means:
        means["nearest"]["grid_thw"] = list(grids.most_common(1)[0][0])  # type: ignore[assignment]
    far = distances.figures() if distances is not None else None
    if far is not None:
        values |= far.values
        left_out |= far.left_out
    return {
        "assembly": "autoencoder",
        "values": values,
        "intervals": far.intervals if far is not None else {},
        "protocols": {**picture_protocols(), **(far.protocols if far is not None else {})},
        "size": size,
        "num_fake": num,
        "baselines": means,
        "codebook": usage.to_dict() if usage is not None else None,
        "left_out": left_out,
        "protocol": {
            "clip": _clip_words(size),
            "reconstruction": (
                "decoded from the code numbers alone" if codebook_size else "decoded from the latent"
            )
            + ", clamped to [-1, 1], not rounded to 8 bits",
            "psnr_db": f"data range 2, per clip (capped at {PSNR_CAP_DB:.0f} dB), then the mean over clips",
            "ssim": "Gaussian 11x11, sigma 1.5, K1 0.01, K2 0.03, each channel of each frame, then the mean",
            "lpips": "v0.1, AlexNet, each frame, then the mean",
            "codebook": "exact counts over all clips measured",
            "bits": (
                f"{bits:.0f} bits a clip: its tokens x log2({codebook_size}); no entropy coding"
                if codebook_size
                else f"{bits:.0f} bits a clip: its latent numbers at {BITS_PER_LATENT} bits each"
            ),
            "mean colour": "each clip filled with its own mean colour",
            "nearest": (
                f"each clip kept as at most {bits:.0f} bits of {8 * channels}-bit pixels on a regular grid, "
                "nearest neighbour down and up; of the grids that trade frames for pixels, the one with the "
                "best PSNR, for each clip anew"
            ),
        },
    }


def _evaluate_gan(model: Any, batches: Iterator[Tensor], setting: _Setting) -> dict[str, Any]:
    seed, real = setting.seed, setting.real
    distances: ClipDistances | None = None
    if far := [metric for metric in setting.wanted if metric in DISTRIBUTION_METRICS]:
        distances = ClipDistances(
            far,
            device=next(model.parameters()).device,
            frame_network=setting.frame_network,
            seed=seed,
            replicates=setting.replicates,
        )
        batches = _added(batches, distances)
    losses: list[float] = []  # nats a code, of each clip
    if "bits_per_code" in setting.wanted and "label" not in model.generator.conditions:
        batches = _coded(batches, model, losses, seed=seed)
    network: lpips_module.LPIPS | None = None
    per_pair: defaultdict[str, list[float]] = defaultdict(list)
    left_out: dict[str, str] = {}
    pairs = 0
    if "lpips_diversity" not in setting.wanted:
        for _ in batches:
            pass
    for real_2CTHW in _pairs(batches):
        # One pair a call, each from its own seed: the figures then do not depend on the batch size.
        fake_2CTHW = model.sample(2, num_frames=real_2CTHW.shape[2], seed=nth_seed(seed, pairs))
        fake_2CTHW = fake_2CTHW.float().clamp(-1, 1)
        pairs += 1
        for name, x_2CTHW in (
            ("lpips_diversity", fake_2CTHW),
            ("lpips_diversity_of_real_clips", real_2CTHW.to(fake_2CTHW.device)),
        ):
            if reason := lpips_reason(x_2CTHW):
                left_out[name] = reason
                continue
            network = network or lpips_module.load_lpips().to(fake_2CTHW.device)
            per_pair[name].append(float(lpips_per_clip(network, x_2CTHW[:1], x_2CTHW[1:])))
    if not pairs and "lpips_diversity" in setting.wanted:
        left_out["lpips_diversity"] = "it compares pairs of clips, and no pair was measured"
    values = {name: sum(found) / pairs for name, found in per_pair.items()}
    intervals: dict[str, dict[str, Any]] = {}
    if setting.replicates and pairs > 1:
        rows = draws(pairs, setting.replicates, seed=seed)
        for name, found in per_pair.items():
            again = torch.tensor(found, dtype=torch.float64)[rows].mean(1)
            if bounds := interval(values[name], again, seed=seed, over="pairs of clips"):
                intervals[name] = bounds
    diversity = {
        **lpips_protocol(),
        "estimator": "mean of each frame, over disjoint random pairs",
        "pairs": pairs,
    }
    protocols = {name: {**diversity, "num_fake": 2 * pairs} for name in values}
    num_fake, size = 0, real.size_CTHW
    if losses:
        values["bits_per_code"] = sum(losses) / len(losses) / math.log(2)
        protocols["bits_per_code"] = {"estimator": "cross entropy of the prior's own loss, mean over clips"}
    elif "bits_per_code" in setting.wanted:
        left_out["bits_per_code"] = "the prior is told labels, which are not read here"
    if distances is not None:
        num_fake = setting.num_samples or real.num
        for x_BCTHW in _samples(model, num_fake, num_frames=size[1], setting=setting):
            distances.add_fake(x_BCTHW)
        figures = distances.figures()
        values, intervals = figures.values | values, figures.intervals | intervals
        protocols, left_out = figures.protocols | protocols, figures.left_out | left_out
    return {
        "assembly": "gan",
        "values": values,
        "intervals": intervals,
        "protocols": protocols,
        "size": size,
        "num_fake": num_fake,
        "baselines": {},
        "codebook": None,
        "left_out": left_out,
        "protocol": {
            "clip": _clip_words(size),
            "seed": seed,
            **({"lpips_diversity": _diversity_words(pairs)} if pairs else {}),
            **({"samples": f"{num_fake}, clamped, not rounded to 8 bits"} if num_fake else {}),
        },
    }


def _diversity_words(pairs: int) -> str:
    return (
        f"mean LPIPS (v0.1, AlexNet) between the frames of {pairs} disjoint random pairs of samples, and of "
        "real clips beside it. It says how much samples differ from each other, not how real they look"
    )


def _added(batches: Iterable[Tensor], distances: ClipDistances) -> Iterator[Tensor]:
    for x_BCTHW in batches:
        distances.add_real(x_BCTHW)
        yield x_BCTHW


def _coded(
    batches: Iterable[Tensor], model: TokenPrior, losses: list[float], *, seed: int
) -> Iterator[Tensor]:
    for x_BCTHW in batches:
        for x_1CTHW in torch.split(x_BCTHW, 1):
            rng = clip_source(seed, len(losses))
            losses.append(float(model.loss(x_1CTHW.to(next(model.parameters()).device), generator=rng)))
        yield x_BCTHW


def _samples(model: Any, num: int, *, num_frames: int, setting: _Setting) -> Iterator[Tensor]:
    """Yield `num` samples; which they are depends on the seed alone."""
    from tqdm import tqdm

    with tqdm(total=num, desc="sampling", unit="clip", disable=not setting.progress, leave=False) as bar:
        for start in range(0, num, _SAMPLES_AT_ONCE):
            if setting.stop is not None and setting.stop():
                raise Stopped
            some = min(_SAMPLES_AT_ONCE, num - start)
            seed = nth_seed(setting.seed, start // _SAMPLES_AT_ONCE)
            yield model.sample(some, num_frames=num_frames, seed=seed).float()
            bar.update(some)


def _add(totals: dict[str, float], sums: dict[str, float]) -> None:
    for name, value in sums.items():
        totals[name] = totals.get(name, 0.0) + value


def _pairs(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """Put clips together two by two, across batches; an odd one at the end is left."""
    first_CTHW: Tensor | None = None
    for x_CTHW in (x_CTHW for x_BCTHW in batches for x_CTHW in x_BCTHW):
        if first_CTHW is None:
            first_CTHW = x_CTHW
        else:
            yield torch.stack([first_CTHW, x_CTHW])
            first_CTHW = None


def _clip_words(size_CTHW: tuple[int, ...]) -> str:
    channels, frames, height, width = size_CTHW
    return f"{frames} frames of {height}x{width} pixels, {channels} channels, in [-1, 1]"


def model_name(model: nn.Module) -> str:
    """Return the recipe's name, or the class's where a model has none."""
    return str(getattr(model, "name", None) or type(model).__name__)


def state_sha256(model: nn.Module) -> str:
    """Return a hash of every weight and buffer by name, type, shape and value."""
    return tensors_sha256(model.state_dict())
