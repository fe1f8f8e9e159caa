"""What happens around training: sample grids, progress in plain lines, and ends that lose nothing."""

import logging
import math
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, Timer, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from artdiff import images
from artdiff.data.datamodule import ArtDataModule
from artdiff.tasks import Generation
from artdiff.tasks.task import Task

log = logging.getLogger(__name__)


class SampleGrids(L.Callback):
    """Shows what the task makes of the same pictures or noise, at intervals: as PNG files and in TensorBoard.

    Where it paints, it also logs how far the colours drift: of each channel, the mean of what was painted less that of
    training pictures of the same classes, as `drift/mean_…` in [0,1], and its spread within a picture over theirs, as
    `drift/spread_…`.

    Args:
        folder: where the PNG files go.
        every_n_steps: at how many optimizer steps a grid is due. A run longer than `max_grids` of these intervals
            stretches them, so that neither the folder nor the event file grows without bound.
        pictures: how many, at most.
        max_side: of one picture in the grid, in pixels.
        max_grids: in one run; where a run's length is not known, the interval doubles after so many.
    """

    def __init__(self, *, folder: str, every_n_steps: int, pictures: int, max_side: int, max_grids: int) -> None:
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.pictures = pictures
        self.max_side = max_side
        self.max_grids = max_grids
        self.shown: list[int] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        data: ArtDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self.preview = data.preview(self.pictures)
        self.colours = data.colours(pl_module.shown_labels()) if isinstance(pl_module, Generation) else None
        steps = trainer.estimated_stepping_batches
        if steps != math.inf:
            self.every_n_steps = max(self.every_n_steps, math.ceil(steps / self.max_grids))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            self._show(trainer, pl_module)
            if len(self.shown) % self.max_grids == 0:
                self.every_n_steps *= 2

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step not in self.shown[-1:]:
            self._show(trainer, pl_module)

    def _show(self, trainer: L.Trainer, task: L.LightningModule) -> None:
        assert isinstance(task, Task)
        step = trainer.global_step
        self.shown.append(step)
        was_training = task.training
        task.eval()
        with trainer.precision_plugin.forward_context():
            rows = [row.float().cpu() for row in task.sample_rows(self.preview.to(task.device))]
        task.train(was_training)
        grid = images.grid(rows, max_side=self.max_side)
        images.save_generated(images.to_pillow(grid), self.folder / f"step_{step:07d}.png", {"step": step})
        if isinstance(trainer.logger, TensorBoardLogger):
            trainer.logger.experiment.add_image("samples", images.to_uint8(grid), step)
        if self.colours is not None and trainer.logger is not None:
            trainer.logger.log_metrics(_drift(images.colours(torch.cat(rows)), self.colours), step)


class LastCheckpoint(Checkpoint):
    """Keeps `path`, from which a run can be carried on exactly: saved after each epoch and wherever a run ends.

    A run ends at its last step or minute, and is then validated, or at Ctrl-C or SIGTERM: the first signal lets the
    step under way finish and be saved, a second one stops at once. It is saved after a training batch, since in the
    middle of an epoch what Lightning saves at an epoch's end does not carry on with the rest of the epoch, and again
    after a validation, when the best score is known. An epoch that ends within `pause` seconds of the last save is not
    saved. List it after the checkpoint that keeps the best.
    """

    def __init__(self, *, path: str, pause: float) -> None:
        self.path = Path(path)
        self.pause = pause
        self.saved = -math.inf
        self.asked_to_stop = False
        self.handlers: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():  # only there can signals be handled
            self.handlers = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        ends = self._ends(trainer)
        is_due = trainer.is_last_batch and time.monotonic() - self.saved >= self.pause
        if ends or self.asked_to_stop or is_due:
            self._save(trainer)
        if self.asked_to_stop:
            raise KeyboardInterrupt
        if ends:  # Lightning then validates after this step, also in the middle of an epoch or of an interval
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._save(trainer)

    def _save(self, trainer: L.Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self.saved = time.monotonic()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def _ends(self, trainer: L.Trainer) -> bool:
        out_of_time = any((timer.time_remaining() or 0) <= 0 for timer in _timers(trainer))
        last_epoch = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        return trainer.should_stop or out_of_time or last_epoch or trainer.global_step == trainer.max_steps

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.asked_to_stop:
            raise KeyboardInterrupt
        self.asked_to_stop = True
        log.warning("stopping after this step and saving; once more to stop at once")


class FinalScores(L.Callback):
    """Logs the run's hyper-parameters with what it reached, so that TensorBoard's HPARAMS shows runs side by side.

    `scores`, set when the run ends, has the last validation's, and as `best val/loss` the best checkpoint's.
    """

    def __init__(self, *, hyperparameters: dict[str, Any]) -> None:
        self.hyperparameters = hyperparameters
        self.scores: dict[str, float] = {}

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._log(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._log(trainer)

    def _log(self, trainer: L.Trainer) -> None:
        self.scores = {name: float(value) for name, value in trainer.callback_metrics.items() if "val/" in name}
        for callback in trainer.checkpoint_callbacks:
            if not isinstance(callback, ModelCheckpoint) or callback.best_model_score is None:
                continue
            if callback.monitor in self.scores:  # and no counter of steps, by which old checkpoints are removed
                self.scores[f"best {callback.monitor}"] = float(callback.best_model_score)
        if isinstance(trainer.logger, TensorBoardLogger):
            final = {
                f"final/{name.replace('val/', '').replace(' ', '_')}": value for name, value in self.scores.items()
            }
            trainer.logger.log_hyperparams(_telling(self.hyperparameters), metrics=final)


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, which asks for the loss when it is drawn: `prog_bar=True` would ask, and wait, at every step."""

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        shown = ("train/loss", "val/loss", "val/psnr", "val/ssim")
        metrics = trainer.callback_metrics
        found = {name: float(metrics[name]) for name in shown if name in metrics}
        return super().get_metrics(trainer, pl_module) | found


class PlainProgress(L.Callback):
    """Progress as lines in the log, for when the output is no terminal: one at every `seconds` and every epoch."""

    def __init__(self, *, seconds: float) -> None:
        self.seconds = seconds

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = self.said = time.monotonic()
        self.first_step = trainer.global_step
        self.seen = 0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen += len(batch[0])
        if time.monotonic() - self.said >= self.seconds:
            self._say(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._say(trainer)

    def _say(self, trainer: L.Trainer) -> None:
        self.said = time.monotonic()
        elapsed, done = self.said - self.started, trainer.global_step - self.first_step
        total = trainer.estimated_stepping_batches
        known = total != math.inf
        left = elapsed / done * (total - trainer.global_step) if done else math.inf
        left = max(0.0, min([left, *(timer.time_remaining() or 0 for timer in _timers(trainer))]))
        scores = [
            f"{name} {float(value):.4g}"
            for name, value in sorted(trainer.callback_metrics.items())
            if name.startswith(("train/", "val/"))
        ]
        log.info(
            "step %s%s, epoch %s, %.1f images/s, %s%s",
            f"{trainer.global_step:,}",
            f" of {total:,}" if known else "",
            trainer.current_epoch + 1,
            self.seen / elapsed,
            ", ".join(scores),
            f", about {_duration(left)} left" if left < math.inf else "",
        )


def _drift(painted: images.Colours, real: images.Colours) -> dict[str, float]:
    """How far what was `painted` is from the `real` pictures, channel by channel."""
    return {
        name: float(value)
        for index, channel in enumerate(("red", "green", "blue"))
        for name, value in (
            (f"drift/mean_{channel}", painted.mean[index] - real.mean[index]),
            (f"drift/spread_{channel}", painted.spread[index] / real.spread[index]),
        )
    }


def _callbacks(trainer: L.Trainer) -> list[L.Callback]:
    return trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it without declaring it


def _timers(trainer: L.Trainer) -> list[Timer]:
    return [callback for callback in _callbacks(trainer) if isinstance(callback, Timer)]


def _telling(settings: dict[str, Any]) -> dict[str, Any]:
    """`settings` without what only steers how they are built (`_partial_`, `_convert_`, …)."""
    return {
        name: _telling(value) if isinstance(value, dict) else value
        for name, value in settings.items()
        if name == "_target_" or not name.startswith("_")
    }


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min" if minutes else f"{seconds:.0f} s"
