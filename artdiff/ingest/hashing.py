"""The SHA-256 of every file of a folder, read once."""

import errno
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from artdiff import cache
from artdiff.ingest.pool import cores
from artdiff.ingest.scan import File

SETTLED = 2.0
"""Seconds after which a file that is written to again shows it in its times, whatever disk it lies on."""

MAX_BYTES = 2**30
"""Of a file that is looked into: no picture that can be decoded here is larger."""


def hashes(root: Path, files: list[File], folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """→ (path → SHA-256 of the file, 64 hexadecimal digits; path → the reason why a file cannot be read).

    A file is read only if its size or times are not those that it was last read with; reasons are never remembered.
    """
    ledger = folder / "files" / f"{cache.key(str(root.resolve()))}.json"
    known: dict[str, list[Any]] = cache.read_json(ledger) or {}
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
        cache.mark_used(ledger)
    else:
        try:
            _in_parallel(read, unread, "reading")
        finally:
            cache.make(ledger.parent)
            cache.write_json(ledger, lasting)
    return found, reasons


Item = TypeVar("Item")


def _in_parallel(work: Callable[[Item], None], items: list[Item], name: str) -> None:
    with ThreadPoolExecutor(cores()) as pool:
        try:
            for _ in cache.progress(pool.map(work, items), len(items), name):
                pass
        except BaseException:  # Ctrl-C: do not first do the rest
            pool.shutdown(cancel_futures=True)
            raise
