"""Progress of long work: a bar on a terminal, otherwise a line in the log now and then."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

FIRST_LINE, SECONDS_A_LINE = 3.0, 20.0
"""Seconds until the first line in the log, which estimates the time that is left, and between later lines."""

MOST_SECONDS = 90
"""Longer times are shown in minutes."""

Item = TypeVar("Item")


def progress(items: Iterable[Item], total: int, name: str, *, unit: str = "files") -> Iterator[Item]:
    """Yield the items, and show how many of `total` are done and how long the rest will take."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=name, unit=f" {unit}")
        return
    begun = asked = time.monotonic()
    due = begun + FIRST_LINE
    for done, item in enumerate(items):
        now, each = time.monotonic(), (asked - begun) / max(done, 1)
        if done and now > due and now - asked > each / 2:  # only after an item that took time: items may come in bursts
            due = now + SECONDS_A_LINE
            left = duration(each * (total - done))
            log.info("%s: %s of %s %s, about %s left", name, f"{done:,}", f"{total:,}", unit, left)
        yield item
        asked = time.monotonic()


def duration(seconds: float) -> str:
    """Format a time: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < MOST_SECONDS:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
