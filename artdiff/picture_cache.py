"""Caches tensors of pictures that never change: perceptual features and latents.

On a CPU they are stored on disk by the pictures' content keys, for later runs as well. On a GPU they stay in its
memory, by index. Cached tensors are bit-identical to the computed ones.
"""

import hashlib
import logging
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from artdiff.store import Contents, RowStore

log = logging.getLogger(__name__)

VERSION = 2
"""Part of every file's name: increase it if the same recipe gives other tensors."""

GPU_SHARE = 0.1
"""Fraction of a GPU's memory that a cache may take. If it needs more, nothing is cached."""

IN_USE = 24 * 3600
"""Seconds since the last use in which a file is not removed to make room: another run may be using it."""


class Backend(Protocol):
    """Stores a tensor for each picture by index, all of the same shape."""

    def read(self, index: list[int]) -> tuple[list[int], Tensor | None]:
        """The places in `index` whose tensors are stored, and these tensors (K,…), or None if there are none."""

    def write(self, index: list[int], features: Tensor) -> None:
        """Store `features` (B,…), as many as fit."""


class OnDisk:
    """Tensors in a `RowStore` of at most `max_bytes`. Raises `OSError` if the file cannot be opened.

    A file that has no room left and holds mostly tensors of other pictures is deleted and started again.
    """

    def __init__(self, path: Path, keys: list[bytes], like: Tensor, *, max_bytes: float) -> None:
        self.keys = keys
        self.shape, self.dtype = like.shape, like.dtype
        self.store = RowStore(path, like.nbytes, max_bytes=max_bytes)
        ours, rows = int((self.store.find(keys) >= 0).sum()), len(self.store.rows)
        if (rows + len(keys) - ours) * like.nbytes > max_bytes and rows > 2 * ours:
            remove(path)
            self.store = RowStore(path, like.nbytes, max_bytes=max_bytes)

    def read(self, index: list[int]) -> tuple[list[int], Tensor | None]:
        found = self.store.read([self.keys[one] for one in index])
        contents = {place: content for place, content in enumerate(found) if content is not None}
        if not contents:
            return [], None
        features = torch.frombuffer(bytearray().join(contents.values()), dtype=self.dtype)
        return list(contents), features.view(len(contents), *self.shape)

    def write(self, index: list[int], features: Tensor) -> None:
        rows = [row.tobytes() for row in features.flatten(1).view(torch.uint8).numpy()]
        self.store.append([self.keys[one] for one in index], rows)


class OnDevice:
    """Tensors of `count` pictures, like `like`, in the memory of its device."""

    def __init__(self, count: int, like: Tensor) -> None:
        with torch.inference_mode(False):  # a tensor made in inference mode could not be used in training
            self.features = torch.empty(count, *like.shape, dtype=like.dtype, device=like.device)
        self.known = [False] * count  # on the CPU, so that a look-up does not synchronise

    def read(self, index: list[int]) -> tuple[list[int], Tensor | None]:
        if not all(self.known[one] for one in index):  # features of a part would be computed at another batch size
            return [], None
        return list(range(len(index))), self.features[self._places(index)]

    def write(self, index: list[int], features: Tensor) -> None:
        self.features.index_copy_(0, self._places(index), features)
        for one in index:
            self.known[one] = True

    def _places(self, index: list[int]) -> Tensor:
        return torch.tensor(index).to(self.features.device, non_blocking=True)


class PictureCache:
    """A cache of a tensor (C,H,W) for each picture of `contents`, in at most `gigabytes`.

    `recipe` names everything that the tensors depend on besides the pixels. `room` is the subfolder of the cache:
    `features` or `latents`.
    """

    def __init__(self, contents: Contents, recipe: str, gigabytes: float, *, room: str) -> None:
        self.contents = contents
        self.room = room
        self.recipe = recipe
        self.max_bytes = gigabytes * 1e9
        self.backend: Backend | None = None
        self.is_open = False

    def __call__(self, index: Tensor, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """The tensors (B,C,H,W) of the pictures `index`, int64 (B,) on the CPU.

        `compute` gets the places in the batch that are not cached, and returns their tensors. The result is
        channels-last, as convolutions return it.
        """
        features = self._cached(index, lambda places: compute(places).permute(0, 2, 3, 1).contiguous())
        return features.permute(0, 3, 1, 2)

    def _cached(self, index: Tensor, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """As `__call__`, but (B,H,W,C)."""
        wanted = index.tolist()
        places, cached = self.backend.read(wanted) if self.backend is not None else ([], None)
        missing = sorted({*range(len(wanted))} - {*places})
        if cached is not None and not missing:
            return cached
        fresh = compute(missing)
        if not self.is_open:
            self.backend, self.is_open = self._open(fresh[0]), True
        if self.backend is not None:
            self.backend.write([wanted[place] for place in missing], fresh)
        if cached is None:
            return fresh
        result = fresh.new_empty(len(wanted), *fresh.shape[1:])
        result[missing], result[places] = fresh, cached
        return result

    def _open(self, like: Tensor) -> Backend | None:
        """A backend for tensors like `like`; None if they cannot be cached."""
        if like.device.type == "cuda":
            return self._on_device(like)
        return self._on_disk(like) if like.device.type == "cpu" else None

    def _on_device(self, like: Tensor) -> Backend | None:
        needed = len(self.contents.keys) * like.nbytes
        room = min(self.max_bytes, GPU_SHARE * torch.cuda.get_device_properties(like.device).total_memory)
        if needed > room:
            log.info("%s are not cached: they need %.1f GB, the limit is %.1f", self.room, needed / 1e9, room / 1e9)
            return None
        log.info("%s are cached in the memory of %s: %.1f GB", self.room, like.device, needed / 1e9)
        return OnDevice(len(self.contents.keys), like)

    def _on_disk(self, like: Tensor) -> Backend | None:
        folder, needed = self.contents.folder / self.room, len(self.contents.keys) * like.nbytes
        recipe = f"{VERSION} {self.recipe} {like.dtype} {tuple(like.shape)}"
        path = folder / f"{hashlib.sha256(recipe.encode()).hexdigest()[:32]}.rows"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            room = self.max_bytes - make_room(path, self.max_bytes - needed)
            room = min(room, shutil.disk_usage(folder).free / 2 + taken(path))
            backend = OnDisk(path, list(self.contents.keys), like, max_bytes=room)
        except OSError as error:
            log.warning("%s are not cached: %s, %s", self.room, folder, error.strerror)
            return None
        log.info("%s are cached in %s: %.1f GB", self.room, folder, min(needed, max(room, 0)) / 1e9)
        return backend


def make_room(path: Path, most: float) -> float:
    """Remove the least recently used files beside `path` until the others take at most `most` bytes.

    Files in use stay. Returns the bytes that the other files still take.
    """
    others = [one for pattern in ("*.rows", "*.features") for one in path.parent.glob(pattern) if one != path]
    total = sum(taken(one) for one in others)
    used = {}
    for one in others:
        with suppress(OSError):  # another program has just removed it
            used[one] = one.stat().st_mtime
    for one in sorted(used, key=lambda one: used[one]):
        size = taken(one)
        if total > most and time.time() - used[one] > IN_USE:
            with suppress(OSError):
                remove(one)
                total -= size
    return total


def remove(path: Path) -> None:
    """Remove a store, or a file of features of version 0.1. Raises `OSError`."""
    path.with_suffix(".keys").unlink(missing_ok=True)
    path.unlink()


def taken(path: Path) -> int:
    """Bytes that a file takes on disk, without holes; 0 if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return 0
    return status.st_blocks * 512
