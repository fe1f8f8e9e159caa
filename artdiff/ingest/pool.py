"""Decodes files in processes of their own, each with a bound on time and memory: a hostile file costs one entry.

A process is this module run as a program. It takes one message a file and gives one back, in order, over a socket:
JSON, never a pickle, since what answers may no longer be what was started. It ends when the other side does.
"""

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from artdiff import UserError
from artdiff.ingest import decode
from artdiff.ingest.decode import Facts, Transform, Unreadable

AHEAD = 4
"""Files that a process is given at once, so that it does not wait for the next."""

COSTLY = ("its decoder crashed", "took longer than", "needs more than")
"""How the reasons begin that depend on the limits, and not on the file alone."""

START = 60.0
"""Seconds that a process may take to start, on a machine that is busy."""


class Limits(NamedTuple):
    """What one file may cost: `seconds` of a clock, and `gigabytes` of memory where the system can bound it (Linux)."""

    seconds: float
    gigabytes: float


class Job(NamedTuple):
    """A file to decode: where it lies, its size and time when it was listed, and the row to write it to (-1: none)."""

    path: str
    bytes: int
    mtime: int
    row: int


class Outcome(NamedTuple):
    """What became of a file: its `facts`, or the `reason` why it cannot be used.

    `crc` is that of the row that was written, `picture` is the whole one where no transform was asked for. `lasting`
    says that the file's content led to it, and nothing else.
    """

    facts: Facts | None
    reason: str | None
    crc: int = 0
    lasting: bool = True
    picture: Image.Image | None = None


class Rows(NamedTuple):
    """A file that rows of pixels are written to: row n begins at byte `offset + n * size`."""

    path: str
    offset: int
    size: int


def cores() -> int:
    """How many cores this program may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read(
    paths: Iterable[Path], limits: Limits, *, enough: int | None = None
) -> Iterator[tuple[Path, Image.Image | str]]:
    """Decode whole pictures in one process → each as upright sRGB, on white; or the reason why it is none.

    They may come out smaller if `enough` pixels a side are.
    """
    jobs = []
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            yield path, f"cannot be read: {error.strerror}"
            continue
        if stat.S_ISREG(status.st_mode):
            jobs.append(Job(str(path), status.st_size, status.st_mtime_ns, -1))
        else:
            yield path, "not a file but a pipe, a socket or a device"
    for job, outcome in run(jobs, enough, limits, processes=1):
        yield Path(job.path), outcome.picture or outcome.reason or "not a picture"


def run(
    jobs: Iterable[Job],
    transform: Transform | int | None,
    limits: Limits,
    *,
    rows: Rows | None = None,
    processes: int | None = None,
) -> Iterator[tuple[Job, Outcome]]:
    """Decode every file, by default on all cores → each job with what became of it, as it is done.

    With a number (the pixels a side that are enough) or None for `transform`, outcomes have the whole picture.

    A file with which a process dies or overruns its time is tried once more, as the only one its process has, before
    it is given up. Raises `UserError` where the rows cannot be written.
    """
    settings = json.dumps((transform, limits, rows)).encode()
    waiting, again = deque(jobs), deque[Job]()
    workers = [_Worker(settings) for _ in range(min(processes or cores(), len(waiting)))]
    try:
        while waiting or again or any(worker.jobs for worker in workers):
            _hand_out(workers, waiting, again)
            busy = {worker.connection: worker for worker in workers if worker.jobs}
            first_due = min(worker.since for worker in busy.values()) + limits.seconds
            ready = wait(list(busy), timeout=max(0.0, first_due - time.monotonic()))
            done: list[tuple[Job, Outcome]] = []  # handed on below: while the caller is at work, no time is taken
            for worker in busy.values():
                if worker.connection in ready and (answer := worker.answer()) is not None:
                    done.append(answer)
                elif worker.connection in ready or worker.since + limits.seconds < time.monotonic():
                    failure = worker.failure(limits, died=worker.connection in ready)
                    job, *rest = worker.jobs
                    waiting.extendleft(reversed(rest))
                    workers[workers.index(worker)] = _Worker(settings)
                    if worker.alone:
                        done.append((job, failure))
                    else:
                        again.append(job)
            yield from done
    finally:
        for worker in workers:
            worker.end()


def _hand_out(workers: "list[_Worker]", waiting: deque[Job], again: deque[Job]) -> None:
    """Give every worker what it can take; what is tried `again` only to one that has nothing else."""
    for worker in workers:
        while waiting and len(worker.jobs) < AHEAD and not worker.alone:
            worker.give(waiting.popleft())
        if again and not worker.jobs:
            worker.give(again.popleft(), alone=True)


class _Worker:
    """One process and the jobs that it has not answered yet, the one at work first."""

    def __init__(self, settings: bytes) -> None:
        self.connection, theirs = Pipe()
        self.said = tempfile.TemporaryFile()  # noqa: SIM115 (closed when this goes)
        package = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self.said,
            start_new_session=True,  # Ctrl-C is for us, and must not look like a crash
        )
        theirs.close()
        self.jobs: deque[Job] = deque()
        self.alone = False
        self.since = 0.0
        self.connection.send_bytes(settings)
        self.started = False

    def give(self, job: Job, *, alone: bool = False) -> None:
        if not self.started:
            if not self.connection.poll(START) or self._receive() is None:
                end = self.end()
                self.said.seek(0)
                last = self.said.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise UserError(f"a process that decodes pictures did not start ({end}): {last or 'no reason given'}")
            self.started = True
        if not self.jobs:
            self.since = time.monotonic()
        self.jobs.append(job)
        self.alone = alone
        with suppress(OSError):  # it died: `answer` will say so
            self.connection.send_bytes(json.dumps(job).encode())

    def answer(self) -> tuple[Job, Outcome] | None:
        """The job at work with what became of it; None where the process died."""
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
        """What to say of the job at work, with which the process `died`, or else overran its time. Ends it."""
        end = self.end()
        if not died:
            return Outcome(None, f"took longer than {limits.seconds:g} s to decode")
        killed = end in ("SIGKILL", "SIGTERM")  # by the system, short of memory, or by somebody: not by the file
        return Outcome(None, f"its decoder crashed ({end})", lasting=not killed)

    def end(self) -> str:
        """Kill the process, if it still lives → how it ended, in words."""
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


def main() -> None:
    """What a process does: one answer a job, until there is nobody to ask."""
    connection = Connection(int(sys.argv[1]))
    transform, limits, rows = json.loads(connection.recv_bytes())
    seconds, gigabytes = limits
    _bound_memory(gigabytes)
    answer = _ToRow(Transform(*transform), rows) if isinstance(transform, list) else _ToPicture(transform)
    connection.send_bytes(b"{}")
    while True:
        try:
            job = Job(*json.loads(connection.recv_bytes()))
        except (EOFError, OSError):
            return
        _end_after(2 * seconds + 10)  # should nobody be left to do it
        whole = b""
        try:
            said, whole = answer(job)
        except Unreadable as error:
            said = {"facts": None, "reason": str(error)}
        except MemoryError:
            said = {"facts": None, "reason": f"needs more than {gigabytes:g} GB of memory to decode"}
        except OSError as error:
            said = {"facts": None, "reason": f"cannot be read: {error.strerror}", "lasting": False}
        _end_after(0)
        connection.send_bytes(json.dumps(said).encode())
        if whole:
            connection.send_bytes(whole)


Answer = tuple[dict[str, Any], bytes]
"""What is said of a job, and the whole picture if it was asked for."""


class _ToPicture:
    """Decodes a file and hands over the whole picture."""

    def __init__(self, enough: int | None) -> None:
        self.enough = enough

    def __call__(self, job: Job) -> Answer:
        picture = decode.to_rgb(_content(job), enough=self.enough)
        return {"facts": None, "reason": None, "size": picture.size}, picture.tobytes()


class _ToRow:
    """Decodes and fits a file, and writes its row."""

    def __init__(self, transform: Transform, rows: list[Any] | None) -> None:
        red, green, blue = transform.background
        self.transform = transform._replace(background=(red, green, blue))
        self.rows = Rows(*rows) if rows is not None else None
        self.target = os.open(self.rows.path, os.O_WRONLY) if self.rows is not None else -1

    def __call__(self, job: Job) -> Answer:
        pixels, facts = decode.decode(_content(job), self.transform)
        if self.rows is None:
            return {"facts": facts, "reason": None}, b""
        row = pixels.tobytes()
        try:
            written = os.pwrite(self.target, row, self.rows.offset + job.row * self.rows.size)
        except OSError as error:
            return {"cannot write": f"{self.rows.path} cannot be written: {error.strerror}"}, b""
        if written < len(row):
            return {"cannot write": f"{self.rows.path} cannot be written: no space left on its disk"}, b""
        return {"facts": facts, "reason": None, "crc": zlib.crc32(row)}, b""


def _content(job: Job) -> bytes:
    with Path(job.path).open("rb") as stream:
        content = stream.read()
        status = os.fstat(stream.fileno())
    if (status.st_size, status.st_mtime_ns) != (job.bytes, job.mtime):
        raise OSError(0, "it changed meanwhile")
    return content


def _end_after(seconds: float) -> None:
    """Let the system end this process after so long, whatever it is in the middle of; 0 is never."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _bound_memory(gigabytes: float) -> None:
    """Let this process take so much more memory than it has, and leave no image of it on disk if it crashes."""
    try:
        import resource

        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (in_use + int(gigabytes * 1e9),) * 2)


if __name__ == "__main__":
    main()
