"""Train a model: `python -m artdiff.train experiment=baseline data.root=DIR`, or `artdiff.train("baseline", …)`."""

import signal
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig

from artdiff import Interrupted, UserError, runs, slurm
from artdiff.cli import callable_module, command, composed, plain, user_error
from artdiff.files import shortest, user_path
from artdiff.ingest import scan
from artdiff.overrides import written
from artdiff.ranks import rank, started_together
from artdiff.runs import Run
from artdiff.settings.data import DataSettings
from artdiff.settings.training import TrainSettings
from artdiff.stages import planned


def train(experiment: str = "baseline", *words: str, **overrides: Any) -> Run:
    """Train an experiment of `conf/experiment` and return its run, ready for `artdiff.load`.

    Args:
        experiment: the experiment's name.
        words: overrides as on the command line, such as `"data.root=DIR"`.
        overrides: overrides as Python values. A mapping sets values of a group: `data={"root": "DIR"}`; text chooses
            an option of a group: `network="vit"`.

    The run's folder is `runs/EXPERIMENT/TIME` unless `run_dir` says otherwise. Raises `artdiff.UserError`.

    >>> import artdiff, tempfile
    >>> from artdiff.ingest import sample_art
    >>> folder = Path(tempfile.mkdtemp())
    >>> sample_art.paint(folder / "art", per_style=4, seed=0)
    >>> data = {"root": folder / "art", "image_size": 16, "batch_size": 4}
    >>> few = {"max_steps": 2, "accelerator": "cpu", "limit_val_batches": 1}
    >>> tiny = {"channels": [16, 32], "cond_dim": 16, "attention_resolutions": []}
    >>> run = artdiff.train("paint32", data=data, network=tiny, trainer=few, run_dir=folder / "run")
    >>> run.metadata["steps"]
    2
    >>> painted = artdiff.load(run).paint(n=1, label="truchet", steps=2)
    >>> painted[0].picture.size
    (16, 16)
    """
    now = f"{datetime.now():%Y-%m-%d_%H-%M-%S_%f}"
    given = [f"experiment={experiment}", *words, *_words(overrides)]
    chosen = any(word.startswith("run_dir=") for word in given)
    if not chosen:
        given.append(f"run_dir=${{runs_dir}}/{experiment}/{now}")
    try:
        settings = TrainSettings.of(composed("train", given))
        if settings.on_several_devices and not chosen:
            raise UserError(
                "each process of a training on several devices must know the run's folder: give run_dir=DIR"
            )
        return _train(settings)
    except InstantiationException as error:  # Hydra wraps a UserError raised by an object that it builds
        mistake = user_error(error)
        raise (mistake or error) from None


def _train(settings: TrainSettings) -> Run:
    """Check what can be checked without torch, then train."""
    if isinstance(settings.data, DataSettings):
        scan.check_root(settings.data)
    run = Run(shortest(Path(settings.run_dir)))
    codec = _given(settings, "codec", settings.codec_from)
    init = _given(settings, "init", settings.init)
    stages = planned(settings)
    folders = [stage.folder for stage in stages]
    ckpt = runs.to_resume(settings.ckpt, run.folder, stages=folders, is_first=rank() == 0)

    from artdiff.training import staged

    return staged.train(stages, run, ckpt=ckpt, codec=codec, init=init)


def _given(settings: TrainSettings, name: str, value: str | None) -> Path | None:
    """Return the checkpoint that the setting `name` refers to; None if it is not set."""
    if value is None:
        return None
    return runs.find_checkpoint(value, newest_in=user_path(settings.runs_dir), prefer=runs.LAST, name=name)


def _words(overrides: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield Python values as Hydra overrides; a `Run` becomes its folder."""
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            yield from _words(value, f"{prefix}{name}.")
        else:
            sign = "++" if prefix else ""  # also sets arguments that conf/ does not list, such as a library's own
            yield f"{sign}{prefix}{name}={written(value.folder if isinstance(value, Run) else value)}"


def _job(cfg: DictConfig) -> float:
    """Run the command and return the best `val/loss`, which a sweeper minimises."""
    settings = TrainSettings.of(plain(cfg))
    if settings.on_several_devices:
        _check_processes()
    with slurm.interruptible():
        try:
            slurm.note(Run(Path(settings.run_dir)))
            return _train(settings).best_loss
        except Interrupted as end:
            if end.number == signal.SIGUSR1:
                slurm.requeue()
            raise


def _check_processes() -> None:
    """Raise `UserError` if this command cannot run in several processes."""
    hydra = HydraConfig.get()
    if hydra.mode == RunMode.MULTIRUN:
        raise UserError(
            "a sweep cannot start several processes for each job: set trainer.devices=1 and trainer.num_nodes=1, or "
            "start the jobs one by one"
        )
    words = (*hydra.overrides.task, *hydra.overrides.hydra)
    if started_together() and not any(word.partition("=")[0] in slurm.RUN_DIRS for word in words):
        raise UserError("torchrun and srun start all processes, which must know the run's folder: give run_dir=DIR")


main = command(_job, config="train", words=slurm.resuming)


callable_module(__name__, train)

if __name__ == "__main__":
    main()
