"""Distances between sets of features have the values that are known in closed form, and those of torch-fidelity."""

import math

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from torch_fidelity import metric_fid, metric_kid, metric_prc

from artdiff.evaluation import distances


def gaussian(count, features=8, *, shift=0.0, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, features, generator=generator, dtype=torch.float64) * scale + shift


def test_the_same_set_is_at_no_distance():
    one = gaussian(50)
    assert distances.frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert distances.manifold(one, one) == (1, 1, pytest.approx(1.2), 1)  # each picture also reaches itself


@pytest.mark.parametrize("features", [4, 300])
def test_the_frechet_distance_of_shifted_and_scaled_gaussians(features):
    """Between N(0,1) and N(shift, scale²) in D dimensions it is D (shift² + (scale - 1)²)."""
    one, other = gaussian(20_000, 4), gaussian(20_000, 4, shift=0.5, scale=2.0, seed=1)
    padding = torch.zeros(20_000, features - 4, dtype=torch.float64)
    found = distances.frechet(torch.cat([one, padding], 1), torch.cat([other, padding], 1))
    assert found == pytest.approx(4 * (0.25 + 1), rel=0.03)


def test_few_pictures_and_many_features_give_the_same_formula():
    """The singular values of the sets, and the eigenvalues of their covariances."""
    one, other = gaussian(40, 30), gaussian(50, 30, shift=0.3, seed=1)
    few = distances.frechet(one[:30], other[:30])  # at most as many pictures as features
    covariances = [torch.cov(part[:30].T).numpy() for part in (one, other)]
    roots = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).astype(complex)).real.sum()
    means = (one[:30].mean(0) - other[:30].mean(0)).square().sum().item()
    assert few == pytest.approx(means + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots, rel=1e-4)


def test_the_kernel_distance_is_unbiased():
    pairs = [(gaussian(200, seed=2 * seed), gaussian(200, seed=2 * seed + 1)) for seed in range(5)]
    found = [distances.kernel(*pair, subset=100)[0] for pair in pairs]
    assert abs(np.mean(found)) < 0.02
    mean, spread = distances.kernel(gaussian(200), gaussian(200, shift=1.0, seed=1), subset=100)
    assert mean > 5 * spread > 0


def test_a_generator_of_one_picture_is_precise_and_recalls_nothing():
    real = gaussian(200, 2)
    single = real[:1].repeat(200, 1) + gaussian(200, 2, scale=1e-6)
    found = distances.manifold(single, real)
    assert found.precision == 1
    assert found.recall < 0.02
    assert found.coverage < 0.1


def test_pictures_from_elsewhere_have_neither_precision_nor_coverage():
    assert distances.manifold(gaussian(100, shift=100.0), gaussian(100)) == (0, 0, 0, 0)


def test_the_authors_of_density_and_coverage_find_the_same():
    real, painted = (torch.randn(number, 12, generator=torch.Generator().manual_seed(number)) for number in (60, 50))
    found = distances.manifold(0.8 * painted + 0.3, real, neighbours=5)
    theirs = compute_prdc(real.numpy(), (0.8 * painted + 0.3).numpy(), nearest_k=5)
    for name, value in found._asdict().items():
        assert value == pytest.approx(theirs[name], abs=1e-6), name
        assert value > 0


def test_density_and_coverage_count_as_they_are_defined():
    real, painted = gaussian(30, 3), gaussian(20, 3, shift=0.3, seed=1)
    reach = [sorted(math.dist(one, other) for other in real.tolist())[3] for one in real.tolist()]
    inside = [[math.dist(one, other) <= far for one, far in zip(real.tolist(), reach, strict=True)]
              for other in painted.tolist()]  # fmt: skip
    found = distances.manifold(painted, real, neighbours=3)
    assert found.density == pytest.approx(np.sum(inside) / (3 * 20))
    assert found.coverage == pytest.approx(np.any(inside, axis=0).mean())


def test_the_scores_are_those_of_torch_fidelity():
    painted, real = gaussian(150, 16, shift=0.2, scale=1.2), gaussian(120, 16, seed=1)
    statistics = [{"mu": part.mean(0).numpy(), "sigma": np.cov(part.numpy(), rowvar=False)} for part in (painted, real)]
    (theirs,) = metric_fid.fid_statistics_to_metric(*statistics, False).values()
    assert distances.frechet(painted, real) == pytest.approx(theirs, rel=1e-6)
    known = {"kid_subsets": 1, "kid_subset_size": 120, "kid_kernel": "poly", "kid_kernel_poly_degree": 3,
             "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1, "rng_seed": 0, "verbose": False}  # fmt: skip
    kernel = metric_kid.kid_features_to_metric(painted[:120], real, **known)
    ours = distances.kernel(painted[:120], real, subset=120, subsets=1)
    assert ours[0] == pytest.approx(kernel["kernel_inception_distance_mean"], rel=1e-9)
    shares = metric_prc.calculate_precision_recall_full(painted.float(), real.float(), 5)
    found = distances.manifold(painted, real)
    assert (found.precision, found.recall) == pytest.approx(shares, abs=1e-6)


def test_the_interval_holds_the_true_distance_about_as_often_as_it_says():
    mean = lambda one, other: (one.mean() - other.mean()).item()  # noqa: E731
    held = 0
    for seed in range(60):
        one, other = gaussian(100, 1, shift=0.5, seed=2 * seed), gaussian(100, 1, seed=2 * seed + 1)
        found = distances.bootstrap(mean, one, other, samples=40)
        held += found.low <= 0.5 <= found.high
    assert 50 <= held <= 60
    assert math.isnan(distances.bootstrap(mean, one, other, samples=0).low)
