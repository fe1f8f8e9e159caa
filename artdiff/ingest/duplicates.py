"""Finds near-duplicates: groups of pictures with near fingerprints. Only new fingerprints are compared."""

import logging
import struct
import zlib
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from artdiff.ingest.fingerprint import BYTES, near
from artdiff.locks import Lock

log = logging.getLogger(__name__)

BATCH = 4096
"""Number of fingerprints that are compared between two writes to the file."""


class Compared:
    """Distinct fingerprints that have been compared with each other, and the pairs that are near.

    With a `path` they are stored in an append-only file, so that only new fingerprints are compared. It consists of
    batches: a header with the counts and a CRC-32, fingerprints (80 bytes each), and near pairs (two uint32 each, the
    places of the fingerprints in the file). Reading stops at an incomplete or damaged batch, which is compared again.
    """

    HEADER = struct.Struct("<4sIII")
    MAGIC = b"near"

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.fingerprints = np.empty((0, BYTES), np.uint8)
        self.pairs = np.empty((0, 2), np.uint32)
        self.place_of: dict[bytes, int] = {}
        self._read = 0  # bytes of the file
        self._load()

    def add(self, wanted: Collection[bytes]) -> None:
        """Compare new fingerprints with all others, and store the result if the file can be written."""
        if all(one in self.place_of for one in wanted):
            return
        if self.path is not None:
            self._add_to_file(self.path, wanted)
        for _ in self._compare(wanted):
            pass

    def _add_to_file(self, path: Path, wanted: Collection[bytes]) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with Lock(path.with_suffix(".lock")).held(), path.open("ab") as stream:
                self._load()
                stream.truncate(self._read)
                for batch in self._compare(wanted):
                    stream.write(batch)
                    stream.flush()
                    self._read += len(batch)
        except OSError as error:
            log.info("near-duplicates will be compared again next time: %s, %s", path, error.strerror)

    def _compare(self, wanted: Collection[bytes]) -> Iterator[bytes]:
        """Compare new fingerprints; yields batches for the file."""
        new = [one for one in wanted if one not in self.place_of]
        for start in range(0, len(new), BATCH):
            fingerprints = np.frombuffer(b"".join(new[start : start + BATCH]), np.uint8).reshape(-1, BYTES)
            before = len(self.fingerprints)
            pairs = near(np.concatenate([self.fingerprints, fingerprints]), before)
            self._take(fingerprints, pairs)
            content = fingerprints.tobytes() + pairs.tobytes()
            yield self.HEADER.pack(self.MAGIC, len(fingerprints), len(pairs), zlib.crc32(content)) + content

    def _take(self, fingerprints: np.ndarray, pairs: np.ndarray) -> None:
        for one in fingerprints.view(f"V{BYTES}").ravel().tolist():
            self.place_of[one] = len(self.place_of)
        self.fingerprints = np.concatenate([self.fingerprints, fingerprints])
        self.pairs = np.concatenate([self.pairs, pairs])

    def _load(self) -> None:
        """Read the batches that were added to the file since the last call."""
        if self.path is None:
            return
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._read)
                while (batch := self._batch(stream)) is not None:
                    self._take(*batch)
                    self._read = stream.tell()
        except OSError:  # it does not exist yet, or cannot be read
            return

    def _batch(self, stream: IO[bytes]) -> tuple[np.ndarray, np.ndarray] | None:
        """The next fingerprints and pairs; None at the end or if they are damaged."""
        head = stream.read(self.HEADER.size)
        if len(head) < self.HEADER.size:
            return None
        magic, count, pairs, crc = self.HEADER.unpack(head)
        content = stream.read(count * BYTES + pairs * 8) if magic == self.MAGIC else b""
        if not content or len(content) < count * BYTES + pairs * 8 or zlib.crc32(content) != crc:
            return None
        return (
            np.frombuffer(content, np.uint8, count * BYTES).reshape(-1, BYTES),
            np.frombuffer(content, np.uint32, pairs * 2, count * BYTES).reshape(-1, 2),
        )


def near_pairs(fingerprints: Sequence[str], compared: Compared | None = None) -> np.ndarray:
    """Pairs of places in the list whose fingerprints are near, int64 (M,2). An empty fingerprint is near none.

    Of several equal fingerprints, the first is paired with all near ones, and each other only with the first.
    """
    compared = compared or Compared()
    first: dict[bytes, int] = {}
    equal = []
    for place, text in enumerate(fingerprints):
        if text and first.setdefault(one := bytes.fromhex(text), place) != place:
            equal.append((first[one], place))
    compared.add(first)
    place_in_list = np.full(len(compared.fingerprints), -1)
    place_in_list[[compared.place_of[one] for one in first]] = list(first.values())
    found = place_in_list[compared.pairs.astype(np.int64)]
    found = np.sort(found[(found >= 0).all(axis=1)], axis=1)
    found = found[np.lexsort((found[:, 1], found[:, 0]))]
    return np.concatenate([np.array(equal, np.int64).reshape(-1, 2), found])


def groups(pairs: np.ndarray) -> list[list[int]]:
    """The connected components of a graph with the edges `pairs`, int (M,2); each, and the list, in ascending order."""
    root = np.arange(int(pairs.max(initial=-1)) + 1)
    one, other = pairs.T
    while (apart := root[one] != root[other]).any():
        one, other = one[apart], other[apart]
        low, high = np.minimum(root[one], root[other]), np.maximum(root[one], root[other])
        np.minimum.at(root, high, low)
        while (root[root] != root).any():
            root = root[root]
    found: dict[int, list[int]] = {}
    for place, top in enumerate(root.tolist()):
        found.setdefault(top, []).append(place)
    return [group for group in found.values() if len(group) > 1]
