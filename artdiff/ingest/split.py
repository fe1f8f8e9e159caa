"""Which side of the split a picture is on: by its content alone, unless the folders say so.

The first 32 bits of the SHA-256, as a number in [0,1), are compared with `val_fraction`. So adding files moves no other
picture, with two exceptions: near-duplicates go together, and a set too small to hold anything out holds out one.
"""

import logging
from collections.abc import Iterable, Sequence

from artdiff.ingest import duplicates
from artdiff.ingest.picture import Picture

log = logging.getLogger(__name__)

Groups = list[list[int]]
"""Groups of near-duplicates, by their places in a list of pictures."""


def precedence(picture: Picture) -> tuple[int, str]:
    """The smallest of copies is used: one that is held out rather than one for training, then the first path."""
    return ("test", "validation", "train").index(picture.split), picture.path


def by_content(pictures: Sequence[Picture], groups: Groups, val_fraction: float) -> list[Picture]:
    """Put pictures on a side by their hash; near-duplicates go with the best of their group, and name it.

    At least one picture is held out, and at least one is not.
    """
    singles = set(range(len(pictures))).difference(*groups)
    deciding = [pictures[place] for place in singles] + [best(pictures[place] for place in group) for group in groups]
    if len(deciding) == 1 < len(pictures):
        log.warning("all pictures look alike: those held out look like those trained on")
        deciding, groups = list(pictures), []
    held_out = _held_out([picture.digest for picture in deciding], val_fraction)
    placed = [one._replace(split="validation" if one.digest in held_out else "train") for one in pictures]
    for group in groups:
        leader = best(placed[place] for place in group)
        for place in group:
            placed[place] = placed[place]._replace(split=leader.split, looks_like=leader.path)
    return placed


def by_folders(pictures: Sequence[Picture], groups: Groups) -> list[Picture]:
    """Keep the side that the folders say, but hold out a whole group of near-duplicates if one of it is held out."""
    placed = list(pictures)
    for group in groups:
        leader = best(placed[place] for place in group)
        split = min((placed[place] for place in group), key=precedence).split
        for place in group:
            placed[place] = placed[place]._replace(split=split, looks_like=leader.path)
    return placed


def groups(pictures: Sequence[Picture], compared: duplicates.Compared) -> Groups:
    """The groups of near-duplicates among the pictures."""
    return duplicates.groups(duplicates.near_pairs([one.facts.fingerprint for one in pictures], compared))


def best(alike: Iterable[Picture]) -> Picture:
    """Of near-duplicates, the one with the most pixels, then bytes: adding a smaller one later changes nothing."""
    return max(alike, key=lambda one: (one.pixels, one.bytes, one.digest))


def _held_out(digests: Sequence[str], val_fraction: float) -> set[str]:
    share = {digest: int(digest[:8], 16) / 2**32 for digest in digests}
    in_order = sorted(share, key=share.__getitem__)
    if in_order and share[in_order[0]] >= val_fraction:
        log.warning("so few pictures that none falls into data.val_fraction=%s: one is held out", val_fraction)
    return {digest for digest in in_order[:-1] if share[digest] < val_fraction} | set(in_order[:1])
