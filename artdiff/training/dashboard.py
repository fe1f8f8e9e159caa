"""TensorBoard as a dashboard: how a run goes at a glance, and charts of what belongs together."""

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
"""What is shown there too, by the name under which it is logged."""

Layout = dict[str, dict[str, list[Any]]]
"""Categories of charts by title; each chart has a kind and the names of its curves, as regular expressions."""


class TensorBoardLogger(loggers.TensorBoardLogger):
    """Writes event files into the run's folder itself, so that TensorBoard calls the run by the name of its folder.

    A run that an earlier version began goes on in its folder `tensorboard`. Arguments are those of Lightning's logger.
    """

    NAME_HPARAMS_FILE = runs.CONFIG
    """Lightning writes this file only where none is: the run's own settings stand there already."""

    @property
    def log_dir(self) -> str:
        return str(runs.events(Path(super().log_dir)))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars, some of them also at a glance."""
        super().log_metrics({**metrics, **{FIRST[name]: metrics[name] for name in metrics if name in FIRST}}, step)

    def describe(self, task: Task, data: PictureDataModule) -> None:
        """Say what the pictures are, and lay out the charts that belong together."""
        self.experiment.add_custom_scalars(layout(task))
        card = data.card()
        if card is not None:
            self.experiment.add_text("data card", printable(card))


def begin(trainer: L.Trainer, task: Task, data: PictureDataModule) -> None:
    """Describe the run on its dashboard, if it has one."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            with only_reporting("the dashboard is not complete"):
                logger.describe(task, data)


def layout(task: Task) -> Layout:
    """The charts of the tab Custom Scalars."""
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
