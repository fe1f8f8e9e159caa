"""Train one stage of a run: from checked settings to the run's folder."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from hydra.utils import instantiate
from lightning.pytorch.trainer.states import TrainerFn
from omegaconf import OmegaConf

from artdiff import Interrupted, UserError, __version__, checkpoints, runs
from artdiff.checkpoints import Earlier
from artdiff.data.base import PictureDataModule
from artdiff.files import duplicate, make_folder, remove_unfinished, write
from artdiff.ingest.advice import advice
from artdiff.ranks import Ranks
from artdiff.runs import Run
from artdiff.settings.training import FROM_DATA, TrainSettings
from artdiff.tasks import Reconstruction
from artdiff.tasks.base import Task
from artdiff.training import dashboard, disk, report
from artdiff.training import trainer as trainers
from artdiff.training.final_scores import FinalScores
from artdiff.training.initial_weights import load_parts, take_parts, take_weights
from artdiff.training.last_checkpoint import LastCheckpoint
from artdiff.training.reporting import only_reporting, open_loggers

log = logging.getLogger(__name__)

COMPARED = ("seed", "data", "network", "loss", "optimizer", "scheduler")
"""Settings that TensorBoard's HPARAMS shows, besides the task's own."""


def fit(
    settings: TrainSettings,
    run: Run,
    ckpt: Path | None,
    *,
    before: Sequence[Path] = (),
    init: Path | None = None,
    is_last: bool = True,
) -> Run:
    """Train a stage with `settings`, resuming from the checkpoint `ckpt` if it is given. Returns `run`.

    Args:
        settings: those of this stage.
        run: the folder of this stage.
        ckpt: the checkpoint to resume from.
        before: checkpoints of earlier stages, oldest first. The task takes their codec and refiners, each from the
            latest checkpoint that has it.
        init: a checkpoint. The last stage starts from its weights, and takes its codec and refiners if `before` is
            empty.
        is_last: whether this is the run's last stage; the report then proposes commands.

    Raises `UserError`, and `Interrupted` if a signal ended the training; the training is saved before.
    """
    config = settings.config
    parts = take_parts(config, before, init, trust_code=settings.trust_code, is_last=is_last, ckpt=ckpt)
    L.seed_everything(settings.seed, workers=True, verbose=False)
    shown = {name: value for name, value in config["task"].items() if name not in (*COMPARED, "vocabulary")}
    final = FinalScores(hyperparameters={"task": shown, **{name: config[name] for name in COMPARED}})
    trainer = trainers.build(config, final)
    loss = instantiate(config["loss"])
    earlier = checkpoints.earlier(ckpt) if ckpt is not None else None
    start = earlier.step if earlier is not None else 0
    data, task = _build(config, loss, earlier)
    if earlier is None:
        load_parts(parts, task)
        if init is not None and is_last:
            take_weights(task, init, trust_code=settings.trust_code)
            log.info("new run from the weights of %s: steps, optimizer and schedules start at zero", init)
    was_finished = bool(run.metadata.get("finished"))
    data.check_ranks(Ranks(trainer.global_rank, trainer.world_size))
    own = data.batch_size // trainer.world_size
    trainers.cache_and_compile(config, task, data, trainer.strategy.root_device, batch_size=own)
    if trainer.is_global_zero:
        disk.check(trainer, task, data, run.folder)
        if not before and ckpt is None and init is None and not isinstance(task, Reconstruction):
            log.info("expect: %s", advice(len(data.train_set)))
        _describe(run, config, trainer, task, data=data, ckpt=ckpt, is_last=is_last)
    open_loggers(trainer)
    dashboard.begin(trainer, task, data)
    if ckpt is not None:
        log.info("resuming from %s at step %s", ckpt, f"{start:,}")
    try:
        try:
            with trainers.leaving_no_group(trainer):
                trainer.fit(task, data, ckpt_path=ckpt, weights_only=True)
                if trainer.global_step == start and _stopped_by(trainer) is None:
                    _finish_at_last_step(run, ckpt, config, trainer, final, is_last=is_last, was_finished=was_finished)
        except SystemExit as end:  # Lightning's answer to an interruption
            if _stopped_by(trainer) is None:  # interrupted before our handler was installed: nothing is saved
                raise (end.__context__ if isinstance(end.__context__, KeyboardInterrupt) else end) from None
    finally:
        if trainer.global_step > start and trainer.is_global_zero:
            _note_end(run, trainer, config, final, carried_on=ckpt is not None, is_last=is_last)
        if task.perceptual is not None:
            task.perceptual.warn_of_fallback()
    number = _stopped_by(trainer)
    if number is not None and not (is_last and trainer.state.finished):
        raise Interrupted(number)
    return run


def _note_end(
    run: Run, trainer: L.Trainer, config: dict[str, Any], final: FinalScores, *, carried_on: bool, is_last: bool
) -> None:
    """Store and report the run's step and scores. A resumed run keeps its earlier scores until it validates."""
    scores = (run.metadata.get("scores", {}) if carried_on else {}) | final.scores
    with only_reporting(f"{runs.METADATA} is not complete"):
        run.note(steps=trainer.global_step, finished=trainer.state.finished, scores=scores)
    with only_reporting("the closing report is not complete"):
        report.finished(trainer, config, run.folder, scores, is_last=is_last)


def _stopped_by(trainer: L.Trainer) -> int | None:
    """Return the signal that stopped this training, also one during the last validation; None if there was none."""
    saving = [one for one in trainer.checkpoint_callbacks if isinstance(one, LastCheckpoint)]
    return next((one.stopped_by for one in saving if one.stopped_by is not None), None)


def _finish_at_last_step(
    run: Run,
    ckpt: Path | None,
    config: dict[str, Any],
    trainer: L.Trainer,
    final: FinalScores,
    *,
    is_last: bool,
    was_finished: bool,
) -> None:
    """Handle a run that was resumed at its last step: if it was killed before its end, validate and finish it now.

    Raises `UserError` if the run was finished already, or if the checkpoint is another run's.
    """
    is_own = ckpt is not None and ckpt.resolve().parent == run.last.resolve().parent
    step, was_finished = trainer.global_step, trainer.strategy.broadcast(was_finished)
    if ckpt is not None and (is_own or not is_last) and trainer.is_global_zero:
        if ckpt.resolve() != run.last.resolve():
            make_folder(run.last.parent, name="run_dir")
            duplicate(ckpt, run.last)
        run.note(steps=step, finished=was_finished)
    trainer.strategy.barrier()
    if ckpt is None or (is_last and (not is_own or was_finished)):
        raise UserError(f"no step to take after step {step:,}: raise {report.limit(config)} (and trainer.max_time)")
    log.info("the last step was taken before: finished")
    if not was_finished:
        _validate(trainer, final)
        if trainer.is_global_zero:
            _note_end(run, trainer, config, final, carried_on=True, is_last=is_last)


def _validate(trainer: L.Trainer, final: FinalScores) -> None:
    """Validate after the last step, whose validation was interrupted, and save as training does after a validation."""
    task: L.LightningModule = trainer.lightning_module
    data: PictureDataModule = trainer.datamodule  # type: ignore[attr-defined]
    if trainer.enable_validation:
        trainer.validate(task, datamodule=data, verbose=False)
        trainer.state.fn = TrainerFn.FITTING
        for callback in trainer.checkpoint_callbacks:
            callback.on_validation_end(trainer, task)
    final.on_train_end(trainer, task)
    for logger in trainer.loggers:  # validating has closed them, and the final scores have opened them again
        logger.finalize("success")


def _build(config: dict[str, Any], loss: Any, earlier: Earlier | None) -> tuple[PictureDataModule, Task]:
    """Build the data module, set it up, and build the task for its classes. The task is checked before the folder is
    read, so that mistakes are reported early.
    """
    if earlier is not None:  # the classes are known once the folder is read
        earlier.check_fits({name: value for name, value in config["task"].items() if name not in FROM_DATA})
    with torch.device("meta"):
        instantiate(config["task"])
    data: PictureDataModule = instantiate(config["data"])
    data.setup()
    config["task"] |= {name: getattr(data, name) for name in FROM_DATA if name in config["task"]}
    if earlier is not None:
        earlier.check_fits(config["task"])
    return data, instantiate(config["task"], loss=loss)


def _describe(
    run: Run,
    config: dict[str, Any],
    trainer: L.Trainer,
    task: Task,
    *,
    data: PictureDataModule,
    ckpt: Path | None,
    is_last: bool,
) -> None:
    """Write the run's settings, file lists and metadata into its folder, and log the facts."""
    make_folder(run.folder, name="run_dir")
    remove_unfinished(run.folder / runs.CHECKPOINTS)
    write(run.folder / runs.CONFIG, OmegaConf.to_yaml(config))
    for name, listing in data.listings().items():
        write(run.folder / name, listing)
    facts = {"device": str(trainer.strategy.root_device), "precision": trainer.precision, **task.facts()}
    begun: dict[str, Any] = {"carried_on_from": None if ckpt is None else str(ckpt), "finished": False}
    begun |= {} if is_last else {"is_stage": True}
    run.note(artdiff=__version__, **begun, **facts, **data.facts())
    for name, fact in facts.items():
        log.info("%s: %s", name.replace("_", " "), f"{fact:,}" if isinstance(fact, int) else fact)
    log.info("run folder: %s", run.folder)
