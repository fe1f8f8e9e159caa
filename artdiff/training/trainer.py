"""Builds the Lightning trainer that a configuration describes, its `auto` values chosen for this machine."""

import logging
import math
import sys
from typing import Any

import lightning.pytorch as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Timer

from artdiff import compiled, hardware
from artdiff.data.datamodule import ArtDataModule
from artdiff.tasks.task import Task
from artdiff.training.callbacks import PlainProgress, ProgressBar

STEPS_A_SECOND = 5
"""About what a GPU takes at least, where a run is limited by time."""


def build(config: dict[str, Any], *more: L.Callback) -> L.Trainer:
    """The trainer for the whole configuration `config`, with its callbacks and `more`. Raises `UserError`."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips and its list of absent hardware
    torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32 on a GPU
    settings = dict(config["trainer"])
    device = hardware.device(settings["accelerator"])
    if settings["precision"] == "auto":
        settings["precision"] = hardware.precision(device)
    if "deterministic" not in settings:
        settings.setdefault("benchmark", device.type == "cuda")  # cuDNN tries its algorithms: batches are alike
    terminal = sys.stdout.isatty()  # where Lightning's bar is drawn
    callbacks = [instantiate(callback) for callback in config["callbacks"].values() if callback is not None]
    every = 1 if device.type == "cpu" else settings["log_every_n_steps"]  # what the bar shows waits for the device
    callbacks += [ProgressBar(refresh_rate=every) if terminal else PlainProgress(seconds=10), *more]
    logger = instantiate(config["logger"])
    return instantiate(settings, logger=logger, callbacks=callbacks, enable_progress_bar=terminal)


def spare_work(config: dict[str, Any], task: Task, data: ArtDataModule, on: torch.device) -> None:
    """Have the features of pictures that do not change computed once, and compile what trains where that pays."""
    perceptual = task.perceptual
    if perceptual is not None and data.unchanging is not None:
        perceptual.keep_targets(data.unchanging)
    mode = compiled.mode(config["compile"], on, calls=_steps(config["trainer"], data))
    if mode is not None:
        task.train_network.compile_for(data.batch_size, mode)
        if perceptual is not None and on.type != "cpu":  # where pictures go through VGG16 in parts of a batch
            perceptual.run.compile_for(data.batch_size, mode)


def _steps(settings: dict[str, Any], data: ArtDataModule) -> float:
    """About how many steps a run may take."""
    in_epochs = settings["max_epochs"] * math.ceil(len(data.train_set) / data.batch_size)
    limits = [steps for steps in (settings["max_steps"], in_epochs) if steps > 0]
    if settings["max_time"] is not None:
        limits.append((Timer(settings["max_time"]).time_remaining() or 0) * STEPS_A_SECOND)
    return min(limits, default=math.inf)
