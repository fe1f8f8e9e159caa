"""One training run, from checked settings to the run's folder."""

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from artdiff import UserError, __version__, checkpoints, runs
from artdiff.checkpoints import Earlier, Trained
from artdiff.data.datamodule import ArtDataModule
from artdiff.files import remove_unfinished, write
from artdiff.runs import Run
from artdiff.settings import TrainSettings
from artdiff.tasks.base import Task
from artdiff.training import report
from artdiff.training import trainer as trainers
from artdiff.training.final_scores import FinalScores
from artdiff.training.last_checkpoint import LastCheckpoint
from artdiff.training.reporting import only_reporting, open_loggers

log = logging.getLogger(__name__)

COMPARED = ("seed", "data", "network", "loss", "optimizer", "scheduler")
"""Settings that TensorBoard's HPARAMS shows, besides the task's own."""


def fit(
    settings: TrainSettings, run: Run, ckpt: Path | None, *, before: Path | None = None, is_last: bool = True
) -> Run:
    """Train with `settings`, resuming from `ckpt` if it is given, on the codec and refiner of the checkpoint `before`.

    The report at the end proposes commands if this stage of the run `is_last`.

    Raises `UserError`.
    """
    config = settings.config
    trained = _named(checkpoints.trained_parts(before, trust_code=settings.trust_code), config) if before else {}
    config["task"] |= {name: part.settings for name, part in trained.items()}
    L.seed_everything(settings.seed, workers=True, verbose=False)
    own = {name: value for name, value in config["task"].items() if name not in COMPARED}
    final = FinalScores(hyperparameters={"task": own, **{name: config[name] for name in COMPARED}})
    trainer = trainers.build(config, final)
    loss = instantiate(config["loss"])
    earlier = checkpoints.earlier(ckpt) if ckpt is not None else None
    start = earlier.step if earlier is not None else 0
    data, task = _build(config, loss, earlier)
    if earlier is None:
        _begin_with(trained, task)
    trainers.cache_and_compile(config, task, data, trainer.strategy.root_device)
    _describe(run, config, trainer, task, data=data, ckpt=ckpt)
    open_loggers(trainer)
    if ckpt is not None:
        log.info("carrying on from %s at step %s", ckpt, f"{start:,}")
    try:
        trainer.fit(task, data, ckpt_path=ckpt, weights_only=True)
        if trainer.global_step == start and not is_last:  # it was stopped between its last step and this note
            run.note(steps=start, finished=True)
        elif trainer.global_step == start:
            raise UserError(
                f"no step to take after step {start:,}: raise {report.limit(config)} (and trainer.max_time)"
            )
    finally:
        if trainer.global_step > start:
            with only_reporting(f"{runs.METADATA} is not complete"):
                run.note(steps=trainer.global_step, finished=trainer.state.finished, scores=final.scores)
            with only_reporting("the closing report is not complete"):
                report.finished(trainer, config, run.folder, final.scores, is_last=is_last)
        if task.perceptual is not None:
            task.perceptual.warn_of_fallback()
    if not is_last and any(
        isinstance(one, LastCheckpoint) and one.asked_to_stop for one in trainer.checkpoint_callbacks
    ):
        raise KeyboardInterrupt  # while the last step was validated
    return run


def _build(config: dict[str, Any], loss: Any, earlier: Earlier | None) -> tuple[ArtDataModule, Task]:
    """The data, set up, and the task for its classes. Mistakes in the task are reported before the folder is read."""
    if earlier is not None:  # the classes are known once the folder is read
        earlier.check_fits({name: value for name, value in config["task"].items() if name != "classes"})
    with torch.device("meta"):
        instantiate(config["task"])
    data: ArtDataModule = instantiate(config["data"])
    data.setup()
    if "classes" in config["task"]:
        config["task"]["classes"] = data.classes
    if earlier is not None:
        earlier.check_fits(config["task"])
    return data, instantiate(config["task"], loss=loss)


def _named(parts: dict[str, Trained], config: dict[str, Any]) -> dict[str, Trained]:
    """The parts that this task uses, by the setting that describes them: the network of an autoencoder is a codec."""
    if "codec" not in config["task"]:
        return {"network": parts["codec"]}
    return {name: part for name, part in parts.items() if name in config["task"]}


def _begin_with(trained: dict[str, Trained], task: Task) -> None:
    """Give the task the weights of what was trained before. Raises `UserError` if it needs more."""
    for name, part in trained.items():
        if part.classes is not None and part.classes != getattr(task, "classes", None):
            raise UserError(
                f"the {name} knows the classes {', '.join(part.classes) or 'none'}, and this folder has others: "
                f"train one for it (stages.refine.share)"
            )
        if part.weights:
            getattr(task, name).load_state_dict(part.weights)
    for name in ("codec", "refiner"):
        settings = task.hparams.get(name) or {}
        if settings.get("_target_", "").startswith("artdiff.networks.") and name not in trained:
            raise UserError(
                f"the {name} has weights that were not trained; take those of a run that has them with codec=RUN"
            )


def _describe(
    run: Run, config: dict[str, Any], trainer: L.Trainer, task: Task, *, data: ArtDataModule, ckpt: Path | None
) -> None:
    """Write the settings and facts of the run into its folder, and log them."""
    runs.make(run.folder, name="run_dir")
    remove_unfinished(run.folder / runs.CHECKPOINTS)
    write(run.folder / runs.CONFIG, OmegaConf.to_yaml(config))
    data.write_listings(run.folder / runs.SET_ASIDE, run.folder / runs.DUPLICATES)
    facts = {"device": str(trainer.strategy.root_device), "precision": trainer.precision, **task.facts()}
    run.note(artdiff=__version__, carried_on_from=None if ckpt is None else str(ckpt), **facts, **data.facts())
    for name, fact in facts.items():
        log.info("%s: %s", name.replace("_", " "), f"{fact:,}" if isinstance(fact, int) else fact)
    log.info("run folder: %s", run.folder)
