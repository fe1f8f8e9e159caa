"""What a painter prefers is found: classes and metadata by a classifier, looks by measuring."""

import numpy as np
import pytest
import torch

from artdiff.evaluation import representation
from artdiff.evaluation.distances import Interval
from artdiff.evaluation.representation import Aspect, Line, Seen, learned
from artdiff.evaluation.samples import Sample

CENTRES = {"a": (0.0, 6.0), "b": (6.0, 0.0), "c": (0.0, -6.0), None: (-6.0, 0.0)}


def sample(pixels):
    """Pictures uint8 (N,3,H,W)."""
    return Sample("some", "key", torch.zeros(len(pixels)), lambda places: pixels[places], np.arange(len(pixels)))


def values_of(counts):
    return [value for value, count in counts.items() for _ in range(count)]


def seen(counts, seed):
    """Grey pictures, and features around the centre of each value."""
    values = values_of(counts)
    noise = torch.randn(len(values), 2, generator=torch.Generator().manual_seed(seed))
    pixels = torch.full((len(values), 3, 16, 16), 120, dtype=torch.uint8)
    return Seen(sample(pixels), torch.tensor([CENTRES[value] for value in values]) + noise)


def compared(trained, painted):
    """The lines of the values by name, and the column that was learned."""
    ours, theirs = seen(trained, 0), seen(painted, 1)
    column = learned(values_of(trained), ours.features)
    artist, *_ = representation.representation({"artist": column}, ours, theirs)
    return {line.name: line for line in artist.lines}, column


def test_a_preference_is_found():
    lines, column = compared({"a": 100, "b": 100, "c": 50}, {"a": 90, "b": 4, "c": 26})
    assert column.accuracy > 0.97
    assert [lines[name].verdict for name in "abc"] == ["more", "less", "about the same"]
    assert lines["a"].trained == pytest.approx(0.4)
    assert lines["b"].painted.value == pytest.approx(4 / 120, abs=0.02)
    assert lines["b"].painted.low < 4 / 120 < lines["b"].painted.high


@pytest.mark.parametrize(
    "mix",
    [{"a": 60, "b": 60, "c": 60}, {"a": 25, "b": 25, None: 400}, {"a": 100, "b": 40, "c": 3}],
    ids=["equal", "most have no value", "one is rare"],
)
def test_a_painter_of_the_same_mix_has_no_preference(mix):
    lines, _ = compared(mix, mix)
    assert {line.verdict for line in lines.values()} == {"about the same"}
    for name, line in lines.items():
        assert line.trained == pytest.approx(mix[name] / sum(mix.values()), abs=0.02)


def test_a_single_value_cannot_be_told():
    few = {"a": 60, "b": representation.LEAST - 1}
    assert learned(values_of(few), seen(few, 0).features) is None


def test_a_classifier_that_learns_by_heart_is_not_taken_at_its_word():
    features = torch.randn(120, 500, generator=torch.Generator().manual_seed(0))
    values = ["a", "b"] * 60
    column = learned(values, features)
    assert column.tell(features) == values
    assert 0.3 < column.accuracy < 0.7


def test_the_scale_of_features_does_not_matter():
    mix = {"a": 60, "b": 60}
    features = seen(mix, 0).features
    told = [learned(values_of(mix), scale * features + 5).told for scale in (1, 1e-3, 1e3)]
    assert told[0] == told[1] == told[2]


def test_what_was_asked_for_is_told():
    trained = {"a": 60, "b": 60}
    column = learned(values_of(trained), seen(trained, 0).features)
    wanted = ["a"] * 40 + ["b"] * 40  # ten of them look like a
    first, second = representation.asked(wanted, column, seen({"a": 50, "b": 30}, 2))
    assert (first.painted.value, first.instead) == (1, None)
    assert (second.painted.value, second.instead) == (0.75, "a")
    assert second.trained > 0.97
    assert str(second).startswith("b: 75% of the pictures painted as it are classified as it (")
    assert "the others mostly as a" in str(second)
    assert representation.asked([None] * 80, column, seen({"a": 50, "b": 30}, 2)) == []


def test_looks_are_measured():
    image = np.zeros((3, 3, 16, 16), np.uint8)
    image[0] = 255
    image[1, 0] = 255  # red
    image[2, :, :8] = 255  # half white, half black
    white, red, half = representation.look(torch.from_numpy(image)).tolist()
    assert white == pytest.approx([1, 0, 0], abs=1e-5)
    assert red == pytest.approx([0.299, 0, 1], abs=1e-5)
    assert half == pytest.approx([0.5, 0.5, 0], abs=2e-3)


def flat(low, high, seed, channels=3):
    """Pictures of one colour each, with levels from `low` to `high`."""
    levels = np.random.default_rng(seed).integers(low, high, (60, channels, 1, 1), np.uint8)
    return Seen(sample(torch.from_numpy(levels).expand(-1, 3, 16, 16)), torch.zeros(60, 2))


def test_darker_and_greyer_pictures_are_found():
    looks, grey = representation.representation({}, flat(90, 150, 0), flat(60, 110, 1, channels=1))
    assert {line.name: line.verdict for line in looks.lines} == {
        "brightness": "less", "contrast": "about the same", "colour": "less"
    }  # fmt: skip
    assert [(line.name, line.verdict) for line in grey.lines] == [("nearly grey", "more")]


def test_few_differences_of_many_are_chance():
    aspects = [Aspect("some", [Line(str(p), 0.5, 0.5, Interval(0.4, 0.3, 0.5), p) for p in (0.04, *[0.5] * 19)])]
    found = representation._with_fewer_false(aspects)[0].lines
    assert {line.verdict for line in found} == {"about the same"}  # 0.04 alone would be "less"


def test_sentences_say_what_the_figures_say():
    line = Line("engraving", 0.25, 0.24, Interval(0.09, 0.06, 0.13), 0.001)
    assert Aspect("class", [line], 0.9).sentences() == [
        "engraving: 9% of the painted pictures (6% to 13%), less than the 24% of training pictures that are classified "
        "as it; their true share is 25%"
    ]
    line = Line("brightness", 0.5, None, Interval(0.51, 0.45, 0.57), 0.6)
    assert Aspect("looks", [line], are_shares=False).sentences() == [
        "brightness: 0.51 in the painted pictures (0.45 to 0.57), about the same as 0.50 in the training pictures"
    ]
