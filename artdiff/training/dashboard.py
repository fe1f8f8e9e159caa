"""TensorBoard as a dashboard: the main curves of a run at a glance, and charts that combine related curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as L
from lightning.pytorch import loggers

from artdiff import runs
from artdiff.data.base import PictureDataModule
from artdiff.files import printable
from artdiff.tasks.base import Task
from artdiff.tasks.denoising import Denoising
from artdiff.training.reporting import only_reporting

GLANCE = "at a glance"
"""The group of charts that TensorBoard shows first: it sorts groups by name."""

PICTURES = f"{GLANCE}/pictures"

FIRST = {"train/loss": f"{GLANCE}/loss", "val/loss": f"{GLANCE}/loss on held-out pictures",
         "train/images_per_second": f"{GLANCE}/images per second"}  # fmt: skip
"""Logged name → second name in that group, under which the value is logged again."""

Layout = dict[str, dict[str, list[Any]]]
"""Categories of charts by title; each chart has a kind and the names of its curves, as regular expressions."""


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Writes event files directly into the run's folder, so that TensorBoard shows the run under its folder's name.

    A run that was started by an older version continues in its folder `tensorboard`. Arguments are those of Lightning's
    logger.
    """

    NAME_HPARAMS_FILE = runs.CONFIG
    """Lightning writes this file only if it does not exist. Here it does: it holds the run's own settings."""

    @property
    def log_dir(self) -> str:
        return str(runs.events(Path(super().log_dir)))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars, and those in `FIRST` also under their second name."""
        super().log_metrics({**metrics, **{FIRST[name]: metrics[name] for name in metrics if name in FIRST}}, step)

    def describe(self, task: Task, data: PictureDataModule) -> None:
        """Write the data card of the pictures and the layout of the charts."""
        self.experiment.add_custom_scalars(layout(task))
        card = data.card()
        if card is not None:
            self.experiment.add_text("data card", printable(card))


def begin(trainer: L.Trainer, task: Task, data: PictureDataModule) -> None:
    """Write the run's description to its TensorBoard loggers, if it has any."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            with only_reporting("the dashboard is not complete"):
                logger.describe(task, data)


def layout(task: Task) -> Layout:
    """Return the charts of TensorBoard's tab Custom Scalars."""
    charts: Layout = {"Loss": {"training and held-out": ["Multiline", ["^train/loss$", "^val/loss$"]]}}
    if isinstance(task, Denoising):
        charts["Loss"]["gap: held-out against training pictures"] = ["Multiline", ["^gap/(train|val)_loss$"]]
        terms = ["mse", "weighted_mse", *(["perceptual"] if task.perceptual is not None else [])]
        charts["By time (0 is noise, 1 a picture)"] = {
            f"{term}, {pictures}": ["Multiline", [f"^{stage}_time/{term}_"]]
            for term in terms
            for stage, pictures in (("train", "training"), ("val", "held-out"))
        }
        charts["Colours of the grid against training pictures"] = {
            "mean, difference": ["Multiline", ["^drift/mean_"]],
            "spread, ratio": ["Multiline", ["^drift/spread_"]],
        }
    charts["Machine"] = {
        "images per second": ["Multiline", ["^train/images_per_second$"]],
        "memory, GiB": ["Multiline", ["^memory/"]],
        "learning rate": ["Multiline", ["^train/lr$"]],
    }
    return charts
