"""A run in stages: what each stage trains, and its share of the run's time. Does not import torch.

`stages` of the configuration maps the name of each stage to the settings that differ in it, and to its `share` of
`trainer.max_time`. A share of 0 leaves the stage out. Other limits, such as `trainer.max_steps`, hold for each stage.
The last stage trains the run's final model, in the run's own folder. The others have subfolders of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from artdiff import UserError
from artdiff.rules import not_negative
from artdiff.settings.training import ENLARGE, ReconstructionSettings, TrainSettings, refiner_shrink, seconds

TASK_PARTS = ("optimizer", "scheduler")
"""Components that the configuration holds twice: at the top level and in the task."""

CHANGEABLE = ("data", "task", "loss", *TASK_PARTS, "trainer", "callbacks", "logger", "compile")
"""Settings that may differ in a stage. All others hold for the whole run."""

TRAINS = {"codec": "codec", "enlarge": "enlarger", "refine": "refiner"}
"""Stage names of `conf/stages` → the part that the stage trains. The painter, trained last, uses these parts."""


class Stage(NamedTuple):
    """A stage of a run: `share` of its time, in (0,1]; `folder` below the run's, empty for the last stage."""

    name: str
    folder: str
    share: float
    settings: TrainSettings


def planned(settings: TrainSettings) -> list[Stage]:
    """Return the stages of a run in their order; a single one if it names none. Raises `UserError`.

    The stage of the codec is skipped if `codec=RUN` or `init=RUN` gives one. The stages of the refiners are skipped if
    the run starts from the weights of another run. With `finetune_codec=true` none is skipped: refiners must follow
    their codec.
    """
    given = settings.codec_from is not None or settings.init is not None
    if settings.finetune_codec and not given:
        raise UserError("finetune_codec=true needs the codec of a run: set codec=RUN")
    if settings.codec_from is not None and isinstance(settings.task, ReconstructionSettings):
        raise UserError("codec=RUN needs a task with a codec, such as experiment=latent128 or task=generation")
    skipped = {"codec"} if given else set()
    skipped |= {"enlarge", "refine"} if settings.init is not None else set()
    skipped = set() if settings.finetune_codec else skipped
    shares = {name: _share(name, stage) for name, stage in settings.stages.items() if name not in skipped}
    shares = {name: share for name, share in shares.items() if share > 0}
    if settings.finetune_codec and "codec" not in shares:
        raise UserError(
            "finetune_codec=true needs a stage that trains a codec, and this run has none: leave it out, or set "
            "experiment=latent128 or stages=latent, with stages.codec.share above 0"
        )
    if not given and settings.ckpt is None:
        _check_trained(settings, tuple(shares))
    _check_enlarged(settings.config, tuple(shares))
    if not shares:
        return [Stage("", "", 1.0, settings)]
    total, found = sum(shares.values()), []
    for name in shares:
        folder, share = "" if name == [*shares][-1] else name, shares[name] / total
        found.append(Stage(name, folder, share, _settings(settings.config, name, folder, share)))
    return found


def _check_trained(settings: TrainSettings, stages: Sequence[str]) -> None:
    """Raise `UserError` if the task uses a network of artdiff that no stage trains."""
    for stage, part in TRAINS.items():
        if stage not in stages and needs_training(settings.config["task"].get(part)):
            remedy = "set codec=identity" if part == "codec" else f"set {part}=none"
            stages_with_it = "twice" if part == "enlarger" else "latent"
            raise UserError(
                f"the {part} has weights that no stage trains: give stages.{stage} a share of the time "
                f"(stages={stages_with_it}), take those of a run with codec=RUN, or {remedy}"
            )


def needs_training(component: Mapping[str, Any] | None) -> bool:
    """Return whether a part of a painter is a network of artdiff, whose weights must be trained before."""
    return str((component or {}).get("_target_", "")).startswith("artdiff.networks.")


def _check_enlarged(config: Mapping[str, Any], stages: Sequence[str]) -> None:
    """Raise `UserError` unless the refiner is trained at the resolution that the enlarger expects."""
    enlarger = config["task"].get("enlarger")
    has_one, needed = enlarger is not None, refiner_shrink(enlarger)
    if "enlarge" in stages and not has_one:
        raise UserError("stages.enlarge trains an enlarger: set enlarger=unet, or stages=cascade")
    shrink = config["stages"].get("refine", {}).get("task", {}).get("shrink", 1)
    if "refine" in stages and shrink != needed:
        with_it, remedy = ("with", "stages=twice") if has_one else ("without", "stages=cascade")
        raise UserError(f"stages.refine.task.shrink must be {needed} {with_it} an enlarger, got {shrink}: set {remedy}")
    factor = config["stages"].get("enlarge", {}).get("task", {}).get("codec", {}).get("factor", ENLARGE)
    if "enlarge" in stages and factor != ENLARGE:
        raise UserError(
            f"stages.enlarge.task.codec.factor must be {ENLARGE}, got {factor}: an enlarger doubles width and height"
        )


def _share(name: str, stage: Any) -> float:
    if not isinstance(stage, Mapping) or "share" not in stage:
        raise UserError(f"stages.{name} must be settings with a share of the time, got {stage}")
    not_negative(f"stages.{name}.share", stage["share"])
    return float(stage["share"])


def _settings(config: Mapping[str, Any], name: str, folder: str, share: float) -> TrainSettings:
    changes = {key: value for key, value in config["stages"][name].items() if key != "share"}
    for key in changes:
        if key not in CHANGEABLE:
            raise UserError(f"stages.{name}.{key} cannot differ in a stage; expected one of {', '.join(CHANGEABLE)}")
    stage = merged(config, changes)
    task = dict(stage["task"])
    task |= {part: stage[part] for part in TASK_PARTS if part in task and part in changes}
    if folder:
        inner = f"{config['run_dir']}/{folder}"
        stage |= {part: _moved(stage[part], config["run_dir"], inner) for part in ("callbacks", "logger")}
        stage |= {"run_dir": inner, "stages": {}}
    trainer = dict(stage["trainer"])
    if trainer["max_time"] is not None:
        trainer["max_time"] = time_limit(seconds("trainer.max_time", trainer["max_time"]) * share)
    return TrainSettings.of(stage | {"task": task, "trainer": trainer})


def merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` with `changes`. Mappings are merged, but one with a `_target_` replaces the old one."""
    result = dict(config)
    for key, value in changes.items():
        old = result.get(key)
        is_other = isinstance(value, Mapping) and "_target_" in value
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not is_other:
            result[key] = merged(old, value)
        else:
            result[key] = value
    return result


def _moved(value: Any, old: str, new: str) -> Any:
    """Return a configuration in which paths in the folder `old` point to the folder `new`."""
    if isinstance(value, Mapping):
        return {key: _moved(item, old, new) for key, item in value.items()}
    if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
        return new + value[len(old) :]
    return value


def time_limit(length: float) -> str:
    """Format seconds, at least one, as DD:HH:MM:SS, the format of `trainer.max_time`."""
    whole = max(1, round(length))
    return f"{whole // 86400:02d}:{whole // 3600 % 24:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}"
