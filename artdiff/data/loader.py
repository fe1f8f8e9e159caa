"""Where the pixels of a batch come from: the decoded map, or the files themselves."""

import hashlib
import mmap
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from artdiff.ingest.decode import Transform, Unreadable, decode
from artdiff.ingest.scan import shown

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
        self.path = Path(pixels.filename or "")
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

    def __getstate__(self) -> Path:
        return self.path  # a process that loads pictures maps the file itself

    def __setstate__(self, path: Path) -> None:
        self.__init__(np.load(path, mmap_mode="r"))  # type: ignore[misc]


class FromFiles:
    """The files, decoded whenever they are asked for: `files` has the path and the SHA-256 of each row.

    One that cannot be read any more, or is not what it was when it was judged, is `gone`.
    """

    def __init__(self, files: dict[int, tuple[Path, bytes]], transform: Transform) -> None:
        self.files = files
        self.transform = transform

    def read(self, rows: np.ndarray) -> Found:
        pixels, places, gone = [], [], []
        for place, row in enumerate(rows.tolist()):
            path, digest = self.files[row]
            try:
                content = path.read_bytes()
                if hashlib.sha256(content).digest() != digest:
                    raise Unreadable("it changed meanwhile")
                pixels.append(decode(content, self.transform)[0])
                places.append(place)
            except (OSError, Unreadable) as error:
                gone.append(f"{shown(str(path))}: {getattr(error, 'strerror', None) or error}")
        shape = (len(pixels), self.transform.size, self.transform.size, 3)
        return Found(np.array(pixels, np.uint8).reshape(shape), places, gone)
