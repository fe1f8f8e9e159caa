"""Decoded pictures in files of some megabytes each, *shards*, for data sets that are larger than a disk.

`artdiff.pack` writes them to a folder or an object store:

- `index.json`: a `ShardIndex`;
- `train-00000-DIGEST.npy`, …, `validation-…`: pictures, uint8 (N,side,side,3), for `numpy.load`;
- `labels-….npy` int32 (N,), -1 without a class; `digests-….npy` uint8 (N,32), the SHA-256 of each file; `groups-….npy`
  int32 (N,), the same number for near-duplicates. Training pictures come first, then validation pictures;
- `texts-….json`, in the same order: file, caption and metadata columns of each picture;
- `manifest.tsv`, `set_aside.tsv` and `duplicates.tsv`, as `artdiff.audit` and a run write them.

Pictures are sorted by the SHA-256 of their files. That is as good as a shuffle: any shard is a random sample of the
data set.
"""

import hashlib
import io
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from artdiff import UserError
from artdiff.data.pixels import HELD, Found, give_back
from artdiff.data.storage import Entry, Storage

INDEX = "index.json"
FORMAT = 1
"""Version of `index.json`; later formats have larger numbers."""

LANES = 8
"""Number of shards that are read at the same time. Each *lane* reads its shards one after the other. The position of a
picture in the epoch determines its lane. So 2, 4 or 8 ranks read different shards, and the order does not depend on the
number of ranks."""


OPENINGS = 5
"""Attempts to open a shard. It is fetched again if another process removed it before it was opened."""

FETCHES = 4
"""Number of shards that are fetched at the same time."""


@dataclass(frozen=True)
class Shard:
    """A file of decoded pictures, and how many it has."""

    pictures: int
    entry: Entry


@dataclass(frozen=True)
class ShardIndex:
    """The content of `index.json`.

    `side` is the width and height of the pictures in pixels; `fit` and `background` say how they were made square, and
    `kind` identifies how they were decoded. `counts` are the numbers of files per split, of copies and of rejected
    files. `manifest` is the SHA-256 of the manifest. The rest are the classes and the files.
    """

    side: int
    fit: str
    background: str
    kind: str
    classes: list[str]
    counts: dict[str, int]
    manifest: str
    train: list[Shard]
    validation: list[Shard]
    labels: Entry
    digests: Entry
    groups: Entry
    texts: Entry | None = None
    """None in shards of earlier versions."""
    format: int = FORMAT

    @classmethod
    def read(cls, place: Storage, root: str) -> Self:
        """Read the index at `place`. Raises `UserError` if it is missing, damaged or of a later version."""
        content = place.read(INDEX)
        if content is None:
            raise UserError(f"data.root={root} has no {INDEX}: write it with artdiff.pack, or set data=folder")
        try:
            found: dict[str, Any] = json.loads(content)
            if found["format"] > FORMAT:
                raise UserError(f"{root}/{INDEX} was written by a newer artdiff (format {found['format']}): update it")
            shards = {
                side: [Shard(one["pictures"], Entry(*one["entry"])) for one in found[side]]
                for side in ("train", "validation")
            }
            named = [name for name in ("labels", "digests", "groups", "texts") if found.get(name) is not None]
            entries = {name: Entry(*found[name]) for name in named}
            return cls(**{**found, **shards, **entries})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{root}/{INDEX} is damaged: {error!r}; pack again") from None

    def content(self) -> bytes:
        """The index as JSON."""
        return json.dumps(asdict(self), indent=1).encode()

    @property
    def shards(self) -> list[Shard]:
        """All shards in the order of labels and digests: training, then validation."""
        return [*self.train, *self.validation]


def array_entry(name: str, array: np.ndarray) -> tuple[Entry, bytes]:
    """The entry and the content of a `.npy` file of `array`; the file's name holds its hash."""
    file = io.BytesIO()
    np.save(file, array)
    return entry(name, file.getvalue(), "npy")


def entry(name: str, content: bytes, end: str) -> tuple[Entry, bytes]:
    """The entry and the content of a file whose name holds its hash."""
    digest = hashlib.sha256(content).hexdigest()
    return Entry(f"{name}-{digest[:12]}.{end}", len(content), digest), content


class FromShards:
    """Reads pictures of shards. A shard is fetched at the first read and mapped into memory.

    Pictures are numbered through all shards.
    """

    def __init__(self, place: Storage, shards: Sequence[Shard], side: int) -> None:
        self.place = place
        self.side = side
        self.shards = shards
        self.starts = np.cumsum([0, *(one.pictures for one in shards)])
        self._open: OrderedDict[int, np.ndarray] = OrderedDict()
        self._read = 0
        self._fetching: ThreadPoolExecutor | None = None

    def read(self, indices: np.ndarray) -> Found:
        which = np.searchsorted(self.starts, indices, side="right") - 1
        found = np.empty((len(indices), self.side, self.side, 3), np.uint8)
        needed = np.unique(which).tolist()
        for number in needed[1:]:
            if number not in self._open:
                self.expect(number)
        for number in needed:
            those = np.flatnonzero(which == number)
            found[those] = self._mapped(number)[indices[those] - self.starts[number]]
        self._read += found.nbytes
        if self._read > HELD:
            self._read = 0
            for mapped in self._open.values():
                give_back(mapped)
        return Found(found, list(range(len(indices))), [])

    def expect(self, number: int) -> None:
        """Start to fetch a shard that will be read soon. Errors are raised when it is read."""
        if self._fetching is None:
            self._fetching = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")
        self._fetching.submit(self.place.local, self.shards[number].entry)

    def stop(self) -> None:
        """Cancel waiting fetches, for which the program would otherwise wait when it ends."""
        if self._fetching is not None:
            self._fetching.shutdown(wait=False, cancel_futures=True)
            self._fetching = None

    def _loaded(self, number: int) -> tuple[Path, np.ndarray]:
        """Map the local file of a shard. Tries again if another process removes the file before it is opened."""
        for attempt in range(OPENINGS):
            path = self.place.local(self.shards[number].entry)
            try:
                return path, np.load(path, mmap_mode="r", allow_pickle=False)
            except FileNotFoundError:
                if attempt == OPENINGS - 1:
                    raise UserError(f"{path} was removed before it could be read; raise data.cache_gigabytes") from None
            except (OSError, ValueError) as error:
                raise UserError(f"{path} cannot be read: {error}; pack again") from None
        raise AssertionError

    def _mapped(self, number: int) -> np.ndarray:
        """A shard, uint8 (N,side,side,3). The most recently used ones stay open."""
        if number not in self._open:
            shape = (self.shards[number].pictures, self.side, self.side, 3)
            path, mapped = self._loaded(number)
            if mapped.shape != shape or mapped.dtype != np.uint8:
                raise UserError(f"{path} holds {mapped.dtype} {mapped.shape}, expected uint8 {shape}; pack again")
            self._open[number] = mapped
            if len(self._open) > 2 * LANES:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]


class ShardOrder:
    """The order of pictures in an epoch, as a function of (sizes, seed, epoch).

    Shards are shuffled and dealt to `LANES` lanes, the pictures of a shard are shuffled, and the lanes take turns. When
    the shortest lane ends, the rest follows lane by lane. When a lane opens a shard, `expect` is called with the lane's
    next one, to prefetch it.
    """

    def __init__(self, sizes: Sequence[int], seed: int, epoch: int, expect: Callable[[int], None]) -> None:
        self.sizes = np.asarray(sizes)
        self.chance = (seed, epoch)
        self.expect = expect
        self.starts = np.cumsum(self.sizes) - self.sizes
        shards = _shuffled(len(sizes), *self.chance)
        self.lanes = [shards[first::LANES] for first in range(min(LANES, len(sizes)))]
        self.ends = [np.cumsum(self.sizes[lane]) for lane in self.lanes]
        lengths = np.array([ends[-1] for ends in self.ends])
        self.woven = int(lengths.min())  # pictures of each lane that take turns
        self.left = np.cumsum(lengths - self.woven)
        self._within: OrderedDict[int, np.ndarray] = OrderedDict()

    def __call__(self, places: Sequence[int]) -> list[int]:
        """The pictures at these positions of the epoch."""
        return [self._picture(*self._lane(place)) for place in places]

    def _lane(self, place: int) -> tuple[int, int]:
        """The lane of a position in the epoch, and the position within that lane."""
        count, rest = len(self.lanes), place - len(self.lanes) * self.woven
        if rest < 0:
            return place % count, place // count
        lane = int(np.searchsorted(self.left, rest, side="right"))
        before = int(self.left[lane - 1]) if lane else 0
        return lane, self.woven + rest - before

    def _picture(self, lane: int, nth: int) -> int:
        turn = int(np.searchsorted(self.ends[lane], nth, side="right"))
        shard = int(self.lanes[lane][turn])
        if shard not in self._within:
            self._within[shard] = _shuffled(int(self.sizes[shard]), *self.chance, shard)
            if len(self._within) > 2 * LANES:
                self._within.popitem(last=False)
            if turn + 1 < len(self.lanes[lane]):
                self.expect(int(self.lanes[lane][turn + 1]))
        begun = int(self.ends[lane][turn] - self.sizes[shard])
        return int(self.starts[shard] + self._within[shard][nth - begun])


def _shuffled(count: int, *chance: int) -> np.ndarray:
    """The numbers below `count`, shuffled; `chance` is the seed."""
    seed = int.from_bytes(hashlib.sha256(" ".join(map(str, chance)).encode()).digest()[:8], "big", signed=True)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).numpy()
