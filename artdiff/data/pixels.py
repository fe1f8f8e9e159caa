"""Where the pixels of a batch come from: the decoded map, or the files themselves."""

import mmap
import os
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from artdiff.data.decode import Transform, Unreadable, decode

HELD = 2**26
"""Bytes of the map that are read before its pages are given back to the system, which keeps them as it sees fit: the
memory of training does not grow with the set."""


class Found(NamedTuple):
    """`pixels` uint8 (B,size,size,3), the places in the request that they are for, and the files that are `gone`."""

    pixels: np.ndarray
    places: list[int]
    gone: list[str]


class Source(Protocol):
    def read(self, rows: np.ndarray) -> Found:
        """The pixels of some rows, int (B,)."""


class FromMap:
    """The rows of a decoded map on disk."""

    def __init__(self, pixels: np.memmap) -> None:
        self.pixels = pixels
        self._read = 0

    def read(self, rows: np.ndarray) -> Found:
        found = np.take(self.pixels, rows, axis=0)
        self._read += found.nbytes
        if self._read > HELD:
            self._read = 0
            memory: mmap.mmap = self.pixels._mmap  # type: ignore[attr-defined]
            if hasattr(memory, "madvise"):
                memory.madvise(mmap.MADV_DONTNEED)
        return Found(found, list(range(len(rows))), [])

    def __getstate__(self) -> str:
        return os.fspath(self.pixels.filename or "")  # a process that loads pictures maps the file itself

    def __setstate__(self, path: str) -> None:
        self.__init__(np.load(path, mmap_mode="r"))  # type: ignore[misc]


class FromFiles:
    """The files, decoded whenever they are asked for: `paths` by row. One that cannot be read any more is `gone`."""

    def __init__(self, paths: dict[int, Path], transform: Transform) -> None:
        self.paths = paths
        self.transform = transform

    def read(self, rows: np.ndarray) -> Found:
        pixels, places, gone = [], [], []
        for place, row in enumerate(rows.tolist()):
            path = self.paths[row]
            try:
                pixels.append(decode(path.read_bytes(), self.transform)[0])
                places.append(place)
            except (OSError, Unreadable) as reason:
                gone.append(f"{path} ({reason})")
        shape = (len(pixels), self.transform.size, self.transform.size, 3)
        return Found(np.array(pixels, np.uint8).reshape(shape), places, gone)
