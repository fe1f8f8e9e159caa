"""Cuts a large group of near-duplicates, such as the frames of a slow pan, so that a part of it can be held out.

Near-duplicates form chains: each frame looks like the next, but the first and the last have nothing in common. Without
a cut, such a group would be held out or trained on as a whole, and it may be most of a data set.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from artdiff.ingest.fingerprint import BYTES, same
from artdiff.ingest.picture import Picture

LARGEST = 24
"""Groups of at most this many near-duplicates stay in one split; larger ones are cut."""

MOST_LEFT_OUT = 1 / 3
"""Fraction of a group that a cut may leave out of training. If all pictures differ little, it would need more."""

Group = list[int]
"""Near-duplicates, by their places in a list of pictures."""


class Cut(NamedTuple):
    """A cut group: the `held_out` pictures, and those `left_out` of training → a held-out one that each looks like."""

    held_out: set[int]
    left_out: dict[int, int]


class Neighbours:
    """Near-duplicates of each picture, by places in the list. Equal fingerprints have the same neighbours."""

    def __init__(self, pictures: Sequence[Picture], pairs: np.ndarray) -> None:
        first: dict[str, int] = {}
        prints = [one.facts.fingerprint or f"none {place}" for place, one in enumerate(pictures)]
        self._first = np.array([first.setdefault(one, place) for place, one in enumerate(prints)], np.int32)
        self._equal: dict[int, list[int]] = {}
        for place, one in enumerate(self._first.tolist()):
            self._equal.setdefault(one, []).append(place)
        self._pairs = self._first[pairs]
        self._pairs = self._pairs[self._pairs[:, 0] != self._pairs[:, 1]]
        ends = np.concatenate([self._pairs, self._pairs[:, ::-1]])
        ends = ends[np.argsort(ends[:, 0], kind="stable")]
        self._others = ends[:, 1]
        self._starts = np.searchsorted(ends[:, 0], np.arange(len(pictures) + 1))

    def __call__(self, place: int) -> set[int]:
        """The places of the pictures that look like the one at `place`."""
        first = int(self._first[place])
        near = self._others[self._starts[first] : self._starts[first + 1]].tolist()
        return {equal for one in (first, *near) for equal in self._equal[one]} - {place}

    def like(self, some: np.ndarray) -> np.ndarray:
        """Which pictures have the same fingerprint as one of `some`, bool (N,), or look like one → bool (N,)."""
        has, near = np.zeros_like(some), np.zeros_like(some)
        has[self._first[some]] = True
        one, other = self._pairs.T
        near[one[has[other]]] = True
        near[other[has[one]]] = True
        return (has | near)[self._first]


def cut(group: Group, pictures: Sequence[Picture], neighbours: Neighbours, share: float, least: int) -> Cut | None:
    """Hold out about `share` of a group, at least `least` pictures. None if that would leave too many out of training.

    The picture with the lowest hash is held out, then those that look like it, then those that look like these, and so
    on. Other pictures that look like a held-out one are left out of training.
    """
    seed = min(group, key=lambda place: pictures[place].digest)
    chance = int(pictures[seed].digest[8:16], 16) / 2**32  # rounds up or down, depending on the content
    wanted = max(least, int(len(group) * share + chance))
    held_out = set(_outwards(seed, pictures, neighbours, wanted))
    return beside(held_out, group, pictures, neighbours)


def beside(held_out: set[int], group: Group, pictures: Sequence[Picture], neighbours: Neighbours) -> Cut | None:
    """Leave pictures that look like the held-out ones of a group out of training. None if these are too many."""
    left_out: dict[int, int] = {}
    for held in sorted(held_out, key=lambda place: pictures[place].digest):
        for place in neighbours(held) - held_out - left_out.keys():
            left_out[place] = held
        stays = len(group) - len(held_out) - len(left_out)
        if stays <= 0 or len(left_out) > MOST_LEFT_OUT * len(group):
            return None
    return Cut(held_out, left_out)


def same_pictures(group: Group, pictures: Sequence[Picture], order: Sequence[int]) -> list[Group]:
    """Divide a group into versions of the same picture. More than `LARGEST` versions become single pictures.

    In `order`, each remaining picture is joined with all others that differ from it no more than versions do.
    """
    prints = b"".join(bytes.fromhex(pictures[place].facts.fingerprint) for place in order)
    data, places = np.frombuffer(prints, np.uint8).reshape(-1, BYTES), np.array(order)
    found: list[Group] = []
    while len(places):
        joined = same(data, data[0])
        joined[0] = True
        together = places[joined].tolist()
        found += [together] if len(together) <= LARGEST else [[place] for place in together]
        data, places = data[~joined], places[~joined]
    return found


def _outwards(seed: int, pictures: Sequence[Picture], neighbours: Neighbours, count: int) -> list[int]:
    """The first `count` pictures of a group in a breadth-first search from `seed`; each ring is sorted by hash."""
    found: list[int] = []
    ring, seen = [seed], {seed}
    while ring and len(found) < count:
        found += ring
        ring = sorted(set().union(*(neighbours(place) for place in ring)) - seen, key=lambda one: pictures[one].digest)
        seen.update(ring)
    return found[:count]
