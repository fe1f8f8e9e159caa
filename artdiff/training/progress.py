"""Progress of a training: a bar on a terminal, otherwise lines in the log."""

import logging
import math
import time
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import TQDMProgressBar

from artdiff.progress import duration
from artdiff.training.loop import pictures_in, step_ended, time_left
from artdiff.training.monitor import SCALARS

log = logging.getLogger(__name__)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, but it reads the loss only when it is drawn; `prog_bar=True` would wait for it at every step."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        shown = ("train/loss", "val/loss", "val/psnr", "val/ssim")
        metrics = trainer.callback_metrics
        found = {name: float(metrics[name]) for name in shown if name in metrics}
        return super().get_metrics(trainer, pl_module) | found


class PlainProgress(L.Callback):
    """Progress as lines in the log: one at most every `seconds`, and one after each validation."""

    def __init__(self, *, seconds: float) -> None:
        self.seconds = seconds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = self.said = time.monotonic()
        self.first_step = trainer.global_step
        self.seen = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen += pictures_in(batch)
        if step_ended(trainer, batch_idx) and time.monotonic() - self.said >= self.seconds:
            self._say(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._say(trainer)

    def _say(self, trainer: L.Trainer) -> None:
        self.said = time.monotonic()
        total, left = trainer.estimated_stepping_batches, self._left(trainer)
        scores = [
            f"{name} {float(value):.4g}"
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith(("train/", "val/")) and name not in SCALARS
        ]
        log.info(
            "step %s%s, epoch %s, %.1f images/s, %s%s",
            f"{trainer.global_step:,}",
            f" of {total:,}" if total != math.inf else "",
            trainer.current_epoch + 1,
            self.seen / max(self.said - self.started, 1e-9),
            ", ".join(scores),
            f", about {duration(left)} left" if left < math.inf else "",
        )

    def _left(self, trainer: L.Trainer) -> float:
        """Return the seconds until the run ends by its steps or its time; infinite if neither is known."""
        done = trainer.global_step - self.first_step
        steps = trainer.estimated_stepping_batches - trainer.global_step
        by_steps = (self.said - self.started) / done * steps if done else math.inf
        return max(0.0, min(by_steps, time_left(trainer)))
