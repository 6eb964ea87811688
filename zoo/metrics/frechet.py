"""Fréchet distance between two sets of features: FVD on those of I3D, in float64.

Heusel et al., https://arxiv.org/abs/1706.08500; Unterthiner et al. (FVD), https://arxiv.org/abs/1812.01717.

Shape legend: N, M clips (or frames) of two sets, D features.
"""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.errors import ZooError


class GaussianStatistics:
    """Mean and covariance of features, of any number of them in the same memory.

    Args:
        num_features: Length of a feature vector (D).
    """

    def __init__(self, num_features: int) -> None:
        self.num = 0
        self.mean_D = torch.zeros(num_features, dtype=torch.float64)
        self._scatter_DD = torch.zeros(num_features, num_features, dtype=torch.float64)

    def update(self, z_ND: Tensor) -> None:
        """Add features, whatever their type and device; sums are float64 on the CPU.

        Raises:
            ZooError: Another length of features, or one that is not finite; nothing is added then.
        """
        if z_ND.ndim != 2 or z_ND.shape[1] != len(self.mean_D):
            raise ZooError(f"features are of shape (N, {len(self.mean_D)}); got {tuple(z_ND.shape)}")
        z_ND = z_ND.detach().to("cpu", torch.float64)
        if not bool(z_ND.isfinite().all()):
            raise ZooError("a clip has features that are not finite: it holds NaN or infinity")
        if not len(z_ND):
            return
        # Merging centred sums (Chan et al. 1979) loses no digits to a large mean, as sums of squares do.
        mean_D = z_ND.mean(0)
        centred_ND = z_ND - mean_D
        shift_D, num = mean_D - self.mean_D, self.num + len(z_ND)
        self._scatter_DD += centred_ND.T @ centred_ND
        self._scatter_DD += torch.outer(shift_D, shift_D) * (self.num * len(z_ND) / num)
        self.mean_D = self.mean_D + shift_D * (len(z_ND) / num)
        self.num = num

    @property
    def covariance_DD(self) -> Tensor:
        """Covariance with N - 1 in the denominator, as numpy and the published FVD have it."""
        if self.num < 2:
            raise ZooError(f"a covariance needs at least 2 feature vectors; there are {self.num}")
        return self._scatter_DD / (self.num - 1)


def frechet_distance(a: GaussianStatistics, b: GaussianStatistics) -> float:
    """Return |mean_a - mean_b|^2 + Tr(A + B - 2 (A B)^(1/2)), 0 for equal statistics.

    The trace of the root is the sum of the roots of the eigenvalues of A^(1/2) B A^(1/2), which is
    symmetric: real and stable where covariances are singular, as they are with fewer clips than features.
    """
    cov_a_DD, cov_b_DD = a.covariance_DD, b.covariance_DD
    values_D, vectors_DD = torch.linalg.eigh(cov_a_DD)
    root_DD = vectors_DD * values_D.clamp(min=0).sqrt()
    trace = torch.linalg.eigvalsh(root_DD.T @ cov_b_DD @ root_DD).clamp(min=0).sqrt().sum()
    distance = (a.mean_D - b.mean_D).square().sum() + cov_a_DD.trace() + cov_b_DD.trace() - 2 * trace
    return max(float(distance), 0.0)


def frechet_of_features(x_ND: Tensor, y_MD: Tensor) -> float:
    """Return `frechet_distance` of two sets of features that are in memory.

    With fewer clips than features the trace of the root is the sum of the singular values of an N x M
    matrix, which is smaller and as exact.
    """
    num_features = x_ND.shape[1]
    if min(len(x_ND), len(y_MD)) < 2:
        raise ZooError(f"a covariance needs at least 2 feature vectors; got {len(x_ND)} and {len(y_MD)}")
    if max(len(x_ND), len(y_MD)) >= num_features:
        sides = GaussianStatistics(num_features), GaussianStatistics(num_features)
        for side, z_ND in zip(sides, (x_ND, y_MD), strict=True):
            side.update(z_ND)
        return frechet_distance(*sides)
    x_ND, y_MD = x_ND.double(), y_MD.double()
    a_ND, b_MD = (
        (x_ND - x_ND.mean(0)) / (len(x_ND) - 1) ** 0.5,
        (y_MD - y_MD.mean(0)) / (len(y_MD) - 1) ** 0.5,
    )
    trace = torch.linalg.svdvals(a_ND @ b_MD.T).sum()
    distance = (x_ND.mean(0) - y_MD.mean(0)).square().sum() + a_ND.square().sum() + b_MD.square().sum()
    return max(float(distance - 2 * trace), 0.0)
