"""Features of pictures that do not change: computed once, and kept by row.

Beside a CPU they lie on disk, for the next run as well; on an accelerator, in its own memory. What is read is what was
written, bit for bit. A row on disk begins with a checksum, and one that its checksum does not bear out counts as
absent: a program that is killed, a full disk and two programs at once do no harm.
"""

import hashlib
import logging
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

log = logging.getLogger(__name__)

CHECKSUM = 4
"""Bytes before each row on disk."""

SUFFIX = ".features"


class Unchanging(NamedTuple):
    """Pictures that do not change: a `name` for all of them in their order, how many, and where to keep what is made
    of them.
    """

    name: str
    rows: int
    folder: Path


class Store(Protocol):
    """Some rows of features, all of one shape."""

    def has(self, row: int) -> bool: ...

    def read(self, rows: list[int]) -> Tensor:
        """Rows that it has: (B,…)."""

    def write(self, rows: list[int], features: Tensor) -> None:
        """Keep `features` (B,…), or those of them that there is room for."""


class OnDisk:
    """Rows like `like`, in a file that grows with them: to `most` bytes, or half of what the disk has free."""

    def __init__(self, path: Path, like: Tensor, most: float) -> None:
        self.shape, self.dtype = like.shape, like.dtype
        self.step = CHECKSUM + like.nbytes
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()  # the time of its last use
        self.stream = path.open("r+b", buffering=0)
        free = shutil.disk_usage(path).free / 2 + path.stat().st_size
        self.room = int(min(most, free) / self.step)
        self.sound = set[int]()

    def has(self, row: int) -> bool:
        if row not in self.sound and row < self.room:
            content = self._content(row)
            if len(content) == self.step and content[:CHECKSUM] == _checksum(content[CHECKSUM:]):
                self.sound.add(row)
        return row in self.sound

    def read(self, rows: list[int]) -> Tensor:
        content = bytearray().join(self._content(row)[CHECKSUM:] for row in rows)
        return torch.frombuffer(content, dtype=self.dtype).view(len(rows), *self.shape)

    def write(self, rows: list[int], features: Tensor) -> None:
        for row, one in zip(rows, features.flatten(1).view(torch.uint8).numpy(), strict=True):
            if row < self.room:
                content = one.tobytes()
                try:
                    self.stream.seek(row * self.step)
                    self.stream.write(_checksum(content) + content)
                    self.sound.add(row)
                except OSError as error:
                    self.room = 0
                    log.warning("no more features are kept: %s (%s)", error.strerror, self.stream.name)

    def _content(self, row: int) -> memoryview:
        self.stream.seek(row * self.step)
        return memoryview(self.stream.read(self.step))


class OnDevice:
    """Rows like `like` in the memory of its device: the first of `count` rows, as many as go into `most` bytes."""

    def __init__(self, count: int, like: Tensor, most: float) -> None:
        room = min(count, int(most / like.nbytes))
        with torch.inference_mode(False):  # what is kept for training must not be born an inference tensor
            self.features = torch.empty(room, *like.shape, dtype=like.dtype, device=like.device)
        self.known = [False] * room  # asked without waiting for the device

    def has(self, row: int) -> bool:
        return row < len(self.known) and self.known[row]

    def read(self, rows: list[int]) -> Tensor:
        return self.features[torch.tensor(rows).to(self.features.device, non_blocking=True)]

    def write(self, rows: list[int], features: Tensor) -> None:
        for row, one in zip(rows, features, strict=True):
            if row < len(self.known):
                self.features[row] = one
                self.known[row] = True


class Kept:
    """The features of `pictures` that `recipe` tells from all others, in `gigabytes` at most."""

    def __init__(self, pictures: Unchanging, recipe: str, gigabytes: float) -> None:
        self.pictures = pictures
        self.recipe = recipe
        self.most = gigabytes * 1e9
        self.store: Store | None = None

    def __call__(self, rows: Tensor, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """The features (B,C,H,W) of the pictures in `rows`, int64 (B,) on the CPU: read, or computed and kept.

        `compute` makes those of some places among them. Channels are last in memory, as a convolution leaves them.
        """
        return self._found(rows, lambda places: compute(places).permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2)

    def _found(self, rows: Tensor, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """The same with channels last, (B,H,W,C)."""
        wanted = rows.tolist()
        has = [self.store is not None and self.store.has(row) for row in wanted]
        missing = [place for place, there in enumerate(has) if not there]
        if not missing:
            assert self.store is not None
            return self.store.read(wanted)
        fresh = compute(missing)
        if self.store is None:
            self.store = self._open(fresh[0])
        self.store.write([wanted[place] for place in missing], fresh)
        if len(missing) == len(wanted):
            return fresh
        result = fresh.new_empty(len(wanted), *fresh.shape[1:])
        result[missing] = fresh
        rest = [place for place, there in enumerate(has) if there]
        result[rest] = self.store.read([wanted[place] for place in rest])
        return result

    def _open(self, like: Tensor) -> Store:
        """Where rows like `like` are kept."""
        needed = min(self.most, self.pictures.rows * (CHECKSUM + like.nbytes))
        if like.device.type != "cpu":
            if like.device.type == "cuda":
                needed = min(needed, torch.cuda.mem_get_info(like.device)[0] / 2)
            log.info("features of %s pictures are kept in the memory of %s", f"{self.pictures.rows:,}", like.device)
            return OnDevice(self.pictures.rows, like, needed)
        told = f"{self.pictures.name} {self.recipe} {like.dtype} {tuple(like.shape)}"
        path = self.pictures.folder / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}{SUFFIX}"
        make_room(path, self.most - needed)
        log.info("features of unchanging pictures are kept in %s, %.1f GB", path.parent, needed / 1e9)
        return OnDisk(path, like, self.most)


def make_room(path: Path, most: float) -> None:
    """Remove what was not used for longest beside `path`, until the rest takes `most` bytes."""
    others = {one: one.stat() for one in path.parent.glob(f"*{SUFFIX}") if one != path}
    taken = sum(status.st_size for status in others.values())
    for one, status in sorted(others.items(), key=lambda item: item[1].st_mtime):
        if taken > most:
            with suppress(OSError):  # another program removes it, or has it open where that forbids it
                one.unlink()
            taken -= status.st_size


def _checksum(content: bytes | memoryview) -> bytes:
    return zlib.crc32(content).to_bytes(CHECKSUM, "big")
