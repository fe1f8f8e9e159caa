"""Data sets, samplers and loaders whose order is a pure function of (seed, epoch, position), so that a run can resume.

A *position* is the number of a picture within an epoch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from artdiff import UserError
from artdiff.data.pixels import Pixels
from artdiff.diffusion.conditioning import NO_LABEL
from artdiff.ingest.captions import caption
from artdiff.ingest.index import Index
from artdiff.ranks import Ranks, Share
from artdiff.settings.data import Captions
from artdiff.words import numbers

ALONE = Ranks()

Shuffle = Callable[[int, int], Callable[[Sequence[int]], list[int]]]
"""(seed, epoch) → a function that maps positions in that epoch to pictures."""


class Batch(NamedTuple):
    """A batch for a task: signed `image` float32 (B,3,H,W) and class numbers `label` int64 (B,), on the accelerator.

    `index` int64 (B,), on the CPU, is the place of each picture, flipped or not, in the data module's `unchanging`. It
    is None if crops change pictures from epoch to epoch, or if pixels are not cached.
    """

    image: Tensor
    label: Tensor
    index: Tensor | None = None  # type: ignore[assignment]  # not the method of a tuple
    share: Share | None = None
    """On several ranks, which part of the batch this rank has; None if there is one rank."""
    words: Tensor | None = None
    """The words of the captions, int16 (B,W,P), as `artdiff.words.numbers` encodes them; None without captions."""


class RawBatch(NamedTuple):
    """What a loader yields: a batch before augmentation.

    - `image` uint8 (B,3,H,W), None if the data set is in the accelerator's memory;
    - `index` int64 (B,), the places in the data set;
    - `label` int64 (B,);
    - `chance` float32 (B,4) in [0,1), random numbers for augmentation, None in validation;
    - `gone`, files that can no longer be read;
    - `words` int16 (B,W,P) of the captions, None without captions.
    """

    image: Tensor | None
    index: Tensor | None  # type: ignore[assignment]
    label: Tensor
    chance: Tensor | None
    gone: list[str]
    share: Share | None = None
    words: Tensor | None = None


class Turn(NamedTuple):
    """Which picture comes at `position` of `epoch`."""

    picture: int
    epoch: int
    position: int
    share: Share | None = None
    """This rank's part of the batch that the picture belongs to."""


def chance(seed: int, turns: list[Turn]) -> np.ndarray:
    """Four random numbers per turn, float32 (B,4) in [0,1), as a function of (seed, epoch, position).

    They come from Philox, a counter-based generator (Salmon et al. 2011, doi:10.1145/2063384.2063405). The turns must
    be of one epoch, with evenly spaced positions in rising order.
    """
    distance = turns[1].position - turns[0].position if len(turns) > 1 else 1
    key = np.array((seed, turns[0].epoch), np.uint64)
    counter = np.array((turns[0].position, 0, 0, 0), np.uint64)  # each step gives four numbers
    drawn = np.random.Generator(np.random.Philox(key=key, counter=counter)).random((distance * len(turns), 4))
    numbers = drawn[::distance]
    return (np.floor(numbers * 2**24) / 2**24).astype(np.float32)  # exact in float32: rounding could give 1


class Pictures(Dataset):
    """One split: `indices` int64 (N,) in the data set, `labels` int64 (N,) and optional `captions`.

    It reads whole batches. With `indices_only` a batch has indices instead of pixels. With a `seed` it has random
    numbers for augmentation. Samples are drawn from the first `at_hand` pictures, so that they need not fetch all
    shards.
    """

    def __init__(
        self,
        source: Pixels,
        indices: np.ndarray,
        labels: np.ndarray,
        *,
        seed: int | None,
        at_hand: int | None = None,
        captions: Sequence[str | None] | None = None,
    ) -> None:
        self.source = source
        self.at_hand = len(indices) if at_hand is None else at_hand
        self.indices = indices
        self.labels = torch.from_numpy(labels)
        self.captions = captions
        self.seed = seed
        self.indices_only = False

    @classmethod
    def of(
        cls, index: Index, side: str, source: Pixels, *, seed: int | None = None, captions: Captions = "none"
    ) -> Self:
        """The pictures of split `side`: `train` or `validation`. The label of a picture without a class is -1."""
        number = {name: place for place, name in enumerate(index.classes)}
        indices = [place for place, one in enumerate(index.used) if one.split == side]
        return cls(
            source,
            np.array(indices),
            np.array([number.get(one.label or "", NO_LABEL) for one in index.on(side)]),
            seed=seed,
            captions=None if captions == "none" else [caption(one, captions) for one in index.on(side)],
        )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitems__(self, turns: list[Turn] | list[int]) -> RawBatch:
        pictures = [turn.picture if isinstance(turn, Turn) else turn for turn in turns]
        chances = None
        if self.seed is not None and isinstance(turns[0], Turn):
            chances = torch.from_numpy(chance(self.seed, turns))
        indices, labels = torch.from_numpy(self.indices[pictures]), self.labels[pictures]
        share = turns[0].share if isinstance(turns[0], Turn) else None
        words = self.words(pictures)
        if self.indices_only:
            return RawBatch(None, indices, labels, chances, [], share, words)
        pixels, places, gone = self.source.read(self.indices[pictures])
        image = torch.from_numpy(pixels).permute(0, 3, 1, 2)
        chances = None if chances is None else chances[places]
        words = None if words is None else words[places]
        return RawBatch(image, indices[places], labels[places], chances, gone, share, words)

    def words(self, pictures: Sequence[int]) -> Tensor | None:
        """The words of these pictures' captions, int16 (B,W,P); None without captions."""
        if self.captions is None:
            return None
        return torch.from_numpy(numbers([self.captions[one] for one in pictures]))

    def spread(self, count: int, *, label: int | None = None) -> Tensor:
        """At most `count` pictures, evenly spaced among all or those with `label`, always the same: uint8 (B,3,H,W).

        Raises `UserError` if none can be read.
        """
        indices = self.indices[: self.at_hand]
        if label is not None:
            indices = indices[self.labels[: self.at_hand].numpy() == label]
        places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
        pixels, _, gone = self.source.read(indices[places])
        if gone and not len(pixels):
            raise UserError(f"no picture can be read any more: {gone[0]}")
        return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def shuffled(length: int) -> Shuffle:
    """A uniform shuffle of the numbers below `length`."""

    def of(seed: int, epoch: int) -> Callable[[Sequence[int]], list[int]]:
        order = torch.randperm(length, generator=torch.Generator().manual_seed((seed << 24) + epoch))
        return lambda places: order[places].tolist()

    return of


class ShuffledOrder(Sampler[Turn]):
    """Yields every index below `length` once, in an order that depends on (seed, epoch) alone; begins at `start`.

    The order is that of `shuffle`, by default a uniform one. On several ranks it yields this rank's part of each batch;
    `batch_size` is the total over all ranks.
    """

    def __init__(
        self, length: int, seed: int, batch_size: int, ranks: Ranks = ALONE, shuffle: Shuffle | None = None
    ) -> None:
        self.length = length
        self.seed = seed
        self.batch_size = batch_size
        self.ranks = ranks
        self.shuffle = shuffle or shuffled(length)
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self.ranks.taken(self.length, self.batch_size)

    def __iter__(self) -> Iterator[Turn]:
        pictures_at = self.shuffle(self.seed, self.epoch)
        for first in range(self.start, self.length, self.batch_size):
            end = min(first + self.batch_size, self.length)
            own = self.ranks.own(first, end)
            share = None if self.ranks == ALONE else Share(len(own) if own[0] < end else 0, end - first)
            places = [min(place, end - 1) for place in own]
            for position, picture in zip(places, pictures_at(places), strict=True):
                yield Turn(picture, self.epoch, position, share)


class ResumableLoader(DataLoader):
    """A DataLoader over a `ShuffledOrder` that can resume in the middle of an epoch.

    It counts epochs itself, because Lightning's count is off by one after some resumes. A batch counts once it is
    yielded. The position is the same on all ranks and for any number of them.
    """

    epoch = 0
    served = 0
    _loaded = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if not self._loaded and self.served:
            self.epoch, self.served = self.epoch + 1, 0
        self._loaded = False
        if isinstance(self.sampler, ShuffledOrder):  # Lightning replaces it to overfit one batch
            self.sampler.epoch, self.sampler.start = self.epoch, self.served * self.sampler.batch_size
        for batch in super().__iter__():
            self.served += 1
            yield batch

    def position(self) -> dict[str, int]:
        """The epoch and the batches yielded in it. Not called `state_dict`, or Lightning would restore it as well."""
        return {"epoch": self.epoch, "served": self.served}

    def go_to(self, position: dict[str, int]) -> None:
        """Resume at a `position`."""
        self.epoch, self.served = position["epoch"], position["served"]
        self._loaded = self.served < len(self)  # otherwise the next epoch is due


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe in words what changed among the things that the training order depends on."""
    names = {"batch_size": "data.batch_size", "seed": "data.seed"}
    found = ["the pictures have changed"] if before.get("trained_on") != now["trained_on"] else []
    found += [
        f"{name} was {before.get(key)}, now {now[key]}" for key, name in names.items() if before.get(key) != now[key]
    ]
    return ", ".join(found)


def options(workers: int, device: torch.device) -> dict[str, Any]:
    """Arguments of a DataLoader with `workers` processes for `device`."""
    return {
        "collate_fn": _whole,
        "num_workers": workers,
        "worker_init_fn": _one_thread if workers else None,
        "persistent_workers": workers > 0,
        "pin_memory": device.type == "cuda",
    }


def _whole(batch: Any) -> Any:
    """Return the batch unchanged: `Pictures` reads whole batches."""
    return batch


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)
