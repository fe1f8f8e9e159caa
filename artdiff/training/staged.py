"""Train a run stage by stage. Each stage has its checkpoint; that of the last stage alone is enough to paint."""

import gc
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from hydra.utils import instantiate

from artdiff import UserError, checkpoints, runs
from artdiff.checkpoints import Trained
from artdiff.files import duplicate, make_folder
from artdiff.ranks import rank
from artdiff.runs import Run
from artdiff.settings.base import MULTIPLE
from artdiff.settings.training import FROM_DATA
from artdiff.stages import TRAINS, Stage
from artdiff.tasks import Autoencoding, Distillation, Refinement
from artdiff.tasks.base import Task
from artdiff.training.fit import fit
from artdiff.training.initial_weights import check_parts, take_parts

log = logging.getLogger(__name__)


def train(stages: Sequence[Stage], run: Run, *, ckpt: Path | None, codec: Path | None, init: Path | None) -> Run:
    """Train `stages` in turn in the folder of `run`. Returns `run`.

    Args:
        stages: the stages to train.
        run: the run to write to.
        ckpt: the folder of a run to resume, or a checkpoint of its last stage.
        codec: a checkpoint whose codec the run uses.
        init: a checkpoint from whose weights the last stage starts.

    Stages that were finished in the resumed run are not repeated. Raises `UserError`: mistakes in any stage are
    reported before the first one is trained.
    """
    last, stopped = stages[-1], None
    further = init if last.settings.finetune_codec else None  # its codec and refiners are trained further
    built_on = [codec] if codec is not None else [further] if further is not None else []
    if ckpt is not None and ckpt.is_dir():
        found = runs.newest(ckpt)
        ckpt, stopped = (found, None) if found is not None else (None, Run(ckpt))
    if ckpt is not None:  # of the last stage: it also holds the networks of the earlier ones
        return fit(last.settings, run, ckpt, before=built_on, init=init)
    _check(stages, codec=codec, init=init)
    for number, stage in enumerate(stages, start=1):
        here = Run(run.folder / stage.folder)
        earlier = Run(stopped.folder / stage.folder) if stopped is not None and stage.folder else None
        begun = runs.newest(earlier.folder) if earlier is not None else None
        if earlier is not None and begun == earlier.last and earlier.metadata.get("finished"):
            log.info("stage %s of %s, %s: finished before", number, len(stages), stage.name)
            config = stage.settings.config
            take_parts(config, built_on, init, trust_code=stage.settings.trust_code, is_last=False)
            task = config["task"]
            checkpoints.earlier(begun).check_fits({name: task[name] for name in task if name not in FROM_DATA})
            if rank() == 0:
                _take_over(earlier, here)
            built_on.append(begun)  # not the copy, which rank 0 may still be writing
        else:
            if len(stages) > 1:
                log.info("stage %s of %s: %s%s", number, len(stages), stage.name, _time(stage))
            fit(stage.settings, here, begun, before=built_on, init=init, is_last=stage is last)
            _give_back_memory()
            built_on.append(here.last)
    return run


def _check(stages: Sequence[Stage], *, codec: Path | None, init: Path | None) -> None:
    """Raise `UserError` for a mistake in any stage, also one that only the codec or weights of another run reveal."""
    last, given, known = stages[-1].settings, init if codec is None else codec, dict[str, Trained]()
    if given is not None:
        name = "init" if codec is None else "codec"
        known = checkpoints.trained_parts(given, trust_code=last.trust_code, name=name)
        if last.finetune_codec and ("codec" not in known or not known["codec"].weights):
            raise UserError(f"finetune_codec=true needs a run with a trained codec, and {name}={given} has none")
        trained = {TRAINS[one.name] for one in stages if one.name in TRAINS}
        check_parts(last.config["task"], {*known, *trained})
        if "enlarger" in known and "refiner" in trained and last.config["task"].get("enlarger") is None:
            raise UserError(
                f"{name}={given} has an enlarger, which needs its own refiner: take both with "
                f"stages.refine.share=0, or train as it was trained (experiment=paint256)"
            )
    for stage in stages:
        settings = dict(stage.settings.config["task"])
        kind = settings["_target_"].rpartition(".")[2]
        part = "network" if kind == Autoencoding.__name__ else "codec"
        has_own = kind == Distillation.__name__ or settings.get("trains") == "enlarger"
        if "codec" in known and part in settings and not has_own:
            settings[part] = known["codec"].settings
        if init is not None and stage is not stages[-1] and settings.get("trains") in known:  # trained further
            settings["network"] = known[settings["trains"]].settings
        with torch.device("meta"):
            task: Task = instantiate(settings)
        _check_sizes(stage, task)


def _check_sizes(stage: Stage, task: Task) -> None:
    """Raise `UserError` unless network and codec of a stage accept the size of its pictures and crops."""
    data, within = stage.settings.data, f"stages.{stage.name}." if stage.name else ""
    codec, network = getattr(task, "codec", task.network), task.network
    factor, multiple = getattr(codec, "factor", 1), getattr(network, "multiple", 1)
    crop = data.image_size if data.train_crop is None else min(data.train_crop, data.image_size)
    if multiple is None and crop != data.image_size:
        raise UserError(f"{type(network).__name__} takes pictures of one size: set {within}data.train_crop=null")
    if isinstance(task, Refinement):
        needed, who = math.lcm(factor, task.shrink * (multiple or 1)), f"the {task.trains}"
    else:
        needed, who = factor * (multiple or 1), "network and codec"
    needed = math.lcm(needed, MULTIPLE)
    for name, side in (("data.image_size", data.image_size), (f"{within}data.train_crop", crop)):
        if side % needed:
            near = [one for one in (side - side % needed, side - side % needed + needed) if one]
            raise UserError(
                f"{name} must be a multiple of {needed} for {who}, got {side}: set {name}={' or '.join(map(str, near))}"
            )


def _time(stage: Stage) -> str:
    limit = stage.settings.trainer["max_time"]
    return "" if limit is None else f", {stage.share:.0%} of the time, {limit}"


def _take_over(earlier: Run, here: Run) -> None:
    """Copy the files of a finished stage, so that this run can be resumed without the earlier one."""
    if earlier.folder.resolve() == here.folder.resolve():
        return
    for name in (runs.LAST, runs.METADATA, runs.CONFIG):
        target = here.folder / name
        make_folder(target.parent, name="run_dir")
        duplicate(earlier.folder / name, target)


def _give_back_memory() -> None:
    """Free GPU memory before the next stage measures how much is free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
