"""Sample grids during training, and the drift of the colours of painted pictures."""

import math
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from artdiff import images, origin
from artdiff.data.base import PictureDataModule
from artdiff.origin import Origin
from artdiff.rules import POSITIVE_WHOLE
from artdiff.tasks import Generation
from artdiff.tasks.base import Task
from artdiff.training.dashboard import PICTURES
from artdiff.training.loop import step_ended, time_left
from artdiff.training.reporting import only_reporting

HELD_OUT = "held-out pictures"
"""The source named in the metadata of a grid whose model does not paint new pictures: its rows start from these."""


class SampleGrids(L.Callback):
    """Saves a grid of samples at intervals, always from the same pictures or noise, as PNG and in TensorBoard.

    For a painter it also logs the drift of the colours, per channel, over the grid's pictures. `drift/mean_…` is their
    mean minus that of training pictures of the same classes, where pixels are in [0,1]. `drift/spread_…` is the
    standard deviation within a picture, divided by that of the training pictures.

    Args:
        folder: the folder for the PNG files.
        every_n_steps: optimizer steps between two grids. The interval grows if the run would otherwise have more than
            `max_grids`, so that neither the folder nor the event file grows without bound.
        pictures: pictures in a row, at most.
        max_side: width and height of one picture in the grid in pixels, at most.
        max_grids: grids in one run. If the number of steps is unknown, as in a run limited by time, the interval
            doubles after so many grids.
    """

    def __init__(self, *, folder: str, every_n_steps: int, pictures: int, max_side: int, max_grids: int) -> None:
        for name, value in (("every_n_steps", every_n_steps), ("pictures", pictures), ("max_grids", max_grids)):
            POSITIVE_WHOLE(f"callbacks.grids.{name}", value)
        self.folder = Path(folder)
        self.every_n_steps = every_n_steps
        self.pictures = pictures
        self.max_side = max_side
        self.max_grids = max_grids
        self.shown: list[int] = []
        self.preview: Tensor | None = None
        self.colours: images.Colours | None = None

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: PictureDataModule = trainer.datamodule  # type: ignore[attr-defined]
        self.preview = self.colours = None
        with only_reporting("no grids of samples are painted"):
            self.preview = data.preview(self.pictures)
        if isinstance(pl_module, Generation):
            with only_reporting("the drift of colours is not measured"):
                self.colours = data.colours(pl_module.shown_labels())
        steps = trainer.estimated_stepping_batches
        if steps != math.inf and time_left(trainer) == math.inf:  # else time may end the run long before its last step
            self.every_n_steps = max(self.every_n_steps, math.ceil(steps / self.max_grids))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if step_ended(trainer, batch_idx) and trainer.global_step % self.every_n_steps == 0:
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
        if self.preview is None or not (trainer.is_global_zero or task.grid_takes_all_ranks):
            return
        with only_reporting("a grid of samples is not painted"):
            lines = self._lines(trainer, task, self.preview)
            if trainer.is_global_zero:
                self._keep(trainer, task, lines, step)

    def _lines(self, trainer: L.Trainer, task: Task, preview: Tensor) -> list[Tensor]:
        """Return the rows of the grid, each (B,3,H,W)."""
        was_training = task.training
        task.eval()
        try:
            with trainer.precision_plugin.forward_context():
                return [line.float().cpu() for line in task.sample_grid(preview.to(task.device))]
        finally:
            task.train(was_training)

    def _keep(self, trainer: L.Trainer, task: Task, lines: list[Tensor], step: int) -> None:
        grid = images.grid(lines, max_side=self.max_side)
        with only_reporting("a grid of samples is not saved"):
            self.folder.mkdir(parents=True, exist_ok=True)
            said = Origin({"step": step}, None if isinstance(task, Generation) else HELD_OUT)
            origin.save(images.to_pillow(grid), self.folder / f"step_{step:07d}.png", said)
        if isinstance(trainer.logger, TensorBoardLogger):
            with only_reporting("a grid of samples is not in TensorBoard"):
                shown = images.captioned(images.to_pillow(grid), task.captions())
                trainer.logger.experiment.add_image(PICTURES, np.asarray(shown), step, dataformats="HWC")
        if self.colours is not None and trainer.logger is not None:
            trainer.logger.log_metrics(drift(images.colours(torch.cat(lines)), self.colours), step)


def drift(painted: images.Colours, real: images.Colours) -> dict[str, float]:
    """Return, for each channel, the difference of the means and the ratio of the standard deviations."""
    return {
        name: float(value)
        for index, channel in enumerate(("red", "green", "blue"))
        for name, value in (
            (f"drift/mean_{channel}", painted.mean[index] - real.mean[index]),
            (f"drift/spread_{channel}", painted.spread[index] / real.spread[index]),
        )
    }
