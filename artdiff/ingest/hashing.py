"""Computes the SHA-256 of every file. A file is read again only if its size or times have changed."""

import errno
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from artdiff import UserError, cache
from artdiff.files import sha256
from artdiff.ingest.child import SETTLED
from artdiff.ingest.pool import cores
from artdiff.ingest.source import Record
from artdiff.progress import progress

log = logging.getLogger(__name__)

MAX_BYTES = 2**30
"""Larger files are rejected unread: no picture that can be decoded is that large."""


class Hashes(NamedTuple):
    """By path: the SHA-256 of a file, 64 hexadecimal digits, or the reason why it cannot be read."""

    digests: dict[str, str]
    reasons: dict[str, str]


def hashes(root: Path, records: Sequence[Record], folder: Path) -> Hashes:
    """Hash the files below `root`. Hashes are stored in the cache `folder`, reasons are not.

    The hash of a file that has just been written is not stored either: the next change could have the same times.
    """
    ledger = ledger_of(root, folder)
    known: dict[str, list[Any]] = cache.read_json(ledger) or {}
    stamps = {one.path: [one.bytes, one.mtime, one.ctime] for one in records}
    found = {path: known[path][3] for path, stamp in stamps.items() if known.get(path, ())[:3] == stamp}
    unread = [one for one in records if one.path not in found]
    lasting = {path: [*stamps[path], digest] for path, digest in found.items()}
    reasons: dict[str, str] = {}

    def read(record: Record) -> None:
        now = time.time_ns()
        try:
            digest = _digest(root, record)
        except OSError as error:
            reasons[record.path] = _reason(error)
            return
        found[record.path] = digest
        if not any(abs(moment - now) < SETTLED * 1e9 for moment in (record.mtime, record.ctime)):
            lasting[record.path] = [*stamps[record.path], digest]

    if not unread and len(found) == len(known):
        cache.mark_used(ledger)
        return Hashes(found, reasons)
    try:
        _in_parallel(read, unread, "reading")
    finally:
        _remember(ledger, lasting)
    return Hashes(found, reasons)


def _remember(ledger: Path, lasting: dict[str, list[Any]]) -> None:
    """Store the hashes. Only warns if the cache cannot be written, because a run does not need them."""
    try:
        cache.make(ledger.parent)
        cache.write_json(ledger, lasting)
    except UserError as error:
        log.warning("files will be read again next time: %s", error)


def ledger_of(root: Path, folder: Path) -> Path:
    """The file in the cache `folder` with the hashes of a root."""
    return folder / "files" / f"{cache.key(str(root.resolve()))}.json"


def _digest(root: Path, record: Record) -> str:
    if record.bytes > MAX_BYTES:
        raise OSError(errno.EFBIG, f"too large: a file of {record.bytes / 2**30:.1f} GiB")
    return sha256(root / record.path)


def _reason(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        return "permission denied"
    return str(error.strerror) if error.errno == errno.EFBIG else f"cannot be read: {error.strerror}"


Item = TypeVar("Item")


def _in_parallel(work: Callable[[Item], None], items: list[Item], name: str) -> None:
    """Do the work in threads: hashing releases the GIL."""
    with ThreadPoolExecutor(cores()) as pool:
        try:
            for _ in progress(pool.map(work, items), len(items), name):
                pass
        except BaseException:  # Ctrl-C: do not finish the rest first
            pool.shutdown(cancel_futures=True)
            raise
