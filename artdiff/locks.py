"""A lock between programs that share a folder, also on network disks that refuse `flock`.

There the holder makes a *marker*, a file that only one program can create, and writes a new number to it every few
seconds. A marker is abandoned if its process on this machine is gone, or if it has not changed for a minute by the
clock of the program that waits: clocks of other machines, or one that is set back, do not matter. The holder notices if
its marker was taken over after all (its machine was asleep), and `check` then keeps it from writing.

All programs that share the folder must get the same answer from `flock`.
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
"""What `flock` answers on disks without locks."""

POLL = 0.05
"""Seconds between two attempts."""

BEAT = 5.0
"""Seconds between two changes of a marker."""

ABANDONED = 60.0
"""Seconds without a change after which a marker no longer counts."""


class Lock:
    """The lock that a file stands for. Its holder, a thread, may take it again. Raises `OSError` if it cannot be taken.

    The file stays when the lock is released.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._marker = _Marker(path.with_suffix(".locked"))
        self._thread = threading.RLock()
        self._count = 0
        self._stream = -1

    def take(self) -> bool:
        """Take the lock → whether that was possible without waiting."""
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
        """Take the lock as soon as nobody else has it."""
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
        """Wait for the lock and hold it."""
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
        """Whether the marker is ours. What another program has written to it stays known: it has taken the lock over.

        A marker that cannot be read is not ours for now.
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
        """What the marker says; opened each time, because network disks then look at the server."""
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
        """Move the marker aside first: if it is another one by now, it is put back."""
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
    """Seconds, with those that this machine was asleep where the system counts them: `time.monotonic` stands still."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _machine() -> str:
    """This start of this machine, and the numbering of its processes (containers have their own)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115
    except OSError:
        return platform.node()


def _begun(process: int) -> str:
    """When a process of this machine began, to tell it from a later one with the same number; empty if it is gone."""
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
