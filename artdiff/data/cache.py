"""Keeps what has been read: each file's hash, and its pixels as one `uint8` memory map per (contents, transform).

Below the cache's folder:

- `files/ROOT.json`: the SHA-256 of every file of a root, which holds as long as its size and times do;
- `decoded/TRANSFORM-CONTENTS.json`: what became of each content, in the order of their hashes;
- `decoded/TRANSFORM-CONTENTS.npy`: their pixels, one row each, in the same order.

A map is built under a lock, row by row beside a journal with a checksum of each, and moved into place when it is whole:
two programs build it once, and one that is killed leaves what the next carries on from. Rows that a map of the same
transform has already are copied.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import PIL
from filelock import FileLock, Timeout
from platformdirs import user_cache_path
from tqdm import tqdm

from artdiff import UserError
from artdiff.data import similar, workers
from artdiff.data.decode import Facts, Transform
from artdiff.data.folder import File
from artdiff.data.workers import Job, Limits, Outcome, Rows

log = logging.getLogger(__name__)

VERSION = 3
"""Part of every key: raise it when the pixels or facts that a content decodes to change."""

SETTLED = 2.0
"""Seconds after which a file that is written to again shows it in its times, whatever disk it lies on."""

OWN = re.compile(r"([0-9a-f]{12}-)?[0-9a-f]{32}")
KINDS = ("json", "npy", "partial", "journal", "unfinished", "building")
"""Names and extensions of what is kept here: whatever else lies in the cache's folder is not artdiff's to remove."""

SECONDS_A_LINE = 20.0
"""Between two lines of progress where there is no terminal to draw a bar on."""

MAX_BYTES = 2**30
"""Of a file that is looked into: no picture that can be decoded here is larger."""


class Decoded(NamedTuple):
    """`outcomes` by content, in the order of the rows of `pixels`, uint8 (N,size,size,3), if they are kept; and the
    pairs of rows that look alike.

    The row of a content that is no picture holds zeros.
    """

    outcomes: dict[str, Outcome]
    alike: list[tuple[int, int]]
    pixels: np.memmap | None


def default_folder() -> Path:
    """Where artdiff keeps what it can make again: ARTDIFF_CACHE, or `artdiff` in the user's cache folder."""
    return Path(os.environ.get("ARTDIFF_CACHE") or user_cache_path("artdiff"))


def make(folder: Path) -> None:
    """Make the folder below the cache. Raises `UserError` where that cannot be done."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be made ({error.strerror}); set data.cache_dir or ARTDIFF_CACHE"
        ) from None


def hashes(root: Path, files: list[File], folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """→ (path → SHA-256 of the file, 64 hexadecimal digits; path → the reason why a file cannot be read).

    A file is read only if its size or times are not those that it was last read with; reasons are never remembered.
    """
    ledger = folder / "files" / f"{_key(str(root.resolve()))}.json"
    known: dict[str, list[Any]] = _read_json(ledger) or {}
    stamps = {file.path: [file.bytes, file.mtime, file.ctime] for file in files}
    found = {path: known[path][3] for path, stamp in stamps.items() if known.get(path, ())[:3] == stamp}
    unread = [file for file in files if file.path not in found]
    lasting = {path: [*stamps[path], digest] for path, digest in found.items()}
    reasons: dict[str, str] = {}

    def read(file: File) -> None:
        now = time.time_ns()
        try:
            if file.bytes > MAX_BYTES:
                reasons[file.path] = f"too large: a file of {file.bytes / 2**30:.1f} GiB"
                return
            with (root / file.path).open("rb") as stream:
                found[file.path] = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            denied = error.errno in (errno.EACCES, errno.EPERM)
            reasons[file.path] = "permission denied" if denied else f"cannot be read: {error.strerror}"
            return
        if not any(abs(moment - now) < SETTLED * 1e9 for moment in (file.mtime, file.ctime)):
            lasting[file.path] = [*stamps[file.path], found[file.path]]

    if not unread and len(found) == len(known):
        _used(ledger)
    else:
        try:
            _in_parallel(read, unread, "reading")
        finally:
            make(ledger.parent)
            _write_json(ledger, lasting)
    return found, reasons


def decoded(
    root: Path, contents: dict[str, File], transform: Transform, limits: Limits, folder: Path, *, keep_pixels: bool
) -> Decoded:
    """What each content (hash → a file that holds it) decodes to: from the map in `folder`, built if it is not there.

    Without `keep_pixels` every file is decoded once to judge it, and only the outcome is kept.
    """
    digests = sorted(contents)
    kind = _key(VERSION, PIL.__version__, transform)[:12]
    listing = folder / "decoded" / f"{kind}-{_key(limits, keep_pixels, digests)}.json"
    make(listing.parent)
    found = _open(listing, transform.size, keep_pixels)
    if found is None or not all(outcome.lasting for outcome in found.outcomes.values()):
        with _locked(listing.with_suffix(".lock")):
            found = _open(listing, transform.size, keep_pixels)  # another program may have built it while we waited
            if found is None or not all(outcome.lasting for outcome in found.outcomes.values()):
                try:
                    _build(root, contents, transform, limits, listing, keep_pixels=keep_pixels)
                except OSError as error:
                    raise UserError(f"the cache in {listing.parent} cannot be written: {error.strerror}") from None
                found = _open(listing, transform.size, keep_pixels)
                assert found is not None
    _used(listing)
    return found


class Kept(NamedTuple):
    """Something in the cache: its files, what it is, its `bytes` on disk and when it was last `used` (Unix seconds)."""

    paths: list[Path]
    what: str
    bytes: int
    used: float


def kept(folder: Path) -> list[Kept]:
    """The maps, the interrupted ones and the lists of hashes in the cache, the longest unused first."""
    by_name: dict[str, list[Path]] = {}
    for path in (*(folder / "files").glob("*.*"), *(folder / "decoded").glob("*.*")):
        name, _, kind = path.name.partition(".")
        if OWN.fullmatch(name) and kind.rpartition(".")[2] in KINDS:
            by_name.setdefault(name, []).append(path)
    found = []
    for paths in by_name.values():
        listing = next((path for path in paths if path.suffix == ".json"), None)
        said = _read_json(listing) if listing is not None else None
        what = "an interrupted build"
        if paths[0].parent.name == "files":
            what = "hashes of a folder's files"
        elif isinstance(said, dict):
            size, fit, _ = said["transform"]
            what = f"{len(said['outcomes']):,} files of {said['root']}, {fit} to {size} px"
        status = [path.stat() for path in paths]
        used = (listing.stat() if listing is not None else max(status, key=lambda one: one.st_mtime)).st_mtime
        found.append(Kept(sorted(paths), what, sum(one.st_blocks * 512 for one in status), used))
    return sorted(found, key=lambda one: one.used)


def remove(one: Kept) -> bool:
    """Remove something from the cache → whether that could be done: not while it is being built."""
    lock = one.paths[0].with_name(f"{one.paths[0].name.partition('.')[0]}.lock")
    try:
        with FileLock(lock, timeout=0):
            for path in one.paths:
                path.unlink(missing_ok=True)
    except Timeout:
        return False
    return True


def _open(listing: Path, size: int, keep_pixels: bool) -> Decoded | None:
    """What lies in the cache; None where it is not there, or not whole."""
    found = _read_json(listing)
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
                for digest, row, outcome in _in_other_maps(listing, missing):
                    stream.seek(rows.offset + place[digest] * rows.size)
                    stream.write(row)
                    journal.add(place[digest], outcome._replace(crc=zlib.crc32(row)))
        jobs = [
            Job(str(root / contents[digest].path), contents[digest].bytes, contents[digest].mtime, row)
            for digest, row in place.items()
            if row not in journal.outcomes
        ]
        log.info("decoding %s of %s pictures, to %s", f"{len(jobs):,}", f"{len(digests):,}", listing.parent)
        for job, outcome in _progress(workers.run(jobs, transform, limits, rows=rows), len(jobs), "decoding"):
            journal.add(job.row, outcome)
    if rows is not None:
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        partial.replace(listing.with_suffix(".npy"))
    outcomes = [journal.outcomes[row] for row in range(len(digests))]
    alike = similar.near_pairs([outcome.facts.fingerprint if outcome.facts else "" for outcome in outcomes])
    entries = [[digest, *_entry(outcome)] for digest, outcome in zip(digests, outcomes, strict=True)]
    said = {"root": str(root.absolute()), "transform": transform, "outcomes": entries, "alike": alike}
    _write_json(listing, said)
    journal.path.unlink()


class _Journal:
    """What became of each row of a map that is being built, a line each, so that the next program can carry on."""

    def __init__(self, path: Path, rows: Rows | None) -> None:
        self.path = path
        self.outcomes: dict[int, Outcome] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                row, crc, *entry = json.loads(line)
            except ValueError:  # it was being written
                continue
            outcome = _outcome(*entry)._replace(crc=crc)
            if outcome.facts is None or rows is None or zlib.crc32(_read_row(rows, row)) == crc:
                self.outcomes[row] = outcome

    def __enter__(self) -> Self:
        self.stream = self.path.open("a")
        self.stream.write("\n")  # behind a line that was being written
        return self

    def __exit__(self, *error: object) -> None:
        self.stream.close()

    def add(self, row: int, outcome: Outcome) -> None:
        self.outcomes[row] = outcome
        if outcome.lasting:
            self.stream.write(json.dumps([row, outcome.crc, *_entry(outcome)]) + "\n")
            self.stream.flush()


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
        np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
        _allocate(partial, needed)
    rows = np.load(partial, mmap_mode="r")
    return Rows(str(partial), rows.offset, rows[0].nbytes)


def _allocate(partial: Path, needed: int) -> None:
    """Take the room on the disk at once, where the system can."""
    if not hasattr(os, "posix_fallocate"):
        return
    with partial.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, needed)
        except OSError as error:  # not every disk can
            if error.errno == errno.ENOSPC:
                partial.unlink()
                raise


def _read_row(rows: Rows, row: int) -> bytes:
    with Path(rows.path).open("rb") as stream:
        stream.seek(rows.offset + row * rows.size)
        return stream.read(rows.size)


def _in_other_maps(listing: Path, wanted: set[str]) -> Iterator[tuple[str, bytes, Outcome]]:
    """The rows of `wanted` contents that maps of the same transform hold, with what became of them."""
    for other in sorted(listing.parent.glob(f"{listing.name.partition('-')[0]}-*.json")):
        if not wanted:
            return
        size = (_read_json(other) or {}).get("transform", [0])[0]
        found = _open(other, size, keep_pixels=True)
        if found is None:
            continue
        assert found.pixels is not None
        for row, (digest, outcome) in enumerate(found.outcomes.items()):
            if digest in wanted and outcome.facts is not None:
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


Item = TypeVar("Item")


def _in_parallel(work: Callable[[Item], None], items: list[Item], name: str) -> None:
    with ThreadPoolExecutor(workers.cores()) as pool:
        try:
            for _ in _progress(pool.map(work, items), len(items), name):
                pass
        except BaseException:  # Ctrl-C: do not first do the rest
            pool.shutdown(cancel_futures=True)
            raise


def _progress(items: Iterable[Item], total: int, name: str) -> Iterator[Item]:
    """Pass the items on, with a bar on a terminal and else with a line now and then."""
    if sys.stderr.isatty():
        yield from tqdm(items, total=total, desc=name, unit=" files")
        return
    said = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - said > SECONDS_A_LINE:
            said = time.monotonic()
            log.info("%s: %s of %s files", name, f"{count:,}", f"{total:,}")


def _used(path: Path) -> None:
    """Note when it was last used, for `prune`; not in a cache that is somebody else's."""
    with suppress(OSError):
        os.utime(path)


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _entry(outcome: Outcome) -> list[Any]:
    return [outcome.facts, outcome.reason, outcome.lasting]


def _outcome(facts: list[Any] | None, reason: str | None, lasting: bool) -> Outcome:
    return Outcome(Facts(*facts) if facts is not None else None, reason, lasting=lasting)


def _read_json(path: Path) -> Any:
    """What a file of ours holds; None where there is none that is whole."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _write_json(path: Path, content: object) -> None:
    """Put the file there at once, whole. Raises `UserError` where it cannot be written."""
    unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
    try:
        unfinished.write_text(json.dumps(content))
        unfinished.replace(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from None
