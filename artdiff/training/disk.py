"""Estimate how much a run will write, and check the free space before it trains."""

import logging
import math
import shutil
from pathlib import Path

import lightning.pytorch as L
from lightning.pytorch.callbacks import ModelCheckpoint

from artdiff import UserError
from artdiff.data.base import PictureDataModule
from artdiff.runs import Run
from artdiff.tasks import Generation
from artdiff.tasks.base import Task
from artdiff.training.grids import SampleGrids
from artdiff.training.last_checkpoint import LastCheckpoint
from artdiff.training.loop import callbacks, time_left

log = logging.getLogger(__name__)

MOMENTS = 2
"""Numbers that an optimizer stores for each weight, at most: Adam's averages of the gradient and of its square."""

LINES = 3
"""Rows in a grid of a model that does not paint, at most."""

EVENTS = 20_000_000
"""Approximate bytes of curves, lists and the log."""


def check(trainer: L.Trainer, task: Task, data: PictureDataModule, folder: Path) -> None:
    """Log how much the run will write to `folder`, and warn if not all of it may fit.

    Raises `UserError` if there is no room for the checkpoints that must exist at the same time.
    """
    one = checkpoint_bytes(task)
    there = sum(file.stat().st_size for file in Run(folder).last.parent.glob("*.ckpt"))  # of a resumed run
    least, most = (count * one for count in checkpoints_kept(trainer, _epochs(trainer, data)))
    least = max(one, least - there)
    most += EVENTS + _grid_bytes(trainer, task, data)
    place = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(place).free
    in_all = "their number is not limited" if most == math.inf else f"the run at most {_size(most)}"
    told = f"a checkpoint takes about {_size(one)}, {in_all}; {_size(free)} are free"
    if free < least:
        raise UserError(
            f"the disk of {folder} has no room for this run, which needs {_size(least)}: {told}. Make room, choose "
            f"another folder (runs_dir=DIR), or train a smaller network"
        )
    if free + there < most < math.inf:
        remedy = "callbacks.last.keep=1 and callbacks.every_ten_epochs=null keep fewer checkpoints"
        log.warning("the disk may become full: %s; %s", told, remedy)
    else:
        log.info("disk: %s", told)


def checkpoint_bytes(task: Task) -> int:
    """Estimate the size of a checkpoint: all weights, and the optimizer state of those that are trained."""
    trained = sum(weight.nbytes for weight in task.network.parameters() if weight.requires_grad)
    return sum(value.nbytes for value in task.state_dict().values()) + MOMENTS * trained


def checkpoints_kept(trainer: L.Trainer, epochs: float) -> tuple[int, float]:
    """Return how many checkpoints a run of so many epochs has at the same time: at least, and at most.

    The least includes one that is being written. The most is infinite if a run without a limit keeps all.
    """
    least, most = 1, 1.0
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, LastCheckpoint):
            least, most = least + 1, most + callback.keep
        elif isinstance(callback, ModelCheckpoint):
            every: int = callback._every_n_epochs
            times = math.inf if epochs == math.inf else epochs // max(1, every)
            keeps = times if callback.save_top_k < 0 else float(callback.save_top_k)
            least, most = least + (callback.monitor is not None), most + keeps
    return least, most


def _epochs(trainer: L.Trainer, data: PictureDataModule) -> float:
    """Return how many epochs the run has at most; infinite without a limit."""
    in_epoch = math.ceil(data.batches_in_epoch / trainer.accumulate_grad_batches)
    by_epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs or 0)
    by_steps = math.inf if trainer.max_steps < 0 else math.ceil(trainer.max_steps / in_epoch)
    return min(by_epochs, by_steps)


def _grid_bytes(trainer: L.Trainer, task: Task, data: PictureDataModule) -> int:
    """Estimate the bytes of all sample grids, as PNG and in the event file, at three bytes a pixel."""
    lines = len(task.shown_labels()) if isinstance(task, Generation) else LINES
    grids = [callback for callback in callbacks(trainer) if isinstance(callback, SampleGrids)]
    side, times = data.settings.image_size, 1 if time_left(trainer) == math.inf else 2  # the interval doubles
    return times * sum(2 * 3 * lines * one.pictures * min(one.max_side, side) ** 2 * one.max_grids for one in grids)


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
