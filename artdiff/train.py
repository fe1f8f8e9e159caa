"""Train a model: `python -m artdiff.train experiment=baseline data.root=DIR`."""

import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from artdiff import UserError, __version__, runs
from artdiff.config import check_training, plain
from artdiff.door import command, door, given, in_multirun

if TYPE_CHECKING:  # what is heavy is imported once the configuration has been accepted
    import lightning.pytorch as L

    from artdiff.losses import HybridLoss

log = logging.getLogger(__name__)

HYPERPARAMETERS = ("seed", "data", "network", "loss", "task", "optimizer", "scheduler")
"""The parts of the configuration that runs are compared by."""


def train(cfg: DictConfig) -> float:
    """Train what `cfg` describes, in the folder `run_dir` → the best `val/loss`."""
    config = plain(cfg)
    check_training(config, one_of_several=in_multirun())
    run = runs.shortest(Path(config["run_dir"]))
    ckpt = runs.to_carry_on(config["ckpt"], run, Path(config["runs_dir"]))

    import lightning.pytorch as L
    from hydra.utils import instantiate

    from artdiff.callbacks import FinalScores

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its tips and its list of absent hardware
    L.seed_everything(config["seed"], workers=True, verbose=False)
    final = FinalScores(hyperparameters={name: config[name] for name in HYPERPARAMETERS})
    trainer = build_trainer(config, final)
    loss = instantiate(config["loss"])
    data = instantiate(config["data"])
    data.setup()
    task = instantiate(config["task"], loss=loss)
    start = task.check_fits(ckpt) if ckpt is not None else 0

    run.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, run / runs.CONFIG)
    data.write_set_aside(run / runs.SET_ASIDE)
    facts = {"device": str(trainer.strategy.root_device), "precision": trainer.precision, **task.facts()}
    runs.write_metadata(run, artdiff=__version__, carried_on_from=ckpt and str(ckpt), **facts, **data.facts())
    for name, fact in facts.items():
        log.info("%s: %s", name.replace("_", " "), f"{fact:,}" if isinstance(fact, int) else fact)
    log.info("run folder: %s", run)
    if ckpt is not None:
        log.info("carrying on from %s at step %s", ckpt, f"{start:,}")
    try:
        trainer.fit(task, data, ckpt_path=ckpt, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        _report(trainer, run, final.scores, loss)
        raise
    if trainer.global_step == start:
        raise UserError(f"no step to take after step {start:,}: raise trainer.max_epochs or trainer.max_steps")
    _report(trainer, run, final.scores, loss)
    return final.scores.get("best val/loss", math.inf)


def build_trainer(config: dict[str, Any], *more: "L.Callback") -> "L.Trainer":
    """The Lightning trainer that `config` describes, with `more` callbacks; `auto` is chosen for this machine."""
    import torch
    from hydra.utils import instantiate
    from lightning.pytorch.callbacks import TQDMProgressBar

    from artdiff import hardware
    from artdiff.callbacks import PlainProgress

    torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32 on a GPU
    settings = dict(config["trainer"])
    device = hardware.device(settings["accelerator"])
    if settings["precision"] == "auto":
        settings["precision"] = hardware.precision(device)
    terminal = sys.stderr.isatty()
    callbacks = [instantiate(callback) for callback in config["callbacks"].values() if callback is not None]
    callbacks += [TQDMProgressBar() if terminal else PlainProgress(seconds=10), *more]
    logger = instantiate(config["logger"])
    return instantiate(settings, logger=logger, callbacks=callbacks, enable_progress_bar=terminal)


def _report(trainer: "L.Trainer", run: Path, scores: dict[str, float], loss: "HybridLoss") -> None:
    """Say what came out, where it lies, and what to type next."""
    runs.write_metadata(run, steps=trainer.global_step, interrupted=trainer.interrupted, scores=scores)
    log.info(
        "%s at step %s: %s",
        "interrupted" if trainer.interrupted else "done",
        f"{trainer.global_step:,}",
        ", ".join(f"{name} {value:.4g}" for name, value in scores.items()),
    )
    log.info("pictures (input over output): %s", run / runs.SAMPLES)
    log.info("checkpoints: %s", run / runs.CHECKPOINTS)
    again = [override for override in given() if not override.startswith(("ckpt=", "hydra."))]
    log.info("next:")
    log.info("  %s", command("artdiff.generate", f"ckpt={run}", "muse=FILE_OR_FOLDER", "out=DIR"))
    log.info("  %s", command("tensorboard.main", f"--logdir={run.parent}"))
    log.info("  %s   (goes on; raise trainer.max_epochs)", command("artdiff.train", *again, f"ckpt={run}"))
    if loss.perceptual is not None:
        loss.perceptual.warn_of_fallback()


main = door(train, config="train")

if __name__ == "__main__":
    main()
