"""What a new run takes from earlier runs: codec and refiners, and initial weights."""

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from artdiff import UserError, checkpoints
from artdiff.checkpoints import Trained
from artdiff.settings.training import refiner_shrink
from artdiff.stages import TRAINS, needs_training
from artdiff.tasks import Distillation, Generation
from artdiff.tasks.base import Task
from artdiff.tasks.denoising import Denoising

log = logging.getLogger(__name__)

UNET = "artdiff.networks.UNet"

LABELS = "condition.label.weight"
"""The label embedding in networks of artdiff: one row per class, then one for the null label. Another network names its
own in an attribute `label_table`.
"""

FROM_TEACHER = ("network", "data_std")
"""Settings that a distilled painter takes from its teacher."""

WORDS = {"words", "caption"}
"""Weights for captions have one of these words in their names."""


def take_parts(
    config: dict[str, Any],
    before: Sequence[Path],
    init: Path | None,
    *,
    trust_code: bool,
    is_last: bool = True,
    ckpt: Path | None = None,
) -> dict[str, Trained]:
    """Return the trained parts that the task of `config` uses, by setting, and copy their settings into the task.

    They come from the checkpoints `before`, or from `init` if there are none. If an earlier stage than the last trains
    a refiner, it starts from the refiner of `init`. A run that is resumed from `ckpt` takes the parts of `ckpt`. Raises
    `UserError`.
    """
    task, parts = config["task"], dict[str, Trained]()
    sources = [*before] if before or init is None or "codec" not in task else [init]
    for path in [ckpt] if sources and ckpt is not None else sources:
        name = {ckpt: "ckpt", init: "init"}.get(path, "codec")
        parts |= checkpoints.trained_parts(path, trust_code=trust_code, name=name)
    if str(task["_target_"]).endswith("Distillation"):
        _use_teacher(config, init, trust_code=trust_code)
    if task.get("trains") == "enlarger":
        parts.pop("codec", None)  # an enlarger's own codec only halves width and height
    if not parts:
        return {}
    if "codec" not in task:  # the network of an autoencoder is a codec
        parts = {"network": parts["codec"]}
    if init is not None and is_last and task["network"].get("_target_") == UNET:
        # a U-Net's image_size only sets at which resolutions it has attention
        task["network"]["image_size"] = checkpoints.earlier(init, name="init").settings["network"].get("image_size")
    if init is not None and not is_last and task.get("trains") in parts:
        parts["network"] = _to_train(parts[task["trains"]])
    left_out = _left_out(config) if ckpt is None else set()
    parts = {name: part for name, part in parts.items() if name in task and name not in left_out}
    if taken_over := [name for name in parts if task[name] is None and ckpt is None]:
        log.info("taken over from the given run: %s", ", ".join(taken_over))
    task |= {name: part.settings for name, part in parts.items()}
    if "refiner" in parts:
        needed, its = refiner_shrink(task.get("enlarger")), parts["refiner"].shrink
        if its != needed:
            raise UserError(f"the refiner of the given run works at 1/{its} of width and height, expected 1/{needed}: "
                            f"with an enlarger a refiner works at 1/2, without at 1/1")  # fmt: skip
    return parts


def _to_train(part: Trained) -> Trained:
    """Turn a refiner into the network to train: without the scale of its differences, which is measured again."""
    network = {key.removeprefix("network."): value for key, value in part.weights.items() if key != "std"}
    return part._replace(weights=network)


def _left_out(config: Mapping[str, Any]) -> set[str]:
    """Return the parts that a stage could train but that the configuration sets to none."""
    stages = config.get("stages") or {}
    return {part for stage, part in TRAINS.items() if stage in stages and config["task"].get(part) is None}


def _use_teacher(config: dict[str, Any], init: Path | None, *, trust_code: bool) -> None:
    """Copy the teacher's network settings into the task. Raises `UserError` if it cannot be the teacher."""
    if init is None:
        raise UserError("task=distillation learns from a painter: set init=RUN")
    teacher = checkpoints.restore(init, trust_code=trust_code, name="init")
    if not isinstance(teacher.task, Generation):
        raise UserError(f"init={init} was trained as {type(teacher.task).__name__}, expected a painter as teacher")
    size = teacher.transform.size
    if size != config["data"]["image_size"]:
        raise UserError(f"init={init} paints {size} px: set data.image_size={size}")
    if teacher.task.vocabulary and config["data"].get("captions", "none") == "none":
        raise UserError(f"init={init} was trained with captions: set data.captions=auto, or the setting of that run")
    if not teacher.task.vocabulary and config["data"].get("captions", "none") != "none":
        raise UserError(f"init={init} was trained without captions and cannot teach them: set data.captions=none")
    own = teacher.task.made_for
    if own:  # a distilled teacher paints well only with the steps and solver it was trained for
        ours = config["task"]["steps"]
        if own["steps"] % ours:
            raise UserError(f"init={init} paints in {own['steps']} steps: task.steps must divide them, got {ours}")
        config["task"] |= {f"teacher_{name}": own[name] for name in ("steps", "solver", "guidance")}
        log.info("init=%s is distilled: as teacher it paints in its %s steps, without guidance", init, own["steps"])
    config["task"] |= {name: teacher.task.hparams[name] for name in FROM_TEACHER}
    config["network"] = config["task"]["network"]


def load_parts(parts: dict[str, Trained], task: Task) -> None:
    """Load the weights of these parts into the task. Raises `UserError` if the task needs a part that is missing."""
    for name, part in parts.items():
        if not part.weights:  # a codec without weights
            continue
        classes, weights = getattr(task, "classes", []), part.weights
        if part.classes is not None:
            weights = _for_labels(weights, part.classes, classes, of=getattr(task, name))
            unknown = [label for label in classes if label not in part.classes]
            if unknown and name != "network":
                log.warning("the %s does not know %s: it paints them as pictures without a label", name,
                            ", ".join(unknown))  # fmt: skip
        _load(getattr(task, name), weights, f"the {name} of the given run")
        if name == "network" and isinstance(task, Denoising):
            _load(task.ema, weights, "the EMA weights of the given run")
    check_parts(task.hparams, parts)


def check_parts(task: Mapping[str, Any], there: Collection[str]) -> None:
    """Raise `UserError` if the task's settings name a part with weights that is not in `there`."""
    for name in TRAINS.values():
        if needs_training(task.get(name)) and name not in there:
            remedy = "codec=identity" if name == "codec" else f"{name}=none"
            raise UserError(
                f"the {name} has weights that were not trained: take those of a run that has them with codec=RUN, or "
                f"set {remedy}"
            )


def take_weights(task: Task, path: Path, *, trust_code: bool) -> None:
    """Load the weights of the checkpoint `path` into the task's network; a denoiser's EMA weights.

    Label embeddings are matched by name; a new label starts as the null label. Raises `UserError` if they do not fit.
    """
    source = checkpoints.restore(path, trust_code=trust_code, name="init").task
    if not isinstance(task, type(source)):
        remedy = f"; for its codec, set codec={path}" if "codec" in task.hparams else ""
        raise UserError(f"init={path} was trained as {type(source).__name__}, and this run trains "
                        f"{type(task).__name__}{remedy}")  # fmt: skip
    before, now = ({**one.hparams["network"], "image_size": None} for one in (source, task))
    found = checkpoints.difference("network", before, now)
    if found is not None:
        name, ours, theirs = found
        raise UserError(f"init={path} has {name} {ours}, and this run {theirs}: its weights do not fit")
    learned = source.ema if isinstance(source, Denoising) else source.network
    before_it, after_it = (getattr(one, "classes", []) for one in (source, task))
    weights = _for_labels(learned.state_dict(), before_it, after_it, of=learned)
    networks = [task.network, *([task.ema] if isinstance(task, Denoising) else [])]
    networks += [task.teacher] if isinstance(task, Distillation) else []
    for network in networks:
        _load(network, _for_words(weights, network), f"init={path}")


def _for_labels(weights: dict[str, Tensor], before: list[str], now: list[str], *, of: nn.Module) -> dict[str, Tensor]:
    """Return `weights` of a network or refiner with the label embeddings reordered from labels `before` to `now`."""
    table = getattr(getattr(of, "network", of), "label_table", LABELS)
    rows = [before.index(label) if label in before else len(before) for label in (*now, None)]
    return {name: value[rows] if name.endswith(table) else value for name, value in weights.items()}


def _for_words(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Adapt `weights` to whether `network` uses captions: drop weights for words that it lacks, and add its own initial
    ones for words that `weights` lack.
    """

    def of_words(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in state.items() if WORDS & set(name.split("."))}

    theirs, ours = of_words(weights), of_words(network.state_dict())
    return {name: value for name, value in weights.items() if name not in theirs} | (
        {name: theirs.get(name, value) for name, value in ours.items()}
    )


def _load(network: nn.Module, weights: dict[str, Tensor], whose: str) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).partition(chr(10))[2].split(chr(10))[0].split())
        raise UserError(f"{whose} does not fit this run: {reason}") from None
