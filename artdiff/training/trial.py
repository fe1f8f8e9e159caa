"""Callback of a training that is a trial of a search: it reports to the search."""

import json
import math
import os
import signal
from pathlib import Path

import lightning.pytorch as L


class Trial(L.Callback):
    """Appends the value of `monitor` after each validation to the file `path`, as a line of JSON: `[step, value]`.

    If the search, process `parent`, has died, the training saves and stops: no process waits for its result, and the
    search may have been started again.
    """

    def __init__(self, *, path: str, monitor: str, parent: int) -> None:
        self.path = Path(path)
        self.monitor = monitor
        self.parent = parent
        self.stop_requested = False  # a second signal would stop at once, without saving

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        value = float(trainer.callback_metrics.get(self.monitor, math.nan))
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([trainer.global_step, value]) + "\n")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, batch_idx: int
    ) -> None:
        if os.getppid() != self.parent and not self.stop_requested:
            self.stop_requested = True
            signal.raise_signal(signal.SIGTERM)
