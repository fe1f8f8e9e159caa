"""Writes the pictures of an index to shards. `artdiff.data.shards` describes the format."""

import json
import logging
from collections.abc import Sequence

import numpy as np

from artdiff import UserError, runs
from artdiff.data.datamodule import ArtDataModule
from artdiff.data.loader import Pictures
from artdiff.data.pixels import Pixels, read_all
from artdiff.data.shards import INDEX, Shard, ShardIndex, array_entry, entry
from artdiff.data.storage import Entry, Storage
from artdiff.ingest import decoded
from artdiff.ingest.captions import caption
from artdiff.ingest.index import Index
from artdiff.ingest.picture import Picture, groups_of
from artdiff.ingest.tables import encoded
from artdiff.progress import progress
from artdiff.settings.data import Captions

log = logging.getLogger(__name__)

READ_AT_ONCE = 64
"""Pictures that are read at once."""


def pack(data: ArtDataModule, place: Storage, *, megabytes: float) -> ShardIndex:
    """Write the pictures that `data` uses to shards of about `megabytes` MB, and `index.json` last.

    Existing shards are not written again, so a second call resumes an interrupted one. Raises `UserError`.
    """
    data.setup()
    index, pixels = data.index, data.train_set.source
    _refuse_others(place, index, data)
    side = data.transform.size
    each = max(1, int(megabytes * 1e6 / (side * side * 3)))
    sides = {"train": _by_digest(data.train_set, index), "validation": _by_digest(data.val_set, index)}
    total = sum(map(len, sides.values()))
    log.info("packing %s pictures into shards of %s", f"{total:,}", f"{each:,}")
    shards: dict[str, list[Shard]] = {}
    for name, pictures in sides.items():
        parts = [pictures.indices[first : first + each] for first in range(0, len(pictures), each)]
        shards[name] = [
            Shard(len(part), put_array(place, f"{name}-{count:05d}", _rows(pixels, part, side)))
            for count, part in enumerate(progress(parts, len(parts), f"packing for {name}", unit="shards"))
        ]
    used = [index.used[one] for pictures in sides.values() for one in pictures.indices]
    labels = np.concatenate([pictures.labels.numpy() for pictures in sides.values()])
    digests = np.array([list(bytes.fromhex(one.digest)) for one in used], np.uint8)
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
        labels=put_array(place, "labels", labels.astype(np.int32)),
        digests=put_array(place, "digests", digests),
        groups=put_array(place, "groups", np.array(groups_of(used), np.int32)),
        texts=_put(place, *entry("texts", _texts(used, data.settings.captions), "json")),
    )
    for name, listing in _listings(index).items():
        place.put(name, listing)
    place.put(INDEX, found.content())
    return found


def put_array(place: Storage, name: str, array: np.ndarray) -> Entry:
    """Write an array unless it exists, as a `.npy` file whose name holds its hash."""
    return _put(place, *array_entry(name, array))


def _put(place: Storage, described: Entry, content: bytes) -> Entry:
    if not place.holds(described):
        place.put(described.name, content)
    return described


def _texts(pictures: Sequence[Picture], captions: Captions) -> bytes:
    """Paths, captions and metadata of these pictures, as JSON."""
    names = sorted({name for one in pictures for name in one.columns})
    found = {
        "files": [one.path for one in pictures],
        "captions": None if captions == "none" else [caption(one, captions) for one in pictures],
        "columns": {name: [one.columns.get(name) for one in pictures] for name in names},
    }
    return json.dumps(found).encode()


def _listings(index: Index) -> dict[str, bytes]:
    return {runs.MANIFEST: encoded(index.manifest()), **index.listings()}


def _refuse_others(place: Storage, index: Index, data: ArtDataModule) -> None:
    """Raise `UserError` if `place` holds shards or tables of other pictures."""
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


def _by_digest(pictures: Pictures, index: Index) -> Pictures:
    """The same pictures, sorted by the SHA-256 of their files."""
    order = np.array(sorted(range(len(pictures)), key=lambda place: index.used[pictures.indices[place]].digest))
    return Pictures(pictures.source, pictures.indices[order], pictures.labels.numpy()[order], seed=None)


def _rows(pixels: Pixels, part: np.ndarray, side: int) -> np.ndarray:
    """Pictures by index, uint8 (N,side,side,3), read a few at a time."""
    rows = np.empty((len(part), side, side, 3), np.uint8)
    for first in range(0, len(part), READ_AT_ONCE):
        rows[first : first + READ_AT_ONCE] = read_all(pixels, part[first : first + READ_AT_ONCE])
    return rows
