"""Writes the pictures of an index into shards; `artdiff.data.shards` says how they look."""

import logging
from collections.abc import Iterator

import numpy as np

from artdiff import UserError, runs
from artdiff.data.datamodule import ArtDataModule
from artdiff.data.pixels import Pixels, pixels_of
from artdiff.data.shards import INDEX, Shard, ShardIndex, array_entry
from artdiff.data.storage import Entry, Storage
from artdiff.diffusion.conditioning import NO_LABEL
from artdiff.ingest import decoded
from artdiff.ingest.index import Index
from artdiff.ingest.tables import encoded
from artdiff.progress import progress

log = logging.getLogger(__name__)

READ_AT_ONCE = 64
"""Pictures."""


def pack(data: ArtDataModule, place: Storage, *, megabytes: float) -> ShardIndex:
    """Write the pictures that `data` would use into shards of about so many megabytes, and an index of them last.

    Shards that are there already are not written again, so that an interrupted call goes on. Raises `UserError`.
    """
    index, root = data.build_index(), data.source.root
    problem = index.problem(root)
    if problem is not None:
        raise UserError(problem)
    _refuse_others(place, index, data)
    side = data.transform.size
    each = max(1, int(megabytes * 1e6 / (side * side * 3)))
    pixels, number = pixels_of(index, root, data.transform), {name: place for place, name in enumerate(index.classes)}
    order = {split: _by_digest(index, split) for split in ("train", "validation")}
    total = sum(len(one) for one in order.values())
    log.info("%s pictures into shards of %s", f"{total:,}", f"{each:,}")
    shards: dict[str, list[Shard]] = {}
    for name, wanted in order.items():
        parts = [wanted[first : first + each] for first in range(0, len(wanted), each)]
        shards[name] = [
            _shard(pixels, place, f"{name}-{count:05d}", part, side)
            for count, part in enumerate(progress(parts, len(parts), f"packing for {name}", unit="shards"))
        ]
    pictures = [index.used[one] for wanted in order.values() for one in wanted]
    numbers: dict[str, int] = {}
    groups = np.array([numbers.setdefault(one.looks_like or one.path, len(numbers)) for one in pictures], np.int32)
    labels = np.array([number.get(one.label or "", NO_LABEL) for one in pictures], np.int32)
    digests = np.array([list(bytes.fromhex(one.digest)) for one in pictures], np.uint8)
    found = ShardIndex(
        side=side,
        fit=data.settings.fit,
        background=data.settings.background,
        kind=decoded.kind_of(data.transform),
        classes=index.classes,
        counts=index.counts,
        manifest=index.digest(),
        train=shards["train"],
        validation=shards["validation"],
        labels=_put(place, "labels", labels),
        digests=_put(place, "digests", digests),
        groups=_put(place, "groups", groups),
    )
    for name, listing in _listings(index).items():
        place.put(name, listing)
    place.put(INDEX, found.content())
    return found


def _listings(index: Index) -> dict[str, bytes]:
    return {runs.MANIFEST: encoded(index.manifest()), **index.listings()}


def _refuse_others(place: Storage, index: Index, data: ArtDataModule) -> None:
    """Raise `UserError` if there are files of these names that an earlier call for the same pictures did not write."""
    found, settings = place.read(INDEX), data.settings
    if found is not None:
        there = ShardIndex.read(place, "out")
        same = (index.digest(), data.transform.size, settings.fit, settings.background)
        if (there.manifest, there.side, there.fit, there.background) != same:
            raise UserError("out holds the shards of other pictures already; choose another folder")
        return
    for name, listing in _listings(index).items():
        if place.read(name) not in (None, listing):
            raise UserError(f"out holds {name} already; choose another folder")


def _by_digest(index: Index, split: str) -> list[int]:
    """The places in `index.used` of the pictures on one side of the split, in the order of their digests."""
    places = [place for place, one in enumerate(index.used) if one.split == split]
    return sorted(places, key=lambda place: index.used[place].digest)


def _shard(pixels: Pixels, place: Storage, name: str, part: list[int], side: int) -> Shard:
    rows = np.empty((len(part), side, side, 3), np.uint8)
    for first, found in _read(pixels, part):
        rows[first : first + len(found)] = found
    return Shard(len(part), _put(place, name, rows))


def _read(pixels: Pixels, part: list[int]) -> Iterator[tuple[int, np.ndarray]]:
    for first in range(0, len(part), READ_AT_ONCE):
        found = pixels.read(np.array(part[first : first + READ_AT_ONCE]))
        if found.gone:
            raise UserError(f"{found.gone[0]}; start again")
        yield first, found.pixels


def _put(place: Storage, name: str, array: np.ndarray) -> Entry:
    entry, content = array_entry(name, array)
    if not place.holds(entry):
        place.put(entry.name, content)
    return entry
