"""Assigns pictures to splits by their content alone, unless split folders do.

The first 32 bits of the SHA-256, as a number in [0,1), are compared with `val_fraction`. So adding files does not move
other pictures, with three exceptions: near-duplicates stay together, a large group of them is cut by similarity, and a
data set too small to hold anything out holds out one picture.
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
    """The pictures with their splits.

    `left_out` are pictures that are left out of training because they look like a held-out one: path → path of the
    held-out picture. They are not among `pictures`.
    """

    pictures: list[Picture]
    left_out: dict[str, str]


def precedence(picture: Picture) -> tuple[int, str]:
    """Sort key of copies, the smallest of which is used: first those held out, then by path."""
    return ("test", "validation", "train").index(picture.split), picture.path


def by_content(pictures: Sequence[Picture], pairs: np.ndarray, val_fraction: float) -> Placed:
    """Split pictures by their hash. A group of near-duplicates is split by the hash of its best picture.

    Groups of more than `LARGEST` are cut. If a cut would leave too many pictures out of training, each picture of the
    group is split by its own hash. At least one picture is held out, and at least one is not. `pairs` int (M,2) are
    near-duplicates by their places in `pictures`.
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
    """Take the split from the folders, but if a picture is held out, hold out all its near-duplicates as well.

    In a group of more than `LARGEST`, only pictures that look like a held-out one are left out of training. If training
    would lose more than half of its pictures in this way, the split of the folders stays as it is.
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
            "%s of %s training pictures look like a picture that the folders hold out: too many to leave them out",
            *(f"{across.sum():,}", f"{training:,}"),
        )
    return _named(placed, groups, cuts)


def _warn_of_likeness(loose: Group, placed: Sequence[Picture], neighbours: Neighbours) -> None:
    trained = np.array([one.split == "train" for one in placed], bool)
    across = (~trained & neighbours.like(trained))[loose].sum()
    if across and across == (~trained[loose]).sum() and len(loose) == len(placed):
        log.warning("all pictures are near-duplicates: those held out look like those trained on")
    elif across:
        log.warning(
            "%s held-out pictures look like training pictures: %s pictures differ too little to separate them",
            *(f"{across:,}", f"{len(loose):,}"),
        )


def best(alike: Iterable[Picture]) -> Picture:
    """The near-duplicate with the most pixels, then bytes. So adding a smaller one later changes nothing."""
    return max(alike, key=_quality)


def _quality(one: Picture) -> tuple[int, int, str]:
    return one.pixels, one.bytes, one.digest


def _loosened(group: Group, pictures: Sequence[Picture]) -> list[Group]:
    """Divide a large group into versions of the same picture, or, if that gives one part, into single pictures."""
    order = sorted(group, key=lambda place: _quality(pictures[place]), reverse=True)
    found = same_pictures(group, pictures, order) if len(group) > LARGEST else []
    return found if len(found) > 1 else [[place] for place in group]


def _held_out(units: Sequence[Group], pictures: Sequence[Picture], val_fraction: float, already: int) -> set[int]:
    """The places of the held-out units, which are chosen by the hash of the best picture of each.

    A group is not held out if that would hold out more than half of all pictures, or more than `val_fraction` + 0.25 if
    that is larger.
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
        what = "one is held out" if len(first) == 1 else f"{len(first)} near-duplicates are held out"
        log.warning("data.val_fraction=%s selects none of so few pictures: %s", val_fraction, what)
    return found


def _named(placed: Sequence[Picture], groups: Sequence[Group], cuts: Sequence[Cut]) -> Placed:
    """Set `looks_like` to the best picture of each group, or of each part of a cut group; remove left-out pictures."""
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
