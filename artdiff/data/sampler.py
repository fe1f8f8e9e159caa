"""Order and chance as pure functions of (seed, epoch, position), so that a run can be repeated and carried on."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler


class Turn(NamedTuple):
    """It is the turn of `picture`, an index, at `position` of `epoch`."""

    picture: int
    epoch: int
    position: int


def chance(seed: int, turns: list[Turn]) -> np.ndarray:
    """Four numbers for each turn, float32 (B,4) in [0,1), which depend on (seed, epoch, position) alone.

    They are those of Philox (Salmon et al. 2011, doi:10.1145/2063384.2063405), a function of a key and a counter. The
    turns follow each other in one epoch.
    """
    key = np.array((seed, turns[0].epoch), np.uint64)
    counter = np.array((turns[0].position, 0, 0, 0), np.uint64)  # each step of it gives four numbers
    numbers = np.random.Generator(np.random.Philox(key=key, counter=counter)).random((len(turns), 4))
    return (np.floor(numbers * 2**24) / 2**24).astype(np.float32)  # what float32 holds: rounding could give 1


class ShuffledOrder(Sampler[Turn]):
    """Every index below `length` once, in an order that depends on (seed, epoch) alone, from place `start` on."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[Turn]:
        generator = torch.Generator().manual_seed((self.seed << 24) + self.epoch)
        order = torch.randperm(self.length, generator=generator)[self.start :].tolist()
        for position, index in enumerate(order, self.start):
            yield Turn(index, self.epoch, position)


class ResumableLoader(DataLoader):
    """A DataLoader over a `ShuffledOrder` that can be carried on in the middle of an epoch.

    It counts epochs itself: Lightning's count is off by one after some resumes. Batches count once handed out.
    """

    batch_size: int
    epoch = 0
    served = 0
    _loaded = False

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        if not self._loaded and self.served:
            self.epoch, self.served = self.epoch + 1, 0
        self._loaded = False
        if isinstance(self.sampler, ShuffledOrder):  # Lightning puts a plain order in its place to overfit a batch
            self.sampler.epoch, self.sampler.start = self.epoch, self.served * self.batch_size
        for batch in super().__iter__():
            self.served += 1
            yield batch

    def position(self) -> dict[str, int]:
        """Where the order stands, in plain values. Not named `state_dict`, or Lightning would restore it as well."""
        return {"epoch": self.epoch, "served": self.served}

    def go_to(self, position: dict[str, int]) -> None:
        """Go on from a `position`."""
        self.epoch, self.served = position["epoch"], position["served"]
        self._loaded = self.served < len(self)  # else the next epoch is due
