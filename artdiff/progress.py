"""How far long work has come: a bar on a terminal, otherwise a line in the log now and then."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

log = logging.getLogger(__name__)

SECONDS_A_LINE = 20.0
"""Between two lines in the log."""

Item = TypeVar("Item")


def progress(items: Iterable[Item], total: int, name: str, *, unit: str = "files") -> Iterator[Item]:
    """Yield the items and show how many of `total` are done."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=name, unit=f" {unit}")
        return
    last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - last > SECONDS_A_LINE:
            last = time.monotonic()
            log.info("%s: %s of %s %s", name, f"{count:,}", f"{total:,}", unit)
