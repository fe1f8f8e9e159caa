"""Lower the learning rate to zero at the end of a run whose length is known."""

import math
from typing import Any

import lightning.pytorch as L

from artdiff.rules import share as check_share
from artdiff.training.loop import progress, time_left

LEAST = 1e-3
"""The lowest factor. It is not 0, since the rate must be able to rise again if a run is resumed with a longer limit."""


class Decay(L.Callback):
    """Multiplies the learning rate by a factor that falls linearly from 1 to 0 over the last part of the run.

    The length of the run is given by `trainer.max_time`, `max_steps` or `max_epochs`, whichever ends first. Without any
    of them the rate does not change. In a run that is limited by time the rate follows the clock, so repeating or
    resuming it is not bit-exact. Works with schedulers that multiply the rate by factors, as StepLR does.

    Args:
        share: the part of the run's length, in [0,1], in which the rate falls. 0 keeps the rate, and restores it in a
            resumed run where it had fallen.
    """

    def __init__(self, *, share: float) -> None:
        check_share("callbacks.decay.share", share)
        self.share = share
        self.factor = 1.0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        before, self.factor = self.factor, self._wanted(trainer) if self.share else 1.0
        if self.factor != before:
            for group in trainer.optimizers[0].param_groups:
                group["lr"] *= self.factor / before

    def _wanted(self, trainer: L.Trainer) -> float:
        """Return the factor for this step, in [LEAST,1]."""
        done = progress(trainer)
        if trainer.world_size > 1 and time_left(trainer) < math.inf:
            done = trainer.strategy.broadcast(done)  # each rank has a clock of its own
        return max(LEAST, min(1.0, (1 - done) / self.share))

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.factor = state_dict["factor"]
