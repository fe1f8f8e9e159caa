"""A lock between programs that share a folder, also on network disks without `flock`.

There the holder creates a *marker*: a file that only one program can create. It writes a new number to the marker every
few seconds. A marker counts as abandoned if its process on this machine has ended, or if it has not changed for a
minute. The waiting program measures that minute with its own monotonic clock, so the clocks of other machines do not
matter. If the marker is taken over although its holder still runs (its machine was asleep), the holder notices, and
`check` stops it from writing.

`flock` must work for all programs that share the folder, or for none.
"""

import errno
import fcntl
import json
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of `flock` on disks without locks."""

POLL = 0.05
"""Seconds between two attempts."""

BEAT = 5.0
"""Seconds between two changes of a marker."""

ABANDONED = 60.0
"""Seconds without a change after which a marker counts as abandoned."""


class Lock:
    """A lock on the file `path`, which is not removed on release. Reentrant for the thread that holds it.

    Raises `OSError` if the disk does not allow the lock to be taken.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._marker = _Marker(path.with_suffix(".locked"))
        self._thread = threading.RLock()
        self._count = 0
        self._stream = -1

    def take(self) -> bool:
        """Try to take the lock without waiting → True on success."""
        if not self._thread.acquire(blocking=False):
            return False
        try:
            if self._count == 0 and not self._take():
                self._thread.release()
                return False
        except BaseException:
            self._thread.release()
            raise
        self._count += 1
        return True

    def wait(self) -> None:
        """Wait for the lock and take it."""
        while not self.take():
            time.sleep(POLL)

    def release(self) -> None:
        self._count -= 1
        if self._count == 0 and self._stream >= 0:
            os.close(self._stream)  # which releases the lock
            self._stream = -1
        elif self._count == 0:
            self._marker.release()
        self._thread.release()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock and hold it within the `with` block."""
        self.wait()
        try:
            yield
        finally:
            self.release()

    @property
    def is_ours(self) -> bool:
        """False once another program may have taken the lock over."""
        return self._stream >= 0 or not self._count or self._marker.is_ours()

    def check(self) -> None:
        """Raise `OSError` if another program has taken the lock over."""
        if not self.is_ours:
            raise OSError(errno.ENOLCK, "another program has taken over the lock")

    def _take(self) -> bool:
        stream = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(stream)
            if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES):
                return False
            if error.errno not in NO_LOCKS:
                raise
            return self._marker.take()
        if os.fstat(stream).st_nlink == 0:  # it was removed before it was locked
            os.close(stream)
            return False
        self._stream = stream
        return True


class _Marker:
    """A file whose existence is the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[bytes, float] | None = None
        self._owner = b""
        self._stream = -1
        self._last = 0.0
        self._is_lost = False
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    def take(self) -> bool:
        try:
            stream = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            if self._is_abandoned():
                self._remove_abandoned()
            return False
        self._stream, self._seen, self._is_lost = stream, None, False
        self._owner = json.dumps([_machine(), os.getpid(), _begun(os.getpid()), secrets.token_hex(8)]).encode()
        try:
            self._write(0)
        except OSError:
            self.path.unlink()
            os.close(stream)
            raise
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, args=(self._stop,), daemon=True, name="lock")
        self._heart.start()
        return True

    def release(self) -> None:
        self._stop.set()
        if self._heart is not None:
            self._heart.join()
        os.close(self._stream)
        if self._says_ours():
            with suppress(OSError):
                self.path.unlink()

    def is_ours(self) -> bool:
        """False once another program may have taken it over."""
        if self._is_lost:
            return False
        if _now() - self._last < ABANDONED / 2:
            return True
        if not self._says_ours():
            return False
        with suppress(OSError):
            self._write(secrets.randbelow(10**9))
            return True
        return False

    def _beat(self, stop: threading.Event) -> None:
        beats = 0
        while not stop.wait(BEAT):
            beats += 1
            with suppress(OSError):
                if self._says_ours():
                    self._write(beats)

    def _says_ours(self) -> bool:
        """Read whether the marker is ours. If another program has written to it, the lock is lost for good.

        A marker that cannot be read counts as not ours, until it can be read again.
        """
        content = self._content()
        is_ours = content.startswith(self._owner + b"\n")
        self._is_lost = self._is_lost or (bool(content) and not is_ours)
        return is_ours

    def _write(self, beats: int) -> None:
        os.pwrite(self._stream, self._owner + b"\n%09d\n" % beats, 0)
        os.fsync(self._stream)
        self._last = _now()

    def _content(self) -> bytes:
        """The content of the marker. It is opened each time, so that a network disk asks the server."""
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def _is_abandoned(self) -> bool:
        content, now = self._content(), time.monotonic()
        if self._seen is None or content != self._seen[0]:
            self._seen = content, now
        try:
            machine, process, begun, _ = json.loads(content.partition(b"\n")[0])
        except ValueError:  # it is being written, or its writer was killed
            machine, process, begun = "", 0, ""
        if machine == _machine() and _begun(process) != begun:
            return True
        return now - self._seen[1] > ABANDONED

    def _remove_abandoned(self) -> None:
        """Remove the marker. It is renamed first, and put back if it turns out to be a new one."""
        aside = self.path.with_name(f".{secrets.token_hex(8)}.abandoned")
        with suppress(FileNotFoundError):
            if self._seen is None or self._content() != self._seen[0]:
                return
            self.path.rename(aside)
            if aside.read_bytes() != self._seen[0]:
                with suppress(OSError):
                    os.link(aside, self.path)
            else:
                log.warning("%s was left by a program that has ended: removed", self.path)
            aside.unlink()


def _now() -> float:
    """Monotonic seconds, including sleep where the system counts it; `time.monotonic` does not."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _machine() -> str:
    """An identifier of this machine since its last boot, and of the PID namespace (containers have their own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return platform.node()


def _begun(process: int) -> str:
    """When a process of this machine started, to detect a reused PID; empty if the process has ended."""
    try:
        state, *rest = Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()
        return "" if state in (b"Z", b"X") else rest[18].decode()
    except OSError:
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "runs"
