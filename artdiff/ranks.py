"""Training on several devices: the rank of this process, and its part of each batch.

Each process, a *rank*, has a device and a part of every batch: of ranks 0 to W-1, rank r takes the pictures r, r+W, ….
All ranks together see the batch that a single process would see.
"""

import os
from typing import NamedTuple

TOGETHER = ("RANK", "SLURM_PROCID")
"""Environment variables with the rank, if torchrun or SLURM starts all processes."""

ALONE = ("LOCAL_RANK",)
"""The variable with the rank, if the first process starts the others: Lightning sets it."""

SHELLS = ("bash", "interactive")
"""Names of interactive SLURM jobs: there `SLURM_PROCID` is the shell's, and the first process starts the others."""


def rank() -> int:
    """Return the rank of this process, also before its process group exists; 0 for a training on one device."""
    names = TOGETHER if started_together() else ALONE
    return next((int(number) for name in names if (number := os.environ.get(name, "")).isdecimal()), 0)


def started_together() -> bool:
    """Return whether torchrun or SLURM has started the processes. Otherwise the first one starts the others."""
    by_slurm = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in SHELLS
    tasks = int(os.environ.get("SLURM_NTASKS", "1")) if by_slurm else 1
    return "RANK" in os.environ or tasks > 1


class Share(NamedTuple):
    """This rank's part of a batch: `counted` of the `total` pictures.

    `counted` is 0 if the batch has fewer pictures than there are ranks and this rank repeats a picture of another.
    """

    counted: int
    total: int


class Ranks(NamedTuple):
    """The rank of this process, `rank`, and the number of ranks, `world`."""

    rank: int = 0
    world: int = 1

    def own(self, first: int, end: int) -> range:
        """Return the positions in [first, end) that this rank takes: at least one, which counts only if below `end`."""
        return range(first + self.rank, max(end, first + self.rank + 1), self.world)

    def taken(self, length: int, batch_size: int) -> int:
        """Return how many positions of an epoch of `length`, in batches of `batch_size`, this rank takes."""
        whole, rest = divmod(length, batch_size)
        return whole * (batch_size // self.world) + (len(self.own(0, rest)) if rest else 0)
