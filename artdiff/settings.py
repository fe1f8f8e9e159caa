"""Accepts a configuration or says in one line what is wrong with it, before anything heavy is imported."""

import math
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from PIL import ImageColor

from artdiff import UserError
from artdiff.ingest.scan import check

MULTIPLE = 8
"""What a picture's sides must divide by: the networks halve them three times."""

ACCELERATORS = ("auto", "cpu", "gpu")
COMPILE = ("auto", "none", "default", "reduce-overhead", "max-autotune")
PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")
FITS = ("squash", "crop", "pad")
WEIGHTS = ("auto", "imagenet", "random")
SOLVERS = ("heun", "euler")

NETWORKS = {
    "artdiff.tasks.Reconstruction": ("artdiff.networks.ConvDiffusionModel",),
    "artdiff.tasks.Generation": ("artdiff.networks.UNet", "artdiff.networks.ViT"),
}
"""What each task can train."""

TEXTS = (
    *("label", "ckpt", "muse", "out", "run_dir", "runs_dir", "cache_dir", "loss.perceptual.weights"),
    *("data.root", "data.cache_dir", "data.exclude", "data.background"),
)
"""What names a file, a folder, a colour or a class: it is text, whatever it looks like."""


def plain(cfg: DictConfig) -> dict[str, Any]:
    """`cfg` with every reference resolved, in plain Python values: no DictConfig goes past the door."""
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{' and '.join(missing)} must be given: {' '.join(f'{key}=…' for key in missing)}")
    for key in TEXTS:
        value = OmegaConf.select(cfg, key)
        if value is not None and not OmegaConf.is_list(value):
            OmegaConf.update(cfg, key, str(value))
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def check_training(config: dict[str, Any]) -> None:
    """Raise `UserError` for what a training run could only stumble over later."""
    trainer, loss = config["trainer"], config["loss"]
    check_data(config["data"])
    if config["data"]["root"] is not None:
        _outside("run_dir", config["run_dir"], config["data"]["root"], remedy="set runs_dir=DIR elsewhere")
    _whole("seed", config["seed"], least=0, most=2**32 - 1)
    _one_of("compile", config["compile"], COMPILE)
    _whole("trainer.max_epochs", trainer["max_epochs"], least=-1)
    _whole("trainer.max_steps", trainer["max_steps"], least=-1)
    _number("optimizer.lr", config["optimizer"]["lr"])
    _number("loss.mse_weight", loss["mse_weight"])
    _number("loss.perceptual_weight", loss["perceptual_weight"])
    _one_of("trainer.accelerator", trainer["accelerator"], ACCELERATORS)
    _one_of("trainer.precision", trainer["precision"], PRECISIONS)
    _one_of("trainer.devices", trainer["devices"], (1,))  # order and resume are not made for more
    if trainer["precision"] == "16-mixed" and "fused" in config["optimizer"] and config["optimizer"]["fused"] is True:
        raise UserError(
            "trainer.precision=16-mixed scales gradients, which a fused optimizer hides: set optimizer.fused=false"
        )
    task, network = config["task"]["_target_"], config["network"]["_target_"]
    if network not in NETWORKS[task]:
        fit = "task=generation" if task == "artdiff.tasks.Reconstruction" else "network=unet or network=vit"
        raise UserError(f"{task} cannot train {network}: set {fit}")
    if task == "artdiff.tasks.Generation":
        check_painter(config["task"], config["network"])
    if trainer["gradient_clip_val"] is not None:
        _above_zero("trainer.gradient_clip_val", trainer["gradient_clip_val"])
    if "gradient_clip_algorithm" in trainer:
        _one_of("trainer.gradient_clip_algorithm", trainer["gradient_clip_algorithm"], (None, "norm"))
    perceptual = loss["perceptual"]
    if perceptual is not None:
        if "_target_" not in perceptual:
            raise UserError("loss.perceptual.* cannot be set: this loss has no perceptual term; set loss=hybrid")
        _not_below_zero("loss.perceptual.keep", perceptual["keep"])
        if perceptual["weights"] not in WEIGHTS and not _path(perceptual["weights"]).is_file():
            weights = perceptual["weights"]
            raise UserError(f"loss.perceptual.weights={weights} is no file; expected {', '.join(WEIGHTS)} or a file")


def check_painter(task: dict[str, Any], network: dict[str, Any]) -> None:
    """Raise `UserError` for what learning to paint could only stumble over later."""
    for name in ("patch", "patches", "blocks", "width", "depth", "bottleneck", "features"):
        if name in network:
            _whole(f"network.{name}", network[name], least=1)
    for name, fewest in (("channels", 1), ("attention", 0)):
        if name in network and (not isinstance(network[name], list) or len(network[name]) < fewest):
            raise UserError(f"network.{name} must be a list such as [32,64], got {network[name]}")
        for number in network.get(name, []):
            _whole(f"network.{name}", number, least=1)
    _share("network.dropout", network["dropout"])
    _above_zero("network.data_std", network["data_std"])
    _whole("task.warmup", task["warmup"], least=0)
    for name in ("time_mean", "time_std"):
        _number(f"task.{name}", task[name])
    for name in ("gate", "label_dropout"):
        _share(f"task.{name}", task[name])
    for name in ("ema_half_life", "ema_ramp"):
        _above_zero(f"task.{name}", task[name])


def check_data(data: dict[str, Any]) -> None:
    """Raise `UserError` for what reading a folder of pictures could only stumble over later."""
    size = _whole("data.image_size", data["image_size"], least=16)
    if size % MULTIPLE:
        below = size - size % MULTIPLE
        remedy = f"set data.image_size={below} or {below + MULTIPLE}"
        raise UserError(f"data.image_size must be a multiple of {MULTIPLE}, got {size}; {remedy}")
    _one_of("data.fit", data["fit"], FITS)
    try:
        ImageColor.getrgb(data["background"])
    except ValueError:
        raise UserError(f"data.background must be a colour's name or #rrggbb, got {data['background']}") from None
    _whole("data.batch_size", data["batch_size"], least=1)
    _number("data.val_fraction", data["val_fraction"])
    if not 0 < data["val_fraction"] < 1:
        raise UserError(f"data.val_fraction must lie between 0 and 1, got {data['val_fraction']}")
    _whole("data.min_side", data["min_side"], least=0)
    _whole("data.random_crop", data["random_crop"], least=0, most=size)
    _share("data.flip", data["flip"])
    _one_of("data.cache", data["cache"], (True, False))
    _one_of("data.resident", data["resident"], ("auto", True, False))
    if data["resident"] is True and not data["cache"]:
        raise UserError("data.resident=true needs data.cache=true")
    if data["num_workers"] is not None:
        _whole("data.num_workers", data["num_workers"], least=0 if data["cache"] else 1)
    check_limits("data.limits", data["limits"])
    if data["exclude"] is not None and not _path(data["exclude"]).is_file():
        raise UserError(f"data.exclude={data['exclude']} is no file; expected a list of paths or SHA-256 hashes")
    if data["root"] == "":
        raise UserError("data.root is empty; expected a folder, or null for the built-in sample art")
    if data["root"] is not None:
        check(_path(data["root"]))
        cache_dir = data["cache_dir"] or os.environ.get("ARTDIFF_CACHE")
        if cache_dir is not None:
            _outside("data.cache_dir", cache_dir, data["root"], remedy="set it, or ARTDIFF_CACHE, to one elsewhere")


def check_audit(config: dict[str, Any]) -> None:
    """Raise `UserError` for what an audit could only stumble over later."""
    check_data(config["data"])
    _whole("contact_sheet", config["contact_sheet"], least=1)
    out = _path(config["out"])
    if out.exists() and not out.is_dir():
        raise UserError(f"out={config['out']} is a file; expected a folder to write to")
    if config["data"]["root"] is not None:
        _outside("out", config["out"], config["data"]["root"])


def check_pruning(config: dict[str, Any]) -> None:
    """Raise `UserError` for what pruning could only stumble over later."""
    _not_below_zero("unused_days", config["unused_days"])


def _outside(name: str, folder: str, root: str, *, remedy: str = "choose a folder elsewhere") -> None:
    """What is written below the pictures would be taken for one of them the next time."""
    if _path(folder).resolve().is_relative_to(_path(root).resolve()):
        raise UserError(f"{name}={folder} lies in data.root={root}, among the pictures; {remedy}")


def check_limits(name: str, limits: dict[str, Any]) -> None:
    for unit in ("seconds", "gigabytes"):
        _above_zero(f"{name}.{unit}", limits[unit])


def check_generation(config: dict[str, Any]) -> None:
    """Raise `UserError` for what painting could only stumble over later."""
    _one_of("size", config["size"], ("train", "own"))
    _one_of("ranges", config["ranges"], (None, "published", "mended"))
    _one_of("device", config["device"], ACCELERATORS)
    _one_of("compile", config["compile"], COMPILE)
    _whole("sheet", config["sheet"], least=1)
    _whole("max_pixels", config["max_pixels"], least=1)
    check_limits("limits", config["limits"])
    if config["n"] is not None:
        _whole("n", config["n"], least=1)
    _whole("seed", config["seed"], least=0, most=2**63 - 1)
    _whole("steps", config["steps"], least=1)
    _one_of("solver", config["solver"], SOLVERS)
    _number("guidance", config["guidance"])
    _share("strength", config["strength"])
    _one_of("trajectory", config["trajectory"], (True, False))
    if config["batch_size"] is not None:
        _whole("batch_size", config["batch_size"], least=1)
    interval, ends = config["guidance_interval"], config["interpolate"]
    if not isinstance(interval, list) or len(interval) != 2:
        raise UserError(f"guidance_interval must be two times, such as [0.1,1.0], got {interval}")
    for moment in interval:
        _share("guidance_interval", moment)
    if interval[0] > interval[1]:
        raise UserError(f"guidance_interval must begin before it ends, got {interval}")
    if config["label"] == []:
        raise UserError("label is empty; expected a class by name, several, all or none")
    if ends is not None:
        if not isinstance(ends, list) or len(ends) != 2:
            raise UserError(f"interpolate must be two seeds, such as [1,2], got {ends}")
        for seed in ends:
            _whole("interpolate", seed, least=0, most=2**63 - 1)
        if config["muse"] is not None:
            raise UserError("interpolate starts from noise: leave muse out")
    if config["muse"] is not None and not _path(config["muse"]).exists():
        raise UserError(f"muse={config['muse']} does not exist; expected a picture or a folder of pictures")
    if _path(config["out"]).exists() and not _path(config["out"]).is_dir():
        raise UserError(f"out={config['out']} is a file; expected a folder to write to")


def _path(text: str) -> Path:
    return Path(text).expanduser()


def _whole(name: str, value: object, *, least: int, most: int | None = None) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least or (most is not None and value > most):
        limits = f"at least {least}" if most is None else f"{least} to {most}"
        raise UserError(f"{name} must be a whole number of {limits}, got {value}")
    return value


def _number(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise UserError(f"{name} must be a number, got {value}")


def _share(name: str, value: Any) -> None:
    _number(name, value)
    if not 0 <= value <= 1:
        raise UserError(f"{name} must be a share from 0 to 1, got {value}")


def _not_below_zero(name: str, value: Any) -> None:
    _number(name, value)
    if value < 0:
        raise UserError(f"{name} must be 0 or more, got {value}")


def _above_zero(name: str, value: Any) -> None:
    _number(name, value)
    if value <= 0:
        raise UserError(f"{name} must be more than 0, got {value}")


def _one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        expected = " or ".join("null" if choice is None else str(choice) for choice in choices)
        raise UserError(f"{name} must be {expected}, got {value}")
