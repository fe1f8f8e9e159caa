"""Decoded pictures: one `uint8` memory map per (contents, transform), in the cache's folder.

- `decoded/TRANSFORM-CONTENTS.json`: what became of each content, in the order of their hashes, and which look alike;
- `decoded/TRANSFORM-CONTENTS.npy`: their pixels, one row each, in the same order.

A map is built under a lock, row by row beside a journal with a checksum of each, and moved into place when it is whole:
two programs build it once, and one that is killed leaves what the next carries on from. Rows that a map of the same
transform has already, whole or not, are copied.
"""

import errno
import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import PIL
from filelock import FileLock, Timeout

from artdiff import UserError, cache
from artdiff.ingest import duplicates, pool
from artdiff.ingest.decode import Facts, Transform
from artdiff.ingest.pool import Job, Limits, Outcome, Rows
from artdiff.ingest.scan import File

log = logging.getLogger(__name__)

VERSION = 3
"""Part of every key: raise it when the pixels or facts that a content decodes to change."""


class Decoded(NamedTuple):
    """`outcomes` by content, in the order of the rows of `pixels`, uint8 (N,size,size,3), if they are kept; and the
    pairs of rows that look alike.

    The row of a content that is no picture holds zeros.
    """

    outcomes: dict[str, Outcome]
    alike: list[tuple[int, int]]
    pixels: np.memmap | None


def decoded(
    root: Path, contents: dict[str, File], transform: Transform, limits: Limits, folder: Path, *, keep_pixels: bool
) -> Decoded:
    """What each content (hash → a file that holds it) decodes to: from the map in `folder`, built if it is not there.

    Without `keep_pixels` every file is decoded once to judge it, and only the outcome is kept.
    """
    digests = sorted(contents)
    kind = cache.key(VERSION, PIL.__version__, transform)[:12]
    listing = folder / "decoded" / f"{kind}-{cache.key(limits, keep_pixels, digests)}.json"
    cache.make(listing.parent)
    found = _open(listing, transform.size, keep_pixels)
    if not _is_settled(found):
        with _locked(listing.with_suffix(".lock")):
            found = _open(listing, transform.size, keep_pixels)  # another program may have built it while we waited
            if not _is_settled(found):
                try:
                    _build(root, contents, transform, limits, listing, keep_pixels=keep_pixels)
                except OSError as error:
                    raise UserError(f"the cache in {listing.parent} cannot be written: {error.strerror}") from None
                found = _open(listing, transform.size, keep_pixels)
    assert found is not None
    cache.mark_used(listing)
    return found


def _is_settled(found: Decoded | None) -> bool:
    """Whether it is there, and nothing in it is to be tried again."""
    return found is not None and all(outcome.lasting for outcome in found.outcomes.values())


def _open(listing: Path, size: int, keep_pixels: bool) -> Decoded | None:
    """What lies in the cache; None where it is not there, or not whole."""
    found = cache.read_json(listing)
    if found is None:
        return None
    outcomes = {digest: _outcome(*entry) for digest, *entry in found["outcomes"]}
    alike = [(one, other) for one, other in found["alike"]]
    if not keep_pixels:
        return Decoded(outcomes, alike, None)
    try:
        pixels = np.load(listing.with_suffix(".npy"), mmap_mode="r")
    except (OSError, ValueError):
        return None
    return Decoded(outcomes, alike, pixels) if pixels.shape == (len(outcomes), size, size, 3) else None


def _build(
    root: Path, contents: dict[str, File], transform: Transform, limits: Limits, listing: Path, *, keep_pixels: bool
) -> None:
    digests = sorted(contents)
    place = {digest: row for row, digest in enumerate(digests)}
    partial = listing.with_suffix(".partial")
    rows = _reserve(partial, len(digests), transform.size) if keep_pixels else None
    with _Journal(listing.with_suffix(".journal"), rows) as journal:
        if rows is not None:
            missing = {digest for digest in digests if place[digest] not in journal.outcomes}
            with partial.open("r+b") as stream:
                for digest, row, outcome in _in_other_maps(listing, transform.size, missing):
                    stream.seek(rows.offset + place[digest] * rows.size)
                    stream.write(row)
                    journal.add(place[digest], digest, outcome._replace(crc=zlib.crc32(row)))
        jobs = [
            Job(str(root / contents[digest].path), contents[digest].bytes, contents[digest].mtime, row)
            for digest, row in place.items()
            if row not in journal.outcomes
        ]
        what = "decoding %s of %s files, to %s" if keep_pixels else "checking %s of %s files, noted in %s"
        log.info(what, f"{len(jobs):,}", f"{len(digests):,}", listing.parent)
        for job, outcome in cache.progress(pool.run(jobs, transform, limits, rows=rows), len(jobs), "decoding"):
            journal.add(job.row, digests[job.row], outcome)
    outcomes = [journal.outcomes[row] for row in range(len(digests))]
    alike = duplicates.near_pairs([outcome.facts.fingerprint if outcome.facts else "" for outcome in outcomes])
    entries = [[digest, *_entry(outcome)] for digest, outcome in zip(digests, outcomes, strict=True)]
    said = {"root": str(root.absolute()), "transform": transform, "outcomes": entries, "alike": alike}
    if rows is not None:
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(listing.with_suffix(".npy"))
    cache.write_json(listing, said)
    journal.path.unlink()


class _Journal:
    """What became of each row of a map that is being built, a line each, so that the next program can carry on."""

    def __init__(self, path: Path, rows: Rows | None) -> None:
        self.path = path
        self.outcomes = {row: outcome for row, _, outcome, _ in _proven(path, rows)}

    def __enter__(self) -> Self:
        self.stream = self.path.open("a")
        self.stream.write("\n")  # behind a line that was being written
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.close()

    def add(self, row: int, digest: str, outcome: Outcome) -> None:
        self.outcomes[row] = outcome
        if outcome.lasting:
            self.stream.write(json.dumps([row, digest, outcome.crc, *_entry(outcome)]) + "\n")
            self.stream.flush()


def _proven(journal: Path, rows: Rows | None) -> Iterator[tuple[int, str, Outcome, bytes]]:
    """(row, content, outcome, pixels) of what a journal says is done, and of which the pixels bear it out."""
    for line in journal.read_text().splitlines() if journal.exists() else ():
        try:
            row, digest, crc, *entry = json.loads(line)
        except ValueError:  # it was being written
            continue
        outcome = _outcome(*entry)._replace(crc=crc)
        pixels = b"" if rows is None or outcome.facts is None else _read_row(rows, row)
        if not pixels or zlib.crc32(pixels) == crc:
            yield row, digest, outcome, pixels


def _reserve(partial: Path, count: int, size: int) -> Rows:
    """The file for `count` rows of size x size: the one that an interrupted build left, or a new one."""
    shape = (count, size, size, 3)
    if not partial.exists():
        needed, free = int(np.prod(shape)), shutil.disk_usage(partial.parent).free
        if needed > free:
            raise UserError(
                f"decoding {count:,} pictures needs {needed / 2**30:.1f} GiB in {partial.parent}, which has "
                f"{free / 2**30:.1f} GiB free; set data.cache_dir to a folder on a larger disk, or data.cache=false"
            )
        unfinished = partial.with_suffix(f".{os.getpid()}.unfinished")
        np.lib.format.open_memmap(unfinished, "w+", np.uint8, shape)
        _allocate(unfinished, needed)
        unfinished.replace(partial)
    return _rows(partial)


def _rows(partial: Path) -> Rows:
    pixels = np.load(partial, mmap_mode="r")
    return Rows(str(partial), pixels.offset, pixels[0].nbytes)


def _is_final(outcome: Outcome) -> bool:
    """Whether a file was set aside for what is in it, whatever the limits."""
    return outcome.lasting and outcome.reason is not None and not outcome.reason.startswith(pool.COSTLY)


def _allocate(path: Path, needed: int) -> None:
    """Take the room on the disk at once, where the system can."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, needed)
        except OSError as error:  # not every disk can
            if error.errno == errno.ENOSPC:
                path.unlink()
                raise


def _read_row(rows: Rows, row: int) -> bytes:
    with Path(rows.path).open("rb") as stream:
        stream.seek(rows.offset + row * rows.size)
        return stream.read(rows.size)


def _in_other_maps(listing: Path, size: int, wanted: set[str]) -> Iterator[tuple[str, bytes, Outcome]]:
    """The rows of `wanted` contents that maps of the same transform hold, whole or interrupted; with what became of
    them.
    """
    kind = listing.name.partition("-")[0]
    for partial in sorted(listing.parent.glob(f"{kind}-*.partial")):
        if partial.stem == listing.stem:
            continue
        for _, digest, outcome, pixels in _proven(partial.with_suffix(".journal"), _rows(partial)):
            if digest in wanted and (pixels or _is_final(outcome)):
                wanted.discard(digest)
                yield digest, pixels, outcome
    for other in sorted(listing.parent.glob(f"{kind}-*.json")):
        if not wanted:
            return
        found = _open(other, size, keep_pixels=True)
        if found is None:
            continue
        assert found.pixels is not None
        for row, (digest, outcome) in enumerate(found.outcomes.items()):
            if digest in wanted and (outcome.facts is not None or _is_final(outcome)):
                wanted.discard(digest)
                yield digest, found.pixels[row].tobytes(), outcome


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock, which another program may hold while it builds what we need."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another program is decoding the same pictures: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _entry(outcome: Outcome) -> list[Any]:
    return [outcome.facts, outcome.reason, outcome.lasting]


def _outcome(facts: list[Any] | None, reason: str | None, lasting: bool) -> Outcome:
    return Outcome(Facts(*facts) if facts is not None else None, reason, lasting=lasting)
