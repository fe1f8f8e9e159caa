"""A training run, stage after stage: each has its checkpoint, and the last stage's alone is enough to paint."""

import gc
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate

from artdiff import checkpoints, runs
from artdiff.files import make_folder
from artdiff.ranks import rank
from artdiff.runs import Run
from artdiff.settings.training import FROM_DATA
from artdiff.stages import Stage
from artdiff.training.fit import fit

log = logging.getLogger(__name__)


def train(stages: Sequence[Stage], run: Run, *, ckpt: Path | None, codec: Path | None, init: Path | None) -> Run:
    """Train `stages` in turn in the folder `run`.

    Args:
        stages: what to train.
        run: where.
        ckpt: the folder of a run to carry on, or a checkpoint of the last stage.
        codec: a checkpoint whose codec the first stage begins with.
        init: a checkpoint whose weights the last stage begins with.

    Stages that were finished in the run to carry on are not repeated. Raises `UserError`, for a mistake in any stage
    before the first one is trained.
    """
    last, stopped, built_on = stages[-1], None, [codec] if codec is not None else []
    if ckpt is not None and ckpt.is_dir():
        found = runs.newest(ckpt)
        ckpt, stopped = (found, None) if found is not None else (None, Run(ckpt))
    if ckpt is not None:  # of the last stage: it holds what the others trained
        return fit(last.settings, run, ckpt, before=built_on, init=init)
    for stage in stages:
        with torch.device("meta"):
            instantiate(stage.settings.config["task"])
    for number, stage in enumerate(stages, start=1):
        here = Run(run.folder / stage.folder)
        earlier = Run(stopped.folder / stage.folder) if stopped is not None and stage.folder else None
        begun = runs.newest(earlier.folder) if earlier is not None else None
        if earlier is not None and begun == earlier.last and earlier.metadata.get("finished"):
            log.info("stage %s of %s, %s: finished before", number, len(stages), stage.name)
            task = stage.settings.config["task"]
            checkpoints.earlier(begun).check_fits({name: task[name] for name in task if name not in FROM_DATA})
            if rank() == 0:
                _take_over(earlier, here)
        else:
            if len(stages) > 1:
                log.info("stage %s of %s: %s%s", number, len(stages), stage.name, _time(stage))
            fit(stage.settings, here, begun, before=built_on, init=init, is_last=stage is last)
            _give_back_memory()
        built_on.append(here.last)
    return run


def _time(stage: Stage) -> str:
    limit = stage.settings.trainer["max_time"]
    return "" if limit is None else f", {stage.share:.0%} of the time, {limit}"


def _take_over(earlier: Run, here: Run) -> None:
    """Copy what a finished stage leaves, so that this run can be carried on without the other one."""
    if earlier.folder.resolve() == here.folder.resolve():
        return
    for name in (runs.LAST, runs.METADATA, runs.CONFIG):
        target = here.folder / name
        make_folder(target.parent, name="run_dir")
        shutil.copyfile(earlier.folder / name, target)


def _give_back_memory() -> None:
    """Give a GPU's memory back before the next stage looks at how much is free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
