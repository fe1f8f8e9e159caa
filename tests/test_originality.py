"""Copies of training pictures are told from pictures of their own."""

import numpy as np
import pytest
import torch
from conftest import picture
from PIL import Image
from scipy import stats

from artdiff.evaluation import features, originality
from artdiff.evaluation.originality import Space

SIDE = 32
TRAIN, HELD_OUT, PAINTED = 300, 200, 100


def pictures(first, count):
    """uint8 (N,3,H,W): each like no other."""
    return [picture(seed, (SIDE, SIDE)) for seed in range(first, first + count)]


def stacked(made):
    return torch.from_numpy(np.stack([np.asarray(one) for one in made])).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def network():
    return features.load("random_vgg16", None, torch.device("cpu"))


@pytest.fixture(scope="module")
def train():
    return pictures(0, TRAIN)


@pytest.fixture(scope="module")
def check(train, network):
    """Says what each space finds in painted pictures."""
    seen = {}

    def run(image):
        with torch.inference_mode():
            return torch.cat([network.run(part) for part in stacked(image).split(50)])

    seen = {"train": run(train), "held_out": run(pictures(1000, HELD_OUT))}
    mean, directions = originality.components(seen["train"])

    def of(painted, groups=None):
        small = [originality.pixels(stacked(part)) for part in (train, pictures(1000, HELD_OUT), painted)]
        points = [(part - mean) @ directions for part in (*seen.values(), run(painted))]
        spaces = [
            Space("pixels", torch.stack([small[0], originality.mirrored(small[0])]), *small[1:]),
            Space("features", points[0][None], *points[1:]),
        ]
        return [originality.originality(space, groups or list(range(TRAIN))) for space in spaces]

    return of


def noisy(one, seed):
    changed = np.asarray(one, int) + np.random.default_rng(seed).normal(0, 4, (SIDE, SIDE, 3)).round().astype(int)
    return Image.fromarray(changed.clip(0, 255).astype(np.uint8))


@pytest.mark.slow
def test_pictures_of_their_own_are_not_called_copies(check):
    for found in check(pictures(2000, PAINTED)):
        assert found.painted.below <= 4
        assert found.p_value > 0.05
        assert found.held_out.below <= 0.01 * HELD_OUT
        assert found.painted_fixed.below == 0
        assert abs(found.three_sample) < 3
        assert "not above held-out" in str(found)


def test_a_model_that_knows_twenty_pictures_by_heart_is_caught(check, train):
    painted = [noisy(train[seed % 20], seed) for seed in range(PAINTED)]
    for found in check(painted):
        assert found.painted.below > 0.8 * PAINTED
        assert found.painted_fixed.below > 0.8 * PAINTED
        assert found.p_value < 1e-6
        assert found.three_sample < -5
        assert found.nearest == [seed % 20 for seed in range(PAINTED)]
        assert ", above held-out" in str(found)


def test_one_picture_known_by_heart_is_the_nearest_pair(check, train):
    painted = [*pictures(2000, PAINTED - 1), noisy(train[7], 0)]
    for found in check(painted):
        assert int(np.argmin(found.ratios)) == PAINTED - 1
        assert found.nearest[-1] == 7
        assert found.ratios[-1] < 1 / 3


def cropped(one):
    inner = round(SIDE * 0.95)
    return one.crop((1, 1, inner + 1, inner + 1)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def recoloured(one):
    return Image.merge("RGB", [one.split()[channel] for channel in (1, 2, 0)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "by_pixels", "by_features"),
    [
        (lambda one: one.transpose(Image.Transpose.FLIP_LEFT_RIGHT), True, True),
        (cropped, True, True),
        (recoloured, False, False),
    ],
    ids=["mirrored", "cropped", "recoloured"],
)
def test_changed_copies_are_caught_by_the_space_that_allows_for_the_change(
    check, train, change, by_pixels, by_features
):
    """Which the module says: recoloured copies are missed by both."""
    painted = [change(one) for one in train[:PAINTED]]
    caught = [found.painted.below > 0.8 * PAINTED for found in check(painted)]
    assert caught == [by_pixels, by_features]


def test_look_alikes_do_not_hide_a_copy(train):
    """With a near-duplicate in the training set the second distance is as short as the first."""
    twins = torch.stack([originality.pixels(stacked([*train[:50], noisy(train[3], 1)]))])
    painted = originality.pixels(stacked([noisy(train[3], 2)]))
    groups = torch.tensor([*range(50), 3])
    (hidden,), _, _ = originality.ratios(painted, twins, torch.arange(51))
    (told,), (nearest,), _ = originality.ratios(painted, twins, groups)
    assert hidden > 0.5
    assert told < 1 / 3
    assert nearest in (3, 50)


def test_if_all_training_pictures_look_alike_nothing_is_a_copy():
    ratio, _, _ = originality.ratios(torch.rand(3, 5), torch.rand(1, 4, 5), torch.zeros(4))
    assert ratio.tolist() == [1, 1, 1]


def test_ratios_are_those_of_distances_one_by_one():
    points, train = torch.rand(7, 5), torch.rand(2, 11, 5)
    ratio, place, first = originality.ratios(points, train, torch.arange(11))
    for row, point in enumerate(points):
        apart = sorted((min((point - view[one]).norm().item() for view in train), one) for one in range(11))
        assert first[row] == pytest.approx(apart[0][0], rel=1e-4)
        assert place[row] == apart[0][1]
        assert ratio[row] == pytest.approx(apart[0][0] / apart[1][0], rel=1e-4)


def test_components_are_computed_from_a_bounded_number_of_pictures(monkeypatch):
    monkeypatch.setattr(originality, "MOST_COMPONENTS", 50)
    counts, svd = [], torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda some, **how: counts.append(len(some)) or svd(some, **how))
    for count in (50, 51, 99, 200):
        originality.components(torch.randn(count, 4))
    assert counts == [50, 26, 50, 50]


def test_a_share_has_the_interval_of_clopper_and_pearson():
    found = originality.Share.of(3, 50)
    assert found.low == pytest.approx(stats.beta.ppf(0.025, 3, 48))
    assert found.high == pytest.approx(stats.beta.ppf(0.975, 4, 47))
    assert originality.Share.of(0, 50).low == 0
