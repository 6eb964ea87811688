"""How far a set of clips is from another: FVD, KVD, precision, recall and frame distance, clip by clip.

Shape legend: B clips, C colour channels, T H W frames and pixels; N clips of a side, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.metrics.bootstrap import REPLICATES, draws, interval, times_drawn
from zoo.metrics.frame_distance import FrameNetwork
from zoo.metrics.frechet import GaussianStatistics, frechet_distance, frechet_of_features
from zoo.metrics.i3d import DETECTOR, I3D, NUM_FEATURES, RESIZE, i3d_reason, load_i3d
from zoo.metrics.kernel import kernel_distance
from zoo.metrics.manifold import NEIGHBOURS, inside_manifolds

I3D_METRICS = ("fvd", "kvd", "precision", "recall")
DISTRIBUTION_METRICS = (*I3D_METRICS, "frame_distance")

MAX_KEPT = 10_000
"""Clips of each side whose features are kept, 1.6 kB each, for all but FVD itself and frame distance."""


class Figures(NamedTuple):
    """Figures by name: numbers, their intervals, what their protocols hold beyond the data, reasons."""

    values: dict[str, float]
    intervals: dict[str, dict[str, Any]]
    protocols: dict[str, dict[str, Any]]
    left_out: dict[str, str]

    def bound(self, name: str, replicates_R: Tensor, *, seed: int, over: str) -> dict[str, Any] | None:
        """Give a figure its interval, where the replicates have one, and return it."""
        bounds = interval(self.values[name], replicates_R, seed=seed, over=over)
        if bounds is not None:
            self.intervals[name] = bounds
        return bounds


class FeatureSet:
    """Features of one side: statistics of all of them, and a sample by chance of at most `MAX_KEPT`.

    Args:
        num_features: Length of a feature vector (D).
        seed: Which are kept once there are more.
        keep: Most that are kept.
    """

    def __init__(self, num_features: int, *, seed: int = 0, keep: int = MAX_KEPT) -> None:
        self.gaussian = GaussianStatistics(num_features)
        self._keep = keep
        self._kept: list[Tensor] = []
        self._random = torch.Generator().manual_seed(seed)

    def update(self, z_ND: Tensor) -> None:
        """Add the features of clips."""
        seen = self.gaussian.num
        self.gaussian.update(z_ND)
        for z_D in z_ND.detach().cpu().float().unbind():
            seen += 1
            if len(self._kept) < self._keep:
                self._kept.append(z_D.clone())
            elif self._keep:
                place = int(torch.randint(seen, (), generator=self._random))
                if place < self._keep:
                    self._kept[place] = z_D.clone()

    @property
    def kept_ND(self) -> Tensor:
        """The features that are kept, float64."""
        return torch.stack(self._kept).double()


class ClipDistances:
    """Distances between real clips and fake ones, both given batch by batch in any order.

    The memory it takes does not grow with the number of clips beyond `MAX_KEPT`.

    Args:
        metrics: Some of `DISTRIBUTION_METRICS`.
        device: Where the networks compute.
        frame_network: The network of ``frame_distance``.
        seed: Seed of what is drawn by chance: features kept of very many, replicates of the intervals.
        replicates: Replicates of an interval; 0 leaves intervals out.
        prefix: Put before ``fvd``: "r" names FVD of reconstructions rFVD.
        i3d: The network, where it is loaded already.

    Raises:
        ZooError: The weights of a network are not there.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        *,
        device: torch.device | str = "cpu",
        frame_network: FrameNetwork | None = None,
        seed: int = 0,
        replicates: int = REPLICATES,
        prefix: str = "",
        i3d: I3D | None = None,
    ) -> None:
        self.metrics = tuple(metrics)
        self.seed, self.replicates, self.prefix = seed, replicates, prefix
        self.left_out: dict[str, str] = {}
        self.num_real = self.num_fake = 0
        self._networks: dict[str, tuple[nn.Module, FeatureSet, FeatureSet]] = {}
        if set(metrics) & set(I3D_METRICS):
            network = i3d or load_i3d()
            if network.sha256 is None:
                raise ZooError(
                    "an I3D with random weights measures nothing; load_i3d() gives the trained one"
                )
            self._add("i3d", network.to(device), NUM_FEATURES, keep=MAX_KEPT)
        if "frame_distance" in metrics:
            if frame_network is None:
                raise ZooError(
                    "frame_distance needs a network that looks at frames. Type: --frame-backbone resnet18 "
                    "--frame-weights FILE (frame_network=FrameNetwork(...) in Python)"
                )
            self._add("frames", frame_network.to(device), frame_network.num_features, keep=0)

    def _add(self, key: str, network: nn.Module, num_features: int, *, keep: int) -> None:
        sides = [FeatureSet(num_features, seed=self.seed + side, keep=keep) for side in (0, 1)]
        self._networks[key] = (network, sides[0], sides[1])

    def add_real(self, x_BCTHW: Tensor) -> None:
        """Add real clips in [-1, 1]."""
        self.num_real += len(x_BCTHW)
        self._update(x_BCTHW, side=1)

    def add_fake(self, x_BCTHW: Tensor) -> None:
        """Add generated clips; values outside [-1, 1] are clamped."""
        self.num_fake += len(x_BCTHW)
        self._update(x_BCTHW.clamp(-1, 1), side=2)

    @torch.no_grad()
    def _update(self, x_BCTHW: Tensor, *, side: int) -> None:
        for key, entry in list(self._networks.items()):
            network = entry[0]
            if key == "i3d" and (reason := i3d_reason(x_BCTHW.shape)):
                self.left_out |= {
                    self._name(metric): reason for metric in self.metrics if metric in I3D_METRICS
                }
                del self._networks[key]
                continue
            place = next(network.parameters()).device
            features: FeatureSet = entry[side]  # type: ignore[assignment]
            for x_1CTHW in torch.split(x_BCTHW, 1 if place.type == "cpu" else len(x_BCTHW)):
                features.update(network(x_1CTHW.to(place)))

    def _name(self, metric: str) -> str:
        return f"{self.prefix}{metric}"

    def figures(self) -> Figures:
        """Return all figures of the clips added so far, and why some are left out."""
        found = Figures({}, {}, {}, dict(self.left_out))
        if "i3d" in self._networks:
            _, real, fake = self._networks["i3d"]
            kinds: dict[str, tuple[int, Callable[..., None]]] = {
                "fvd": (2, self._fvd),
                "kvd": (2, self._kvd),
                "precision": (NEIGHBOURS + 1, self._manifold),
                "recall": (NEIGHBOURS + 1, self._manifold),
            }
            for metric in (metric for metric in I3D_METRICS if metric in self.metrics):
                least, measure = kinds[metric]
                if min(self.num_real, self.num_fake) < least:
                    found.left_out[self._name(metric)] = (
                        f"it needs at least {least} clips of each side; there are {self.num_real} real and "
                        f"{self.num_fake} fake ones"
                    )
                else:
                    measure(found, metric, real, fake)
        if "frames" in self._networks:
            self._frames(found)
        return found

    def _i3d(self, **more: Any) -> dict[str, Any]:
        network = self._networks["i3d"][0]
        return {"detector": DETECTOR, "detector_sha256": network.sha256, "resize": RESIZE, **more}

    def _draws(self, real: FeatureSet, fake: FeatureSet) -> tuple[Tensor, Tensor]:
        num, other = len(real.kept_ND), len(fake.kept_ND)
        return (
            draws(num, self.replicates, seed=2 * self.seed),
            draws(other, self.replicates, seed=2 * self.seed + 1),
        )

    def _fvd(self, found: Figures, metric: str, real: FeatureSet, fake: FeatureSet) -> None:
        name = self._name(metric)
        found.values[name] = frechet_distance(real.gaussian, fake.gaussian)
        found.protocols[name] = self._i3d(
            estimator="Fréchet distance, float64, covariances with N - 1, root by eigenvalues"
        )
        if self.replicates:
            x_ND, y_MD = real.kept_ND, fake.kept_ND
            drawn = zip(*self._draws(real, fake), strict=True)
            again = torch.tensor([frechet_of_features(x_ND[rows], y_MD[others]) for rows, others in drawn])
            found.bound(name, again, seed=self.seed, over="clips of both sides")

    def _kvd(self, found: Figures, metric: str, real: FeatureSet, fake: FeatureSet) -> None:
        name, x_ND, y_MD = self._name(metric), real.kept_ND, fake.kept_ND
        found.values[name] = float(kernel_distance(x_ND, y_MD))
        found.protocols[name] = self._i3d(
            estimator="squared MMD, kernel (x.y / 400 + 1)^3, unbiased, over all pairs",
            at_most_clips=MAX_KEPT,
        )
        if self.replicates:
            rows, others = self._draws(real, fake)
            again = kernel_distance(x_ND, y_MD, weights_RN=times_drawn(rows), weights_RM=times_drawn(others))
            found.bound(name, again, seed=self.seed, over="clips of both sides")

    def _manifold(self, found: Figures, metric: str, real: FeatureSet, fake: FeatureSet) -> None:
        inside = inside_manifolds(real.kept_ND, fake.kept_ND)
        within_N = (inside.fake_M if metric == "precision" else inside.real_N).double()
        name = self._name(metric)
        found.values[name] = float(within_N.mean())
        found.protocols[name] = self._i3d(
            estimator=f"share within the {NEIGHBOURS}-nearest-neighbour manifold of the other side",
            at_most_clips=MAX_KEPT,
        )
        if self.replicates:
            rows, others = self._draws(real, fake)
            again = within_N[others if metric == "precision" else rows].mean(1)
            over = "clips asked about; the manifold stays"
            if bounds := found.bound(name, again, seed=self.seed, over=over):
                bounds |= {"low": max(bounds["low"], 0.0), "high": min(bounds["high"], 1.0)}

    def _frames(self, found: Figures) -> None:
        network, real, fake = self._networks["frames"]
        name = f"frame_distance[{network.backbone}]"
        if min(real.gaussian.num, fake.gaussian.num) < 2:
            found.left_out[name] = "it needs at least 2 frames of each side"
            return
        found.values[name] = frechet_distance(real.gaussian, fake.gaussian)
        found.protocols[name] = {
            "detector": f"timm {network.backbone}, what its classifier would see",
            "detector_sha256": network.sha256,
            "resize": network.resize,
            "estimator": "Fréchet distance over all frames, float64; not FID, which is defined on Inception",
        }
