"""A training on several devices: which of its processes this is, and which pictures of a batch are its own.

Each process, a *rank*, has a device and a part of every batch: of ranks 0 to W-1, rank r takes the pictures r, r+W, ….
So the pictures of all ranks together are those of the batch that a single process would have.
"""

import os
from typing import NamedTuple

TOGETHER = ("RANK", "SLURM_PROCID")
"""Variables of the environment that number processes which are started together: torchrun's and SLURM's."""

ALONE = ("LOCAL_RANK",)
"""The one that Lightning sets for processes that the first one starts."""

SHELLS = ("bash", "interactive")
"""Names of SLURM jobs in which somebody types: a process there has the shell's number, and starts the others itself."""


def rank() -> int:
    """The number of this process, before its process group exists; 0 for a training on one device."""
    names = TOGETHER if started_together() else ALONE
    return next((int(number) for name in names if (number := os.environ.get(name, "")).isdecimal()), 0)


def started_together() -> bool:
    """Whether torchrun or SLURM has started the processes; else the first one starts the others."""
    by_slurm = "SLURM_PROCID" in os.environ and os.environ.get("SLURM_JOB_NAME") not in SHELLS
    tasks = int(os.environ.get("SLURM_NTASKS", "1")) if by_slurm else 1
    return "RANK" in os.environ or tasks > 1


class Share(NamedTuple):
    """The part of a batch that is on this rank: `counted` of the `total` pictures of the batch.

    It counts none if the batch has too few for all ranks; this one then repeats a picture of another.
    """

    counted: int
    total: int


class Ranks(NamedTuple):
    """The ranks of a training, `world` in all, of which this is number `rank`."""

    rank: int = 0
    world: int = 1

    def own(self, first: int, end: int) -> range:
        """The places in [first, end) that this rank takes: one at least, which counts only if it is below `end`."""
        return range(first + self.rank, max(end, first + self.rank + 1), self.world)

    def taken(self, length: int, batch_size: int) -> int:
        """How many places of an epoch of `length`, in batches of `batch_size`, this rank takes."""
        whole, rest = divmod(length, batch_size)
        return whole * (batch_size // self.world) + (len(self.own(0, rest)) if rest else 0)
