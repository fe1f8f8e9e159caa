"""The checkpoint to resume from, saved wherever a run ends."""

import logging
import math
import signal
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from artdiff import Interrupted, runs
from artdiff.rules import POSITIVE_WHOLE, positive
from artdiff.training.loop import step_ended, time_left

log = logging.getLogger(__name__)

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Signals that ask a run to save and stop: Ctrl-C, and what systems and schedulers send."""


class LastCheckpoint(Checkpoint):
    """Saves the checkpoint `path` after each epoch, in long epochs also by time, and when the run ends. Resuming from
    it is exact.

    A run ends at its last step or minute, and is then validated; or at a signal of `STOPPING`. After the first signal
    the current step is finished and saved, a second one stops at once. A run never ends between the batches of one
    step.

    It saves after a batch, because a checkpoint that Lightning saves at the end of an epoch cannot resume within one;
    and after a validation, when the best score is known. An epoch that ends within `pause` seconds of the last save is
    not saved. In the configuration this callback must follow the one that saves the best checkpoint.

    Args:
        path: the file of the checkpoint.
        pause: seconds without a save at the end of an epoch, after the last save.
        every_minutes: also save within an epoch, this long after the last save or the start; None does not.
        keep: number of checkpoints to keep. Those saved before lie beside `path`; `runs.before` gives their names.

    Attributes:
        stopped_by: the signal that stopped the run, on any rank; None if there was none.
    """

    def __init__(self, *, path: str, pause: float, every_minutes: float | None = None, keep: int = 1) -> None:
        if every_minutes is not None:
            positive("callbacks.last.every_minutes", every_minutes)
        POSITIVE_WHOLE("callbacks.last.keep", keep)
        self.keep = keep
        self.path = Path(path)
        self.pause = pause
        self.longest = math.inf if every_minutes is None else 60 * every_minutes
        self.saved = -math.inf
        self.started = math.inf
        self.in_step = False
        self.signalled: int | None = None
        self.stopped_by: int | None = None
        self.must_stop = False
        self.handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.monotonic()
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
            self.handlers = {number: signal.signal(number, self._stop) for number in STOPPING}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.must_stop |= trainer.should_stop
        self.in_step = not step_ended(trainer, batch_idx)
        if self.in_step:
            trainer.should_stop = False  # Lightning would stop now and lose the gradients accumulated so far
            return
        ends, is_due = self._agree(trainer)
        if ends or self.stopped_by is not None or is_due:
            self._save(trainer)
        if self.stopped_by is not None:
            raise Interrupted(self.stopped_by)
        if ends:  # makes Lightning validate after this step, even in the middle of an epoch or interval
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking and not self.in_step:
            self._save(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        (signalled,) = self._largest(trainer, self.signalled or 0)  # while the last step was validated
        self.stopped_by = signalled or None

    def _save(self, trainer: L.Trainer) -> None:
        with runs.rotating_checkpoints(self.path, self.keep) if trainer.is_global_zero else nullcontext():
            trainer.save_checkpoint(self.path)
        self.saved = time.monotonic()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self.handlers.items():
            # Lightning has restored some already. Restoring one of its own here would keep the trainer in memory
            if signal.getsignal(number) == self._stop:
                signal.signal(number, handler)
        self.handlers = {}

    def _ends(self, trainer: L.Trainer) -> bool:
        last_epoch = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        last_step = trainer.global_step == trainer.max_steps
        return self.must_stop or last_epoch or last_step or time_left(trainer) <= 0

    def _agree(self, trainer: L.Trainer) -> tuple[bool, bool]:
        """Return whether the run ends and whether to save now, the same on all ranks; also sets `stopped_by`.

        Ranks communicate only at logging steps, and at steps where all know that the run or the epoch ends, because
        communication synchronises the device.
        """
        ends, is_due = self._ends(trainer), self._is_due(trainer)
        known = self.must_stop or trainer.is_last_batch or trainer.global_step == trainer.max_steps
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.world_size > 1 and not known and trainer.global_step % max(1, every):
            return False, False
        all_ends, all_due, signalled = self._largest(trainer, ends, is_due, self.signalled or 0)
        self.stopped_by = signalled or None
        return bool(all_ends), bool(all_due)

    def _largest(self, trainer: L.Trainer, *values: int) -> list[int]:
        """Return the maximum of each value over all ranks."""
        if trainer.world_size == 1:
            return [*values]
        found = torch.tensor(values, device=trainer.strategy.root_device)
        return trainer.strategy.reduce(found, reduce_op="max").tolist()

    def _is_due(self, trainer: L.Trainer) -> bool:
        now = time.monotonic()
        ends_epoch = trainer.is_last_batch and now - self.saved >= self.pause
        return ends_epoch or now - max(self.started, self.saved) >= self.longest

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.signalled is not None:
            self.stopped_by = number
            raise Interrupted(number)
        self.signalled = number
        log.warning("saving and stopping after this step; a second signal (Ctrl-C) stops at once")
