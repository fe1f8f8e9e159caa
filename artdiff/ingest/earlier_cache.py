"""Takes over the cache of version 0.1.0, so that few files are decoded again after an upgrade.

Files that may hold several pictures are decoded again, because the main picture is chosen differently now. Rejected
files are decoded again too, because their reasons are more detailed now.

Version 0.1.0 stored one map per set of contents, `decoded/KIND12-CONTENTS`, where KIND12 is the first 12 digits of the
kind:

- `.json`: `outcomes`, a list of `[sha256, facts, reason, lasting]`, and `.npy`: their pixels in the same order;
- `.partial` and `.journal`: the same of an interrupted build; each line of the journal is
  `[row, sha256, crc, facts, reason, lasting]`.
"""

import json
import logging
import zlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from artdiff import cache
from artdiff.ingest import pool
from artdiff.ingest.decode import Facts
from artdiff.ingest.pool import Outcome
from artdiff.locks import Lock
from artdiff.store import RowStore

if TYPE_CHECKING:
    from artdiff.ingest.decoded import Ledger

log = logging.getLogger(__name__)

AT_ONCE = 256
"""Number of rows that are copied at once."""

HEAD = 2**16
"""Bytes of a file that are read to see whether it holds several pictures."""


class Entry(NamedTuple):
    """A content, its outcome and its pixels; these are empty if they were not cached."""

    digest: str
    outcome: Outcome
    pixels: bytes


def take_over(kind: str, store: RowStore, ledger: "Ledger", files: Mapping[str, Path]) -> None:
    """Move maps of this kind that have contents of `files` (SHA-256 → path) into the store, and remove them.

    A map that an older program is building, or that does not fit on the disk, stays as it is.
    """
    names = {path.name.partition(".")[0] for path in ledger.path.parent.glob(f"{kind[:12]}-*.*")}
    for name in sorted(names):
        lock = Lock(ledger.path.with_name(f"{name}.lock"))
        if not lock.take():
            continue
        try:
            if _take(ledger.path.with_name(name), store, ledger, files):
                for path in ledger.path.parent.glob(f"{name}.*"):
                    path.unlink(missing_ok=True)
        finally:
            lock.release()


def _take(stem: Path, store: RowStore, ledger: "Ledger", files: Mapping[str, Path]) -> bool:
    """Copy the entries of a map that are in `files` → True if the map can be removed."""
    if not any(digest in files for digest in _digests(stem)):
        return False
    count, entries = 0, (one for one in _entries(stem, store.row_bytes) if _is_unchanged(one, files))
    while batch := list(islice(entries, AT_ONCE)):
        kept = [one for one in batch if one.pixels]
        if kept and store.append([bytes.fromhex(one.digest) for one in kept], [one.pixels for one in kept]) < len(kept):
            return False
        for one in batch:
            if one.digest not in ledger.outcomes:
                ledger.add(one.digest, one.outcome)
        count += len(batch)
    if count:
        log.info("%s pictures decoded by an earlier version are kept in %s", f"{count:,}", store.path.parent)
    return True


def _digests(stem: Path) -> Iterator[str]:
    """The SHA-256 of each content of a map."""
    listing = cache.read_json(stem.with_suffix(".json"))
    if listing is not None:
        yield from (digest for digest, *_ in listing["outcomes"])
    if stem.with_suffix(".journal").exists():
        yield from (digest for _, (digest, *_) in _noted(stem.with_suffix(".journal")))


def _is_unchanged(one: Entry, files: Mapping[str, Path]) -> bool:
    """True if a content still decodes to the same pixels: a JPEG, PNG, WebP or BMP with a single picture."""
    if one.outcome.facts is None or one.digest not in files:
        return False
    try:
        with files[one.digest].open("rb") as stream:
            head = stream.read(HEAD)
    except OSError:
        return False
    if head.startswith(b"\x89PNG"):
        return b"IDAT" in head and b"acTL" not in head
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return head[12:16] != b"VP8X" or not head[20] & 2  # the flag of animations
    return head.startswith(b"BM") or (head.startswith(b"\xff\xd8") and b"MPF\0" not in head)


def _entries(stem: Path, row_bytes: int) -> Iterator[Entry]:
    listing = cache.read_json(stem.with_suffix(".json"))
    if listing is not None:
        rows = _rows(stem.with_suffix(".npy"), row_bytes)
        whole = enumerate([digest, None, *rest] for digest, *rest in listing["outcomes"])
        yield from _kept(whole, rows if len(rows) == len(listing["outcomes"]) else rows[:0])
    journal = stem.with_suffix(".journal")
    if journal.exists():
        yield from _kept(_noted(journal), _rows(stem.with_suffix(".partial"), row_bytes))


def _kept(entries: Iterable[tuple[int, list]], rows: np.ndarray) -> Iterator[Entry]:
    """The entries that are still valid: their pixels pass the CRC, and their reasons do not depend on the limits."""
    for row, (digest, crc, facts, reason, lasting) in entries:
        if not lasting or (reason is not None and reason.startswith(pool.COSTLY)):
            continue
        outcome = Outcome(Facts(*facts) if facts is not None else None, reason)
        pixels = rows[row].tobytes() if facts is not None and row < len(rows) else b""
        if not pixels or crc is None or zlib.crc32(pixels) == crc:
            yield Entry(digest, outcome, pixels)


def _noted(journal: Path) -> Iterator[tuple[int, list]]:
    for line in journal.read_text().split("\n"):
        try:
            row, *entry = json.loads(line)
        except ValueError:  # it was being written
            continue
        yield row, entry


def _rows(path: Path, row_bytes: int) -> np.ndarray:
    """The rows of a map, uint8 (N, row_bytes); none if it is absent or damaged."""
    try:
        return np.load(path, mmap_mode="r").reshape(-1, row_bytes)
    except (OSError, ValueError):
        return np.empty((0, row_bytes), np.uint8)
