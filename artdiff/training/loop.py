"""Queries of Lightning's training loop, for callbacks."""

import math
from typing import Any

import lightning.pytorch as L
from lightning.pytorch.callbacks import Timer


def step_ended(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether this batch ended an optimizer step; with accumulated gradients, most batches do not.

    For `on_train_batch_end`, which Lightning calls after every batch.
    """
    return trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0


def is_logging_step(trainer: L.Trainer, batch_idx: int) -> bool:
    """Return whether this batch ended an optimizer step whose values are logged. For `on_train_batch_end`."""
    every = _any(trainer).log_every_n_steps
    return every > 0 and step_ended(trainer, batch_idx) and trainer.global_step % every == 0


def pictures_in(batch: Any) -> int:
    """Return the number of pictures in a training batch, over all ranks."""
    share = getattr(batch, "share", None)
    return len(batch[0]) if share is None else share.total


def time_left(trainer: L.Trainer) -> float:
    """Return the seconds until the run's time is over; infinite without `trainer.max_time`."""
    left = [timer.time_remaining() for timer in _timers(trainer)]
    return min((seconds for seconds in left if seconds is not None), default=math.inf)


def progress(trainer: L.Trainer) -> float:
    """Return the part of the run that is done, in [0,1], by the limit that ends it first; 0 without a limit."""
    steps = trainer.estimated_stepping_batches
    by_steps = trainer.global_step / steps if 0 < steps < math.inf else 0.0
    spent = [(timer.time_elapsed(), timer.time_remaining()) for timer in _timers(trainer)]
    by_time = [elapsed / max(elapsed + left, 1e-9) for elapsed, left in spent if left is not None]
    return min(1.0, max([by_steps, *by_time]))


def callbacks(trainer: L.Trainer) -> list[L.Callback]:
    found: list[L.Callback] = _any(trainer).callbacks
    return found


def _timers(trainer: L.Trainer) -> list[Timer]:
    """Return the timers of `trainer.max_time`: one, or none."""
    return [callback for callback in callbacks(trainer) if isinstance(callback, Timer)]


def _any(trainer: L.Trainer) -> Any:
    """Hide the trainer's type: Lightning sets some of its attributes without declaring them."""
    return trainer
