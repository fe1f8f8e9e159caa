"""The report at the end of a training: scores, where the results are, and the next commands."""

import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from artdiff import runs
from artdiff.cli import given, typed
from artdiff.tasks import Generation, Refinement
from artdiff.training.early_stopping import EarlyStopping

log = logging.getLogger(__name__)

PATIENCE = "callbacks.early_stopping.patience"

FEW_STEPS = 150
"""With fewer steps a painter paints little more than noise. The shortest training, that of `make demo`, takes 285."""

LARGE_GAP = 0.2
"""A relative gap above this is large, unless few pictures were compared and chance may explain it. On 28 pictures of
the sample art at 16 px the loss on held-out pictures stopped falling when the gap grew from 16 to 28 %.
"""

SCATTER = 0.65
"""Relative standard deviation of the loss of single pictures, measured on the sample art at 16 px. Comparing pictures
with the same labels and times removes a part of it.
"""


def limit(config: dict[str, Any]) -> str:
    """Return the name of the setting that limits this run, besides its time."""
    return "trainer.max_steps" if config["trainer"]["max_steps"] >= 0 else "trainer.max_epochs"


def finished(trainer: L.Trainer, config: dict[str, Any], run: Path, scores: dict[str, float], *, is_last: bool) -> None:
    """Log the scores and what they mean, and where the results are; after the last stage of a run also commands to
    paint, to view the curves and to resume. An interrupted run is resumed with the overrides of its command line.
    """
    end = "done" if trainer.state.finished else "interrupted"
    reached = ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if "val/" in name)
    log.info("%s at step %s: %s", end, f"{trainer.global_step:,}", reached or "not validated yet")
    early = [one for one in trainer.early_stopping_callbacks if isinstance(one, EarlyStopping) and one.why is not None]
    told = (
        *(f"stopped early: {one.why}" for one in early),
        *_best(trainer),
        *_gauge(trainer, scores),
        *_few(trainer, config),
    )
    for line in told:
        log.info("%s", line)
    paints = "classes" in config["task"]  # else it reconstructs
    shown, words = ("one row per class", "n=8") if paints else ("input over output", "muse=FILE_OR_FOLDER")
    if isinstance(trainer.lightning_module, Refinement):
        shown = "pictures, drafts, refined drafts"
    log.info("pictures (%s): %s", shown, run / runs.SAMPLES)
    log.info("checkpoints: %s", run / runs.CHECKPOINTS)
    words_again = _longer(trainer, config, early) if trainer.state.finished else _typed_words()
    if not is_last:
        if words_again and not trainer.state.finished:
            log.info("the next stages were not trained; this resumes the run:")
            log.info("  %s", typed("artdiff.train", *words_again, f"ckpt={run.parent}"))
        return
    log.info("next:")
    if not isinstance(trainer.lightning_module, Refinement):  # it does not paint by itself
        log.info("  %s", typed("artdiff.generate", f"ckpt={run}", words, "out=DIR"))
    log.info("  %s", typed("tensorboard.main", f"--logdir={run.parent}"))
    if words_again:
        log.info("  %s  # resumes", typed("artdiff.train", *words_again, f"ckpt={run}"))


def _typed_words(*changed: str) -> list[str]:
    """Return the overrides of the command line, without `ckpt=`, Hydra's own, and those that begin with one of
    `changed`; empty for a training started in Python.
    """
    return [word for word in given() if not word.startswith(("ckpt=", "hydra.", *changed))]


def _longer(trainer: L.Trainer, config: dict[str, Any], early: Sequence[EarlyStopping]) -> list[str]:
    """Return overrides that resume a finished run with a longer limit."""
    ends = limit(config)
    most = config["trainer"][ends.partition(".")[2]]
    now = trainer.global_step if ends == "trainer.max_steps" else trainer.current_epoch
    longer = [f"{ends}={2 * most if 0 <= most <= now else most}"]
    longer += ["trainer.max_time=null"] * (config["trainer"]["max_time"] is not None)
    longer += [f"{PATIENCE}={2 * one.patience}" for one in early]
    return [*_typed_words("trainer.max_", *(f"{PATIENCE}=" for _ in early)), *longer]


def _best(trainer: L.Trainer) -> Iterator[str]:
    """Yield a line with the step of the best checkpoint."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor == "val/loss":
            path = Path(callback.best_model_path)
            if path.is_file():
                best = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
                step, epoch = best["global_step"], best["epoch"] + 1
                yield f"best val/loss at step {step:,}, epoch {epoch}: {path.name}"


def _few(trainer: L.Trainer, config: dict[str, Any]) -> Iterator[str]:
    """Yield a warning if a painter that did not start from a run's weights took very few steps."""
    paints = isinstance(trainer.lightning_module, Generation)
    if paints and config.get("init") is None and trainer.global_step < FEW_STEPS:
        yield (
            f"only {trainer.global_step:,} steps: it will paint little more than noise; give it more time "
            f"(trainer.max_time), or use a machine without other load"
        )


def _gauge(trainer: L.Trainer, scores: dict[str, float]) -> Iterator[str]:
    """Yield a line on how much a painter memorises, and advice if it is much."""
    task = trainer.lightning_module
    if not isinstance(task, Generation) or "gap/relative" not in scores:
        return
    gap, count = scores["gap/relative"], task.compared_pictures
    if not count:  # resumed and interrupted before a validation: the gap is an old one
        return
    yield (
        f"memorisation gauge: loss on held-out pictures is {abs(gap):.0%} {'above' if gap >= 0 else 'below'} that on "
        f"training pictures ({scores['gap/val_loss']:.3g} against {scores['gap/train_loss']:.3g}, {count} of each)"
    )
    if gap > max(LARGE_GAP, 2 * SCATTER * math.sqrt(2 / count)):
        yield (
            "that is a lot, and painted pictures may copy training pictures: stop earlier (callbacks=early_stopping), "
            "train on more pictures, or use more dropout (network.dropout)"
        )
