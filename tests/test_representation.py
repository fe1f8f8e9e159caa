"""What a painter prefers is found: classes and metadata by a classifier, looks by measuring."""

import numpy as np
import pytest
import torch

from artdiff.evaluation import representation
from artdiff.evaluation.distances import Interval
from artdiff.evaluation.representation import Aspect, Line, Seen
from artdiff.evaluation.samples import Sample

CENTRES = {"a": (0.0, 6.0), "b": (6.0, 0.0), "c": (0.0, -6.0)}


def grey(level):
    return np.full((3, 16, 16), level, np.uint8)


def seen(counts, seed, *, level=120, columns=None, spread=1.0):
    """Pictures of flat grey, and features around the centre of each value."""
    generator = torch.Generator().manual_seed(seed)
    values = [value for value, count in counts.items() for _ in range(count)]
    centres = torch.tensor([CENTRES[value] for value in values])
    features = centres + spread * torch.randn(len(values), 2, generator=generator)
    pixels = torch.from_numpy(np.stack([grey(level) for _ in values]))
    sample = Sample("some", "key", torch.zeros(len(values)), lambda places: pixels[places], np.arange(len(values)))
    return Seen(sample, features, {"artist": values} if columns is None else columns)


def test_a_preference_is_found():
    trained, held_out = seen({"a": 60, "b": 60, "c": 30}, 0), seen({"a": 40, "b": 40, "c": 20}, 1)
    painted = seen({"a": 90, "b": 4, "c": 26}, 2, columns={})
    artist, *_ = representation.representation(trained, held_out, painted)
    assert artist.name == "artist"
    assert artist.accuracy > 0.97
    by_name = {line.name: line for line in artist.lines}
    assert [by_name[name].verdict for name in "abc"] == ["more", "less", "about the same"]
    assert by_name["a"].trained == pytest.approx(0.4)
    assert by_name["b"].painted.value == pytest.approx(4 / 120, abs=0.02)
    assert by_name["b"].painted.low < 4 / 120 < by_name["b"].painted.high
    assert "b: 40% of the training pictures, " in str(artist)


def test_an_equal_painter_has_no_preference():
    aspects = representation.representation(*(seen({"a": 60, "b": 60, "c": 60}, seed) for seed in range(3)))
    assert {line.verdict for aspect in aspects for line in aspect.lines} == {"about the same"}


def test_what_was_asked_for_is_told():
    trained, held_out = seen({"a": 60, "b": 60}, 0), seen({"a": 40, "b": 40}, 1)
    painted = seen({"a": 50, "b": 30}, 2, columns={})
    wanted = ["a"] * 40 + ["b"] * 40  # ten of them look like a
    first, second = representation.asked(wanted, trained, held_out, painted, column="artist")
    assert (first.painted.value, first.instead) == (1, None)
    assert (second.painted.value, second.instead) == (0.75, "a")
    assert second.held_out > 0.97
    assert str(second).startswith("b: 75% of what was asked for is taken for it (")
    assert "the others mostly for a" in str(second)


def test_rare_values_and_single_values_are_left_out():
    few = {"artist": ["a"] * 60 + ["b"] * (representation.LEAST - 1)}
    trained = seen({"a": 60, "b": representation.LEAST - 1}, 0, columns=few)
    assert [one.name for one in representation.representation(trained, trained, trained)] == ["looks", "colour"]


def test_a_classifier_that_guesses_says_so():
    trained, held_out, painted = (seen({"a": 60, "b": 60}, seed, spread=1e3) for seed in range(3))
    assert representation.representation(trained, held_out, painted)[0].accuracy < 0.75


def test_looks_are_measured():
    image = np.zeros((3, 3, 16, 16), np.uint8)
    image[0] = 255
    image[1, 0] = 255  # red
    image[2, :, :8] = 255  # half white, half black
    white, red, half = representation.look(torch.from_numpy(image)).tolist()
    assert white == pytest.approx([1, 0, 0], abs=1e-5)
    assert red == pytest.approx([0.299, 0, 1], abs=1e-5)
    assert half == pytest.approx([0.5, 0.5, 0], abs=2e-3)


def test_darker_pictures_are_found():
    generator = np.random.default_rng(0)

    def of(shift, seed):
        pixels = torch.from_numpy(generator.integers(60 + shift, 100 + shift, (50, 3, 1, 1), np.uint8)).expand(
            -1, -1, 16, 16
        )
        sample = Sample("some", "key", torch.zeros(50), lambda places: pixels[places], np.arange(50))
        return Seen(sample, torch.zeros(50, 2), {})

    looks, colour = representation.representation(of(40, 0), of(40, 1), of(0, 2))
    assert next((line.name, line.verdict) for line in looks.lines) == ("brightness", "less")
    assert [line.name for line in colour.lines] == ["grey"]


def test_sentences_say_what_the_figures_say():
    line = Line("engraving", 0.25, 0.24, Interval(0.09, 0.06, 0.13), 0.001)
    assert Aspect("class", [line], 0.9).sentences() == [
        "engraving: 25% of the training pictures, 9% of what it paints (6% to 13%), which is less; 24% of the held-out "
        "ones are taken for it"
    ]
    line = Line("brightness", 0.5, 0.5, Interval(0.51, 0.45, 0.57), 0.6)
    assert Aspect("looks", [line], are_shares=False).sentences() == [
        "brightness: 0.50 in the training pictures, 0.51 in what it paints (0.45 to 0.57), about the same"
    ]
