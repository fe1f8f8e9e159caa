"""A training run, stage after stage: each has its checkpoint, and the last stage's alone is enough to paint."""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from artdiff import runs
from artdiff.runs import Run
from artdiff.stages import Stage
from artdiff.training.fit import fit

log = logging.getLogger(__name__)


def train(stages: Sequence[Stage], run: Run, *, ckpt: Path | None, codec: Path | None) -> Run:
    """Train `stages` in turn in the folder `run`.

    Args:
        stages: what to train.
        run: where.
        ckpt: the folder of a run to carry on, or a checkpoint of the last stage.
        codec: a checkpoint whose codec the first stage begins with.

    Stages that were finished in the run to carry on are not repeated. Raises `UserError`.
    """
    before = ckpt if ckpt is not None and ckpt.is_dir() else None
    for number, stage in enumerate(stages, start=1):
        here = Run(run.folder / stage.folder)
        if ckpt is not None and before is None:  # a checkpoint of the last stage holds what came before it
            if stage.folder:
                continue
            return fit(stage.settings, here, ckpt)
        earlier = Run(before / stage.folder) if before is not None else None
        last = earlier.last if earlier is not None and earlier.last.exists() else None
        if stage.folder and earlier is not None and last is not None and earlier.metadata.get("finished"):
            log.info("stage %s of %s, %s: finished before", number, len(stages), stage.name)
            _take_over(earlier, here)
        else:
            if len(stages) > 1:
                log.info("stage %s of %s: %s%s", number, len(stages), stage.name, _time(stage))
            fit(stage.settings, here, last, before=codec, is_last=not stage.folder)
            if stage.folder and not here.metadata.get("finished"):
                log.info("the next stages are left out: this one was interrupted")
                return here
        codec = here.last
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
        runs.make(target.parent, name="run_dir")
        shutil.copyfile(earlier.folder / name, target)
