"""The program of a process that decodes files for `artdiff.ingest.pool`: `python -m artdiff.ingest.child FD`.

It answers one message per file over a socket, in order, and ends when the parent does. Messages are JSON, never pickle:
a decoder that a malicious file has taken over must not be able to run code in the parent.
"""

import fcntl
import hashlib
import json
import os
import signal
import sys
import time
import zlib
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from artdiff.ingest import decode
from artdiff.ingest.decode import Transform, Unreadable
from artdiff.ingest.rights import rights

SETTLED = 2.0
"""Seconds after which another change to a file certainly changes its times, on any file system."""


class Job(NamedTuple):
    """A file to decode: its path, its size and times when it was listed, and the row to write to (-1: none).

    With a `digest`, the file is decoded only if its SHA-256 is still the same.
    """

    path: str
    bytes: int
    mtime: int
    row: int
    ctime: int = 0
    digest: str = ""


class Rows(NamedTuple):
    """A file of rows of `bytes` bytes each."""

    path: str
    bytes: int


Answer = tuple[dict[str, Any], bytes]
"""The message for a job, and the pixels of the whole picture if requested."""


def main() -> None:
    """Answer one job after the other until the parent closes the socket."""
    connection = Connection(int(sys.argv[1]))
    transform, (seconds, gigabytes), rows = json.loads(connection.recv_bytes())
    bounded = _bound_memory(gigabytes)
    work = ToRow(Transform(*transform), rows) if isinstance(transform, list) else ToPicture(transform)
    connection.send_bytes(b"{}")
    while True:
        try:
            job = Job(*json.loads(connection.recv_bytes()))
        except (EOFError, OSError):
            return
        _end_after(2 * seconds + 10)  # in case the parent can no longer kill this process
        message, picture = _answer(work, job, bounded)
        _end_after(0)
        connection.send_bytes(json.dumps(message).encode())
        if picture:
            connection.send_bytes(picture)


class ToPicture:
    """Decodes a file and returns the whole picture."""

    def __init__(self, enough: int | None) -> None:
        self.enough = enough

    def __call__(self, job: Job) -> Answer:
        content = _content(job)
        picture = decode.to_rgb(content, enough=self.enough)
        return {"facts": None, "reason": None, "rights": rights(content), "size": picture.size}, picture.tobytes()


class ToRow:
    """Decodes a file, fits it to a square and writes its row.

    The process holds a shared `flock` on the file while it runs, so that its rows are not given to others. On a disk
    without locks it stops writing once its parent has ended.
    """

    def __init__(self, transform: Transform, rows: list[Any] | None) -> None:
        red, green, blue = transform.background
        self.transform = transform._replace(background=(red, green, blue))
        self.rows = Rows(*rows) if rows is not None else None
        self.stream = os.open(self.rows.path, os.O_WRONLY) if self.rows is not None else -1
        if self.rows is not None:
            with suppress(OSError):  # a disk without locks
                fcntl.flock(self.stream, fcntl.LOCK_SH)
        self.parent = os.getppid()

    def __call__(self, job: Job) -> Answer:
        pixels, facts = decode.decode(_content(job), self.transform)
        if self.rows is None:
            return {"facts": facts, "reason": None}, b""
        row = pixels.tobytes()
        if os.getppid() != self.parent:
            sys.exit()
        try:
            written = os.pwrite(self.stream, row, job.row * self.rows.bytes)
        except OSError as error:
            return {"cannot write": f"{self.rows.path} cannot be written: {error.strerror}"}, b""
        if written < len(row):
            return {"cannot write": f"{self.rows.path} cannot be written: no space left on its disk"}, b""
        return {"facts": facts, "reason": None, "crc": zlib.crc32(row)}, b""


def _answer(work: ToRow | ToPicture, job: Job, bounded: "Bounded") -> Answer:
    try:
        return work(job)
    except Unreadable as error:
        return {"facts": None, "reason": str(error)}, b""
    except MemoryError:
        return {"facts": None, **bounded.reason()}, b""
    except OSError as error:
        return {"facts": None, "reason": f"cannot be read: {error.strerror}", "lasting": False}, b""


def _content(job: Job) -> bytes:
    with Path(job.path).open("rb") as stream:
        content = stream.read()
        status = os.fstat(stream.fileno())
    if (status.st_size, status.st_mtime_ns) != (job.bytes, job.mtime):
        raise OSError(0, "it changed meanwhile")
    is_settled = status.st_ctime_ns == job.ctime and abs(time.time_ns() - job.ctime) > SETTLED * 1e9
    if job.digest and not is_settled and hashlib.sha256(content).hexdigest() != job.digest:
        raise OSError(0, "it changed meanwhile")
    return content


def _end_after(seconds: float) -> None:
    """Let the system kill this process after `seconds`, whatever it is doing; 0 cancels that."""
    signal.setitimer(signal.ITIMER_REAL, seconds)


class Bounded(NamedTuple):
    """The memory limit of this process in GB, and whether it comes from the system because that allows less."""

    gigabytes: float
    by_system: bool

    def reason(self) -> dict[str, Any]:
        """The part of an answer that says why a file cannot be decoded within the limit."""
        if not self.by_system:
            return {"reason": f"needs more than {self.gigabytes:g} GB of memory to decode"}
        reason = f"needs more memory than the system allows, {self.gigabytes:.2g} GB (ulimit -v)"
        return {"reason": reason, "lasting": False}


def _bound_memory(gigabytes: float) -> Bounded:
    """Limit this process to `gigabytes` more memory than it has now, and disable core dumps. Linux only.

    A lower limit of the system stays.
    """
    try:
        import resource

        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return Bounded(gigabytes, by_system=False)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wanted = in_use + int(gigabytes * 1e9)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    allowed = min((limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY), default=wanted)
    resource.setrlimit(resource.RLIMIT_AS, (min(wanted, allowed), min(wanted, allowed)))
    if allowed < wanted:
        return Bounded(max(allowed - in_use, 0) / 1e9, by_system=True)
    return Bounded(gigabytes, by_system=False)


if __name__ == "__main__":
    main()
