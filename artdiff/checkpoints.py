"""What a checkpoint holds: read safely, restored as the task that it was trained with, or fit to be carried on from."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from hydra.errors import InstantiationException
from PIL import ImageColor

from artdiff import UserError, networks
from artdiff.ingest.decode import Transform
from artdiff.tasks import Generation, Reconstruction
from artdiff.tasks.task import Task

ARTICLE_NETWORK = {"_target_": "artdiff.networks.ConvDiffusionModel"}
ARTICLE_TRANSFORM = Transform(128, "squash", (255, 255, 255))

TASKS: dict[str, type[Task]] = {task.__name__: task for task in (Generation, Reconstruction)}


class Restored(NamedTuple):
    """A model ready to paint, and how the pictures that it was trained on became squares."""

    task: Reconstruction | Generation
    transform: Transform


def restore(path: Path, *, ranges: Literal["published", "mended"] | None = None) -> Restored:
    """Load a Lightning checkpoint of artdiff's, or a bare state_dict as the article's program saves it.

    A bare state_dict does not say what its output means: it is taken for `published` unless `ranges` is given.
    Raises `UserError` where the file is neither, or `ranges` is given for one that paints.
    """
    found = _load(path)
    if "hyper_parameters" in found:
        try:
            settings, state = found["hyper_parameters"], found["state_dict"]
            data = found["datamodule_hyper_parameters"]
            transform = Transform(data["image_size"], data["fit"], ImageColor.getrgb(data["background"])[:3])
            kind = TASKS[found.get("artdiff", {}).get("task", "Reconstruction")]  # what older checkpoints all are
            _check_network(settings["network"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"ckpt={path} is no checkpoint of artdiff.train's: {error}") from None
    else:
        settings = {"network": ARTICLE_NETWORK, "optimizer": {}, "scheduler": None, "ranges": "published"}
        state = {f"network.{key}": value for key, value in found.items()}
        transform, kind = ARTICLE_TRANSFORM, Reconstruction
    if ranges is not None:
        if kind is not Reconstruction:
            raise UserError(f"ranges={ranges} says what a reconstruction's output means, but ckpt={path} paints anew")
        settings = settings | {"ranges": ranges}
    try:
        task = kind(**settings)
        task.load_state_dict(state)
    except (RuntimeError, TypeError, InstantiationException) as error:
        reason = " ".join(str(error).partition(chr(10))[2].split(chr(10))[0].split()) or error
        raise UserError(f"ckpt={path} does not fit {settings['network']['_target_']}: {reason}") from None
    assert isinstance(task, Reconstruction | Generation)
    return Restored(task.eval(), transform)


class Earlier(NamedTuple):
    """What a run is carried on from: a checkpoint's file, the step it was saved at, the settings of its task."""

    path: Path
    step: int
    settings: dict[str, Any]

    def check_fits(self, task: dict[str, Any]) -> None:
        """Raise `UserError` unless it was trained with the settings of `task`.

        The seed may be another one, and classes are compared once they are known.
        """
        for name, setting in task.items():
            if name.startswith("_") or name == "seed" or (name == "classes" and not setting):
                continue
            trained = self.settings.get(name)
            if trained != setting:
                raise UserError(
                    f"ckpt={self.path} was trained with {name} {trained}, got {setting}; a run is carried on with what "
                    f"it began with, or begun anew without ckpt"
                )


def earlier(path: Path) -> Earlier:
    """What `path` holds. Raises `UserError` where training cannot carry on from it."""
    found = _load(path)
    if "hyper_parameters" not in found:
        raise UserError(f"ckpt={path} holds weights alone; carrying on needs a checkpoint of artdiff.train's")
    return Earlier(path, found["global_step"], found["hyper_parameters"])


def _check_network(network: dict[str, Any]) -> None:
    """Raise `ValueError` unless `network` calls one of ours with numbers alone: a file must not name other code."""
    values = [value for key, value in network.items() if key != "_target_"]
    numbers = [one for value in values for one in (value if isinstance(value, list) else [value])]
    ours = {f"artdiff.networks.{name}" for name in networks.__all__}
    steers = any(key.startswith("_") for key in network if key != "_target_")
    if network["_target_"] not in ours or steers or not all(isinstance(number, int | float) for number in numbers):
        raise ValueError(f"it asks for {network}, expected one of artdiff.networks with plain numbers")


def _load(path: Path) -> dict[str, Any]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's readers raise whatever a strange file makes of them
        reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
        raise UserError(f"ckpt={path} cannot be read as a checkpoint: {reason}") from None
    if not isinstance(found, dict):
        raise UserError(f"ckpt={path} holds a {type(found).__name__}, expected a checkpoint or a state_dict")
    return found
