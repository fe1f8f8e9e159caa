"""Decodes every content once and caches the result: pixels in a row store, outcomes in a ledger.

Both are in the cache folder. All folders of pictures that are decoded in the same way share them. The *kind* of
decoding is the transform, Pillow's version and `VERSION`:

- `decoded/KIND.rows` and `.keys`: the pixels by the SHA-256 of the content (see `artdiff.store`);
- `decoded/KIND.jsonl`: a line per content, `[sha256, facts, reason]`, and the limits if the reason depends on them.

Only contents without a line, or without a row, are decoded.
"""

import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import PIL

from artdiff import UserError, cache
from artdiff.ingest import earlier_cache, plugins, pool
from artdiff.ingest.child import Job, Rows
from artdiff.ingest.decode import Facts, Transform
from artdiff.ingest.pool import Outcome
from artdiff.ingest.source import Record
from artdiff.progress import progress
from artdiff.settings.data import Limits
from artdiff.store import RowStore

log = logging.getLogger(__name__)

VERSION, EARLIER = 4, 3
"""Part of every kind: increase it when the pixels or facts of a content change. `EARLIER` is the one of version 0.1.0,
from which `earlier_cache` takes over what has not changed."""

WAITING = "another program is decoding pictures in the same way: waiting for it"


class Decoded(NamedTuple):
    """`outcomes` by content, and the row of each content in `pixels`, uint8 (N,size,size,3), if they are cached."""

    outcomes: dict[str, Outcome]
    rows: dict[str, int]
    pixels: np.ndarray | None


def kind_of(transform: Transform, version: int = VERSION) -> str:
    """The kind of decoding with a transform: 32 hexadecimal digits."""
    return cache.key(version, PIL.__version__, transform)


def decoded(
    root: Path, contents: Mapping[str, Record], transform: Transform, limits: Limits, folder: Path, *, keep_pixels: bool
) -> Decoded:
    """Decode new contents and return all results. `contents` maps a SHA-256 to a file with that content.

    Without `keep_pixels`, a content is decoded once to check it, and only the outcome is cached; if the cache in
    `folder` cannot be written, that is logged. With `keep_pixels`, it raises `UserError`.
    """
    path = folder / "decoded" / f"{kind_of(transform)}.jsonl"
    ledger = Ledger(path, transform, limits)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        store = RowStore(path.with_suffix(".rows"), transform.size**2 * 3)
        if _missing(contents, ledger, store, keep_pixels):
            with store.building(WAITING):
                _build(root, contents, ledger, store, keep_pixels)
    except OSError as error:
        if keep_pixels:
            raise cache.unusable(path.parent, error) from None
        log.warning("files will be checked again next time: %s", cache.unusable(path.parent, error))
        ledger.is_kept = False
        missing = {digest: contents[digest] for digest in _missing(contents, ledger, None, keep_pixels)}
        _decode(root, missing, ledger, None, total=len(contents))
    cache.mark_used(path)
    outcomes = {digest: ledger.outcomes[digest] for digest in sorted(contents)}
    if not keep_pixels:
        return Decoded(outcomes, {}, None)
    rows = store.find([bytes.fromhex(digest) for digest in outcomes])
    pixels = store.rows.reshape(-1, transform.size, transform.size, 3)
    return Decoded(outcomes, dict(zip(outcomes, rows.tolist(), strict=True)), pixels)


def _build(root: Path, contents: Mapping[str, Record], ledger: "Ledger", store: RowStore, keep_pixels: bool) -> None:
    """Take over the cache of an earlier version and decode the rest. The store must be building."""
    files = {digest: root / record.path for digest, record in contents.items()}
    earlier_cache.take_over(kind_of(ledger.transform, EARLIER), store, ledger, files)
    ledger.load()
    missing = {digest: contents[digest] for digest in _missing(contents, ledger, store, keep_pixels)}
    _decode(root, missing, ledger, store if keep_pixels else None, total=len(contents))


class Ledger:
    """The outcome of each content: an append-only file with a line of JSON each. Incomplete lines are ignored."""

    def __init__(self, path: Path, transform: Transform, limits: Limits) -> None:
        self.path = path
        self.transform = transform
        self.limits = limits
        self.outcomes: dict[str, Outcome] = {}
        self.is_kept = True  # in the file, not only in memory
        self._read = 0  # bytes of the file
        self._stream: IO[bytes] | None = None
        self.load()

    def load(self) -> None:
        """Read the lines that were added since the last call."""
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            stream.seek(self._read)
            text, ending, _ = stream.read().rpartition(b"\n")
        self._read += len(text) + len(ending)
        for digest, facts, reason, *limits in _entries(text.split(b"\n")):
            if reason is not None and plugins.may_read_now(reason):
                self.outcomes.pop(digest, None)
            elif not limits or limits[0] == self._bounds:
                self.outcomes[digest] = Outcome(Facts(*facts) if facts is not None else None, reason)

    def add(self, digest: str, outcome: Outcome) -> None:
        """Record an outcome. One that may be different next time is not written to the file."""
        self.outcomes[digest] = outcome._replace(crc=0)  # the store knows it
        if outcome.lasting and self.is_kept:
            is_costly = outcome.reason is not None and outcome.reason.startswith(pool.COSTLY)
            self._write([digest, outcome.facts, outcome.reason, *([self._bounds] if is_costly else [])])

    @property
    def _bounds(self) -> list[float]:
        return [self.limits.seconds, self.limits.gigabytes]

    def _write(self, entry: Any) -> None:
        if self._stream is None:
            self._stream = self.path.open("ab", buffering=0)
            heading = json.dumps({"transform": self.transform}).encode()
            self._stream.write(heading + b"\n" if self._stream.tell() == 0 else b"\n")  # ends an incomplete line
        self._stream.write(json.dumps(entry).encode() + b"\n")


def _entries(lines: list[bytes]) -> list[list[Any]]:
    """The entries among the lines, which are JSON lists. If no line is damaged, all are parsed at once: faster."""
    try:
        found = json.loads(b"[" + b",".join(line for line in lines if line) + b"]")
    except ValueError:
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
    return [entry for entry in found if isinstance(entry, list)]


def _missing(contents: Mapping[str, Record], ledger: Ledger, store: RowStore | None, keep_pixels: bool) -> list[str]:
    """The contents that must be decoded, sorted: those without a lasting outcome or without a sealed row."""
    outcomes = ledger.outcomes
    missing = {digest for digest in contents if digest not in outcomes or not outcomes[digest].lasting}
    if keep_pixels and store is not None:
        wanted = [digest for digest in contents if digest not in missing and outcomes[digest].facts is not None]
        rows = store.find([bytes.fromhex(digest) for digest in wanted], sealed=True)
        missing |= {digest for digest, row in zip(wanted, rows.tolist(), strict=True) if row < 0}
    return sorted(missing)


def _decode(root: Path, contents: Mapping[str, Record], ledger: Ledger, store: RowStore | None, *, total: int) -> None:
    """Decode `contents`, of `total` in all, into the store, which must be building."""
    if not contents:
        return
    rows = _rows_for(list(contents), store) if store is not None else [-1] * len(contents)
    jobs = {
        Job(str(root / record.path), record.bytes, record.mtime, row, record.ctime, digest): digest
        for (digest, record), row in zip(contents.items(), rows, strict=True)
    }
    what = "decoding %s of %s files, to %s" if store is not None else "checking %s of %s files, results in %s"
    log.info(what, f"{len(jobs):,}", f"{total:,}", ledger.path.parent)
    target = Rows(str(store.path), store.row_bytes) if store is not None else None
    with closing(pool.run(jobs, ledger.transform, ledger.limits, rows=target)) as running:
        for job, outcome in progress(running, len(jobs), "decoding"):
            ledger.add(jobs[job], outcome)
            if store is not None and outcome.facts is not None:
                store.record(bytes.fromhex(jobs[job]), job.row, outcome.crc)


def _rows_for(digests: list[str], store: RowStore) -> list[int]:
    """A row for each content. One that has a row keeps it, so that no row changes while another process reads it."""
    known = store.find([bytes.fromhex(digest) for digest in digests])
    count = int((known < 0).sum())
    needed, free = max(count - store.reusable, 0) * store.row_bytes, shutil.disk_usage(store.path.parent).free
    if needed > free:
        raise UserError(
            f"decoding {count:,} pictures needs {needed / 2**30:.2g} GiB in {store.path.parent}, which has "
            f"{free / 2**30:.2g} GiB free; set data.cache_dir to a folder on a larger disk, or data.cache=false"
        )
    known[known < 0] = store.reserve(count)
    return known.tolist()
