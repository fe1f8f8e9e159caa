"""Decodes files in child processes with limits on time and memory, so that a malicious file costs only its own entry.

The children run `artdiff.ingest.child`.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, NamedTuple

from PIL import Image

from artdiff import UserError
from artdiff.ingest.child import Job, Rows
from artdiff.ingest.decode import Facts, Transform
from artdiff.settings.data import Limits

__all__ = ["Job", "Limits", "Outcome", "Rows", "cores", "read", "run"]

AHEAD = 4
"""Files that a child has at once, so that it need not wait for the next."""

COSTLY = ("its decoder crashed", "took longer than", "needs more than")
"""Beginnings of reasons that depend on the limits as well as on the file."""

START = 60.0
"""Seconds that a child may take to start, on a busy machine."""


class Outcome(NamedTuple):
    """The result of decoding a file: its `facts`, or the `reason` why it is rejected.

    `crc` is the CRC-32 of the row that was written. `picture` is the whole picture if no transform was given, with the
    `rights` that its metadata states. `lasting` is False if the file may be readable next time.
    """

    facts: Facts | None
    reason: str | None
    crc: int = 0
    lasting: bool = True
    picture: Image.Image | None = None
    rights: Mapping[str, str] = MappingProxyType({})


class Read(NamedTuple):
    """A decoded file: the whole `picture` and the `rights` in its metadata, or the `reason` why it is rejected."""

    path: Path
    picture: Image.Image | None
    reason: str = ""
    rights: Mapping[str, str] = MappingProxyType({})


def cores() -> int:
    """How many cores this program may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read(paths: Iterable[Path], limits: Limits, *, enough: int | None = None, processes: int = 1) -> Iterator[Read]:
    """Decode whole pictures, as upright sRGB on white, in approximately the given order.

    With `enough`, pictures may be reduced to no fewer than `enough` pixels per side.
    """
    jobs = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            yield Read(path, None, f"cannot be read: {error.strerror}")
            continue
        if stat.S_ISREG(status.st_mode):
            jobs.append(Job(str(path), status.st_size, status.st_mtime_ns, -1))
        else:
            yield Read(path, None, "not a file but a pipe, a socket or a device")
    for job, outcome in run(jobs, enough, limits, processes=processes):
        reason = "" if outcome.picture is not None else outcome.reason or "not a picture"
        yield Read(Path(job.path), outcome.picture, reason, outcome.rights)


def run(
    jobs: Iterable[Job],
    transform: Transform | int | None,
    limits: Limits,
    *,
    rows: Rows | None = None,
    processes: int | None = None,
) -> Generator[tuple[Job, Outcome]]:
    """Decode files, by default on all cores; yields each job with its outcome as soon as it is done.

    If `transform` is a number (`enough` of `read`) or None, outcomes have the whole picture.

    If a child crashes or exceeds the time limit on a file, the file is tried once more, as its child's only job, before
    it is rejected. Raises `UserError` if a row cannot be written. Close the iterator to end the children early.
    """
    settings = json.dumps((transform, (limits.seconds, limits.gigabytes), rows)).encode()
    waiting, again = deque(jobs), deque[Job]()
    children = [_Child(settings) for _ in range(min(processes or cores(), len(waiting)))]
    try:
        while waiting or again or any(child.jobs for child in children):
            _hand_out(children, waiting, again)
            done: list[tuple[Job, Outcome]] = []  # yielded below, so that the caller's time is not counted
            for child, answer in _answers(children, limits):
                if not isinstance(answer, Outcome):
                    done.append(answer)
                    continue
                job, *rest = child.jobs
                waiting.extendleft(reversed(rest))
                children[children.index(child)] = _Child(settings)
                if child.alone:
                    done.append((job, answer))
                else:
                    again.append(job)
            yield from done
    finally:
        for child in children:
            child.end()


def _hand_out(children: "list[_Child]", waiting: deque[Job], again: deque[Job]) -> None:
    """Give jobs to all children that can take more. A job that is tried again goes to a child without other jobs."""
    for child in children:
        while waiting and len(child.jobs) < AHEAD and not child.alone:
            child.give(waiting.popleft())
        if again and not child.jobs:
            child.give(again.popleft(), alone=True)


def _answers(children: "list[_Child]", limits: Limits) -> "Iterator[tuple[_Child, tuple[Job, Outcome] | Outcome]]":
    """Wait until a child answers, dies or exceeds its time; yields its job and outcome, or why it failed."""
    busy = {child.connection: child for child in children if child.jobs}
    first_due = min(child.since for child in busy.values()) + limits.seconds
    ready = wait(list(busy), timeout=max(0.0, first_due - time.monotonic()))
    for child in busy.values():
        has_said = child.connection in ready
        answer = child.answer() if has_said else None
        if answer is not None:
            yield child, answer
        elif has_said or child.since + limits.seconds < time.monotonic():
            yield child, child.failure(limits, died=has_said)


class _Child:
    """A child process and its unanswered jobs; it works on the first."""

    def __init__(self, settings: bytes) -> None:
        try:
            self._start(settings)
        except OSError as error:  # no more processes, open files or memory
            raise UserError(f"a process that decodes pictures did not start: {error.strerror}{_ulimit()}") from None
        self.jobs: deque[Job] = deque()
        self.alone = False
        self.since = 0.0
        self.started = False

    def _start(self, settings: bytes) -> None:
        self.connection, theirs = Pipe()
        self.said = _scratch()
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "artdiff.ingest.child", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            start_new_session=True,  # Ctrl-C must reach the parent only, or it would look like a crash
        )
        theirs.close()
        with suppress(BrokenPipeError, ConnectionResetError):  # it died, which `give` finds out
            self.connection.send_bytes(settings)

    def give(self, job: Job, *, alone: bool = False) -> None:
        """Send a job. Raises `UserError` if the child did not start."""
        if not self.started:
            if not self.connection.poll(START) or self._receive() is None:
                end = self.end()
                self.said.seek(0)
                last = self.said.read().decode(errors="replace").strip().rpartition("\n")[2]
                reason = f"{last or 'no reason given'}{_ulimit()}"
                raise UserError(f"a process that decodes pictures did not start ({end}): {reason}")
            self.started = True
        if not self.jobs:
            self.since = time.monotonic()
        self.jobs.append(job)
        self.alone = alone
        with suppress(OSError):  # it died, which `answer` finds out
            self.connection.send_bytes(json.dumps(job).encode())

    def answer(self) -> tuple[Job, Outcome] | None:
        """The finished job and its outcome; None if the child died. Raises `UserError` if a row cannot be written."""
        said = self._receive()
        if said is None:
            return None
        if "cannot write" in said:
            raise UserError(said["cannot write"])
        self.since = time.monotonic()
        self.alone = False
        facts, size = said.pop("facts"), said.pop("size", None)
        try:
            picture = size and Image.frombytes("RGB", tuple(size), self.connection.recv_bytes())
        except (EOFError, OSError):
            return None
        return self.jobs.popleft(), Outcome(Facts(*facts) if facts is not None else None, **said, picture=picture)

    def failure(self, limits: Limits, *, died: bool) -> Outcome:
        """End the child → the outcome of its current job, on which it died or exceeded its time."""
        end = self.end()
        if not died:
            return Outcome(None, f"took longer than {limits.seconds:g} s to decode")
        killed = end in ("SIGKILL", "SIGTERM", "SIGXCPU", "SIGUSR1")  # by the system or a person: not by the file
        return Outcome(None, f"its decoder crashed ({end})", lasting=not killed)

    def end(self) -> str:
        """Kill the process if it still runs → how it ended, such as `SIGKILL` or `exit code 1`."""
        self.connection.close()
        code = self.process.poll()
        if code is None:
            try:
                code = self.process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                self.process.kill()
                code = self.process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def _receive(self) -> dict[str, Any] | None:
        try:
            return json.loads(self.connection.recv_bytes())
        except (EOFError, OSError, ValueError):
            return None


def _scratch() -> IO[bytes]:
    """A file for a child's stderr, in memory if the system can, because the temporary folder may be full."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("said"), "r+b")
    return tempfile.TemporaryFile()


def _ulimit() -> str:
    """A hint at the system's memory limit as a possible cause; empty without a limit."""
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, AttributeError):
        return ""
    if soft == resource.RLIM_INFINITY:
        return ""
    return f"; the system allows a process {soft / 1e9:.2g} GB of memory: raise that limit (ulimit -v)"
