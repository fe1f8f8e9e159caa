"""The order in which pictures are seen: a pure function of (seed, epoch, position), so that a run can be carried on."""

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


class ShuffledOrder(Sampler[int]):
    """Every index below `length` once an epoch, in an order that depends on (seed, epoch) alone.

    Lightning calls `set_epoch`; `skip` leaves out that many places of the next epoch served, once.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0
        self.skip = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed((self.seed << 24) + self.epoch)
        skip, self.skip = self.skip, 0
        yield from torch.randperm(self.length, generator=generator).tolist()[skip:]


class ResumableLoader(DataLoader):
    """A DataLoader over a `ShuffledOrder` that a checkpoint can carry on in the middle of an epoch.

    Lightning finds `state_dict` and `load_state_dict` by their names. Batches count once they have been handed out.
    """

    sampler: ShuffledOrder
    served = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.served = self.sampler.skip // self.batch_size if self.batch_size else 0
        for batch in super().__iter__():
            self.served += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"served": self.served}

    def load_state_dict(self, state: dict[str, int]) -> None:
        served = state["served"]
        self.sampler.skip = served * self.batch_size if self.batch_size and served < len(self) else 0
