"""Sets of pictures and their features, cached in a folder: what the cache holds is not painted or computed again."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from artdiff import __version__
from artdiff.data import augment
from artdiff.data.loader import Pictures
from artdiff.data.pixels import read_all
from artdiff.diffusion.conditioning import NO_LABEL
from artdiff.evaluation.features import FeatureNetwork
from artdiff.files import make_folder, writing
from artdiff.locks import Lock
from artdiff.painter import Painter
from artdiff.painting.plan import End, Row
from artdiff.progress import progress
from artdiff.settings.painting import PaintSettings

HELD_OUT = "held-out pictures"
"""The name of the set that others are compared with."""

WEIGHTS = {"averaged": "averaged weights", "raw": "raw weights"}
"""How a painter's weights are named in results."""

AT_ONCE = 50
"""Pictures in a batch of a feature network."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A set of pictures: `name` for people, `key` for file names, labels int64 (N,), and `at`, which reads pictures by
    their indices in the set, int64 (B,) → uint8 (B,3,H,W). `indices` are their indices in the data set, if they come
    from one.
    """

    name: str
    key: str
    labels: Tensor
    at: Callable[[np.ndarray], Tensor]
    indices: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def parts(self) -> Iterator[Tensor]:
        """All pictures in order, in batches."""
        for first in range(0, len(self), AT_ONCE):
            yield self.at(np.arange(first, min(first + AT_ONCE, len(self))))


def real(name: str, pictures: Pictures, digest: str, side: int, *, most: int) -> Sample:
    """At most `most` pictures of a data set, drawn at random, cropped to a central square of `side` pixels."""
    order = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(0)).numpy()
    if pictures.at_hand < len(pictures):  # shards are shuffled already
        order = np.arange(len(pictures))
    chosen = np.sort(order[:most])

    def at(places: np.ndarray) -> Tensor:
        pixels = read_all(pictures.source, pictures.indices[chosen[places]])
        return augment.crop(torch.from_numpy(pixels).permute(0, 3, 1, 2), side, None)

    return Sample(name, key_of(digest, name, side, most), pictures.labels[chosen], at, chosen)


def shares(labels: Tensor, count: int) -> list[tuple[int, int]]:
    """Divide `count` pictures among labels in the proportions of `labels` int64 (N,) → a list of (label, pictures)."""
    found, numbers = torch.unique(labels, return_counts=True)
    ends = (numbers.cumsum(0).double() / len(labels) * count).round().long()
    counts = torch.diff(ends, prepend=torch.zeros(1, dtype=torch.long))
    return [(label, number) for label, number in zip(found.tolist(), counts.tolist(), strict=True) if number]


def painted(
    name: str,
    painter: Painter,
    wanted: list[tuple[int, int]],
    classes: list[str],
    settings: PaintSettings,
    *,
    folder: Path,
    key: str,
) -> Sample:
    """Paint the pictures in `wanted`, (index in `classes`, pictures), each with its own seed.

    A class that the painter does not know is painted without a label. The pictures are appended to a file of raw
    pixels; those that it already holds are not painted again.
    """
    side = painter.image_size
    labels = torch.tensor([label for label, count in wanted for _ in range(count)])
    whole = key_of(__version__, key, name, wanted, classes, told(settings))
    path, each = folder / f"painted-{whole}.pixels", side * side * 3
    make_folder(folder, name="out")
    with Lock(path.with_suffix(".lock")).held(), path.open("ab") as file:  # another evaluation may paint the same
        done = os.fstat(file.fileno()).st_size // each
        file.truncate(done * each)
        left = rows(painter, wanted, settings, classes=classes, done=done)
        paintings = painter.fill(left, settings) if left else iter(())
        for painting in progress(paintings, len(labels) - done, f"painting ({name})", unit="pictures"):
            file.write(np.asarray(painting.picture).tobytes())
            file.flush()

    pixels = np.memmap(path, np.uint8, "r", shape=(len(labels), side, side, 3))
    return Sample(name, whole, labels, lambda places: torch.from_numpy(pixels[places]).permute(0, 3, 1, 2))


def rows(
    painter: Painter,
    wanted: list[tuple[int, int]],
    settings: PaintSettings,
    *,
    classes: list[str] | None = None,
    done: int = 0,
) -> list[Row]:
    """The rows that paint `wanted`, (index in `classes` or the painter's own classes, pictures), without the first
    `done` pictures. Seeds are consecutive over all labels.
    """
    names = painter.classes if classes is None else classes
    numbers = {number: painter.classes.index(one) for number, one in enumerate(names) if one in painter.classes}
    found, first = list[Row](), 0
    for label, count in wanted:
        begin = min(max(done - first, 0), count)
        if begin < count:
            asked = dataclasses.replace(settings, seed=settings.seed + first + begin)
            number = numbers.get(label, NO_LABEL)
            found.append(
                Row(asked, painter.classes, None, ends=(End(number), End(number)), seeds=None, count=count - begin)
            )
        first += count
    return found


def features(sample: Sample, network: FeatureNetwork, device: torch.device, folder: Path) -> Tensor:
    """The features of a sample, float32 (N,D), read from the folder or computed and cached there."""
    path = folder / f"features-{key_of(sample.key, network.name, network.source)}.npy"
    if path.exists():
        return torch.from_numpy(np.load(path))
    parts = progress(sample.parts(), -(-len(sample) // AT_ONCE), f"{network.name} ({sample.name})", unit="batches")
    found = network.seen(parts, device)
    make_folder(folder, name="out")
    with writing(path) as file:
        np.save(file, found.numpy())
    return found


def key_of(*parts: object) -> str:
    """A hash of values that JSON can write, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def told(settings: PaintSettings) -> dict[str, object]:
    """The settings that determine a painted picture."""
    return {name: getattr(settings, name) for name in settings.SHAPING}
