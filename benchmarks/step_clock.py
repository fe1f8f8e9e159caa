"""A callback that times training steps: `+callbacks.clock._target_=step_clock.StepClock`."""

import os
import time

import lightning.pytorch as L
import torch
from measure import BEGUN, Clock, tell, wait


class StepClock(L.Callback):
    """Prints the seconds from the command's start to the start and to the end of the first step, and the images/s of
    the steps after the first `warm`. The rate is that of the steps alone only if the training neither validates nor
    saves.
    """

    def __init__(self, warm: int) -> None:
        self.warm = warm

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.clock = Clock(pl_module.device, self.warm)
        self.passed: list[float] = []

    def on_train_batch_start(self, *_: object) -> None:
        self._note(0)
        self.clock.tick()

    def on_train_batch_end(self, *_: object) -> None:
        self._note(1)

    def _note(self, which: int) -> None:
        if len(self.passed) == which:
            wait(self.clock.device)
            self.passed.append(time.time() - float(os.environ[BEGUN]))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        rate = self.clock.rate(trainer.datamodule.batch_size)
        cuda = torch.cuda.max_memory_allocated() / 2**30 if pl_module.device.type == "cuda" else None
        tell(rate=rate, begun=self.passed[0], ended=self.passed[1], device_gib=cuda)
