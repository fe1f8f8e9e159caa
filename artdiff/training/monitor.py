"""How training runs: learning rate, size of the gradients, speed and memory."""

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
"""What is logged beside the losses and the memory."""

GIB = 2**30


class Monitor(L.Callback):
    """Logs at logging steps, and reads nothing from the device in between.

    - `train/lr`: the learning rate of this step.
    - `train/grad_norm`: the norm of all gradients together, before clipping.
    - `train/images_per_second`: of all devices since the last logging step, validation and saving included.
    - `memory/…` in GiB: `resident` for the process; on a GPU also `allocated` and `reserved`, which PyTorch counts.

    Args:
        most_logged: logging steps in a run. After so many, only every second one is logged from then on, after twice as
            many steps only every fourth, and so on: the event files of a run of any length stay small.
    """

    def __init__(self, *, most_logged: int) -> None:
        POSITIVE_WHOLE("callbacks.monitor.most_logged", most_logged)
        self.most_logged = most_logged

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen, self.since = 0, time.monotonic()

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.lr = trainer.optimizers[0].param_groups[0]["lr"]  # the scheduler has changed it when the batch ends

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
    """Memory that training takes now, in GiB."""
    found = {"memory/resident": resident() / GIB}
    if device.type == "cuda":
        found["memory/allocated"] = torch.cuda.memory_allocated(device) / GIB
        found["memory/reserved"] = torch.cuda.memory_reserved(device) / GIB
    return found


def resident() -> int:
    """Resident memory of this process in bytes; on macOS its peak, as the system tells no more without help."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
