"""Measure a model on a data set, and say exactly what was measured.

Shape legend: B clips, C colour channels, T H W frames and pixels; N frames as images.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.data import Dataset

from zoo.data import Batch, ClipDataset, make_loader
from zoo.errors import DataError, ZooError
from zoo.metrics import lpips as lpips_module
from zoo.metrics.baselines import BITS_PER_LATENT, best_nearest, mean_colour, model_bits
from zoo.metrics.codebook import CodebookUsage
from zoo.metrics.reconstruction import SSIM_WINDOW, psnr_per_clip, ssim_per_clip

AUTOENCODER_METRICS = ("psnr", "ssim", "lpips", "codebook", "baselines")
GAN_METRICS = ("lpips_diversity",)

PSNR_CAP_DB = 100.0
"""What a perfectly reproduced clip counts as in a mean, dB."""

_FRAMES_AT_ONCE = 64
_UNITS = {"psnr": "psnr_db", "ssim": "ssim", "lpips": "lpips"}


class Stopped(Exception):
    """`evaluate` was told to stop."""


def evaluate(
    model: nn.Module,
    dataset: Dataset[Any],
    *,
    metrics: Sequence[str] | None = None,
    batch_size: int = 8,
    num_clips: int | None = None,
    num_workers: int | None = None,
    seed: int = 0,
    progress: bool = False,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Return the figures of a model on held-out clips, with their protocol, as plain data for JSON.

    The model is put in evaluation mode and back; no gradient is kept. Clips are taken one batch at a
    time; one that cannot be read is left out and named in the protocol. An autoencoder is measured on
    decode(encode(x)); a GAN on samples it draws from `seed`.

    Args:
        model: An assembly: autoencoder or gan.
        dataset: Clips as `zoo.data.open_clips` gives them.
        metrics: Some of `AUTOENCODER_METRICS` or `GAN_METRICS`; all that apply when left out. Those
            that the frames are too small for are listed under ``left_out`` with the reason.
        batch_size: Clips in memory at once; the figures do not depend on it.
        num_clips: Clips measured, evenly spaced over the data set; all when left out.
        num_workers: Processes that decode clips; chosen by `zoo.data.make_loader` when left out.
        seed: Seed of a GAN's noise and of its pairs.
        progress: Show a bar on standard error.
        stop: Asked before every batch whether to stop.

    Returns:
        ``values`` (name with unit -> number), ``baselines`` (name -> values), ``codebook`` (counts and
        figures), ``left_out`` (metric -> reason) and ``protocol`` (how all of it was measured).

    Raises:
        ZooError: An unknown metric, an empty data set, or a model of another kind.
        DataError: None of the clips can be read, or too many of the data set.
        Stopped: `stop` said so.
    """
    is_autoencoder = hasattr(model, "encode") and hasattr(model, "decode")
    if not is_autoencoder and not hasattr(model, "sample"):
        raise ZooError(f"{type(model).__name__} neither encodes and decodes nor samples: nothing to measure")
    known = AUTOENCODER_METRICS if is_autoencoder else GAN_METRICS
    wanted = tuple(known if metrics is None else metrics)
    if unknown := [metric for metric in wanted if metric not in known]:
        raise ZooError(
            f"{model_name(model)} has no metric {', '.join(map(repr, unknown))}; "
            f"choose from {', '.join(known)}"
        )
    chosen = _evenly_spaced(len(dataset), num_clips)  # type: ignore[arg-type]
    if not is_autoencoder:  # neighbours in a data set are often alike: pairs are drawn from all of it
        order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))
        chosen = [chosen[int(index)] for index in order]
    read = _Chosen(dataset, chosen)
    batches = _batches(read, batch_size=batch_size, num_workers=num_workers, progress=progress, stop=stop)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if is_autoencoder:
                result = _evaluate_autoencoder(model, batches, wanted)
            else:
                result = _evaluate_gan(model, batches, wanted, seed=seed)
    finally:
        model.train(was_training)
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


def _evaluate_autoencoder(model: Any, batches: Iterator[Tensor], wanted: Sequence[str]) -> dict[str, Any]:
    meter: _Pictures | None = None
    usage: CodebookUsage | None = None
    rivals = ("mean colour", "nearest") if "baselines" in wanted else ()
    totals: dict[str, dict[str, float]] = {name: {} for name in ("model", *rivals)}
    grids: Counter[tuple[int, int, int]] = Counter()
    num, bits, size = 0, 0.0, (0, 0, 0, 0)
    device = next(model.parameters()).device
    codebook_size = int(model.quantizer.codebook_size)
    for x_BCTHW in batches:
        x_BCTHW = x_BCTHW.to(device)
        if meter is None:
            meter = _Pictures([metric for metric in wanted if metric in _UNITS], x_BCTHW)
            if "codebook" in wanted and codebook_size:
                usage = CodebookUsage(codebook_size, int(model.quantizer.num_codebooks))
        tokens = model.encode(x_BCTHW)
        if usage is not None:
            usage.update(tokens.indices_Bqthw)
        if tokens.indices_Bqthw is not None:
            # What is measured is what the bits pay for: the indices alone.
            tokens = tokens._replace(z_BDthw=None)
        _add(totals["model"], meter.sums(x_BCTHW, model.decode(tokens).float().clamp(-1, 1)))
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
    return {
        "assembly": "autoencoder",
        "values": values,
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


def _evaluate_gan(
    model: Any, batches: Iterator[Tensor], wanted: Sequence[str], *, seed: int
) -> dict[str, Any]:
    network: lpips_module.LPIPS | None = None
    total: defaultdict[str, float] = defaultdict(float)
    left_out: dict[str, str] = {}
    pairs, size = 0, (0, 0, 0, 0)
    for real_2CTHW in _pairs(batches) if "lpips_diversity" in wanted else ():
        # One pair a call, each from its own seed: the figures then do not depend on the batch size.
        fake_2CTHW = model.sample(2, num_frames=real_2CTHW.shape[2], seed=seed + pairs).float().clamp(-1, 1)
        size = tuple(fake_2CTHW.shape[1:])
        pairs += 1
        for name, x_2CTHW in (
            ("lpips_diversity", fake_2CTHW),
            ("lpips_diversity_of_real_clips", real_2CTHW.to(fake_2CTHW.device)),
        ):
            if reason := _lpips_reason(x_2CTHW):
                left_out[name] = reason
                continue
            network = network or lpips_module.load_lpips().to(fake_2CTHW.device)
            total[name] += float(_lpips_per_clip(network, x_2CTHW[:1], x_2CTHW[1:]))
    if not pairs:
        left_out["lpips_diversity"] = "it compares pairs of clips, and no pair was measured"
    return {
        "assembly": "gan",
        "values": {name: value / pairs for name, value in total.items()},
        "baselines": {},
        "codebook": None,
        "left_out": left_out,
        "protocol": {
            "clip": _clip_words(size),
            "seed": seed,
            "lpips_diversity": (
                f"mean LPIPS (v0.1, AlexNet) between the frames of {pairs} disjoint random pairs of samples, "
                "and of real clips beside it. It says how much samples differ from each other, not how "
                "real they look"
            ),
        },
    }


def _add(totals: dict[str, float], sums: dict[str, float]) -> None:
    for name, value in sums.items():
        totals[name] = totals.get(name, 0.0) + value


class _Pictures:
    """The picture metrics that these frames allow, as sums over a batch's clips."""

    def __init__(self, metrics: Sequence[str], x_BCTHW: Tensor) -> None:
        reasons = {"ssim": _ssim_reason(x_BCTHW), "lpips": _lpips_reason(x_BCTHW)}
        self.left_out = {metric: why for metric in metrics if (why := reasons.get(metric))}
        self.metrics = [metric for metric in metrics if metric not in self.left_out]
        self.network = lpips_module.load_lpips().to(x_BCTHW.device) if "lpips" in self.metrics else None

    def sums(self, x_BCTHW: Tensor, y_BCTHW: Tensor) -> dict[str, float]:
        sums = {}
        for metric in self.metrics:
            if metric == "psnr":
                per_clip = psnr_per_clip(x_BCTHW, y_BCTHW).clamp(max=PSNR_CAP_DB)
            elif metric == "ssim":
                per_clip = ssim_per_clip(x_BCTHW, y_BCTHW)
            else:
                assert self.network is not None
                per_clip = _lpips_per_clip(self.network, x_BCTHW, y_BCTHW)
            sums[_UNITS[metric]] = float(per_clip.double().sum())
        return sums


def _lpips_per_clip(network: lpips_module.LPIPS, x_BCTHW: Tensor, y_BCTHW: Tensor) -> Tensor:
    x_NCHW, y_NCHW = (rearrange(z, "b c t h w -> (b t) c h w") for z in (x_BCTHW, y_BCTHW))
    pairs = zip(torch.split(x_NCHW, _FRAMES_AT_ONCE), torch.split(y_NCHW, _FRAMES_AT_ONCE), strict=True)
    return torch.cat([network(x, y) for x, y in pairs]).double().view(len(x_BCTHW), -1).mean(1)


def _ssim_reason(x_BCTHW: Tensor) -> str | None:
    height, width = x_BCTHW.shape[-2:]
    small = min(height, width) < SSIM_WINDOW
    return (
        f"frames of {height}x{width} are smaller than its {SSIM_WINDOW}x{SSIM_WINDOW} window"
        if small
        else None
    )


def _lpips_reason(x_BCTHW: Tensor) -> str | None:
    channels, (height, width) = x_BCTHW.shape[1], x_BCTHW.shape[-2:]
    if channels not in (1, 3):
        return f"it looks at RGB or grey frames; these have {channels} channels"
    least = lpips_module.MIN_SIZE
    return (
        f"frames of {height}x{width} are smaller than {least}x{least}" if min(height, width) < least else None
    )


def _evenly_spaced(length: int, num: int | None) -> list[int]:
    if length < 1:
        raise ZooError("the data set holds no clip: nothing to measure. See `zoo data check PATH`")
    if num is not None and num < 1:
        raise ZooError(f"{num} clips were asked for; at least 1 is measured")
    num = length if num is None else min(num, length)
    return [index * length // num for index in range(num)]


class _Chosen(Dataset[Any]):
    """Some clips of a data set, each marked where the data set gave another one in its place.

    Attributes:
        skipped: Reason by name of the clips chosen that could not be read.
    """

    epoch = 0

    def __init__(self, dataset: Dataset[Any], chosen: list[int]) -> None:
        self.description = str(getattr(dataset, "description", type(dataset).__name__))
        self.skipped: dict[str, str] = {}
        self._dataset = dataset
        self._chosen = chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        asked = self._chosen[key[1]]
        item = self._dataset[asked]
        if item["index"] == asked:
            return {**item, "skipped": []}
        return {**item, "index": -1, "skipped": item["skipped"][:1]}

    def note_skipped(self, skipped: list[tuple[str, str]]) -> None:
        """Take over what was skipped, here or in another process, and tell the data set."""
        self.skipped.update(skipped)
        if isinstance(self._dataset, ClipDataset):
            self._dataset.note_skipped(skipped)


def _batches(
    clips: _Chosen,
    *,
    batch_size: int,
    num_workers: int | None,
    progress: bool,
    stop: Callable[[], bool] | None,
) -> Iterator[Tensor]:
    """Yield the clips that were asked for, without those given in the place of others."""
    from tqdm import tqdm

    loader: Iterable[Batch] = make_loader(
        cast(ClipDataset, clips), batch_size=batch_size, num_workers=num_workers, shuffle=False
    )
    num = 0
    with tqdm(total=len(clips), desc="evaluating", unit="clip", disable=not progress, leave=False) as bar:
        for batch in loader:
            if stop is not None and stop():
                raise Stopped
            x_BCTHW = batch["x_BCTHW"][batch["index_B"] >= 0]
            bar.update(len(batch["index_B"]))
            num += len(x_BCTHW)
            if len(x_BCTHW):
                yield x_BCTHW
    if not num:
        reason = next(iter(clips.skipped.values()))
        raise DataError(f"none of the {len(clips)} clips to measure can be read. First: {reason}")


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
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
