"""Which side of the split a picture is on: by its content alone, unless the folders say so.

The first 32 bits of the SHA-256, as a number in [0,1), are compared with `val_fraction`. So adding files moves no other
picture, with three exceptions: near-duplicates go together, a large group of them is cut along its content, and a set
too small to hold anything out holds out one.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from artdiff.ingest import duplicates
from artdiff.ingest.chains import LARGEST, Cut, Group, Neighbours, beside, cut, same_pictures
from artdiff.ingest.picture import Picture
from artdiff.ingest.split_folders import Split

log = logging.getLogger(__name__)


class Placed(NamedTuple):
    """The pictures, each with its side.

    `left_out` of training, and not among `pictures`, are those that look too much like one held out: their paths, each
    with that of the one held out.
    """

    pictures: list[Picture]
    left_out: dict[str, str]


def precedence(picture: Picture) -> tuple[int, str]:
    """The smallest of copies is used: one that is held out rather than one for training, then the first path."""
    return ("test", "validation", "train").index(picture.split), picture.path


def by_content(pictures: Sequence[Picture], pairs: np.ndarray, val_fraction: float) -> Placed:
    """Put pictures on a side by their hash; near-duplicates go with the best of their group, and name it.

    Groups of more than `LARGEST` are cut. Where that would leave out too much of one, its pictures differ so little
    that each goes by its own hash. At least one picture is held out, and at least one is not. `pairs` are the
    near-duplicates by their places in `pictures`, int (M,2).
    """
    groups, neighbours = duplicates.groups(pairs), Neighbours(pictures, pairs)
    units = [[place] for place in set(range(len(pictures))).difference(*groups)]
    units += [group for group in groups if len(group) <= LARGEST and len(group) < len(pictures)]
    least = 0 if units else 1
    cuts, loose = [], []
    for group in groups:
        if len(group) > LARGEST and (parts := cut(group, pictures, neighbours, val_fraction, least)) is not None:
            cuts.append(parts)
        elif len(group) > LARGEST or len(group) == len(pictures):
            loose.append(group)
            units += _loosened(group, pictures)
    held_out = {place for one in cuts for place in one.held_out}
    held_out |= _held_out(units, pictures, val_fraction, len(held_out))
    placed = [one._replace(split="validation" if place in held_out else "train") for place, one in enumerate(pictures)]
    _warn_of_likeness([place for group in loose for place in group], placed, neighbours)
    return _named(placed, groups, cuts)


def by_folders(pictures: Sequence[Picture], pairs: np.ndarray) -> Placed:
    """Keep the side that the folders say, but hold out a whole group of near-duplicates if one of it is held out.

    Of a group of more than `LARGEST`, those are left out of training that look like one held out themselves. If half of
    the pictures for training would be lost, the folders count.
    """
    placed = list(pictures)
    groups, neighbours = duplicates.groups(pairs), Neighbours(pictures, pairs)
    moves: dict[int, Split] = {}
    cuts = []
    for group in groups:
        held_out = {place for place in group if pictures[place].split != "train"}
        if len(group) <= LARGEST:
            to = min((pictures[place] for place in group), key=precedence).split
            moves |= {place: to for place in group if pictures[place].split != to}
        elif held_out and (parts := beside(held_out, group, pictures, neighbours)) is not None:
            cuts.append(parts)
    training = sum(one.split == "train" for one in pictures)
    lost = sum(pictures[place].split == "train" for place in moves) + sum(len(one.left_out) for one in cuts)
    if 2 * lost > training:
        moves, cuts = {}, []
    for place, to in moves.items():
        placed[place] = placed[place]._replace(split=to)
    trained = np.array([one.split == "train" for one in placed], bool)
    across = trained & neighbours.like(~trained)
    across[[place for one in cuts for place in one.left_out]] = False
    if across.any():
        log.warning(
            "%s of %s pictures for training look like one that the folders hold out: too many to leave them out",
            *(f"{across.sum():,}", f"{training:,}"),
        )
    return _named(placed, groups, cuts)


def _warn_of_likeness(loose: Group, placed: Sequence[Picture], neighbours: Neighbours) -> None:
    trained = np.array([one.split == "train" for one in placed], bool)
    across = (~trained & neighbours.like(trained))[loose].sum()
    if across and across == (~trained[loose]).sum() and len(loose) == len(placed):
        log.warning("all pictures look alike: those held out look like those trained on")
    elif across:
        log.warning(
            "%s of the pictures held out look like some trained on: %s pictures differ too little to keep them apart",
            *(f"{across:,}", f"{len(loose):,}"),
        )


def best(alike: Iterable[Picture]) -> Picture:
    """Of near-duplicates, the one with the most pixels, then bytes: adding a smaller one later changes nothing."""
    return max(alike, key=_quality)


def _quality(one: Picture) -> tuple[int, int, str]:
    return one.pixels, one.bytes, one.digest


def _loosened(group: Group, pictures: Sequence[Picture]) -> list[Group]:
    """A group whose pictures go by their own hash, versions of the same picture together; apart if they are all."""
    order = sorted(group, key=lambda place: _quality(pictures[place]), reverse=True)
    found = same_pictures(group, pictures, order) if len(group) > LARGEST else []
    return found if len(found) > 1 else [[place] for place in group]


def _held_out(units: Sequence[Group], pictures: Sequence[Picture], val_fraction: float, already: int) -> set[int]:
    """The places of those units that are held out, by the hash of the best picture of each.

    A group is not held out if with it more than half of the pictures would be, or, for a `val_fraction` of more than a
    quarter, a quarter more than that.
    """
    share = [int(best(pictures[place] for place in unit).digest[:8], 16) / 2**32 for unit in units]
    in_order = [units[place] for place in np.argsort(share, kind="stable")]
    most = max(0.5, val_fraction + 0.25) * len(pictures)
    found: set[int] = set()
    for unit, of in zip(in_order[:-1], sorted(share), strict=False):
        if of < val_fraction and (len(unit) == 1 or already + len(found) + len(unit) <= most):
            found.update(unit)
    if in_order and not found and not already:
        first = next((unit for unit in in_order if len(unit) == 1 or len(unit) <= most), in_order[0])
        found = set(first)
        what = "one is held out" if len(first) == 1 else f"{len(first)} that look alike are held out"
        log.warning("so few pictures that none falls into data.val_fraction=%s: %s", val_fraction, what)
    return found


def _named(placed: Sequence[Picture], groups: Sequence[Group], cuts: Sequence[Cut]) -> Placed:
    """Name the best of each group; of a group that is cut, the best of each part, and take out what is left out."""
    placed = list(placed)
    held_out = set().union(*(one.held_out for one in cuts))
    left_out = {place: held for one in cuts for place, held in one.left_out.items()}
    for group in groups:
        parts = [group]
        if not held_out.isdisjoint(group):
            parts = [[place for place in group if place in held_out]]
            parts += [[place for place in group if place not in held_out and place not in left_out]]
        for part in parts:
            leader = best(placed[place] for place in part)
            for place in part:
                placed[place] = placed[place]._replace(looks_like=leader.path)
    paths = {placed[place].path: placed[held].path for place, held in left_out.items()}
    return Placed([one for place, one in enumerate(placed) if place not in left_out], paths)
