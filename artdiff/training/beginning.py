"""What a new run begins with: the codec and refiners that it is built on, and the weights of an earlier run."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from artdiff import UserError, checkpoints
from artdiff.checkpoints import Trained
from artdiff.settings.training import refiner_shrink
from artdiff.tasks import Distillation, Generation
from artdiff.tasks.base import Task
from artdiff.tasks.denoising import Denoising

log = logging.getLogger(__name__)

UNET = "artdiff.networks.UNet"

LABELS = "condition.label.weight"
"""The table that embeds labels, in networks of ours: a row for each class, then the null label's. A network may have an
attribute `label_table` that names its own.
"""

TAUGHT = ("network", "data_std")
"""Settings that a painter which learns from another one has from it."""

WORDS = {"words", "caption"}
"""Parts of the names of weights that are for captions."""


def build_on(
    config: dict[str, Any], before: Sequence[Path], init: Path | None, *, trust_code: bool
) -> dict[str, Trained]:
    """The trained parts of the checkpoints `before`, or of `init` without any, that the task of `config` uses, by the
    setting that describes them; these settings of the task become theirs. Raises `UserError`.
    """
    task, parts = config["task"], dict[str, Trained]()
    for path in before:
        parts |= checkpoints.trained_parts(path, trust_code=trust_code)
    if init is not None and not before and "codec" in task:
        parts = checkpoints.trained_parts(init, trust_code=trust_code, name="init")
    if str(task["_target_"]).endswith("Distillation"):
        _learn_from(config, init, trust_code=trust_code)
    if task.get("trains") == "enlarger":
        parts.pop("codec", None)  # its own only halves the sides
    if not parts:
        return {}
    if "codec" not in task:  # the network of an autoencoder is a codec
        parts = {"network": parts["codec"]}
    if init is not None and task["network"].get("_target_") == UNET:  # its size says no more than where it attends
        task["network"]["image_size"] = checkpoints.earlier(init, name="init").settings["network"].get("image_size")
    parts = {name: part for name, part in parts.items() if name in task}
    task |= {name: part.settings for name, part in parts.items()}
    if "refiner" in parts:
        needed, its = refiner_shrink(task.get("enlarger")), parts["refiner"].shrink
        if its != needed:
            raise UserError(f"the refiner of the run it is built on works at 1/{its} of the sides, and is needed at "
                            f"1/{needed}: an enlarger halves what a refiner works at")  # fmt: skip
    return parts


def _learn_from(config: dict[str, Any], init: Path | None, *, trust_code: bool) -> None:
    """Give the task the network of the painter that it learns from. Raises `UserError`."""
    if init is None:
        raise UserError("task=distillation learns from a painter: set init=RUN")
    teacher = checkpoints.restore(init, trust_code=trust_code, name="init")
    if not isinstance(teacher.task, Generation):
        raise UserError(
            f"init={init} was trained as {type(teacher.task).__name__}, and only a painter can teach to paint"
        )
    size = teacher.transform.size
    if size != config["data"]["image_size"]:
        raise UserError(f"init={init} paints {size} px: set data.image_size={size}")
    if teacher.task.vocabulary and config["data"].get("captions", "none") == "none":
        raise UserError(f"init={init} knows words, which would be lost: set data.captions=auto, or as that run had it")
    own = teacher.task.made_for
    if own:  # it can only be followed as it paints
        ours = config["task"]["steps"]
        if own["steps"] % ours:
            raise UserError(f"init={init} paints in {own['steps']} steps: task.steps must divide them, got {ours}")
        config["task"] |= {f"teacher_{name}": own[name] for name in ("steps", "solver", "guidance")}
        log.info("init=%s teaches as it paints: in %s steps, without guidance", init, own["steps"])
    config["task"] |= {name: teacher.task.hparams[name] for name in TAUGHT}
    config["network"] = config["task"]["network"]


def begin_with(parts: dict[str, Trained], task: Task) -> None:
    """Give the task the weights of the parts that it is built on. Raises `UserError` if it needs more."""
    for name, part in parts.items():
        if not part.weights:  # of a codec that has none
            continue
        classes, weights = getattr(task, "classes", []), part.weights
        if part.classes is not None:
            weights = _for_labels(weights, part.classes, classes, of=getattr(task, name))
            unknown = [label for label in classes if label not in part.classes]
            if unknown:
                log.warning("the %s does not know %s: it paints them as pictures without a label", name,
                            ", ".join(unknown))  # fmt: skip
        _load(getattr(task, name), weights, f"the {name} of the run it is built on")
    for name in ("codec", "refiner", "enlarger"):
        settings = task.hparams.get(name) or {}
        if settings.get("_target_", "").startswith("artdiff.networks.") and name not in parts:
            raise UserError(
                f"the {name} has weights that were not trained; take those of a run that has them with codec=RUN"
            )


def take_weights(task: Task, path: Path, *, trust_code: bool) -> None:
    """Give the task's network the weights of the checkpoint `path`: of a denoiser the averaged ones.

    Labels are known again by their names; a new one begins as the null label. Raises `UserError` if they do not fit.
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
    """`weights` of a network or a refiner for the labels `now` instead of `before`."""
    table = getattr(getattr(of, "network", of), "label_table", LABELS)
    rows = [before.index(label) if label in before else len(before) for label in (*now, None)]
    return {name: value[rows] if name.endswith(table) else value for name, value in weights.items()}


def _for_words(weights: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """`weights` without those for words if `network` knows none; with its own, untrained, if they know none."""

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
