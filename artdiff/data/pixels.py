"""Reads the pixels of a batch from the store of decoded pixels, from the files, or from the accelerator's memory.

An *index* is the place of a picture in the data set.
"""

import hashlib
import logging
import mmap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from artdiff import UserError
from artdiff.ingest import decoded
from artdiff.ingest.decode import Transform, Unreadable, decode
from artdiff.ingest.index import Index
from artdiff.ingest.tables import shown
from artdiff.store import Contents

log = logging.getLogger(__name__)

HELD = 2**26
"""Release the pages of memory-mapped files after reading this many bytes, so that the memory of a training does not
grow with the data set."""


class Found(NamedTuple):
    """`pixels` uint8 (B,size,size,3), their `places` in the request, and errors about files that are `gone`."""

    pixels: np.ndarray
    places: list[int]
    gone: list[str]


class Pixels(Protocol):
    def read(self, indices: np.ndarray) -> Found:
        """The pixels of the pictures `indices`, int (B,)."""


def read_all(source: Pixels, indices: np.ndarray) -> np.ndarray:
    """The pixels of the pictures `indices`, uint8 (B,size,size,3). Raises `UserError` if a file is gone."""
    pixels, _, gone = source.read(indices)
    if gone:
        raise UserError(f"{gone[0]}; start the command again")
    return pixels


class FromStore:
    """Reads from the store of decoded pixels, `pixels` uint8 (N,size,size,3). `rows` int64 maps an index to its row."""

    def __init__(self, pixels: np.ndarray, rows: np.ndarray) -> None:
        self.pixels = pixels
        self.rows = rows
        self._read = 0

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def nbytes(self) -> int:
        """The size of the data set's pixels in bytes."""
        return len(self.rows) * int(np.prod(self.pixels.shape[1:]))

    def read(self, indices: np.ndarray) -> Found:
        found = np.take(self.pixels, self.rows[indices], axis=0)
        self._read += found.nbytes
        if self._read > HELD:
            self._read = 0
            give_back(self.pixels)
        return Found(found, list(range(len(indices))), [])

    def __getstate__(self) -> tuple[Any, ...]:
        return self.pixels.filename, self.pixels.shape, self.rows  # type: ignore[attr-defined]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        path, (_, *sides), rows = state  # a loader process maps the file itself, which may have shrunk
        count = Path(path).stat().st_size // int(np.prod(sides))
        self.__init__(np.memmap(path, np.uint8, "r", shape=(count, *sides)), rows)  # type: ignore[misc]


def give_back(mapped: np.ndarray) -> None:
    """Release the pages of a memory-mapped file that were read."""
    memory: mmap.mmap = mapped._mmap  # type: ignore[attr-defined]
    if hasattr(memory, "madvise"):
        memory.madvise(mmap.MADV_DONTNEED)


class FromFiles:
    """Decodes files at each read. `files` has for each index the path and the SHA-256 of the content when indexed.

    A file that cannot be read, or has changed since, is `gone`.
    """

    def __init__(self, files: Sequence[tuple[Path, bytes]], transform: Transform) -> None:
        self.files = files
        self.transform = transform

    def read(self, indices: np.ndarray) -> Found:
        pixels, places, gone = [], [], []
        for place, index in enumerate(indices.tolist()):
            path, digest = self.files[index]
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


def pixels_of(index: Index, root: Path, transform: Transform) -> FromStore | FromFiles:
    """A reader of the pictures in use: from the store if pixels are cached, else from the files."""
    if index.pixels is not None:
        return FromStore(index.pixels, np.array([one.row for one in index.used]))
    return FromFiles([(root / one.path, bytes.fromhex(one.digest)) for one in index.used], transform)


def contents_of(index: Index, transform: Transform, cache_dir: Path, *, mirrored: bool) -> Contents:
    """Cache keys for the pixels of each picture. Equal content that is decoded in the same way has equal keys.

    With `mirrored`, the key of each picture is followed by that of its mirror image.
    """
    digests = [bytes.fromhex(one.digest) for one in index.used]
    return Contents(content_keys(decoded.kind_of(transform), digests, mirrored=mirrored), cache_dir)


def content_keys(kind: str, digests: Iterable[bytes], *, mirrored: bool) -> list[bytes]:
    """The keys of `contents_of` for files with these SHA-256 digests; `kind` identifies how they were decoded."""
    keys = [hashlib.sha256(kind.encode() + digest).digest() for digest in digests]
    if mirrored:
        keys = [view for key in keys for view in (key, hashlib.sha256(b"mirrored" + key).digest())]
    return keys


def fits_on(device: torch.device, source: FromStore) -> bool:
    """True if `device` is a GPU with free memory for twice the data set."""
    return device.type == "cuda" and 2 * source.nbytes < torch.cuda.mem_get_info(device)[0]


def uploaded(source: FromStore, device: torch.device) -> Tensor:
    """Copy the whole data set to `device`: uint8 (N,size,size,3)."""
    resident = torch.empty((len(source), *source.pixels.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, len(source), 1024):
        part = np.arange(start, min(start + 1024, len(source)))
        resident[start : start + 1024] = torch.from_numpy(source.read(part).pixels)
    log.info("the whole data set is in the memory of %s: %.2f GB", device, source.nbytes / 1e9)
    return resident
