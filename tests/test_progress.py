"""Long work says how far it is and how much time is left."""

import logging

import pytest

from artdiff import progress as module
from artdiff.progress import duration, progress


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def bursts(clock, count, size, seconds):
    """Items that come `size` at a time, each burst after some seconds."""
    for number in range(count):
        if number % size == 0:
            clock.now += seconds
        yield number


@pytest.mark.parametrize(("size", "seconds"), [(1, 1), (16, 16)])
def test_the_time_left_is_right_also_if_items_come_in_bursts(clock, caplog, size, seconds):
    caplog.set_level(logging.INFO)
    assert list(progress(bursts(clock, 320, size, seconds), 320, "painting", unit="pictures")) == list(range(320))
    lines = [record.args for record in caplog.records]
    assert lines
    for _, done, _, _, left in lines:
        value, unit = left.split()
        found = float(value) * (60 if unit == "min" else 1)
        assert found == pytest.approx(320 - int(done), rel=0.1, abs=30)


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (45, "45 s"), (89, "89 s"), (100, "2 min"), (3700, "1 h 02 min")]
)
def test_times_are_said_as_people_say_them(seconds, words):
    assert duration(seconds) == words
