"""Log how training runs: learning rate, gradient norm, speed and memory."""

import os
import resource
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch

from artdiff.rules import POSITIVE_WHOLE
from artdiff.tasks.base import Task
from artdiff.training.loop import is_logging_step, pictures_in

SCALARS = ("train/lr", "train/grad_norm", "train/images_per_second")
"""Values logged besides losses and memory."""

GIB = 2**30


class Monitor(L.Callback):
    """Logs these values at logging steps. Between them it reads nothing from the device, which would synchronise it.

    - `train/lr`: the learning rate of this step.
    - `train/grad_norm`: the norm of all gradients together, before clipping.
    - `train/images_per_second`: over all devices since the last logging step, including validation and saving.
    - `memory/…` in GiB: `resident` of the process; on a GPU also PyTorch's `allocated` and `reserved`.

    Args:
        most_logged: after so many logging steps, the interval between them doubles; it doubles again each time the run
            is twice as long. So event files stay small in a run of any length.
    """

    def __init__(self, *, most_logged: int) -> None:
        POSITIVE_WHOLE("callbacks.monitor.most_logged", most_logged)
        self.most_logged = most_logged

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen, self.since = 0, time.monotonic()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]  # at the end of the batch, the scheduler has changed it

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen += pictures_in(batch)
        while 0 < self.most_logged * trainer.log_every_n_steps < trainer.global_step:  # type: ignore[attr-defined]
            trainer.log_every_n_steps *= 2  # type: ignore[attr-defined]
        if not is_logging_step(trainer, batch_idx):
            return
        assert isinstance(pl_module, Task)
        now = time.monotonic()
        scalars = {"train/lr": self.lr, "train/grad_norm": pl_module.grad_norm}
        scalars["train/images_per_second"] = self.seen / max(now - self.since, 1e-9)
        pl_module.log_dict(scalars | memory(pl_module.device))
        self.seen, self.since = 0, now


def memory(device: torch.device) -> dict[str, float]:
    """Return the memory that training uses now, in GiB."""
    found = {"memory/resident": resident() / GIB}
    if device.type == "cuda":
        found["memory/allocated"] = torch.cuda.memory_allocated(device) / GIB
        found["memory/reserved"] = torch.cuda.memory_reserved(device) / GIB
    return found


def resident() -> int:
    """Return the resident memory of this process in bytes; on macOS its peak, since only that is easily available."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
