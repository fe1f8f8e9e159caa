"""The order in which pictures are seen: a pure function of (seed, epoch, position), so that a run can be carried on."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


class ShuffledOrder(Sampler[int]):
    """Every index below `length` once, in an order that depends on (seed, epoch) alone, from place `start` on."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed << 24) + self.epoch)
        yield from torch.randperm(self.length, generator=generator).tolist()[self.start :]


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
