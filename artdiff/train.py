"""Train a model: `python -m artdiff.train experiment=baseline data.root=DIR`."""

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from artdiff import UserError, __version__, runs
from artdiff.config import check_training, plain
from artdiff.door import command, door, given

if TYPE_CHECKING:  # what is heavy is imported once the configuration has been accepted
    import lightning.pytorch as L

log = logging.getLogger(__name__)

HYPERPARAMETERS = ("seed", "data", "network", "loss", "optimizer", "scheduler")
"""The parts of the configuration that runs are compared by, beside what the task has of its own."""


def train(cfg: DictConfig) -> float:
    """Train what `cfg` describes, in the folder `run_dir` → the best `val/loss`."""
    config = plain(cfg)
    check_training(config)
    run = runs.shortest(Path(config["run_dir"]))
    ckpt = runs.to_carry_on(config["ckpt"], run)

    import lightning.pytorch as L
    import torch
    from hydra.utils import instantiate

    from artdiff import checkpoints
    from artdiff import trainer as trainers
    from artdiff.callbacks import FinalScores

    L.seed_everything(config["seed"], workers=True, verbose=False)
    own = {name: value for name, value in config["task"].items() if name not in HYPERPARAMETERS}
    final = FinalScores(hyperparameters={"task": own, **{name: config[name] for name in HYPERPARAMETERS}})
    trainer = trainers.build(config, final)
    loss = instantiate(config["loss"])
    earlier = checkpoints.earlier(ckpt) if ckpt is not None else None
    start = earlier.step if earlier is not None else 0
    if earlier is not None:
        earlier.check_fits(config["task"])
    with torch.device("meta"):  # what cannot be built is said before the folder is read
        instantiate(config["task"])
    data = instantiate(config["data"])
    data.setup()
    if "classes" in config["task"]:
        config["task"]["classes"] = data.classes
    if earlier is not None:
        earlier.check_fits(config["task"])
    task = instantiate(config["task"], loss=loss)
    trainers.spare_work(config, task, data, trainer.strategy.root_device)

    run.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, run / runs.CONFIG)
    data.write_listings(run / runs.SET_ASIDE, run / runs.DUPLICATES)
    facts = {"device": str(trainer.strategy.root_device), "precision": trainer.precision, **task.facts()}
    runs.write_metadata(run, artdiff=__version__, carried_on_from=ckpt and str(ckpt), **facts, **data.facts())
    for name, fact in facts.items():
        log.info("%s: %s", name.replace("_", " "), f"{fact:,}" if isinstance(fact, int) else fact)
    log.info("run folder: %s", run)
    if ckpt is not None:
        log.info("carrying on from %s at step %s", ckpt, f"{start:,}")
    try:
        trainer.fit(task, data, ckpt_path=ckpt, weights_only=True)
        if trainer.global_step == start:
            raise UserError(f"no step to take after step {start:,}: raise {_limit(config)} (and trainer.max_time)")
    finally:
        if trainer.global_step > start:
            runs.write_metadata(run, steps=trainer.global_step, finished=trainer.state.finished, scores=final.scores)
            _report(trainer, config, run, final.scores)
        if loss.perceptual is not None:
            loss.perceptual.warn_of_fallback()
    return final.scores.get("best val/loss", math.inf)


def _limit(config: dict[str, Any]) -> str:
    """The setting that ends this run, unless its time does."""
    return "trainer.max_steps" if config["trainer"]["max_steps"] > 0 else "trainer.max_epochs"


def _report(trainer: "L.Trainer", config: dict[str, Any], run: Path, scores: dict[str, float]) -> None:
    """Say what came out, where it lies, and what to type next."""
    end = "done" if trainer.state.finished else "interrupted"
    reached = ", ".join(f"{name} {value:.4g}" for name, value in scores.items()) or "not validated yet"
    log.info("%s at step %s: %s", end, f"{trainer.global_step:,}", reached)
    paints = "classes" in config["task"]
    shown, words = ("a row a class", "n=8") if paints else ("input over output", "muse=FILE_OR_FOLDER")
    log.info("pictures (%s): %s", shown, run / runs.SAMPLES)
    log.info("checkpoints: %s", run / runs.CHECKPOINTS)
    again = [word for word in given() if not word.startswith(("ckpt=", "hydra.", "trainer.max_"))]
    limit = _limit(config)
    most = config["trainer"][limit.partition(".")[2]]
    now = trainer.global_step if limit == "trainer.max_steps" else trainer.current_epoch
    longer = [f"{limit}={2 * most if now >= most else most}"]
    longer += ["trainer.max_time=null"] * (config["trainer"]["max_time"] is not None)
    log.info("next:")
    log.info("  %s", command("artdiff.generate", f"ckpt={run}", words, "out=DIR"))
    log.info("  %s", command("tensorboard.main", f"--logdir={run.parent}"))
    log.info("  %s  # carries on", command("artdiff.train", *again, *longer, f"ckpt={run}"))


main = door(train, config="train")

if __name__ == "__main__":
    main()
