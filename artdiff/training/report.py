"""What a training logs at its end: scores, where the results are, and which commands come next."""

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as L

from artdiff import runs
from artdiff.cli import given, typed

log = logging.getLogger(__name__)


def limit(config: dict[str, Any]) -> str:
    """The setting that limits this run, besides its time."""
    return "trainer.max_steps" if config["trainer"]["max_steps"] >= 0 else "trainer.max_epochs"


def finished(trainer: L.Trainer, config: dict[str, Any], run: Path, scores: dict[str, float]) -> None:
    """Log the scores, where the results are, and commands to paint, to look at the curves and to resume."""
    end = "done" if trainer.state.finished else "interrupted"
    reached = ", ".join(f"{name} {value:.4g}" for name, value in scores.items()) or "not validated yet"
    log.info("%s at step %s: %s", end, f"{trainer.global_step:,}", reached)
    paints = "classes" in config["task"]  # else it reconstructs
    shown, words = ("one line per class", "n=8") if paints else ("input over output", "muse=FILE_OR_FOLDER")
    log.info("pictures (%s): %s", shown, run / runs.SAMPLES)
    log.info("checkpoints: %s", run / runs.CHECKPOINTS)
    again = [word for word in given() if not word.startswith(("ckpt=", "hydra.", "trainer.max_"))]
    ends = limit(config)
    most = config["trainer"][ends.partition(".")[2]]
    now = trainer.global_step if ends == "trainer.max_steps" else trainer.current_epoch
    longer = [f"{ends}={2 * most if 0 <= most <= now else most}"]
    longer += ["trainer.max_time=null"] * (config["trainer"]["max_time"] is not None)
    log.info("next:")
    log.info("  %s", typed("artdiff.generate", f"ckpt={run}", words, "out=DIR"))
    log.info("  %s", typed("tensorboard.main", f"--logdir={run.parent}"))
    log.info("  %s  # carries on", typed("artdiff.train", *again, *longer, f"ckpt={run}"))
