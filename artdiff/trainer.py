"""Builds the Lightning trainer that a configuration describes, its `auto` values chosen for this machine."""

import sys
from typing import Any

import lightning.pytorch as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import TQDMProgressBar

from artdiff import hardware
from artdiff.callbacks import PlainProgress


def build(config: dict[str, Any], *more: L.Callback) -> L.Trainer:
    """The trainer for the whole configuration `config`, with its callbacks and `more`. Raises `UserError`."""
    torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32 on a GPU
    settings = dict(config["trainer"])
    device = hardware.device(settings["accelerator"])
    if settings["precision"] == "auto":
        settings["precision"] = hardware.precision(device)
    terminal = sys.stdout.isatty()  # where Lightning's bar is drawn
    callbacks = [instantiate(callback) for callback in config["callbacks"].values() if callback is not None]
    callbacks += [TQDMProgressBar() if terminal else PlainProgress(seconds=10), *more]
    logger = instantiate(config["logger"])
    return instantiate(settings, logger=logger, callbacks=callbacks, enable_progress_bar=terminal)
