"""How far two sets of pictures are apart, by their features: each set is float (N,D), N pictures.

Formulas of our own, because torchmetrics and torch-fidelity compute features and distances in one go: here a set's
features are computed once, for all scores, labels and bootstrap samples. The tests compare with torch-fidelity.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy import stats
from torch import Tensor

NEIGHBOURS = 5
"""Of precision, recall, density and coverage (arXiv:2002.09797 recommends five)."""


class Interval(NamedTuple):
    """A score with a 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of_share(cls, some: int, total: int) -> "Interval":
        """A share with the interval of Clopper and Pearson."""
        found = stats.binomtest(some, total).proportion_ci(0.95, method="exact")
        return cls(some / total, float(found.low), float(found.high))

    def plain(self) -> dict[str, float | None]:
        """As JSON can hold it, which has no NaN."""
        return {name: None if math.isnan(value) else value for name, value in self._asdict().items()}

    def __str__(self) -> str:
        half = self.high - self.value
        return f"{self.value:.4g}" if math.isnan(half) else f"{self.value:.4g} ± {half:.2g}"


def frechet(one: Tensor, other: Tensor) -> float:
    """Fréchet distance between the Gaussians of two sets (arXiv:1706.08500), in float64.

    The trace of the root of the product of the covariances is the sum of the singular values of the product of the
    centred sets, which is quick for few pictures, and the sum of the roots of eigenvalues for many.
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
    """Kernel distance (KID, arXiv:1801.01401): the unbiased squared MMD with the kernel (xᵀy/D + 1)³ → its mean over
    random subsets of that many pictures, and its standard deviation.
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
    """Scores by nearest neighbours, in shares of pictures; density may exceed 1.

    `precision`: of the painted, how many lie within reach of a real one; `recall`: of the real, how many within reach
    of a painted one (arXiv:1904.06991). `density`: how many real ones reach a painted one, against the number expected;
    `coverage`: of the real, how many have a painted one within reach (arXiv:2002.09797). A picture reaches as far as
    its fifth nearest neighbour in its own set.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold(painted: Tensor, real: Tensor, *, neighbours: int = NEIGHBOURS) -> Manifold:
    """The scores of `painted` against `real`."""
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
    """The distance of each picture to its nearest neighbour of that number in its own set, (N,)."""
    nearest = min(neighbours + 1, len(pictures))  # the nearest is the picture itself
    return torch.cdist(pictures, pictures).kthvalue(nearest, dim=1).values


def bootstrap(
    score: Callable[[Tensor, Tensor], float], one: Tensor, other: Tensor, *, samples: int, seed: int = 0
) -> Interval:
    """A score with its interval: 1.96 standard deviations of the scores of sets that are drawn with replacement.

    Not their quantiles: a Fréchet distance of drawn sets is too large, because pictures repeat.
    """
    value, generator = score(one, other), torch.Generator().manual_seed(seed)
    drawn = [
        score(*(part[torch.randint(len(part), (len(part),), generator=generator)] for part in (one, other)))
        for _ in range(samples)
    ]
    spread = 1.96 * torch.tensor(drawn).std().item() if samples > 1 else float("nan")
    return Interval(value, value - spread, value + spread)
