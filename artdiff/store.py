"""A key-value store of fixed-size rows under 32-byte keys, for decoded pixels, perceptual features and latents.

A store is two files:

- `NAME.rows`: the rows; row n begins at byte n * row_bytes;
- `NAME.keys`: entries of 48 bytes: row number, CRC-32 of the row, key, CRC-32 of the entry.

Entries are only appended, each after its row was written. Incomplete entries and those that fail their CRC are ignored,
later entries for a key replace earlier ones, and a row without an entry is free. So a killed program loses at most what
it was writing. All writers hold the lock `NAME.lock`. After a build both files are synced to disk and a *seal* is
appended. Rows before the seal are trusted; rows after it are checked against their CRC when the next build starts.
"""

import errno
import fcntl
import logging
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import repeat
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from artdiff.locks import Lock

log = logging.getLogger(__name__)

KEY_BYTES = 32

ENTRY = np.dtype([("row", "<i8"), ("crc", "<u4"), ("key", f"V{KEY_BYTES}"), ("check", "<u4")])
_PLAIN_ENTRY = struct.Struct(f"<qI{KEY_BYTES}s")  # without its CRC
DROPPED, SEAL = -1, -2
"""Special row numbers: the key no longer has a row; everything before this entry is on disk."""


class Contents(NamedTuple):
    """The pictures of a data set whose pixels never change, so that what is computed from them can be cached.

    `keys` has 32 bytes for each index, equal for equal pixels. `folder` is the cache folder.
    """

    keys: Sequence[bytes]
    folder: Path


class RowStore:
    """Rows of `row_bytes` bytes in the file `path` (`NAME.rows`), which is created if it does not exist.

    `append` stops at `max_bytes`. A store in a read-only folder can be read. Raises `OSError` if the files cannot be
    opened.
    """

    def __init__(self, path: Path, row_bytes: int, *, max_bytes: float | None = None) -> None:
        self.path = path
        self.row_bytes = row_bytes
        self.max_bytes = max_bytes
        self._is_building = False
        self._lock = Lock(path.with_suffix(".lock"))
        self._is_full = False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._open()
        with suppress(OSError):
            os.utime(path)  # the time of the last use, for `prune`

    def _open(self) -> None:
        self._payload, self._keys = _opened(self.path), _opened(self.path.with_suffix(".keys"))
        self._row_of: dict[bytes, int] = {}
        self._crc_of: dict[bytes, int] = {}
        self._verified: set[bytes] = set()
        self._unsealed: set[bytes] = set()
        self._loaded = 0  # bytes of the key file
        self._end = 0  # the row after the last one that is in use
        self._map: np.memmap | None = None
        self._load()

    def find(self, keys: Sequence[bytes], *, sealed: bool = False) -> np.ndarray:
        """The row number of each key, int64 (K,); -1 for an absent key.

        With `sealed`, rows that may be incomplete count as absent: after a crash, or while another program builds.
        """
        rows = self._rows_of(keys)
        if (rows < 0).any() and self._load():
            rows = self._rows_of(keys)
        if sealed and self._unsealed and not self._is_building:
            rows[[key in self._unsealed for key in keys]] = -1
        return rows

    def read(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The row of each key; None if it is absent or fails its CRC, which is checked at the first read."""
        return [self._read(key, row) if row >= 0 else None for key, row in zip(keys, self.find(keys), strict=True)]

    @property
    def rows(self) -> np.ndarray:
        """All rows, uint8 (N, row_bytes), memory-mapped, read-only. CRCs are not checked."""
        count = self._rows_in_file()
        if self._map is None or len(self._map) != count:
            if not count:
                return np.empty((0, self.row_bytes), np.uint8)
            self._map = np.memmap(self._payload, np.uint8, "r", shape=(count, self.row_bytes))
        return self._map

    def append(self, keys: Sequence[bytes], rows: Sequence[bytes]) -> int:
        """Store the rows of new keys → how many of `keys` have a row now.

        If the disk is full or `max_bytes` is reached, fewer are stored; that is logged once.
        """
        try:
            with self._locked():
                new = {key: row for key, row in zip(keys, rows, strict=True) if self._row_of.get(key, -1) < 0}
                self._append(new)
        except OSError as error:
            self._say_full(error.strerror or str(error))
        return int((self._rows_of(keys) >= 0).sum())

    @contextmanager
    def building(self, waiting: str) -> Iterator[None]:
        """Hold the lock for `reserve` and `record`; seal the store at the end unless an error is raised.

        Logs `waiting` if another program holds the lock. First checks the rows of an interrupted build and drops those
        that fail their CRC.
        """
        with self._locked(waiting):
            self._wait_for_writers(waiting)
            self._check_unsealed()
            self._cut()  # disk space of a killed build
            used = np.fromiter(self._row_of.values(), np.int64, len(self._row_of))
            self._free = np.setdiff1d(np.arange(self._end), used).tolist()
            self._is_building = True
            try:
                yield
                self._seal()
            finally:
                self._is_building = False
                if self._lock.is_ours:
                    self._cut()

    @property
    def reusable(self) -> int:
        """The number of free rows, which `reserve` returns before it takes more disk space."""
        return len(self._free)

    def reserve(self, count: int) -> list[int]:
        """Reserve rows to write in place while `building`; allocates disk space. Raises `OSError`."""
        reused, self._free = self._free[:count], self._free[count:]
        fresh = list(range(self._end, self._end + count - len(reused)))
        if fresh:
            _allocate(self._payload.fileno(), (fresh[-1] + 1) * self.row_bytes)
        return reused + fresh

    def record(self, key: bytes, row: int, crc: int) -> None:
        """Record that a reserved row has been written for this key."""
        self._add_entries([(row, crc, key)])

    def _rows_of(self, keys: Sequence[bytes]) -> np.ndarray:
        rows = np.fromiter(map(self._row_of.get, keys, repeat(-1)), np.int64, len(keys))
        rows[rows >= self._rows_in_file()] = -1
        return rows

    def _rows_in_file(self) -> int:
        return os.fstat(self._payload.fileno()).st_size // self.row_bytes

    def _read(self, key: bytes, row: int) -> bytes | None:
        content = os.pread(self._payload.fileno(), self.row_bytes, row * self.row_bytes)
        if key not in self._verified:
            if len(content) < self.row_bytes or zlib.crc32(content) != self._crc_of[key]:
                self._row_of[key] = -1  # `append` may replace it
                return None
            self._verified.add(key)
        return content

    def _load(self) -> bool:
        """Read the entries that were added since the last call → whether there were any."""
        added = os.fstat(self._keys.fileno()).st_size - self._loaded
        if added < ENTRY.itemsize:
            return False
        content = os.pread(self._keys.fileno(), added, self._loaded)
        entries = np.frombuffer(content, ENTRY, len(content) // ENTRY.itemsize)
        self._loaded += entries.nbytes
        self._take(entries[entries["check"] == _checks(entries)])
        return True

    def _take(self, entries: np.ndarray) -> None:
        seals = np.flatnonzero(entries["row"] == SEAL)
        if len(seals):
            self._unsealed = set()
        keys = entries["key"].tolist()
        self._unsealed.update(keys[seals[-1] + 1 :] if len(seals) else keys)
        plain = np.flatnonzero(entries["row"] != SEAL) if len(seals) else slice(None)
        keys = entries["key"][plain].tolist()
        self._row_of.update(zip(keys, entries["row"][plain].tolist(), strict=True))
        self._crc_of.update(zip(keys, entries["crc"][plain].tolist(), strict=True))
        self._verified.difference_update(keys)
        self._end = max(self._end, int(entries["row"].max(initial=-1)) + 1)

    def _add_entries(self, entries: Sequence[tuple[int, int, bytes]]) -> None:
        """Append entries (row, CRC, key) to the key file: all of them or, on an error, none."""
        self._lock.check()
        packed = [_PLAIN_ENTRY.pack(*entry) for entry in entries]
        content = b"".join(entry + zlib.crc32(entry).to_bytes(4, "little") for entry in packed)
        try:
            _write(self._keys.fileno(), content, self._loaded)
        except OSError:
            os.ftruncate(self._keys.fileno(), self._loaded)
            raise
        self._loaded += len(content)
        for row, crc, key in entries:
            if row == SEAL:
                self._unsealed = set()
                continue
            self._row_of[key], self._crc_of[key] = row, crc
            self._unsealed.add(key)
            self._verified.discard(key)
            self._end = max(self._end, row + 1)

    def _append(self, new: dict[bytes, bytes]) -> None:
        """Write as many of the rows as fit after the last row in use."""
        self._lock.check()
        room = len(new) if self.max_bytes is None else int(self.max_bytes / self.row_bytes) - self._end
        fitting = list(new.items())[: max(room, 0)]
        written, content = 0, b"".join(row for _, row in fitting)
        try:
            while written < len(content):
                written += os.pwrite(self._payload.fileno(), content[written:], self._end * self.row_bytes + written)
        except OSError as error:
            self._say_full(error.strerror or str(error))
        if len(fitting) < len(new):
            self._say_full(f"its limit is {(self.max_bytes or 0) / 1e9:.2f} GB")
        done = fitting[: written // self.row_bytes]
        if done:
            self._add_entries([(self._end + place, zlib.crc32(row), key) for place, (key, row) in enumerate(done)])
            self._verified.update(key for key, _ in done)

    def _say_full(self, reason: str) -> None:
        if not self._is_full:
            self._is_full = True
            log.warning("no more rows are kept in %s: %s", self.path, reason)

    @contextmanager
    def _locked(self, waiting: str | None = None) -> Iterator[None]:
        """Hold the lock, after loading what other programs have written."""
        if not self._lock.take():
            if waiting:
                log.info(waiting)
            self._lock.wait()
        try:
            if self._was_removed():
                self._open()
            torn = os.fstat(self._keys.fileno()).st_size % ENTRY.itemsize
            if torn:
                os.ftruncate(self._keys.fileno(), os.fstat(self._keys.fileno()).st_size - torn)
            self._load()
            if self._end > self._rows_in_file():  # the file was cut or replaced
                self._drop([key for key, row in self._row_of.items() if row >= self._rows_in_file()])
            yield
        finally:
            self._lock.release()

    def _was_removed(self) -> bool:
        """True if another program has removed or replaced the files since they were opened."""
        for stream in (self._payload, self._keys):
            try:
                if not os.path.samestat(os.fstat(stream.fileno()), os.stat(stream.name)):  # noqa: PTH116
                    return True
            except FileNotFoundError:
                return True
        return False

    def _wait_for_writers(self, waiting: str) -> None:
        """Wait until no child process of a killed program can still write to its reserved rows.

        A process that writes rows in place holds a shared `flock` on the file of rows.
        """
        stream = self._payload.fileno()
        with suppress(OSError):  # a disk without locks
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info(waiting)
                fcntl.flock(stream, fcntl.LOCK_EX)
            fcntl.flock(stream, fcntl.LOCK_UN)

    def _check_unsealed(self) -> None:
        left = [key for key in self._unsealed if self._row_of[key] >= 0]
        self._drop([key for key in left if self._read(key, self._row_of[key]) is None])

    def _drop(self, keys: list[bytes]) -> None:
        if keys:
            self._add_entries([(DROPPED, 0, key) for key in keys])
        self._end = max(self._row_of.values(), default=-1) + 1

    def _cut(self) -> None:
        """Free the disk space after the last row in use."""
        os.ftruncate(self._payload.fileno(), self._end * self.row_bytes)

    def _seal(self) -> None:
        if self._unsealed:
            os.fsync(self._payload.fileno())
            os.fsync(self._keys.fileno())
            self._add_entries([(SEAL, 0, bytes(KEY_BYTES))])


def _opened(path: Path) -> IO[bytes]:
    """Open or create a file for reading and writing, or, without permission to write, for reading only."""
    try:
        return open(path, "r+b", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_CREAT, 0o666))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        try:
            return path.open("rb", buffering=0)
        except FileNotFoundError:
            raise error from None  # why it could not be created


def _write(stream: int, content: bytes, offset: int) -> None:
    if os.pwrite(stream, content, offset) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _allocate(stream: int, size: int) -> None:
    """Make the file at least `size` bytes long; allocate the disk space at once if the system can."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(stream, 0, size)
        except OSError as error:  # not every file system can
            if error.errno == errno.ENOSPC:
                raise
    if os.fstat(stream).st_size < size:
        os.ftruncate(stream, size)


def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0xEDB88320), table >> 1)
    return table


_CRC_TABLE = _crc_table()


def _checks(entries: np.ndarray) -> np.ndarray:
    """The CRC-32 of each entry without its last field, uint32 (N,): a vectorised `zlib.crc32`."""
    data = np.ascontiguousarray(entries).view(np.uint8).reshape(-1, ENTRY.itemsize)[:, :-4]
    crc = np.full(len(data), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(data.T):
        crc = _CRC_TABLE[(crc ^ column) & 0xFF] ^ (crc >> 8)
    return ~crc
