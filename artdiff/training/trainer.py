"""Build the Lightning trainer from a configuration; `auto` values are chosen for this machine."""

import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.strategies import DDPStrategy

from artdiff import compiled, hardware
from artdiff.data.base import PictureDataModule
from artdiff.ranks import started_together
from artdiff.settings.training import seconds
from artdiff.stages import time_limit
from artdiff.tasks import Autoencoding, Generation
from artdiff.tasks.base import Task
from artdiff.training.checkpoint_writer import CheckpointWriter
from artdiff.training.decay import Decay
from artdiff.training.fully_sharded import FullySharded
from artdiff.training.progress import PlainProgress, ProgressBar
from artdiff.training.reporting import tolerant
from artdiff.training.restart_epoch import RestartEpoch

log = logging.getLogger(__name__)

LATENT_GIGABYTES = 20
"""Size limit of cached latents: enough for 600,000 pictures of 128 px with their mirror images, if the codec's factor
is 4.
"""

GROUP_VARIABLES = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE", "OMP_NUM_THREADS")
"""Environment variables that Lightning sets for the processes of a group."""

STEPS_PER_SECOND = 5
"""A cautious guess for a GPU, to estimate the length of a run that is limited by time."""


def build(config: dict[str, Any], *more: L.Callback) -> L.Trainer:
    """Build the trainer for the whole configuration `config`, with its callbacks and `more`. Raises `UserError`."""
    for name in ("pytorch", "fabric"):  # hide tips, unused hardware and how processes connect
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)
    torch.set_float32_matmul_precision("high")  # TF32 for float32 on a GPU
    settings = dict(config["trainer"])
    device = hardware.device(settings["accelerator"])
    devices = _devices(settings, device)
    if settings["precision"] == "auto":
        alike = device.type != "cpu" or devices == 1  # else each process would measure, and results may differ
        settings["precision"] = hardware.precision(device) if alike else "32-true"
    if "deterministic" not in settings:
        settings.setdefault("benchmark", device.type == "cuda")  # cuDNN tries its algorithms: batches have one shape
    terminal = sys.stdout.isatty()  # Lightning draws its bar there
    callbacks = [instantiate(callback) for callback in config["callbacks"].values() if callback is not None]
    if not any(isinstance(one, Decay) for one in callbacks):
        callbacks.insert(0, Decay(share=0))  # a resumed run may have had one
    every = 1 if device.type == "cpu" else settings["log_every_n_steps"]  # drawing the bar synchronises a GPU
    callbacks += [ProgressBar(refresh_rate=every) if terminal else PlainProgress(seconds=10), RestartEpoch(), *more]
    plugins = _plugins(settings.pop("plugins", None))
    strategy = settings.get("strategy", "auto")
    if strategy == "ddp" or (strategy == "auto" and devices > 1):
        # no broadcast of buffers at each call: on a GPU sync_batchnorm keeps those of batch normalisation equal
        settings["strategy"] = DDPStrategy(broadcast_buffers=False)
        settings.setdefault("sync_batchnorm", device.type == "cuda")
    if strategy == "fsdp":
        # weights gathered in inference mode could not be used in training
        settings |= {"strategy": FullySharded(devices), "inference_mode": False}
    logger = tolerant(instantiate(config["logger"]))
    settings |= {"use_distributed_sampler": False}  # our loader splits the batches
    if settings["max_time"] is not None:  # Lightning accepts fewer formats
        settings["max_time"] = time_limit(seconds("trainer.max_time", settings["max_time"]))
    return instantiate(settings, logger=logger, callbacks=callbacks, plugins=plugins, enable_progress_bar=terminal)


@contextmanager
def leaving_no_group(trainer: L.Trainer) -> Iterator[None]:
    """Clean up the process group that Lightning leaves behind if it has a single process.

    Otherwise the next training would use the same port, and a program started from here would consider itself a member
    of the group. Groups of several processes are left alone, since their processes go on.
    """
    before, had_group = dict(os.environ), torch.distributed.is_initialized()
    try:
        yield
    finally:
        if trainer.world_size == 1 and not started_together():
            for name in GROUP_VARIABLES:
                if name not in before:
                    os.environ.pop(name, None)
            if torch.distributed.is_initialized() and not had_group:
                torch.distributed.destroy_process_group()


def _devices(settings: dict[str, Any], on: torch.device) -> int:
    """Return how many devices a run has on all machines."""
    here = settings.get("devices", "auto")
    if here == "auto":
        here = 1 if on.type == "cpu" else torch.accelerator.device_count()
    return int(here * settings.get("num_nodes", 1))


def cache_and_compile(
    config: dict[str, Any], task: Task, data: PictureDataModule, on: torch.device, *, batch_size: int
) -> None:
    """Cache the features and latents of pictures that no augmentation changes. Compile long runs for batches of
    `batch_size`, unless their weights are sharded.

    Latents are also cached of mirrored pictures, features are not: VGG16 would compute missing ones in batches of
    changing size, which round differently.
    """
    perceptual = task.perceptual
    if perceptual is not None and data.unchanging is not None and not data.settings.flip:
        perceptual.cache_targets(data.unchanging)
    if isinstance(task, Generation) and data.unchanging is not None:
        task.cache_latents(data.unchanging, LATENT_GIGABYTES)
    asked = "none" if config["trainer"].get("strategy") == "fsdp" else config["compile"]
    mode = compiled.mode(asked, on, calls=_steps(config["trainer"], data))
    if isinstance(task, Autoencoding):  # it calls encoder and decoder separately
        if asked not in ("auto", "none"):
            log.info("compile=%s is not used here: the training of a codec is not compiled", asked)
        return
    if mode is not None:
        task.train_network.compile_for(batch_size, mode)
        if perceptual is not None and on.type != "cpu":  # on a CPU, VGG16 processes a batch in parts
            perceptual.run.compile_for(batch_size, mode)


def _plugins(given: Any) -> list[Any]:
    """Return the user's plugins, with our `CheckpointWriter` unless they include a `CheckpointIO`."""
    plugins = instantiate(given if isinstance(given, list) else [given] if given is not None else [])
    return plugins if any(isinstance(one, CheckpointIO) for one in plugins) else [*plugins, CheckpointWriter()]


def _steps(settings: dict[str, Any], data: PictureDataModule) -> float:
    """Estimate how many batches a run trains on, at most; infinite without a limit."""
    in_epochs = settings["max_epochs"] * data.batches_in_epoch
    limits = [steps for steps in (settings["max_steps"], in_epochs) if steps >= 0]
    if settings["max_time"] is not None:
        limits.append(seconds("trainer.max_time", settings["max_time"]) * STEPS_PER_SECOND)
    return min(limits, default=math.inf)
