"""Read checkpoints safely: to paint with, or to resume training from.

A file may name only classes of artdiff, with numbers as arguments. Any other file is refused before code is imported.
"""

import inspect
import pkgutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class
from PIL import ImageColor

from artdiff import UserError, __version__, exported
from artdiff.ingest.decode import Transform
from artdiff.settings.base import NETWORK_RENAMED, is_built_in
from artdiff.settings.training import Ranges, refiner_shrink
from artdiff.tasks import Autoencoding, Distillation, Generation, Reconstruction, Refinement
from artdiff.tasks.base import FORMAT

Model = Generation | Reconstruction | Autoencoding | Refinement

ARTICLE_NETWORK = {"_target_": "artdiff.networks.ConvDiffusionModel"}
ARTICLE_SETTINGS = {"network": ARTICLE_NETWORK, "optimizer": {}, "scheduler": None, "ranges": "published"}
ARTICLE_TRANSFORM = Transform(128, "squash", (255, 255, 255))

KINDS = (Generation, Distillation, Reconstruction, Autoencoding, Refinement)
TASKS: dict[str, type[Model]] = {task.__name__: task for task in KINDS}

PARTS = {
    None: {"codec": ("codec", "codec."), "refiner": ("refiner", "refiner."), "enlarger": ("enlarger", "enlarger.")},
    "Autoencoding": {"codec": ("network", "network.")},
    "refiner": {"codec": ("codec", "codec."), "refiner": ("network", "ema.")},
    "enlarger": {"enlarger": ("network", "ema.")},
}
"""For each task, or the part that it trains: the setting that describes each part, and the prefix of its weights."""

NETWORKS = ("artdiff.networks",)
HOMES = {
    **dict.fromkeys(("network", "refiner", "enlarger"), NETWORKS),
    "codec": ("artdiff.diffusion.codec", *NETWORKS),
}
"""Modules that define the classes which a checkpoint may name."""


class Restored(NamedTuple):
    """A model that is ready to paint, and the transform that made its training pictures square.

    `data` is the hash of the manifest of these pictures; None if the file does not contain it.
    """

    task: Model
    transform: Transform
    data: str | None = None


def restore(path: Path, *, ranges: Ranges | None = None, trust_code: bool = False, name: str = "ckpt") -> Restored:
    """Load a checkpoint of artdiff, or a bare state_dict as the article's program saves it.

    A bare state_dict does not state the range of its output: it is `published` unless `ranges` is given. `trust_code`
    allows a checkpoint to name code outside artdiff, which is then imported and run.

    Raises `UserError`, in which the setting is called `name`.
    """
    found = _load(path, name)
    if "hyper_parameters" in found:
        try:
            settings, state = _upgraded(found["hyper_parameters"]), found["state_dict"]
            data = found["datamodule_hyper_parameters"]
            transform = Transform(data["image_size"], data["fit"], ImageColor.getrgb(data["background"])[:3])
            kind = TASKS[found.get("artdiff", {}).get("task", "Reconstruction")]  # the first checkpoints lack it
            foreign = (
                []
                if trust_code
                else [part for part in HOMES if settings.get(part) is not None and not _is_ours(part, settings)]
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UserError(f"{name}={path} is not a checkpoint of artdiff.train: {error}") from None
        if foreign:
            named = str(settings[foreign[0]].get("_target_"))[:80]
            raise UserError(
                f"{name}={path} has a {foreign[0]} ({named}) that names code outside artdiff: pass trust_code=true if "
                f"you trust this file"
            )
    else:
        settings = ARTICLE_SETTINGS
        state = {f"network.{key}": value for key, value in found.items()}
        transform, kind = ARTICLE_TRANSFORM, Reconstruction
    if ranges is not None:
        if kind is not Reconstruction:
            raise UserError(f"ranges={ranges} is for models that reconstruct, but {name}={path} paints new pictures")
        settings = settings | {"ranges": ranges}
    return Restored(_built(kind, settings, state, f"{name}={path}"), transform, _manifest(found))


class Earlier(NamedTuple):
    """The checkpoint that training resumes from: its file, its step, and its task with settings."""

    path: Path
    step: int
    settings: dict[str, Any]
    task: str | None

    def check_fits(self, task: dict[str, Any]) -> None:
        """Raise `UserError` unless the checkpoint was trained with these task settings; the seed may differ."""
        kind = str(task.get("_target_", "")).rpartition(".")[2]
        if self.task is not None and kind in TASKS and self.task != kind:
            raise UserError(f"ckpt={self.path} was trained as {self.task}, and this run trains {kind}")
        for name, setting in task.items():
            if name.startswith("_") or name == "seed":
                continue
            trained = self.settings.get(name)
            if name == "vocabulary":  # words may change with the pictures: no weight belongs to a single word
                if bool(trained) != bool(setting):
                    how = "with" if trained else "without"
                    raise UserError(f"ckpt={self.path} was trained {how} captions: set data.captions as it was")
                continue
            is_new = name not in self.settings and _is_default(task, name)
            found = None if is_new else difference(name, trained, setting)
            if found is not None:
                differing, before, now = found
                raise UserError(
                    f"ckpt={self.path} was trained with {differing} {before}, got {now}; a resumed run must keep its "
                    f"settings: leave ckpt out to start a new run, or set init={self.path} to start from its weights"
                )


MISSING = object()
"""Stands for a setting that is absent; None is a valid value."""


def difference(name: str, trained: Any, setting: Any) -> tuple[str, Any, Any] | None:
    """Return the first setting that differs in effect: its full name and both values; None if none does."""
    if _is_same(trained, setting):
        return None
    if not (isinstance(trained, Mapping) and isinstance(setting, Mapping)):
        return name, trained, setting
    if trained.get("_target_") != setting.get("_target_"):
        return name, trained.get("_target_"), setting.get("_target_")
    differing = [key for key in {**trained, **setting} if trained.get(key, MISSING) != setting.get(key, MISSING)]
    is_component = "_target_" in setting
    key = next(key for key in differing if key in trained or not (is_component and _is_default(setting, key)))
    full, before, now = f"{name}.{key}", _value(trained, key), _value(setting, key)
    return difference(full, before, now) or (full, before, now)


def _is_same(trained: Any, setting: Any) -> bool:
    """Return whether two settings have the same effect. `setting` may name a default that `trained` leaves out."""
    if not (isinstance(trained, Mapping) and isinstance(setting, Mapping) and "_target_" in setting):
        return bool(trained == setting)
    added = [name for name in setting if name not in trained]
    shared = {name: value for name, value in setting.items() if name in trained}
    return trained == shared and all(_is_default(setting, name) for name in added)


def _value(component: Mapping[str, Any], name: str) -> Any:
    """Return a component's setting, or its default if it is left out; None if there is no such setting."""
    if name in component or "_target_" not in component:
        return component.get(name)
    parameter = _parameter(component, name)
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _is_default(component: Mapping[str, Any], name: str) -> bool:
    """Return whether an artdiff component has this setting at its default."""
    parameter = _parameter(component, name)
    return parameter is not None and parameter.default == component[name]


def _parameter(component: Mapping[str, Any], name: str) -> inspect.Parameter | None:
    """Return the constructor parameter of this name; None for a component from outside artdiff."""
    if not is_built_in(component):
        return None
    return inspect.signature(get_class(component["_target_"])).parameters.get(name)


def earlier(path: Path, *, name: str = "ckpt") -> Earlier:
    """Read the checkpoint that training resumes from. Raises `UserError`, in which the setting is called `name`."""
    found = _load(path, name)
    if "hyper_parameters" not in found or ("global_step" not in found and name == "ckpt"):
        raise UserError(f"{name}={path} holds only weights; resuming needs a checkpoint of artdiff.train")
    task = found.get("artdiff", {}).get("task")
    return Earlier(path, found.get("global_step", 0), _upgraded(found["hyper_parameters"]), task)


class Trained(NamedTuple):
    """A trained part of a checkpoint that other models use: its settings for Hydra, and its weights."""

    settings: dict[str, Any]
    weights: dict[str, Any]
    classes: list[str] | None
    """The labels that it was trained with; None for a codec."""
    shrink: int = 1
    """For a refiner: it works at 1/shrink of width and height."""


def trained_parts(path: Path, *, trust_code: bool, name: str = "codec") -> dict[str, Trained]:
    """Return those of `codec`, `refiner` and `enlarger` that a checkpoint holds, because it trained or uses them.

    Raises `UserError`, in which the setting is called `name`; for `codec` also if no part has weights.
    """
    found = _load(path, name)
    kind, settings = found.get("artdiff", {}).get("task"), found.get("hyper_parameters", {})
    state, parts = found.get("state_dict", {}), {}
    is_refinement = kind == Refinement.__name__
    trained = settings.get("trains", "refiner") if is_refinement else kind
    for part, (named, prefix) in PARTS.get(trained, PARTS[None]).items():
        weights = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        if is_refinement and part == trained:
            weights = {f"network.{key}": value for key, value in weights.items()} | {"std": state["std"]}
        if settings.get(named) is None:
            continue
        if not trust_code and not _is_ours(named, settings):
            raise UserError(f"the {part} of {path} names code outside artdiff: pass trust_code=true if you trust it")
        shrink = settings.get("shrink", 1) if is_refinement else refiner_shrink(settings.get("enlarger"))
        classes = None if part == "codec" else settings["classes"]
        parts[part] = Trained(settings[named], weights, classes, shrink if part == "refiner" else 1)
    if name == "codec" and not any(part.weights for part in parts.values()):
        raise UserError(f"codec={path} holds no trained codec; expected a run of task=autoencoder or one on latents")
    return parts


def _built(kind: type[Model], settings: dict[str, Any], state: dict[str, Any], given: str) -> Model:
    """Build the task, load its weights, and set evaluation mode."""
    try:
        task = kind(**settings)
        task.load_state_dict(state)
    except (RuntimeError, TypeError, InstantiationException) as error:
        reason = " ".join(str(error).partition(chr(10))[2].split(chr(10))[0].split()) or error
        raise UserError(f"{given} does not fit {settings['network']['_target_']}: {reason}") from None
    return task.eval()


def _upgraded(settings: dict[str, Any]) -> dict[str, Any]:
    """Rename the task's settings as in this version. In version 0.1, the networks did the preconditioning."""
    network = dict(settings["network"])
    if str(network["_target_"]).startswith(f"{HOMES['network'][0]}."):
        old = {name: new for name, new in NETWORK_RENAMED.items() if new not in network}
        network = {old.get(name, name): value for name, value in network.items()}
    settings = {**settings, "network": network}
    if "classes" in settings and "codec" not in settings:
        settings |= {"data_std": network.pop("data_std"), "codec": {"_target_": "artdiff.diffusion.codec.Identity"}}
    return settings


def _is_ours(name: str, settings: dict[str, Any]) -> bool:
    """Return whether a component is a class from its modules in `HOMES`, with only numbers as arguments."""
    component = settings[name]
    arguments = [value for key, value in component.items() if key != "_target_"]
    numbers = [one for value in arguments for one in (value if isinstance(value, list) else [value])]
    steers_hydra = any(key.startswith("_") for key in component if key != "_target_")
    if steers_hydra or not all(isinstance(number, int | float) for number in numbers):
        return False
    modules = set(HOMES[name])
    for home in HOMES[name]:
        folder = getattr(import_module(home), "__path__", [])
        modules |= {f"{home}.{found.name}" for found in pkgutil.iter_modules(folder)}
    module, _, attribute = component["_target_"].rpartition(".")
    if module not in modules:
        return False
    found = getattr(import_module(module), attribute, None)
    return isinstance(found, type) and found.__module__ in modules


def described(path: Path) -> dict[str, Any]:
    """Read a checkpoint's metadata, without weights: `artdiff`, `hyper_parameters`, `datamodule_hyper_parameters` and
    `data`. Raises `UserError`.
    """
    found = _load(path)
    if "hyper_parameters" not in found:  # a bare state_dict
        size, fit, background = ARTICLE_TRANSFORM
        square = {"image_size": size, "fit": fit, "background": "#{:02x}{:02x}{:02x}".format(*background)}
        found = {"artdiff": {"format": FORMAT, "version": __version__, "task": Reconstruction.__name__},
                 "hyper_parameters": ARTICLE_SETTINGS, "datamodule_hyper_parameters": square}  # fmt: skip
    names = ("artdiff", "hyper_parameters", "datamodule_hyper_parameters")
    return {name: found.get(name, {}) for name in names} | {"data": {"manifest": _manifest(found)}}


def _manifest(found: Mapping[str, Any]) -> str | None:
    """Return the hash of the pictures' manifest from the data module's state; None if the file does not contain it."""
    listed = (part.get("manifest") for part in found.values() if isinstance(part, dict))
    return next((digest for digest in listed if isinstance(digest, str)), None)


def _load(path: Path, name: str = "ckpt") -> dict[str, Any]:
    try:
        is_exported = path.suffix == exported.SUFFIX
        found = exported.read(path) if is_exported else torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # for an unknown file torch's readers can raise anything
        reason = " ".join(f"{type(error).__name__} {error}".split())[:120]
        raise UserError(f"{name}={path} cannot be read as a checkpoint: {reason}") from None
    if not isinstance(found, dict):
        raise UserError(f"{name}={path} holds a {type(found).__name__}, expected a checkpoint or a state_dict")
    about = found.get("artdiff")
    if isinstance(about, dict) and about.get("format", 1) != FORMAT:
        raise UserError(
            f"{name}={path} was written by artdiff {about.get('version')} in a format that {__version__} cannot read: "
            f"use a newer artdiff"
        )
    return found
