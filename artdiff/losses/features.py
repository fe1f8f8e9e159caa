"""Features of pictures that do not change: computed once, and kept by row.

Beside a CPU they lie on disk, for the next run as well; on a GPU, in its own memory. What is read is what was written,
bit for bit. A row on disk begins with a checksum, and one that its checksum does not bear out counts as absent: a
program that is killed, a full disk and two programs at once do no harm.
"""

import errno
import hashlib
import logging
import shutil
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

log = logging.getLogger(__name__)

VERSION = 1
"""Part of every file's name: raise it when what a feature is changes."""

CHECKSUM = 4
"""Bytes before each row on disk."""

SUFFIX = ".features"

GPU_SHARE = 0.1
"""Of a GPU's memory, what features take at most: all of them or none, since the rest is for training."""

IN_USE = 24 * 3600
"""Seconds since its last use for which a file is left alone by those that need its room."""


class Unchanging(NamedTuple):
    """Pictures that do not change: a `name` for all of them in their order, how many, and where to keep what is made
    of them.
    """

    name: str
    rows: int
    folder: Path


class Store(Protocol):
    """Rows of features, all of one shape."""

    def read(self, rows: list[int]) -> tuple[list[int], Tensor | None]:
        """The places among `rows` of those that it has, and these (K,…); None where it has none of them."""

    def write(self, rows: list[int], features: Tensor) -> None:
        """Keep `features` (B,…), or those of them that there is room for."""


class OnDisk:
    """Rows like `like`, in a file that grows with them to `most` bytes. Raises `OSError` if it cannot be written to."""

    def __init__(self, path: Path, like: Tensor, most: float) -> None:
        self.shape, self.dtype = like.shape, like.dtype
        self.step = CHECKSUM + like.nbytes
        path.touch()  # the time of its last use
        self.stream = path.open("r+b", buffering=0)
        self.room = int(most / self.step)
        self.sound = set[int]()
        self.is_full = False

    def read(self, rows: list[int]) -> tuple[list[int], Tensor | None]:
        contents = [self._content(row) for row in rows]
        places = [place for place, content in enumerate(contents) if content]
        if not places:
            return [], None
        found = torch.frombuffer(bytearray().join(contents[place] for place in places), dtype=self.dtype)
        return places, found.view(len(places), *self.shape)

    def write(self, rows: list[int], features: Tensor) -> None:
        for row, one in zip(rows, features.flatten(1).view(torch.uint8).numpy(), strict=True):
            if row >= self.room or self.is_full:
                continue
            content = one.tobytes()
            try:
                self.stream.seek(row * self.step)
                if self.stream.write(_checksum(content) + content) < self.step:
                    raise OSError(errno.ENOSPC, "No space left on device")
                self.sound.add(row)
            except OSError as error:
                self.is_full = True
                log.warning("no more features are kept: %s (%s)", error.strerror, self.stream.name)

    def _content(self, row: int) -> memoryview:
        """The bytes of a row; none where it is absent."""
        try:
            self.stream.seek(row * self.step)
            found = memoryview(self.stream.read(self.step))
        except OSError:
            return memoryview(b"")
        checksum, content = found[:CHECKSUM], found[CHECKSUM:]
        if len(found) < self.step or (row not in self.sound and checksum != _checksum(content)):
            return memoryview(b"")
        self.sound.add(row)
        return content


class OnDevice:
    """So many rows like `like`, in the memory of its device."""

    def __init__(self, rows: int, like: Tensor) -> None:
        with torch.inference_mode(False):  # what is kept for training must not be born an inference tensor
            self.features = torch.empty(rows, *like.shape, dtype=like.dtype, device=like.device)
        self.known = [False] * rows  # asked without waiting for the device

    def read(self, rows: list[int]) -> tuple[list[int], Tensor | None]:
        if not all(self.known[row] for row in rows):  # a part of a batch would be computed at a size of its own
            return [], None
        return list(range(len(rows))), self.features[torch.tensor(rows).to(self.features.device, non_blocking=True)]

    def write(self, rows: list[int], features: Tensor) -> None:
        for row, one in zip(rows, features, strict=True):
            self.features[row] = one
            self.known[row] = True


class KeptFeatures:
    """The features of `pictures` that `recipe` tells from all others, in `gigabytes` at most."""

    def __init__(self, pictures: Unchanging, recipe: str, gigabytes: float) -> None:
        self.pictures = pictures
        self.recipe = recipe
        self.most = gigabytes * 1e9
        self.store: Store | None = None
        self.is_open = False

    def __call__(self, rows: Tensor, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """The features (B,C,H,W) of the pictures in `rows`, int64 (B,) on the CPU: read, or computed and kept.

        `compute` makes those of some places among them. Channels are last in memory, as a convolution leaves them.
        """
        return self._found(rows, lambda places: compute(places).permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)

    def _found(self, rows: Tensor, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """The same with channels last, (B,H,W,C)."""
        wanted = rows.tolist()
        places, kept = self.store.read(wanted) if self.store is not None else ([], None)
        missing = sorted({*range(len(wanted))} - {*places})
        if kept is not None and not missing:
            return kept
        fresh = compute(missing)
        if not self.is_open:
            self.store, self.is_open = self._open(fresh[0]), True
        if self.store is not None:
            self.store.write([wanted[place] for place in missing], fresh)
        if kept is None:
            return fresh
        result = fresh.new_empty(len(wanted), *fresh.shape[1:])
        result[missing], result[places] = fresh, kept
        return result

    def _open(self, like: Tensor) -> Store | None:
        """Where rows like `like` are kept; None where they cannot be."""
        needed = self.pictures.rows * like.nbytes
        if like.device.type == "cuda":
            room = min(self.most, GPU_SHARE * torch.cuda.get_device_properties(like.device).total_memory)
            if needed > room:
                log.info("targets' features are computed each time: %.1f GB, room for %.1f", needed / 1e9, room / 1e9)
                return None
            log.info("targets' features are kept in the memory of %s: %.1f GB", like.device, needed / 1e9)
            return OnDevice(self.pictures.rows, like)
        if like.device.type != "cpu":
            return None
        told = f"{VERSION} {self.pictures.name} {self.recipe} {like.dtype} {tuple(like.shape)}"
        path = self.pictures.folder / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}{SUFFIX}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            room = self.most - make_room(path, self.most - needed)
            room = min(room, shutil.disk_usage(path.parent).free / 2 + taken(path))
            store = OnDisk(path, like, room)
        except OSError as error:
            log.warning("targets' features are computed each time: %s, %s", path.parent, error.strerror)
            return None
        log.info("targets' features are kept in %s: %.1f GB", path.parent, min(needed, max(room, 0)) / 1e9)
        return store


def make_room(path: Path, most: float) -> float:
    """Remove what was not used for longest beside `path`, until the rest takes `most` bytes → how many it takes.

    What was used lately stays: another training may be at it.
    """
    others = [one for one in path.parent.glob(f"*{SUFFIX}") if one != path]
    total = sum(taken(one) for one in others)
    used = {}
    for one in others:
        with suppress(OSError):  # another program has just removed it
            used[one] = one.stat().st_mtime
    for one in sorted(used, key=lambda one: used[one]):
        size = taken(one)
        if total > most and time.time() - used[one] > IN_USE:
            with suppress(OSError):
                one.unlink()
                total -= size
    return total


def taken(path: Path) -> int:
    """Bytes of the disk that a file takes, holes in it left out; 0 where there is none."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_blocks * 512 if hasattr(status, "st_blocks") else status.st_size


def _checksum(content: bytes | memoryview) -> bytes:
    return zlib.crc32(content).to_bytes(CHECKSUM, "big")
