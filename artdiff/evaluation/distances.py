"""Distances between two sets of pictures, from their features: float (N,D) for N pictures.

torchmetrics and torch-fidelity compute features and distances together. Here the features of a set are computed once,
for all scores, labels and bootstrap samples. The tests compare with torch-fidelity.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

NEIGHBOURS = 5
"""Nearest neighbours for precision, recall, density and coverage (arXiv:2002.09797 recommends five)."""


class Interval(NamedTuple):
    """A score with a 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of_share(cls, some: int, total: int) -> "Interval":
        """The share `some / total` with its Clopper-Pearson interval."""
        found = stats.binomtest(some, total).proportion_ci(0.95, method="exact")
        return cls(some / total, float(found.low), float(found.high))

    def plain(self) -> dict[str, float | None]:
        """The values for JSON: NaN becomes None."""
        return {name: None if math.isnan(value) else value for name, value in self._asdict().items()}

    def __str__(self) -> str:
        half = self.high - self.value
        return f"{self.value:.4g}" if math.isnan(half) else f"{self.value:.4g} ± {half:.2g}"


def frechet(one: Tensor, other: Tensor) -> float:
    """Fréchet distance between the Gaussians of two sets (arXiv:1706.08500), in float64.

    The trace of the square root of the product of the covariances is computed in one of two ways: for few pictures as
    the sum of the singular values of the product of the centred sets, for many as the sum of the square roots of
    eigenvalues.
    """
    one, other = one.double(), other.double()
    means = one.mean(0), other.mean(0)
    one, other = (one - means[0]) / (len(one) - 1) ** 0.5, (other - means[1]) / (len(other) - 1) ** 0.5
    if min(len(one), len(other)) <= one.shape[1]:
        cross = torch.linalg.svdvals(one @ other.T).sum()
    else:
        values, vectors = torch.linalg.eigh(one.T @ one)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        cross = torch.linalg.eigvalsh(root @ (other.T @ other) @ root).clamp(min=0).sqrt().sum()
    apart = (means[0] - means[1]).square().sum() + one.square().sum() + other.square().sum() - 2 * cross
    return max(0.0, apart.item())


def kernel(one: Tensor, other: Tensor, *, subset: int, subsets: int = 50, seed: int = 0) -> tuple[float, float]:
    """Kernel distance (KID, arXiv:1801.01401): the unbiased squared MMD with the kernel (xᵀy/D + 1)³ → its mean and
    standard deviation over `subsets` random subsets of `subset` pictures.
    """
    one, other = one.double(), other.double()
    generator, found = torch.Generator().manual_seed(seed), []
    subset = min(subset, len(one), len(other))
    for _ in range(subsets):
        x, y = (part[torch.randperm(len(part), generator=generator)[:subset]] for part in (one, other))
        alike = [_cubic(part, part) for part in (x, y)]
        within = sum(one.sum() - one.trace() for one in alike)
        found.append(within / (subset * (subset - 1)) - 2 * _cubic(x, y).mean())
    all_found = torch.stack(found)
    return all_found.mean().item(), all_found.std(correction=0).item()


def _cubic(one: Tensor, other: Tensor) -> Tensor:
    return (one @ other.T / one.shape[1] + 1) ** 3


class Manifold(NamedTuple):
    """Nearest-neighbour scores, as shares of pictures; density may exceed 1.

    The radius of a picture is its distance to its fifth nearest neighbour in its own set. `precision`: painted pictures
    within the radius of a real one; `recall`: real pictures within the radius of a painted one (arXiv:1904.06991).
    `density`: real pictures whose radius contains a painted one, relative to the expected number; `coverage`: real
    pictures with a painted one in their radius (arXiv:2002.09797).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(painted: Tensor, real: Tensor, *, neighbours: int = NEIGHBOURS) -> Manifold:
    """Scores of `painted` against `real`, float (N,D) each."""
    painted, real = painted.float(), real.float()
    apart = torch.cdist(real, painted)  # (R,P)
    reach_real, reach_painted = _reach(real, neighbours), _reach(painted, neighbours)
    within_real = apart <= reach_real[:, None]
    return Manifold(
        precision=within_real.any(0).float().mean().item(),
        recall=(apart <= reach_painted).any(1).float().mean().item(),
        density=within_real.sum(0).float().mean().item() / neighbours,
        coverage=(apart.min(1).values <= reach_real).float().mean().item(),
    )


def _reach(pictures: Tensor, neighbours: int) -> Tensor:
    """The distance of each picture to its k-th nearest neighbour in its own set (k = `neighbours`), (N,)."""
    nearest = min(neighbours + 1, len(pictures))  # the nearest is the picture itself
    return torch.cdist(pictures, pictures).kthvalue(nearest, dim=1).values


def bootstrap(
    score: Callable[[Tensor, Tensor], float], one: Tensor, other: Tensor, *, samples: int, seed: int = 0
) -> Interval:
    """A score with its bootstrap interval: 1.96 standard deviations of the scores of resampled sets.

    Quantiles would be biased: the Fréchet distance of a resampled set is too large, because pictures repeat.
    """
    value, generator = score(one, other), torch.Generator().manual_seed(seed)
    drawn = [
        score(*(part[torch.randint(len(part), (len(part),), generator=generator)] for part in (one, other)))
        for _ in range(samples)
    ]
    spread = 1.96 * torch.tensor(drawn).std().item() if samples > 1 else float("nan")
    return Interval(value, value - spread, value + spread)
