"""Train a model: `python -m artdiff.train experiment=baseline data.root=DIR`."""

import logging
import math
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from artdiff import UserError, __version__, runs
from artdiff.cli import door
from artdiff.settings import check_training, plain

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
    from artdiff.training import report
    from artdiff.training import trainer as trainers
    from artdiff.training.callbacks import FinalScores

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
            raise UserError(
                f"no step to take after step {start:,}: raise {report.limit(config)} (and trainer.max_time)"
            )
    finally:
        if trainer.global_step > start:
            runs.write_metadata(run, steps=trainer.global_step, finished=trainer.state.finished, scores=final.scores)
            report.finished(trainer, config, run, final.scores)
        if loss.perceptual is not None:
            loss.perceptual.warn_of_fallback()
    return final.scores.get("best val/loss", math.inf)


main = door(train, config="train")

if __name__ == "__main__":
    main()
